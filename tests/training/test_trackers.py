"""Where a run is reported, and that a run that goes on reports nothing twice."""

import io
import json
import math
import sys
import time

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker, get_available_trackers

from modeling_mgvmoe.data import progress_bar as progress
from modeling_mgvmoe.training import loop
from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.loop import train
from modeling_mgvmoe.training.trackers import (
    JsonLinesTracker,
    ProgressLine,
    Statistics,
    expert_sums,
    make_accelerator,
    read_log,
    tracker_names,
)
from tests.support.small_runs import TERMS, small_data, small_trainee
from tests.support.tiny import doubled, tiny_inputs, tiny_model


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


class Stopped(Exception):
    """Instead of a kill."""


def run(folder, accelerator=None, **changes):
    values = {
        "output_dir": str(folder), "max_train_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 3e-3,
        "eval_steps": 3, "checkpointing_steps": 2, "logging_steps": 3,
    }  # fmt: skip
    return train(*small_trainee(), small_data(), TrainingArguments(**{**values, **changes}), accelerator)


# A checkpoint after step 4, entries of the log after 3 and 6: killed in step 8, a run logs the latter again.
BETWEEN = {"eval_steps": 8, "checkpointing_steps": 4}


def run_stopped_and_resumed(folder, monkeypatch, **changes):
    learn = loop._learn

    def learn_or_stop(*given):
        if given[4].step == 7:
            raise Stopped
        learn(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_learn", learn_or_stop)
        with pytest.raises(Stopped):
            run(folder, **BETWEEN, **changes)
    assert [entry["step"] for entry in read_log(str(folder / "log.jsonl"))] == [3, 6]
    return run(folder, resume_from_checkpoint="latest", **BETWEEN, **changes)


def test_the_log_names_everything(tmp_path):
    found = run(tmp_path, head_learning_rate=1e-3)
    entries = read_log(str(tmp_path / "log.jsonl"))
    assert [entry["step"] for entry in entries] == [3, 6, 8]
    names = {f"train/{name}" for name in ("loss", *TERMS, "posts_per_second")}
    names |= {f"learning_rate/{part}" for part in ("text", "vision", "heads", "perturbation")}
    names |= {f"expert_usage/{modality}_{k}" for modality in ("text", "image") for k in range(3)}
    names |= {"router_entropy/text", "router_entropy/image", "validation/macro_f1"}
    names |= {f"validation/{task}/{name}" for task in ("typing", "relation") for name in ("accuracy", "macro_f1")}
    for entry, scores in zip(entries, found["history"], strict=True):
        assert set(entry) == {"step", *names}
        assert all(math.isfinite(value) for value in entry.values())
        assert entry["validation/macro_f1"] == scores["macro_f1"]
        # Here the windows of log and validations are the same.
        assert all(entry[f"train/{name}"] == scores[name] for name in ("loss", *TERMS))
        assert entry["train/posts_per_second"] > 0
        assert entry["learning_rate/heads"] == pytest.approx(entry["learning_rate/text"] / 3)
    # Warm-up of 1 step, then linearly to 0 after 8: at the last step 1/7 is left.
    assert entries[-1]["learning_rate/text"] == pytest.approx(3e-3 / 7)


def test_the_loss_is_called_after_the_objective_everywhere(tmp_path):
    model, processor = small_trainee()
    model.config.objective = "cross_entropy"
    recorder = Recorder()
    arguments = TrainingArguments(output_dir=str(tmp_path), max_train_steps=1, per_device_train_batch_size=2)
    train(model, processor, small_data(), arguments, Accelerator(cpu=True, log_with=[recorder]))
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    logged = [dict(entry) for entry in read_log(str(tmp_path / "log.jsonl"))]
    tracked = next(values for step, values in recorder.calls[2:-1] if step == 1)
    for names in (logged[-1], tracked):
        assert "train/cross_entropy_loss" in names and "train/ranking_loss" not in names
    assert metrics["best"]["cross_entropy_loss"] == logged[-1]["train/cross_entropy_loss"]


def test_a_run_that_goes_on_logs_nothing_twice(tmp_path, monkeypatch):
    run(tmp_path / "undisturbed", **BETWEEN)
    run_stopped_and_resumed(tmp_path / "run", monkeypatch)
    logs = [read_log(str(tmp_path / name / "log.jsonl")) for name in ("undisturbed", "run")]
    for entry in (*logs[0], *logs[1]):
        assert entry.pop("train/posts_per_second") > 0
    assert logs[0] == logs[1] and len(logs[0]) == 3


def test_the_log_file(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 2, "x": 1.5}\n{"step": 4, "x": 2.5}\n{"step": 6, "x"')  # cut by a kill
    tracker = JsonLinesTracker(str(path), step=3)
    tracker.start()
    tracker.log({"x": 3.5}, step=4)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 2, "x": 1.5},
        {"step": 4, "x": 3.5},
    ]
    tracker.finish()
    assert tracker.tracker.closed and [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]
    path.write_text('{"step": 2}\n{"st\n{"step": 6}\n')
    with pytest.raises(ValueError, match="log.jsonl: line 2 is not JSON .*; move the file away"):
        JsonLinesTracker(str(path)).start()
    assert read_log(str(tmp_path / "none")) == []


