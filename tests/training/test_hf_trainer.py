"""transformers' own `Trainer` on our model: it learns, resumes, scores unseen candidates, and saves what loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModel, EvalPrediction, Trainer, TrainerCallback, TrainingArguments, pipeline

from modeling_mgvmoe import MGVMoEForZeroShotIE
from modeling_mgvmoe.data.encoding import PostCollator, SplitCollator, encode_posts
from modeling_mgvmoe.inference.predict import make_compute_metrics, predict_labels, score_predictions
from modeling_mgvmoe.training.hf_trainer import trainer_parts
from tests.support.small_runs import small_data, small_trainee, without_noise

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6


def make_trainer(folder, callbacks=(), **overrides):
    model, processor = small_trainee()
    parts = trainer_parts(small_data(), processor, model.config)
    values = {
        "max_steps": STEPS, "per_device_train_batch_size": 4, "learning_rate": 3e-3, "eval_strategy": "steps",
        "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True, "metric_for_best_model": "macro_f1",
        "remove_unused_columns": False, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "seed": 3,
    }  # fmt: skip
    trainer = Trainer(
        model,
        TrainingArguments(str(folder), **{**values, **overrides}),
        train_dataset=parts.posts["train"],
        eval_dataset=parts.posts["validation"],
        data_collator=parts.collator,
        compute_metrics=parts.compute_metrics,
        processing_class=processor,
        callbacks=list(callbacks),
    )
    return trainer, parts


class StopAt(TrainerCallback):
    """As if the run had been killed after this step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(ours, theirs):
    assert set(ours) == set(theirs)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An undisturbed run, which ends with the weights of its last step."""
    folder = tmp_path_factory.mktemp("trainer")
    before = state_of(small_trainee()[0])
    trainer, parts = make_trainer(folder, load_best_model_at_end=False)
    trainer.train()
    assert not torch.equal(before["mgvmoe.experts.router.weight"], trainer.model.mgvmoe.experts.router.weight)
    return trainer, parts


def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(trained, tmp_path):
    first, _ = make_trainer(tmp_path, [StopAt(3)], load_best_model_at_end=False)
    first.train()
    assert first.state.global_step == 3
    again, _ = make_trainer(tmp_path, load_best_model_at_end=False)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.state.global_step == STEPS
    assert_equal(state_of(again.model), state_of(trained[0].model))


def test_the_best_model_is_loaded_at_the_end(tmp_path):
    trainer, _ = make_trainer(tmp_path)
    # The best step is the first validation's, whatever it was.
    trainer.compute_metrics = lambda prediction: {"macro_f1": -float(trainer.state.global_step)}
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    best = MGVMoEForZeroShotIE.from_pretrained(tmp_path / "checkpoint-2")
    last = MGVMoEForZeroShotIE.from_pretrained(tmp_path / "checkpoint-6")
    assert_equal(state_of(trainer.model), state_of(best))
    # Also of the vision tower, whose names on the disk are not those in memory.
    for name, value in best.mgvmoe.vision_model.state_dict().items():
        if value.is_floating_point():
            assert not torch.equal(value, last.mgvmoe.vision_model.state_dict()[name]) or value.abs().sum() == 0, name


def test_logits_are_over_the_candidates_of_the_split(trained):
    trainer, parts = trained
    numbers = {split: sum(map(len, tasks.values())) for split, tasks in small_data().labels.items()}
    assert numbers == {"train": 6, "validation": 4, "test": 4}
    for split in ("train", "test"):
        found = trainer.predict(parts.posts[split])
        assert found.predictions.shape == (len(parts.posts[split]), numbers[split])
        # Half of the candidates are of the other task.
        assert (np.isfinite(found.predictions).sum(1) == numbers[split] // 2).all()
        collator = parts.collator.collators[split]
        assert [collator.candidate_labels[column] for column in found.label_ids] == [
            post["label"] for post in parts.posts[split]
        ]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_scores_are_those_of_our_own_loop(trained, split):
    trainer, parts = trained
    metrics = trainer.evaluate(parts.posts[split])
    collator = parts.collator.collators[split]
    predictions = predict_labels(trainer.model, parts.posts[split], collator)
    ours = score_predictions(parts.posts[split], predictions, small_data().labels[split])
    for task, scores in ours.items():
        for name in ("macro_f1", "accuracy"):
            assert metrics[f"eval_{task}_{name}"] == pytest.approx(scores[name])
    for name in ("macro_f1", "accuracy"):
        assert metrics[f"eval_{name}"] == pytest.approx(sum(own[name] for own in ours.values()) / 2)
    assert metrics["eval_loss"] > 0


def test_the_saved_folder_loads_by_auto_model_and_pipeline(trained, tmp_path):
    trainer, parts = trained
    trainer.save_model(tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    assert_equal(state_of(model), state_of(trainer.model))
    pipe = pipeline(model=str(tmp_path), trust_remote_code=True)
    post, encoded = small_data().posts["test"][0], parts.posts["test"][0]
    labels = list(small_data().labels["test"][encoded["task"]])
    answer = pipe(
        {name: post[name] for name in ("text", "mentions", "image")}, candidate_labels=labels, function_to_apply="none"
    )
    logits = trainer.predict([encoded]).predictions[0]
    columns = parts.collator.collators["test"].column_of
    for item in answer:
        # Single precision, among other candidates: logits of order 10 keep five digits.
        assert item["score"] == pytest.approx(logits[columns[item["label"]]], abs=1e-4)


def test_weights_load_by_the_names_of_the_disk(tmp_path):
    """Those of a ViT differ from the names in memory; what is not given stays as it is."""
    model, other = (small_trainee()[0].double() for _ in range(2))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(1 / (number + 3))
    model.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert not set(written) <= set(model.state_dict())
    left_out = {"mgvmoe.experts.router.weight", "perturbation"}
    config, before = other.config.to_dict(), state_of(other)
    report = other.load_state_dict({name: written[name] for name in written if name not in left_out}, strict=False)
    assert (set(report.missing_keys), report.unexpected_keys) == (left_out, [])
    expected = {name: before[name] if name in left_out else value for name, value in state_of(model).items()}
    assert_equal(state_of(other), expected)
    assert other.config.to_dict() == config
    with pytest.raises(RuntimeError, match=r'Missing key.* "perturbation"'):
        other.load_state_dict({name: written[name] for name in written if name not in left_out})
    with pytest.raises(RuntimeError, match=r'Unexpected key.* "strange"'):
        other.load_state_dict({**written, "strange": torch.zeros(1)})


class TestMetrics:
    """By hand."""

    @pytest.fixture
    def collators(self):
        processor = small_trainee()[1]
        return {
            "validation": PostCollator(processor, {"typing": ["a", "b"], "relation": ["c", "d"]}),
            "test": PostCollator(processor, {"typing": ["e", "f", "g"]}),
        }

    def test_the_mean_over_the_tasks_of_the_split_that_fits(self, collators):
        compute, none = make_compute_metrics(collators), -np.inf
        logits = np.array([[2.0, 1, none, none], [2, 1, none, none], [none, none, 0, 3], [none, none, 0, 3]])
        found = compute(EvalPrediction(logits, np.array([0, 1, 3, 3])))
        # Typing: a, a for a, b. F1 of a 2/3, of b 0. Relation: both right; c is neither there nor predicted, F1 0.
        assert found == pytest.approx(
            {"macro_f1": (1 / 3 + 1 / 2) / 2, "accuracy": 0.75, "typing_macro_f1": 1 / 3, "typing_accuracy": 0.5,
             "relation_macro_f1": 0.5, "relation_accuracy": 1.0}
        )  # fmt: skip
        found = compute(EvalPrediction(np.array([[0.0, 1, 2], [3, 1, 2]]), np.array([2, 2])))
        # g, e for g, g: F1 of g 2/3, of e and f 0.
        assert found == pytest.approx(
            {"macro_f1": 2 / 9, "accuracy": 0.5, "typing_macro_f1": 2 / 9, "typing_accuracy": 0.5}
        )

    def test_tasks_with_the_same_candidates_cannot_be_told_apart(self):
        collator = PostCollator(small_trainee()[1], {"one": ["a", "b"], "other": ["b", "a"]})
        with pytest.raises(ValueError, match="collators: .* the same for two of one, other"):
            make_compute_metrics({"validation": collator})

    @pytest.mark.parametrize("answer", [0, 1])
    def test_posts_without_a_label_do_not_count(self, collators, answer):
        compute, none = make_compute_metrics(collators), -np.inf
        logits = np.array([[2.0, 1, none, none], [0, 3, none, none], [0, 0, none, none], [none, none, 0, 3]])
        logits[2, answer] = 9
        # The third and the fourth are without a class. Typing: a, b for a, b.
        assert compute(EvalPrediction(logits, np.array([0, 1, -100, -100]))) == pytest.approx(
            {"macro_f1": 1.0, "accuracy": 1.0, "typing_macro_f1": 1.0, "typing_accuracy": 1.0}
        )
        assert compute(EvalPrediction(logits, np.full(4, -100))) == {}

    @pytest.mark.parametrize("label", [-1, 4])
    def test_a_label_must_be_a_column(self, collators, label):
        with pytest.raises(ValueError, match=rf"label_ids must be in \[0, 4\), .* got \[{label}\]"):
            make_compute_metrics(collators)(EvalPrediction(np.array([[2.0, 1, -np.inf, -np.inf]]), np.array([label])))

    @pytest.mark.parametrize(
        ("logits", "message"),
        [
            ((np.zeros((1, 3)), np.zeros(1)), "predictions must be logits alone, got 2 outputs"),
            (np.array([[0.0, np.nan, 1]]), "predictions hold NaN, got it in 1 posts"),
            (np.zeros((2, 5)), r"candidates of one split, of which there are \[3, 4\], got logits \(2, 5\)"),
            (np.array([[0.0, 1, 2, -np.inf]]), r"got logits \(1, 4\) with 1 sets of candidates"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, collators, logits, message):
        with pytest.raises(ValueError, match=message):
            make_compute_metrics(collators)(EvalPrediction(logits, np.zeros(len(logits), dtype=int)))


def without_labels(posts):
    return [{name: value for name, value in post.items() if name != "label"} for post in posts]


def test_prediction_needs_no_labels(trained):
    trainer, parts = trained
    posts = parts.posts["test"]
    expected = trainer.predict(posts).predictions
    found = trainer.predict(without_labels(posts))
    assert found.label_ids is None and np.array_equal(found.predictions, expected)
    found = trainer.predict([{**post, "label": None} for post in posts])
    assert (found.label_ids == -100).all() and np.array_equal(found.predictions, expected)
    assert not any("f1" in name for name in found.metrics)
    with pytest.raises(ValueError, match="label: all posts of a batch must have one"):
        parts.collator([*posts[:2], *without_labels(posts[2:4])])


def test_encoding_needs_no_labels():
    processor, post = small_trainee()[1], small_data().posts["test"][0]
    (encoded,) = encode_posts(without_labels([post]), processor)
    assert "label" not in encoded and encoded["input_ids"]


def test_streamed_posts_train_like_posts_in_memory(tmp_path):
    """Accelerate cuts batches of streamed posts along the first axis, and there are more labels than posts."""
    ends = []
    for name, dispatch in (("memory", None), ("stream", None), ("not dispatched", False)):
        more = {} if dispatch is None else {"accelerator_config": {"dispatch_batches": dispatch}}
        trainer, parts = make_trainer(
            tmp_path / name, load_best_model_at_end=False, eval_strategy="no", save_strategy="no", max_steps=3,
            per_device_train_batch_size=2, optim="sgd", learning_rate=0.2, **more,
        )  # fmt: skip
        posts = parts.posts["train"][:6]
        # In order: a stream is not shuffled.
        trainer.train_dataset = posts if name == "memory" else Dataset.from_list(posts).to_iterable_dataset()
        trainer._get_train_sampler = lambda *arguments: None
        # Samplers draw from torch's generator, streams do not.
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with without_noise():
            trainer.train()
        ends.append(state_of(trainer.model))
    # But for rounding, which depends on where in memory a batch lies.
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-5, atol=1e-6)


def test_every_tensor_of_a_batch_has_an_axis_of_posts():
    model, processor = small_trainee()
    parts = trainer_parts(small_data(), processor, model.config)
    posts = parts.posts["train"][:5]
    batch, plain = parts.collator(posts), parts.collator.collators["train"](posts)
    model.eval()
    assert {len(value) for value in batch.values()} == {5}
    assert plain["candidate_input_ids"].shape[0] == 6
    with torch.no_grad():
        assert torch.equal(model(**batch).loss, model(**plain).loss)
    other = batch["candidate_input_ids"].clone()
    other[3, 0, 0] += 1
    with pytest.raises(ValueError, match="candidate_input_ids must be the same for every post"):
        model(**{**batch, "candidate_input_ids": other})


def test_a_batch_is_of_one_split():
    model, processor = small_trainee()
    parts = trainer_parts(small_data(), processor, model.config, ("train", "test"))
    with pytest.raises(ValueError, match="all of a batch must be of one split of train, test, got test, train"):
        parts.collator([parts.posts["train"][0], parts.posts["test"][0]])
    with pytest.raises(ValueError, match="got validation"):
        SplitCollator(parts.collator.collators)([{**parts.posts["train"][0], "split": "validation"}])


def run_without_noise(folder, batch_size):
    """A run that only the posts of each batch decide, and what it ends with; of each process, under several."""
    # Adam would make steps of the rounding of gradients that are 0, as that of the labels' bias is.
    trainer, parts = make_trainer(
        folder, per_device_train_batch_size=batch_size, load_best_model_at_end=False, optim="sgd", learning_rate=0.2
    )
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with without_noise():
        trainer.train()
    metrics = trainer.evaluate(parts.posts["test"])
    trainer.save_model(folder / "model")
    return {name: metrics[f"eval_{name}"] for name in ("macro_f1", "accuracy")}


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_global_batch(tmp_path):
    expected = run_without_noise(tmp_path / "one", 4)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    done = subprocess.run(
        [*command, str(tmp_path / "two")], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((tmp_path / "two" / f"{rank}.json").read_text()) for rank in range(2)]
    assert found == [expected] * 2
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    small_trainee()[0].save_pretrained(tmp_path / "start")
    start = load_file(tmp_path / "start" / "model.safetensors")
    assert max((one[name] - start[name]).abs().max() for name in one) > 1e-2
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-6, msg=name)


if __name__ == "__main__":
    home = Path(sys.argv[1])
    scores = run_without_noise(home, 2)
    (home / f"{os.environ['RANK']}.json").write_text(json.dumps(scores))
    # Left to the end of the process its threads now and then abort it.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
