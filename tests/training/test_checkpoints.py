"""Runs that end before their time, and go on."""

import errno
import fcntl
import json
import math
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from modeling_mgvmoe import MGVMoEForZeroShotIE
from modeling_mgvmoe.data import atomic_io as whole_folder_module
from modeling_mgvmoe.data.atomic_io import locked, whole_folder
from modeling_mgvmoe.training import checkpoints, loop
from modeling_mgvmoe.training import launch as interruption
from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.checkpoints import Progress, find_fault, list_checkpoints, random_state, set_random_state
from modeling_mgvmoe.training.launch import StopSignals, TrainingInterrupted, resume_command
from modeling_mgvmoe.training.loop import train
from modeling_mgvmoe.training.trackers import read_log
from tests.support.small_runs import TERMS, small_data, small_trainee

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8


class Stopped(Exception):
    """Instead of a kill."""


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def arguments_of(folder, **changes):
    values = {
        "output_dir": str(folder),
        "max_train_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-3,
        "eval_steps": 3,
        "checkpointing_steps": 2,
        "logging_steps": 3,
    }
    return TrainingArguments(**{**values, **changes})


def run(folder, **changes):
    return train(*small_trainee(), small_data(), arguments_of(folder, **changes))


def stop_after(monkeypatch, steps):
    """Let a run end without warning in the step after so many."""
    learn = loop._learn

    def learn_or_stop(*given):
        if given[4].step == steps:
            raise Stopped
        learn(*given)

    monkeypatch.setattr(loop, "_learn", learn_or_stop)