class Recorder(GeneralTracker):
    """Any tracker of Accelerate, for which these calls are all there is."""

    name, requires_logging_directory, tracker = "recorder", False, None

    def __init__(self):
        super().__init__()
        self.calls = []

    def start(self):
        self.calls.append("start")

    def store_init_configuration(self, values):
        self.calls.append(("configuration", values))

    def log(self, values, step=None, **kwargs):
        self.calls.append((step, values))

    def finish(self):
        self.calls.append("finish")


def test_a_tracker_of_the_accelerator_gets_what_the_log_gets(tmp_path, monkeypatch):
    recorder = Recorder()
    run(tmp_path, Accelerator(cpu=True, log_with=[recorder]))
    start, (kind, values), *entries, end = recorder.calls
    assert (start, kind, end) == ("start", "configuration", "finish")
    assert values["learning_rate"] == 3e-3 and None not in values.values()
    assert [{"step": step, **found} for step, found in entries] == read_log(str(tmp_path / "log.jsonl"))
    # It is finished also when the run is not, and its configuration is given once.
    recorder.calls.clear()
    accelerator = Accelerator(cpu=True, log_with=[recorder])
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_learn", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path, accelerator, overwrite_output_dir=True)
    assert [call if isinstance(call, str) else call[0] for call in recorder.calls] == [
        "start",
        "configuration",
        "finish",
    ]
    assert accelerator.trackers == []


def test_tracker_names():
    assert tracker_names("jsonl") == tracker_names("") == []
    with pytest.raises(ValueError, match="report_to must name trackers out of jsonl, aim, .*wandb, got 'tensorbord'"):
        tracker_names("jsonl, tensorbord")
    absent = next(name for name in ("wandb", "mlflow", "aim") if name not in map(str, get_available_trackers()))
    with pytest.raises(ValueError, match=f"report_to: the package of '{absent}' is not installed"):
        tracker_names(absent)


def test_tensorboard(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert tracker_names("jsonl, tensorboard,tensorboard") == ["tensorboard"]
    run_stopped_and_resumed(tmp_path, monkeypatch, report_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "trackers" / "mgvmoe"))
    events.Reload()
    entries = read_log(str(tmp_path / "log.jsonl"))
    assert len(list((tmp_path / "trackers" / "mgvmoe").glob("*/hparams.yml"))) == 1
    for name in entries[-1]:
        if name not in ("step", "train/posts_per_second"):
            points = [(point.step, pytest.approx(point.value, rel=1e-5)) for point in events.Scalars(name)]
            assert points == [(entry["step"], entry[name]) for entry in entries if name in entry], name


