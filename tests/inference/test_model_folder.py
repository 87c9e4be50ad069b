"""A saved model: what is checked before and after it is loaded; and the weights that ship."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from modeling_mgvmoe.inference.model_folder import (
    check_device,
    check_dtype,
    check_model_folder,
    check_output_folder,
    check_packages,
    load_model,
    shipped_model,
)
from tests.support.from_scratch import scratch_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    for part in scratch_model():
        part.save_pretrained(home / "model")
    return home


def test_models_of_another_kind_or_with_missing_weights_are_refused(folder, tmp_path):
    scratch_model()[0].mgvmoe.text_model.save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"must be a model of this package \(mgvmoe\), got 'bert'"):
        load_model(str(tmp_path / "bert"), "cpu")
    model, processor = scratch_model()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "torn")
    weights = load_file(tmp_path / "torn" / "model.safetensors")
    name = next(name for name in weights if "router" in name)
    save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "torn" / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(ValueError, match=r"must hold all weights, 1 are missing: \['mgvmoe.*router"):
        load_model(str(tmp_path / "torn"), "cpu")


def test_a_loaded_model_scores_and_does_not_learn(folder):
    model, processor = load_model(str(folder / "model"), "cpu", dtype="float32")
    assert not model.training and processor.max_length == 48


def test_folders_are_checked_before_they_are_loaded(folder, tmp_path):
    check_model_folder(str(folder / "model"))
    check_model_folder("user/name")  # on the Hub
    with pytest.raises(FileNotFoundError, match="model: the folder ./nowhere does not exist"):
        check_model_folder("./nowhere")
    with pytest.raises(FileNotFoundError, match="similarity_model: .* holds no config.json; did you mean .*model"):
        check_model_folder(str(folder), "similarity_model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="model: .* holds no processor"):
        check_model_folder(str(tmp_path))


def test_devices_types_and_packages():
    check_device("cpu")
    check_dtype("auto")
    check_packages("train", "json")
    with pytest.raises(ValueError, match="device: 'tpu9'"):
        check_device("tpu9")
    with pytest.raises(ValueError, match="dtype .*'int8'"):
        check_dtype("int8")
    with pytest.raises(ImportError, match=r"no_such_package .*mg-vmoe\[train\]"):
        check_packages("train", "json", "no_such_package")


def test_a_folder_that_may_not_be_written(monkeypatch, tmp_path):
    check_output_folder("output_dir", str(tmp_path / "new" / "inside"))
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(PermissionError, match="output_dir: .* must be writable, and .* is not"):
        check_output_folder("output_dir", str(tmp_path / "new" / "inside"))


ROOT = Path(__file__).resolve().parents[2]


def test_the_weights_that_ship_are_found_from_anywhere(tmp_path, monkeypatch):
    folder = ROOT / "configuration" / "models" / "mgvmoe-small"
    monkeypatch.chdir(ROOT)
    assert shipped_model() == os.path.join("configuration", "models", "mgvmoe-small")
    monkeypatch.chdir(tmp_path)
    assert Path(shipped_model()).samefile(folder)
    monkeypatch.setattr("modeling_mgvmoe.inference.model_folder.SHIPPED", "no-such-weights")
    with pytest.raises(FileNotFoundError, match="^model: .*--model"):
        shipped_model()


@pytest.mark.slow
def test_a_wheel_holds_the_weights_that_ship(tmp_path):
    """Installed apart from the checkout, the package finds them inside itself."""
    source = tmp_path / "source"
    weights = Path("configuration", "models", "mgvmoe-small")
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source)
    for name in ("modeling_mgvmoe", weights):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(command, cwd=source, check=True)
    (wheel,) = (source / "dist").iterdir()
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    code = "from modeling_mgvmoe.inference.model_folder import shipped_model; print(shipped_model())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    folder = tmp_path / found.stdout.strip()
    assert folder == tmp_path / "installed" / "modeling_mgvmoe" / "mgvmoe-small"
    assert (folder / "model.safetensors").read_bytes() == (ROOT / weights / "model.safetensors").read_bytes()
    # Its code, links in the checkout, is there as files, so that the folder runs without the package, too.
    assert (folder / "modeling_mgvmoe.py").read_bytes() == (ROOT / "modeling_mgvmoe/modeling_mgvmoe.py").read_bytes()
