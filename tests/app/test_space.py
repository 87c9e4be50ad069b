"""The folder of a Hub Space, and the flags of `examples/app.py`. That a Space runs: tests/app/test_app_browser.py."""

import ast
import importlib.util
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard

from modeling_mgvmoe.app.example_posts import examples_from_file, sketchbook_examples
from modeling_mgvmoe.app.space import GRADIO, MOST_OF_DESCRIPTION, PILLOW, write_space
from modeling_mgvmoe.inference import model_folder
from tests.support.from_scratch import scratch_model

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# https://huggingface.co/docs/hub/spaces-config-reference
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    home = tmp_path_factory.mktemp("model")
    for part in scratch_model():
        part.save_pretrained(home)
    return home


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("app_example", ROOT / "examples" / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_a_space_of_a_folder_has_all_it_needs(model, tmp_path):
    files = write_space(tmp_path / "space", str(model), sketchbook_examples())
    assert files == sorted(
        str(file.relative_to(tmp_path / "space")) for file in (tmp_path / "space").rglob("*") if file.is_file()
    )
    assert {"README.md", "app.py", "requirements.txt", "examples/posts.json", "model/model.safetensors"} < set(files)
    package = {name for name in files if name.startswith("modeling_mgvmoe/")}
    assert package == {
        f"modeling_mgvmoe/{file.relative_to(ROOT / 'modeling_mgvmoe')}"
        for file in (ROOT / "modeling_mgvmoe").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {"modeling_mgvmoe/app/page.js", "modeling_mgvmoe/app/page.css"} < package
    examples = examples_from_file(tmp_path / "space" / "examples" / "posts.json")
    assert [example.name for example in examples] == [example.name for example in sketchbook_examples()]
    code = (tmp_path / "space" / "app.py").read_text(encoding="utf-8")
    ast.parse(code)
    assert 'MODEL = "model"\nREVISION = None' in code and "load_served_model(str(HERE / MODEL), REVISION)" in code


def test_front_matter_and_requirements(tmp_path):
    write_space(tmp_path / "space", "user/name", sketchbook_examples()[:1], COMMIT)
    card = SpaceCard.load(tmp_path / "space" / "README.md")
    front = card.data.to_dict()
    assert (front["sdk"], front["sdk_version"], front["app_file"]) == ("gradio", GRADIO, "app.py")
    assert front["python_version"] == "3.11" and front["license"] == "apache-2.0"
    assert {front["colorFrom"], front["colorTo"]} <= COLOURS and len(front["emoji"]) == 1
    assert len(front["short_description"]) <= MOST_OF_DESCRIPTION
    assert front["models"] == ["user/name"]
    assert f"`user/name` at `{COMMIT}`" in card.text
    code = (tmp_path / "space" / "app.py").read_text(encoding="utf-8")
    assert f'MODEL = "user/name"\nREVISION = "{COMMIT}"' in code and "load_served_model(MODEL, REVISION)" in code
    assert not (tmp_path / "space" / "model").exists()
    lines = (tmp_path / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [re.split("[=<>]", line)[0] for line in lines] == [
        "torch", "transformers", "huggingface_hub", "safetensors", "numpy", "pillow",
    ]  # fmt: skip
    assert not any("+" in line for line in lines)  # no index has the local part of a version


def test_copied_weights_have_the_licence_that_their_card_names(model, tmp_path):
    def front(name):
        write_space(tmp_path / name, str(tmp_path / "model"), [])
        return SpaceCard.load(tmp_path / name / "README.md").data.to_dict()

    shutil.copytree(model, tmp_path / "model")
    assert "license" not in front("no card")
    (tmp_path / "model" / "README.md").write_text("# A card without front matter\n", encoding="utf-8")
    assert "license" not in front("no front matter")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n", encoding="utf-8")
    assert front("a card")["license"] == "cc-by-nc-4.0"


def test_versions_are_those_of_the_environment_that_is_tested():
    own = pins("constraints-app.txt")
    assert own["gradio"] == GRADIO
    assert PILLOW == "pillow>=12.3,<13" and own["pillow"].startswith("12.")
    # Of what both environments have only pillow differs.
    assert {name for name in own if name in pins("constraints.txt")} == {"pillow"}
    declared = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert "gradio>=6.31\n" in declared and "pillow>=11.0\n" in declared


def test_what_is_there_is_kept(model, tmp_path):
    space = tmp_path / "space"
    write_space(space, "user/name", [])
    with pytest.raises(FileExistsError, match="holds something; name a new folder, or overwrite it"):
        write_space(space, "user/name", [])
    (space / "old.txt").write_text("old", encoding="utf-8")
    assert "old.txt" not in write_space(space, "user/name", [], overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my notes", encoding="utf-8")
    with pytest.raises(FileExistsError, match="is no Space, so it is not replaced"):
        write_space(tmp_path / "mine", "user/name", [], overwrite=True)
    with pytest.raises(ValueError, match="revision: a folder has none"):
        write_space(tmp_path / "other", str(model), [], COMMIT)
    with pytest.raises(FileNotFoundError, match="the folder .* does not exist"):
        write_space(tmp_path / "other", str(tmp_path / "nowhere"), [])
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob(".*partial"))


def test_the_flag(script, model, tmp_path, capsys):
    script.main(["--model", str(model), "--write_space", str(tmp_path / "space")])
    assert re.fullmatch(rf"{tmp_path}/space: \d+ files, a Space of {model}\n", capsys.readouterr().out)
    assert "examples, 4.0)" in (tmp_path / "space" / "app.py").read_text(encoding="utf-8")
    flags = ["--model", str(model), "--write_space", str(tmp_path / "space"), "--overwrite", "--threshold", "9"]
    script.main(flags)
    assert "examples, 9.0)" in (tmp_path / "space" / "app.py").read_text(encoding="utf-8")


def test_a_missing_extra_is_told_before_a_model_is_loaded(script, model, monkeypatch, capsys):
    monkeypatch.setattr(model_folder, "find_spec", lambda name: None if name == "gradio" else name)
    monkeypatch.setattr("modeling_mgvmoe.cli.app.load_served_model", None)
    with pytest.raises(SystemExit):
        script.main(["--model", str(model)])
    assert "gradio must be installed for this: pip install 'mg-vmoe[app]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "nowhere/at/all"], "the folder nowhere/at/all does not exist"),
        (["--model", "user/name", "--trust_remote_code"], "give the commit that you have read"),
        (["--model", "user/name", "--examples", "no.json"], "the file 'no.json' does not exist"),
        (
            ["--model", "user/name", "--write_space", "x", "--trust_remote_code"],
            "a Space runs the code that is written",
        ),
        (["--model", "user/name", "--threshold", "0.5"], "threshold must be at least 1"),
        (["--model", "user/name"], "model: user/name cannot be loaded. "),  # no network
        (["--modle", "user/name"], "--model"),
    ],
)
def test_bad_flags_are_told_before_anything_starts(script, flags, message, capsys, monkeypatch):
    monkeypatch.setattr(model_folder, "find_spec", lambda name: name)  # as if the extra were installed
    with pytest.raises(SystemExit) as stopped:
        script.main(flags)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and message in said and "Traceback" not in said