def test_what_was_reported_before_goes_with_the_run(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "trackers").mkdir()
    (tmp_path / "trackers" / "old").write_text("")
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    run(tmp_path, max_train_steps=1, overwrite_output_dir=True)
    assert not (tmp_path / "trackers").exists()
    assert len(read_log(str(tmp_path / "log.jsonl"))) == 1


@pytest.fixture
def another_precision():
    """Accelerate keeps the precision of the first accelerator of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_half_precision_on_a_cpu_is_refused(tmp_path, another_precision):
    with pytest.raises(ValueError, match='mixed_precision: "fp16" needs a GPU, got a CPU, which has "bf16" and "no"'):
        run(tmp_path, mixed_precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_bfloat16(tmp_path, another_precision):
    seen, losses = [], {}
    for precision in ("bf16", "no"):
        AcceleratorState._reset_state(reset_partial_state=True)
        model, processor = small_trainee()
        model.mention_projection.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        folder = tmp_path / precision
        arguments = TrainingArguments(
            output_dir=str(folder), max_train_steps=12, per_device_train_batch_size=8, learning_rate=1e-2,
            eval_steps=12, mixed_precision=precision, logging_steps=4,
        )  # fmt: skip
        train(model, processor, small_data(), arguments)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        losses[precision] = [entry["train/ranking_loss"] for entry in read_log(str(folder / "log.jsonl"))]
        # Steps, then validation.
        assert set(seen[:12]) == {torch.bfloat16 if precision == "bf16" else torch.float32}
        seen.clear()
    assert losses["bf16"] != losses["no"]
    assert losses["bf16"] == pytest.approx(losses["no"], rel=0.2)


def test_processes_send_each_other_buffers_only_if_these_change(another_precision):
    arguments, (model, _) = TrainingArguments(), small_trainee()
    for changing in (False, True):
        AcceleratorState._reset_state(reset_partial_state=True)
        if changing:
            model.add_module("norm", torch.nn.BatchNorm1d(2))
        assert make_accelerator(arguments, model).ddp_handler.broadcast_buffers == changing


@pytest.mark.numerical
def test_expert_sums_by_hand():
    # Two real tokens: the entropy of (1/2, 1/2) is log 2, that of (1, 0) is 0; the usage is (1.5, 0.5). Then padding.
    probs = torch.tensor([[[0.5, 0.5], [1.0, 0.0], [math.nan, 0.3]]])
    found = expert_sums(probs, torch.tensor([[1, 1, 0]]), 2)
    torch.testing.assert_close(found, torch.tensor([2.0, math.log(2), 1.5, 0.5], dtype=torch.float64))
    # A mask of whole rows, of which none is real; no mask; no probabilities.
    assert expert_sums(probs, torch.tensor([False]), 2).tolist() == [0, 0, 0, 0]
    assert expert_sums(probs[:, :2], None, 2).tolist() == pytest.approx(found.tolist())
    assert expert_sums(None, None, 2) is None


@pytest.mark.numerical
def test_means_by_hand():
    statistics = Statistics({"loss": "loss", "kl_loss": "kl_loss"}, 2, torch.device("cpu"))
    assert statistics.means("log") == {}
    accelerator = Accelerator(cpu=True)
    for loss, kl, tokens in ((1.0, 10.0, 1), (2.0, 40.0, 3)):
        probs = torch.tensor([0.25, 0.75] if tokens == 1 else [1.0, 0.0]).expand(1, tokens, 2)
        output = {"loss": torch.tensor(loss), "kl_loss": torch.tensor(kl), "text_router_probs": probs}
        statistics.add(output, {})
    assert statistics.means("log") == statistics.means("validation") == {"loss": 1.5, "kl_loss": 25.0}
    # One token of (1/4, 3/4), three of (1, 0), and no image.
    found = statistics.experts("log", accelerator)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / 4
    assert found == pytest.approx(
        {"router_entropy/text": entropy, "expert_usage/text_0": 3.25 / 4, "expert_usage/text_1": 0.75 / 4}
    )
    state = statistics.state(accelerator)
    statistics.clear("log")
    assert statistics.means("log") == {} and statistics.means("validation") == {"loss": 1.5, "kl_loss": 25.0}
    other = Statistics({"loss": "loss", "kl_loss": "kl_loss"}, 2, torch.device("cpu"))
    other.load(state, 0)
    assert other.means("log") == {"loss": 1.5, "kl_loss": 25.0}
    assert other.state(accelerator) == state


@pytest.mark.numerical
def test_the_entropies_of_a_model_are_those_of_its_loss():
    model, inputs = tiny_model().double(), doubled(tiny_inputs())
    terms = {"loss": "loss", "router_entropy_loss": "router_entropy_loss"}
    statistics = Statistics(terms, model.config.num_experts, torch.device("cpu"))
    with torch.no_grad():
        output = model(**inputs)
    statistics.add(output, inputs)
    found = statistics.experts("log", Accelerator(cpu=True))
    mean = (found["router_entropy/text"] + found["router_entropy/image"]) / 2
    assert mean == pytest.approx(output.router_entropy_loss.item(), rel=1e-9)
    for modality in ("text", "image"):
        assert sum(found[f"expert_usage/{modality}_{k}"] for k in range(3)) == pytest.approx(1)


@pytest.mark.numerical
def test_nothing_is_read_before_it_is_asked_for():
    """A meta tensor has no numbers to read: `add` would fail if it waited for one."""
    with torch.device("meta"):
        output = {"loss": torch.ones(()), "text_router_probs": torch.ones(2, 3, 4), "image_router_probs": None}
        statistics = Statistics({"loss": "loss"}, 4, torch.device("meta"))
        statistics.add(output, {"attention_mask": torch.ones(2, 3)})
    with pytest.raises(NotImplementedError):
        statistics.means("log")


MEANS = {
    "loss": 1234.5,
    "ranking_loss": 6.78,
    "kl_loss": 987.6,
    "router_entropy_loss": 1.234,
    "alignment_loss": 0.0449,
    "consistency_loss": 0.00041,
    "new_loss": 3.0,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("columns", [None, 40, 300])
def test_the_line_fits_and_names_every_term(columns):
    line = ProgressLine(600, 20, show=True)
    line.bar.fp, line.bar.dynamic_ncols, line.bar.ncols = Terminal(), None, columns
    line.bar.update(250)
    line.update(MEANS, 812.4, 0.512)
    shown = line.bar.format_meter(**line.bar.format_dict)
    line.update({}, 0.0, None)
    nothing = line.bar.format_meter(**line.bar.format_dict)
    line.close()
    assert len(shown) <= (columns or 1000) and "45%" in shown and "best F1" not in nothing
    if columns != 40:
        assert "270/600" in shown and shown.endswith(
            "812 posts/s, loss 1.23e+03, ranking 6.78, kl 988, router-entropy 1.23, alignment 0.0449, "
            "consistency 0.00041, new 3, best F1 0.512]"
        )


def test_the_loss_is_not_read_at_every_step(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    line = ProgressLine(10, 0, show=True)
    assert line.due()
    line.update(MEANS, 1.0, None)
    assert not line.due()
    line.close()
    hidden = ProgressLine(10, 0, show=False)
    assert not hidden.due()
    hidden.update(MEANS, 1.0, None)
    hidden.close()


def test_a_training_in_a_log_file(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.1)
    line, read = ProgressLine(20, 0, show=True), 0
    for _ in range(20):
        time.sleep(0.02)
        if line.due():
            read += 1
            line.update(MEANS, 812.4, 0.5)
        line.advance()
    line.close()
    lines = log.getvalue().splitlines()
    # The loss is read for what is written, not more often.
    assert "\r" not in log.getvalue() and 2 <= len(lines) <= 6 and read <= len(lines)
    assert all("812 posts/s, loss 1.23e+03, ranking 6.78" in text and "|" not in text for text in lines)
    assert lines[-1].startswith("training: 100% 20/20 [00:")