@pytest.fixture
def another_precision(undisturbed):
    """Accelerate keeps the precision of the first accelerator of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


# Of tmpfs.
PAGE = 4096


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run that nothing spoiled."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(folder, mixed_precision="no")  # `float32_by_default` is not there yet
    return folder


@pytest.fixture
def begun(undisturbed, tmp_path):
    """A copy of that run."""
    return Path(shutil.copytree(undisturbed, tmp_path / "begun"))


def same(one, other):
    """Whether two runs end alike: best model, history, log, and all of the last checkpoint."""
    logs = [read_log(str(folder / "log.jsonl")) for folder in (one, other)]
    for entry in (*logs[0], *logs[1]):
        entry.pop("train/posts_per_second", None)  # of the log only where it falls due
    assert logs[0] == logs[1]
    last = [Path(list_checkpoints(str(folder))[-1][1]) for folder in (one, other)]
    files = ["model/model.safetensors", "model/config.json", "metrics.json"]
    pairs = [(one / name, other / name) for name in files]
    pairs += [(last[0] / name, last[1] / name) for name in ("model.safetensors", "optimizer.safetensors")]
    pairs += [(last[0] / name, last[1] / name) for name in ("random.safetensors", "state.json")]
    for first, second in pairs:
        if first.suffix == ".safetensors":
            ours, theirs = load_file(first), load_file(second)
            equal = set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
        else:
            equal = json.loads(first.read_text()) == json.loads(second.read_text())
        assert equal, first
    return True


# Going on


@pytest.mark.parametrize(
    ("steps", "changes"),
    [
        (1, {}),  # before the first checkpoint
        (5, {}),
        pytest.param(
            7, {"gradient_accumulation_steps": 2, "class_balanced": False, "keep_best": False}, marks=pytest.mark.slow
        ),
        (5, {"class_order": "in_turn", "lr_scheduler_type": "cosine", "gradient_checkpointing": True,
             "logging_steps": 5, "head_learning_rate": 1e-2}),
        pytest.param(5, {"mixed_precision": "bf16"}, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_resumed_run_ends_like_an_undisturbed_one(
    tmp_path, undisturbed, monkeypatch, another_precision, steps, changes
):
    if changes:
        undisturbed = tmp_path / "undisturbed"
        run(undisturbed, **changes)
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(Stopped):
            run(tmp_path / "run", **changes)
    # Another process would be elsewhere in all its random sequences.
    torch.manual_seed(99), np.random.seed(99), random.seed(99)  # noqa: NPY002
    found = run(tmp_path / "run", resume_from_checkpoint="latest", **changes)
    assert found == json.loads((undisturbed / "metrics.json").read_text())
    assert same(tmp_path / "run", undisturbed)


def test_going_on_loads_no_post_twice_and_shows_where_it_is(begun, monkeypatch, capsys):
    shutil.rmtree(begun / "checkpoints" / "step-00000008")
    collated, bars, make = [], [], loop._train_loader
    monkeypatch.setattr(
        "modeling_mgvmoe.data.encoding.PostCollator.__call__",
        lambda self, posts, original=loop.PostCollator.__call__: (
            collated.append(len(posts)) if self.with_ids else None,
            original(self, posts),
        )[1],
    )
    monkeypatch.setattr("modeling_mgvmoe.data.progress_bar.LOG_INTERVAL", 0.0)
    monkeypatch.setattr(loop, "_train_loader", lambda *given: bars.append(given[4]) or make(*given))
    run(begun, resume_from_checkpoint="latest")
    assert (collated, bars) == ([4, 4], [6])
    printed = capsys.readouterr()
    assert f"going on after step 6, from {begun}/checkpoints/step-00000006" in printed.out
    assert "6/8" in printed.err


def test_the_last_two_checkpoints_are_kept_and_a_finished_run_is_finished(begun, undisturbed):
    assert [step for step, _ in list_checkpoints(str(begun))] == [6, 8]
    assert sorted(path.name for path in begun.iterdir()) == [
        "checkpoints", "log.jsonl", "metrics.json", "model"]  # fmt: skip
    suffixes = {path.suffix for path in (begun / "checkpoints").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
    # The last step was the best, or not: either way the model is there afterwards.
    found = run(begun, resume_from_checkpoint="latest")
    assert found == json.loads((undisturbed / "metrics.json").read_text())
    assert same(begun, undisturbed)


def test_going_on_from_an_earlier_checkpoint_leaves_the_later_ones(begun, undisturbed, monkeypatch):
    earlier = begun / "checkpoints" / "step-00000006"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 7)
        run(begun, resume_from_checkpoint=str(earlier), checkpointing_steps=7)
    run(begun, resume_from_checkpoint=str(earlier), checkpointing_steps=7)
    assert [step for step, _ in list_checkpoints(str(begun))] == [7, 8]
    assert same(begun, undisturbed)


def test_the_best_model_is_written_if_the_run_ended_just_before_it(tmp_path, undisturbed, monkeypatch):
    def no_save(*given):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save", no_save)
        with pytest.raises(Stopped):
            run(tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    run(tmp_path / "run", resume_from_checkpoint="latest")
    assert same(tmp_path / "run", undisturbed)


def test_a_checkpoint_without_its_best_model(begun):
    best = json.loads((begun / "metrics.json").read_text())["best"]["step"]
    shutil.rmtree(begun / "model")
    if best == STEPS:
        shutil.rmtree(begun / "checkpoints" / "step-00000008")
        pytest.skip("the last step is the best one on this machine")
    with pytest.raises(FileNotFoundError, match=f"needs the best model so far, of step {best}, but there is no"):
        run(begun, resume_from_checkpoint="latest")


def test_random_states_come_back():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    random.gauss(0, 1), np.random.standard_normal(3)  # noqa: NPY002 - both keep a second number for the next call
    rows = random_state(accelerator)

    def draw():
        numbers = [random.random(), random.gauss(0, 1), *np.random.standard_normal(3), torch.rand(()).item()]  # noqa: NPY002
        return [*numbers, random.gauss(0, 1)]

    first = draw()
    assert draw() != first
    set_random_state(rows, accelerator)
    assert draw() == first


# Early stopping


def test_early_stopping(tmp_path, monkeypatch, capsys):
    f1 = iter([0.2, 0.7, 0.7, 0.5, 0.9])
    monkeypatch.setattr(loop, "validate", lambda *given: {"macro_f1": next(f1), "validation": {}})
    changes = {"eval_steps": 1, "early_stopping_patience": 2}
    found = run(tmp_path / "run", **changes)
    assert [entry["macro_f1"] for entry in found["history"]] == [0.2, 0.7, 0.7, 0.5]
    assert "stopped early: no better macro-F1 in 2 validations" in capsys.readouterr().out
    # It stays stopped, but for more patience.
    assert run(tmp_path / "run", resume_from_checkpoint="latest", **changes) == found
    changes["early_stopping_patience"] = 3
    f1 = iter([0.5])
    again = run(tmp_path / "run", resume_from_checkpoint="latest", **changes)
    assert [entry["step"] for entry in again["history"]] == [1, 2, 3, 4, 5]


def test_validations_without_improvement():
    for scores, expected in (([], 0), ([0.1], 0), ([0.1, 0.1], 1), ([0.3, 0.1, 0.2], 2), ([0.3, 0.1, 0.4], 0)):
        history = [{"macro_f1": score} for score in scores]
        assert Progress(history=history).validations_without_improvement() == expected


# Refusals


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_refused(begun, name):
    last, before = begun / "checkpoints" / "step-00000008", begun / "checkpoints" / "step-00000006"
    path = last / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        run(begun, resume_from_checkpoint="latest")
    for part in (f"{last} is not whole: {name} (", f"The last whole one is {before}: --resume_from_checkpoint"):
        assert part in str(caught.value)
    path.unlink()
    assert find_fault(str(last)) == f"{name} is missing"
    shutil.rmtree(before)
    with pytest.raises(ValueError, match="No other whole one is there: --overwrite_output_dir begins anew"):
        run(begun, resume_from_checkpoint="latest")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "checksums.json is missing"),
        ("{", "checksums.json cannot be read"),
        ("{}", "checksums.json does not list all files"),
    ],
)
def test_damaged_checksums(begun, content, fault):
    path = begun / "checkpoints" / "step-00000008" / "checksums.json"
    path.unlink() if content is None else path.write_text(content)
    assert find_fault(str(path.parent)).startswith(fault)


def test_other_arguments_are_refused_by_name(begun):
    with pytest.raises(ValueError, match=r"belongs to another run: learning_rate was 0.003 and is 0.1; seed was 0 a"):
        run(begun, resume_from_checkpoint="latest", learning_rate=0.1, seed=1)
    # What changes no weight may change.
    run(begun, resume_from_checkpoint="latest", per_device_eval_batch_size=3, checkpointing_steps=5)


def test_another_model_or_other_posts_are_refused_by_name(begun):
    model, processor = small_trainee()
    model.config.margin = 0.25
    arguments = arguments_of(begun, resume_from_checkpoint="latest")
    with pytest.raises(ValueError, match=r"another run: model_config\.margin was [\d.]+ and is 0.25\.$"):
        train(model, processor, small_data(), arguments)
    data = small_data()
    posts = {**data.posts, "train": data.posts["train"][1:]}
    with pytest.raises(ValueError, match=r"another run: data\.train posts was '\w+' and is '\w+'\.$"):
        train(*small_trainee(), type(data)(posts=posts, labels=data.labels), arguments)


def test_a_second_run_into_the_same_folder(begun, undisturbed, monkeypatch):
    with pytest.raises(FileExistsError, match="already holds a model; choose another or --resume_from_checkpoint lat"):
        run(begun)
    shutil.rmtree(begun / "model")
    with pytest.raises(FileExistsError, match="begun already holds checkpoints; choose another or --resume_from"):
        run(begun)
    (begun / "run.json").write_text("of the run before")
    # Written over, nothing of the run before is left, to go on from least of all.
    with monkeypatch.context() as patch:
        stop_after(patch, 0)
        with pytest.raises(Stopped):
            run(begun, overwrite_output_dir=True)
    assert sorted(path.name for path in begun.iterdir()) == ["checkpoints", "log.jsonl"]
    assert list_checkpoints(str(begun)) == []
    (begun / "model").mkdir()
    (begun / "model" / "stale.bin").write_text("stale")
    run(begun, overwrite_output_dir=True)
    assert not (begun / "model" / "stale.bin").exists()
    assert same(begun, undisturbed)
    # A model that no checkpoint belongs to is not written over by going on.
    shutil.rmtree(begun / "checkpoints")
    with pytest.raises(FileExistsError, match="already holds a model; choose another or --overwrite_output_dir"):
        run(begun, resume_from_checkpoint="latest")


@pytest.mark.parametrize("name", ["model/weights.bin", "trackers/mine", "log.jsonl", "metrics.json", "run.json"])
def test_files_of_others_are_not_removed_unasked(tmp_path, name):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=f"run holds {name.split('/')[0]} that no run has written"):
        run(tmp_path / "run", resume_from_checkpoint="latest")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("log", ["", '{"st', '{"step": 3, "train/loss": 1.0}\n'])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path, log):
    (tmp_path / "trackers").mkdir()
    (tmp_path / "log.jsonl").write_text(log)
    (tmp_path / "run.json").write_text("{}")
    assert checkpoints.starting_point(arguments_of(tmp_path)) is None
    checkpoints.discard_run(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_is_not_there_or_elsewhere(begun, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder nowhere; .* has .*step-00000006"):
        run(begun, resume_from_checkpoint="nowhere")
    with pytest.raises(ValueError, match="is not a checkpoint of output_dir, .*/other, which has none"):
        run(tmp_path / "other", resume_from_checkpoint=str(begun / "checkpoints" / "step-00000008"))


def test_one_run_per_folder(tmp_path):
    with locked(str(tmp_path)):
        with pytest.raises(FileExistsError, match=f'still alive, ."pid": {os.getpid()}, .* is writing to {tmp_path}'):
            run(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert not list(tmp_path.iterdir())
    # Of a run that was killed the file is left, but not the lock.
    child = os.fork()
    if child == 0:
        with locked(str(tmp_path)):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == child
    with locked(str(tmp_path)), open(tmp_path / ".lock", encoding="utf-8") as file:
        assert json.load(file)["pid"] == os.getpid()
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# Disk full


@pytest.mark.parametrize("where", ["write_tensors", "save_model", "disk_usage"])
def test_disk_full(tmp_path, undisturbed, monkeypatch, where):
    """At the third checkpoint, while its files are written or before."""
    from safetensors import SafetensorError

    folder, calls = tmp_path / "run", []
    original = shutil.disk_usage if where == "disk_usage" else getattr(checkpoints, where)

    def full(*given):
        calls.append(given)
        if (folder / "checkpoints" / "step-00000003").is_dir() and "step-00000004" in str(given):
            if where == "disk_usage":
                return original("/")._replace(free=1000)
            if where == "write_tensors":
                raise OSError(errno.ENOSPC, "No space left on device")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        return original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(shutil if where == "disk_usage" else checkpoints, where, full)
        with pytest.raises(OSError, match=r"disk full: .*step-00000004 needs \d+ bytes, \d+ are free") as caught:
            run(folder)
    assert caught.value.errno == errno.ENOSPC
    assert [step for step, _ in list_checkpoints(str(folder))] == [2, 3]
    assert all(find_fault(path) is None for _, path in list_checkpoints(str(folder)))
    assert not list(folder.glob("**/.*partial"))
    if where == "write_tensors":  # the folder is the same whatever it was
        run(folder, resume_from_checkpoint="latest")
        assert same(folder, undisturbed)


def test_a_real_full_disk(tmp_path, undisturbed):
    disk = tmp_path / "disk"
    disk.mkdir()
    # Room for the model and two checkpoints, not for three, and some for the log.
    folders = [undisturbed / "model", *(Path(path) for _, path in list_checkpoints(str(undisturbed)))]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    size = sum(-(-path.stat().st_size // PAGE) * PAGE for path in files) + 12 * PAGE
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mount is not possible here: {mounted.stderr.decode().strip()}")
    try:
        with whole_folder(str(disk / "thing"), 1000) as partial:
            save_file({"x": torch.zeros(1000)}, os.path.join(partial, "x.safetensors"))
        for size, needed in ((10**6, 1000), (10**6, 10**7)):  # found while writing, found before
            with (
                pytest.raises(OSError, match=rf"disk full: .*thing needs {needed} bytes, \d+ are free"),
                whole_folder(str(disk / "thing"), needed) as partial,
            ):
                save_file({"x": torch.zeros(size)}, os.path.join(partial, "x.safetensors"))
            assert [path.name for path in disk.iterdir()] == ["thing"]
            assert len(load_file(disk / "thing" / "x.safetensors")["x"]) == 1000
        with pytest.raises(OSError, match=r"disk full: .*step-00000004 needs \d+ bytes"):
            run(disk / "run")
        assert [(step, find_fault(path)) for step, path in list_checkpoints(str(disk / "run"))] == [
            (2, None),
            (3, None),
        ]
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        run(disk / "run", resume_from_checkpoint="latest")
        assert same(disk / "run", undisturbed)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_another_error_while_writing_is_not_a_full_disk(tmp_path):
    with pytest.raises(PermissionError, match="no"), whole_folder(str(tmp_path / "thing"), 1):
        raise PermissionError(errno.EACCES, "no")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(whole_folder_module, "_exchange", lambda *given: False)
    for name in ("old", "new"):
        with whole_folder(str(tmp_path / "thing"), 1) as partial:
            Path(partial, name).touch()
            assert not (tmp_path / "thing" / name).exists()
        assert [path.name for path in (tmp_path / "thing").iterdir()] == [name]
        assert [path.name for path in tmp_path.iterdir()] == ["thing"]


# NaN and signals


def test_a_loss_that_is_not_a_number_names_terms_and_posts(tmp_path, monkeypatch):
    model, processor = small_trainee()
    learn, seen = loop._learn, []

    def spoil(*given):
        if given[4].step == 4:
            with torch.no_grad():
                model.mgvmoe.experts.expert_means.weight.fill_(math.nan)
        seen.append(given[3]["ids"])
        learn(*given)

    monkeypatch.setattr(loop, "_learn", spoil)
    with pytest.raises(ValueError) as caught:
        train(model, processor, small_data(), arguments_of(tmp_path))
    message = str(caught.value)
    assert message.startswith("The loss is nan at step 5; its terms are {")
    assert all(f"'{name}': " in message for name in TERMS)
    assert message.endswith(f"the posts of its batch {seen[-1]}.")
    assert len(seen[-1]) == 4
    assert set(seen[-1]) <= {post["id"] for post in small_data().posts["train"]}
    assert find_fault(list_checkpoints(str(tmp_path))[-1][1]) is None
    MGVMoEForZeroShotIE.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_writes_a_checkpoint(tmp_path, undisturbed, monkeypatch, signum):
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    learn = loop._learn

    def learn_and_be_told(*given):
        if given[4].step == 4:
            os.kill(os.getpid(), signum)
        learn(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_learn", learn_and_be_told)
        with pytest.raises(
            TrainingInterrupted, match=f"{signum.name} after step 5; go on from .*/step-00000005"
        ) as stop:
            run(tmp_path / "run")
    assert (stop.value.signum, stop.value.step) == (signum, 5)
    assert list_checkpoints(str(tmp_path / "run"))[-1] == (5, stop.value.checkpoint)
    assert signal.getsignal(signal.SIGTERM) == before
    run(tmp_path / "run", resume_from_checkpoint="latest")
    assert same(tmp_path / "run", undisturbed)


def test_a_second_signal_acts_at_once_but_for_an_echo_of_the_first(monkeypatch):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with StopSignals() as signals:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        monkeypatch.setattr(interruption, "PATIENCE", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_command_to_go_on(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    words = ["python", "-u", "examples/train.py", "--config", "a b.yaml"]
    going_on = "python -u examples/train.py --config 'a b.yaml' --resume_from_checkpoint latest"
    for more in ([], ["--resume_from_checkpoint", "latest"], ["--resume_from_checkpoint=runs/step-00000003"]):
        monkeypatch.setattr(sys, "orig_argv", [*words, *more])
        assert resume_command() == going_on
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert resume_command(["--seed", "3"]) == f"{sys.executable} train.py --seed 3 --resume_from_checkpoint latest"
    monkeypatch.setattr(sys, "argv", ["mgvmoe train", "--seed", "3"])
    assert resume_command(["--seed", "3"]) == "mgvmoe train --seed 3 --resume_from_checkpoint latest"


# Slow: other processes

SHORT = ["--max_train_steps", "40", "--eval_steps", "10", "--posts_per_class", "1", "--eval_posts_per_class", "1"]
SHORT += ["--per_device_train_batch_size", "4"]


def start(folder, launcher=()):
    command = [
        sys.executable,
        *launcher,
        "examples/train.py",
        "--config",
        "configuration/recipes/sketchbook.yaml",
        *SHORT,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [*command, "--output_dir", str(folder)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A process of a shell's background ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "ends"),
    [
        ((), {signal.SIGTERM: 143, signal.SIGINT: 130}),
        # torchrun has an exit code of its own.
        (("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"), {signal.SIGTERM: 1}),
    ],
    ids=["python", "torchrun"],
)
def test_signals_of_the_example_and_the_printed_command(tmp_path, launcher, ends):
    whole = start(tmp_path / "undisturbed", launcher)
    _, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors[-3000:]
    for signum, code in ends.items():
        folder = tmp_path / signum.name
        process = start(folder, launcher)
        while not (folder / "checkpoints" / "step-00000010").is_dir():
            assert process.poll() is None, process.communicate()[1][-3000:]
            time.sleep(0.01)
        process.send_signal(signum)
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == code, errors[-3000:]
        assert f"{signum.name} after step" in printed
        assert 10 < list_checkpoints(str(folder))[-1][0] < 40
        command = printed[printed.index("To go on:\n") :].splitlines()[1]
        assert shlex.split(command)[-2:] == ["--resume_from_checkpoint", "latest"]
        if signum == signal.SIGINT:  # what is left is that of SIGTERM
            continue
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert same(folder, tmp_path / "undisturbed")


@pytest.mark.slow
def test_killed_at_eleven_moments(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.killed_runs", str(tmp_path), "0"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    _, *rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 11
    for row in rows:
        assert (row["first"], row["second"]) == (-signal.SIGKILL, 0), row
        assert same(tmp_path / row["name"], tmp_path / "undisturbed"), row
        assert not list((tmp_path / row["name"]).glob("**/.*")), row
    # Some died in the middle of writing.
    assert sum(any("partial" in name for name in row["left"]) for row in rows) >= 3
