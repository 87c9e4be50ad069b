"""Fixtures of all tests: no network, one thread, one seed."""

import gc
import os
import sys

# What is imported and collected stays to the end: looking through it for garbage, then and later, takes seconds.
gc.disable()

# Before transformers is imported: a test that reaches for the Hub fails at once and does not wait for a time-out.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One thread, here and in every process that a test starts: with tiny matrices a second thread costs more than it
# brings, and threads of several processes on two cores spend their time waiting for each other.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

# torch, transformers and what imports them come within the fixtures: the process that only hands tests to others would
# wait for them, and the others for it.
import pytest  # noqa: E402
from filelock import FileLock  # noqa: E402

from tests.support.documents import demo_command, run  # noqa: E402


def pytest_collection_finish():
    """Look for garbage from here on, among what the tests themselves make."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """As the environment says above, for torch that is imported already."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def repeatable():
    """Every test starts from the same random state and leaves the default dtype as it was."""
    import torch

    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture(autouse=True)
def float32_by_default(monkeypatch):
    """On any processor mixed_precision "auto" is float32, so that a tolerance means the same everywhere."""
    from modeling_mgvmoe.data import environment as precision

    monkeypatch.setattr(precision, "has_bf16", lambda device="cpu": False)


@pytest.fixture
def own_module_cache(monkeypatch, tmp_path):
    """Code of saved folders is copied to a temporary place, not to the user's cache."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    # A package of copies looks for its parts where the first of them was.
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@pytest.fixture
def config():
    from tests.support.tiny import tiny_config

    return tiny_config()


@pytest.fixture
def model():
    from tests.support.tiny import tiny_model

    return tiny_model()


@pytest.fixture
def inputs():
    from tests.support.tiny import tiny_inputs

    return tiny_inputs()


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A folder in which `make demo` has run, and what it printed.

    It takes a minute: the first process of pytest-xdist that needs it runs it, the others wait.
    """
    home = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        home = home.parent  # of all these processes
    folder, printed = home / "demo", home / "demo.txt"
    with FileLock(home / "demo.lock"):
        if not printed.exists():
            folder.mkdir(exist_ok=True)
            printed.write_text(run(demo_command(), folder), encoding="utf-8")
    return folder, printed.read_text(encoding="utf-8")
