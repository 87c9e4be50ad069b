"""With what something was computed."""

import os
import platform
import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from baselines import FitArguments

from modeling_mgvmoe import __version__
from modeling_mgvmoe.data import environment
from modeling_mgvmoe.data.environment import PACKAGES, choose_precision, has_bf16, machine, versions
from modeling_mgvmoe.graph.model_extractor import CandidateLabels, ExtractionOptions, ModelExtractor
from modeling_mgvmoe.inference.model_folder import load_model
from modeling_mgvmoe.training import trackers
from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.loop import train
from tests.support.small_runs import small_data, small_trainee


def test_versions_are_those_that_run():
    found = versions()
    assert found.startswith(f"mg-vmoe {__version__}, Python {platform.python_version()}")
    assert f"torch {torch.__version__.partition('+')[0]}" in found and all(f"{name} " in found for name in PACKAGES)


def test_the_kind_of_machine_and_not_its_name():
    found = machine()
    assert platform.machine() in found and f"{torch.get_num_threads()} threads" in found
    assert not platform.node() or platform.node() not in found


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    """Accelerate keeps the precision of the first accelerator of a process."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def hardware(monkeypatch, found):
    monkeypatch.setattr(environment, "has_bf16", lambda device="cpu": found)


class OneDNN:
    def __init__(self, answer):
        self.answer = answer

    def _is_mkldnn_bf16_supported(self):
        return self.answer


@pytest.mark.parametrize(
    ("machine", "avx512_bf16", "amx", "onednn", "expected"),
    [
        ("x86_64", False, False, False, False),  # AVX2
        ("x86_64", False, False, True, False),  # AVX-512 without BF16, which oneDNN emulates
        ("x86_64", True, False, True, True),
        ("x86_64", True, False, False, False),  # ONEDNN_MAX_CPU_ISA below AVX-512
        ("AMD64", False, True, True, True),
        ("aarch64", False, False, False, False),
        ("aarch64", False, False, True, True),
        ("arm64", False, False, True, True),
    ],
)
def test_processors(monkeypatch, machine, avx512_bf16, amx, onednn, expected):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.ops, "mkldnn", OneDNN(onednn))
    assert has_bf16("cpu") is has_bf16(torch.device("cpu")) is expected


def test_the_answer_is_that_of_the_kernel():
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    flags = {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}
    if not flags:
        pytest.skip("no /proc/cpuinfo that lists the processor's features")
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        pytest.skip("ONEDNN_MAX_CPU_ISA limits what is used of the processor")
    arm = platform.machine() == "aarch64"
    assert has_bf16("cpu") == bool(flags & ({"bf16"} if arm else {"avx512_bf16", "amx_bf16"}))


def test_gpus(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: asked.append(how) or True)
    assert has_bf16("cuda:0") and asked == [{"including_emulation": False}]
    assert not has_bf16("meta")


def test_auto_follows_the_hardware_and_anything_else_is_kept(monkeypatch):
    for found, expected in ((True, "bf16"), (False, "no")):
        hardware(monkeypatch, found)
        assert choose_precision("auto", "cpu") == expected
        assert [choose_precision(name, "cpu") for name in ("no", "fp16")] == ["no", "fp16"]
    with pytest.warns(UserWarning, match="^dtype: .* about 40 times"):
        assert choose_precision("bf16", "cpu", "dtype") == "bf16"
    hardware(monkeypatch, True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_precision("bf16", "cpu") == "bf16"


def test_training_by_default(monkeypatch, capsys):
    assert TrainingArguments().mixed_precision == FitArguments().mixed_precision == "auto"
    for found, name in ((True, "bf16"), (False, "no")):
        AcceleratorState._reset_state(reset_partial_state=True)
        hardware(monkeypatch, found)
        accelerator = trackers.make_accelerator(TrainingArguments(), torch.nn.Linear(1, 1))
        assert accelerator.mixed_precision == name and capsys.readouterr().err == f"mixed_precision: {name}\n"


def test_auto_keeps_the_precision_of_an_earlier_training(monkeypatch):
    Accelerator(mixed_precision="no")
    hardware(monkeypatch, True)
    assert trackers.make_accelerator(TrainingArguments(), torch.nn.Linear(1, 1)).mixed_precision == "no"


def test_bf16_is_asked_for_on_a_processor_without_it(monkeypatch):
    hardware(monkeypatch, False)
    with pytest.warns(UserWarning, match="mixed_precision: .* 40 times") as caught:
        trackers.make_accelerator(TrainingArguments(mixed_precision="bf16"), torch.nn.Linear(1, 1))
    assert len(caught) == 1


def test_a_run_does_not_go_on_in_another_precision(tmp_path, monkeypatch):
    values = {"output_dir": str(tmp_path), "max_train_steps": 1, "per_device_train_batch_size": 2}
    hardware(monkeypatch, True)
    train(*small_trainee(), small_data(), TrainingArguments(**values))
    AcceleratorState._reset_state(reset_partial_state=True)
    hardware(monkeypatch, False)
    with pytest.raises(ValueError, match="another run: mixed_precision was 'bf16' and is 'no'"):
        train(*small_trainee(), small_data(), TrainingArguments(**values, resume_from_checkpoint="latest"))


def test_what_accelerate_was_launched_with(monkeypatch):
    hardware(monkeypatch, False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.warns(UserWarning, match="40 times"):
        assert trackers._precision("auto") == "bf16"
    assert trackers._precision("no") == "no"
    # The launcher says so, too, where nobody has said anything.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    hardware(monkeypatch, True)
    assert trackers._precision("auto") == "bf16"


def test_weights_and_extraction(tmp_path, monkeypatch):
    model, processor = small_trainee()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for found, dtype, name in ((True, torch.bfloat16, "bf16"), (False, torch.float32, "no")):
        hardware(monkeypatch, found)
        assert load_model(str(tmp_path), "cpu", dtype="auto")[0].dtype == dtype
        labels = CandidateLabels(("boat", "bird"), ("greets",))
        extractor = ModelExtractor(model, processor, labels, ExtractionOptions(mixed_precision="auto"))
        assert extractor.identity["options"]["mixed_precision"] == name
    with pytest.warns(UserWarning, match="^dtype: "):
        assert load_model(str(tmp_path), "cpu", dtype="bfloat16")[0].dtype == torch.bfloat16
