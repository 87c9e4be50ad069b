"""Every code block of the pages in `docs/` runs and prints what the page says; what cannot run here is looked up."""

import contextlib
import functools
import importlib
import inspect
import io
import re
import sys
from pathlib import Path

import pytest

import modeling_mgvmoe
from modeling_mgvmoe import MGVMoEConfig
from modeling_mgvmoe.cli.prepare import _parser as prepare_parser
from modeling_mgvmoe.training.arguments import parse_arguments
from tests.support.documents import (
    ROOT,
    Interpreter,
    ThisProcess,
    broken_anchors,
    like_the_root,
    linked_files,
    read_blocks,
    run_blocks,
    script_and_flags,
)

PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCKS = {page: read_blocks(page) for page in [*PAGES, ROOT / "README.md"]}
KINDS = {"bash", "python", "sh", "text", "json", "yaml", "math"}


def name(page):
    return page.name


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    """One process for all pages, each of which has names and its own folder."""
    with Interpreter(HF_MODULES_CACHE=str(tmp_path_factory.mktemp("modules"))) as running:
        yield running


def looked_up_lines():
    """The commands that are not run, with their place."""
    return [
        (block.place, line) for blocks in BLOCKS.values() for block in blocks if block.kind == "sh"
        for line in block.lines()
    ]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_links_to_what_is_there_and_is_linked_from_the_index(page):
    assert [str(path) for path in linked_files(page) if not path.exists()] == []
    if page.name != "index.md":
        assert page in [path.resolve() for path in linked_files(ROOT / "docs" / "index.md")]


@pytest.mark.parametrize("page", BLOCKS, ids=name)
def test_links_to_headings_find_one(page):
    assert broken_anchors(page) == []


def test_the_api_page_names_what_is_public_and_all_of_it_is_there():
    named = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for name in named:
        module, _, attribute = name.rpartition(".")
        if not module.startswith("modeling_mgvmoe.app"):  # Gradio is not installed everywhere
            assert inspect.getdoc(getattr(importlib.import_module(module), attribute)), name
    assert {f"modeling_mgvmoe.{name}" for name in modeling_mgvmoe.__all__} <= set(named)


def test_every_value_of_the_configuration_is_described():
    described = inspect.getdoc(MGVMoEConfig).partition("Args:")[2]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"^ {4}(\w.*?) \(`", described, flags=re.MULTILINE))))
    assert set(MGVMoEConfig.__annotations__) - named == set()


@pytest.mark.parametrize("page", BLOCKS, ids=name)
def test_blocks_are_of_a_known_kind_and_python_compiles(page):
    for block in BLOCKS[page]:
        assert block.kind in KINDS, f"{block.place}: {block.kind}"
        assert set(block.words) <= {"notest", "fast"}, block.place
        if block.kind == "python":
            compile(block.body, block.place, "exec")


def test_no_fence_is_left_open():
    for page, blocks in BLOCKS.items():
        fences = re.findall(r"^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert len(fences) == 2 * len(blocks), page


@functools.cache
def flags_of(script, command):
    """The flags that the help of a script of the repository, or of one of its commands, names."""
    spec = importlib.util.spec_from_file_location(f"of_docs_{Path(script).stem}", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    printed = io.StringIO()
    with pytest.raises(SystemExit) as end, contextlib.redirect_stdout(printed):
        module.main([*command, "--help"])
    assert end.value.code == 0
    return set(re.findall(r"--[\w-]+", printed.getvalue()))


@pytest.mark.parametrize(("place", "line"), looked_up_lines())
def test_commands_that_need_data_are_understood_by_their_parsers(place, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    script, flags = script_and_flags(line) or ("", [])
    if script == "examples/train.py":
        parse_arguments(flags)
    elif script == "examples/prepare_data.py" and not flags[0].startswith("-"):
        prepare_parser(None).parse_args(flags)
    elif script:
        # Others build their parser and check files in one go: their help has their flags.
        known = flags_of(script, tuple(word for word in flags[:1] if not word.startswith("-")))
        given = {word.partition("=")[0] for word in flags if word.startswith("--")}
        assert {f"--{flag[2:].replace('-', '_')}" for flag in given} <= {
            f"--{flag[2:].replace('-', '_')}" for flag in known
        }


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.fast for block in BLOCKS[page])], ids=name)
def test_fast_blocks_print_what_the_page_says(page, tmp_path):
    # The slow test runs all blocks, in a process that knows nothing of this one's imports.
    run_blocks([block for block in BLOCKS[page] if block.fast], like_the_root(tmp_path / "root"), ThisProcess())


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in BLOCKS[page])], ids=name)
def test_a_page_runs_from_top_to_bottom(page, demo, tmp_path, interpreter):
    root = like_the_root(tmp_path / "root", demo[0])
    run_blocks([block for block in BLOCKS[page] if block.runs], root, interpreter)


# What runs the blocks finds what is wrong with them.


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```python\nx = 1\n```\n\nand\n\n```python\nprint(x + 1)\n```\n\n```text\n2\n```\n", None),
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "page.md:1"),
        ("```python\nprint('0.50 boat')\n```\n\n```text\n0.70 boat\n```\n", "page.md:1"),
        ("\n```python\nunknown\n```\n", "NameError: name 'unknown'"),
        ("```bash\necho one \\\n    two  # and a comment\n```\n\n```text\none two\n```\n", None),
        ("```bash\nfalse\n```\n", "'false'"),
        ("```bash\npip install -e '.[nothing]'\n```\n", "nothing"),
    ],
)
def test_a_block_that_fails_or_prints_something_else_is_found(text, fault, tmp_path, interpreter):
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    blocks = [block for block in read_blocks(page) if block.runs]
    if fault is None:
        run_blocks(blocks, tmp_path, interpreter)
    else:
        with pytest.raises(AssertionError, match=fault):
            run_blocks(blocks, tmp_path, interpreter)


def test_a_link_to_a_heading_that_is_not_there_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Where `it` is (E1)\n\n[here](#where-it-is-e1) [there](page.md#nowhere)\n", encoding="utf-8")
    assert broken_anchors(page) == ["page.md#nowhere"]
