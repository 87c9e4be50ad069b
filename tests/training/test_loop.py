"""The training loop: data in batches, steps, validation, the best weights."""

import copy
import dataclasses
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from modeling_mgvmoe import MGVMoEForZeroShotIE, MGVMoEProcessor
from modeling_mgvmoe.data.encoding import PostCollator, encode_posts
from modeling_mgvmoe.data.schema import post_features
from modeling_mgvmoe.data.sketchbook import generate_posts, neutral_text, split_classes
from modeling_mgvmoe.data.zero_shot_data import ZeroShotData, data_from_folder, sketchbook_data
from modeling_mgvmoe.inference.predict import (
    CONDITIONS,
    evaluate_conditions,
    predict_labels,
    score_predictions,
    seen_as,
)
from modeling_mgvmoe.training.arguments import (
    DataArguments,
    ModelArguments,
    TrainingArguments,
)
from modeling_mgvmoe.training.build import build_model, load_data, model_from_scratch
from modeling_mgvmoe.training.loop import class_balanced_order, train, training_order
from modeling_mgvmoe.training.optimization import parameter_groups
from tests.support.from_scratch import scratch_config
from tests.support.small_runs import TERMS

ROOT = Path(__file__).resolve().parents[2]


def small_split(task, split, count, posts_per_class):
    labels = getattr(split_classes(task, 0), split)[:count]
    return labels, generate_posts(task, split, labels=labels, posts_per_class=posts_per_class, image_size=16)


@pytest.fixture(scope="module")
def data():
    """Four classes for training, two for validation and testing, of each task; 16 px."""
    found, names = {}, {}
    for split, count, posts_per_class in (("train", 4, 3), ("validation", 2, 3), ("test", 2, 2)):
        parts = {task: small_split(task, split, count, posts_per_class) for task in ("typing", "relation")}
        names[split] = {task: labels for task, (labels, _) in parts.items()}
        found[split] = [post for _, posts in parts.values() for post in posts]
    return ZeroShotData(posts=found, labels=names)


@pytest.fixture
def trainee(data):
    """A fresh model with the same weights every time, and its processor."""
    torch.manual_seed(0)
    config = scratch_config(
        freeze_vision=False,
        kl_loss_coef=1e-4,
        router_entropy_loss_coef=0.01,
        alignment_loss_coef=0.1,
        consistency_loss_coef=0.1,
        graph_temperature=32.0,
        initializer_range=0.05,
    )
    config["text_config"]["initializer_range"] = config["vision_config"]["initializer_range"] = 0.05
    return model_from_scratch(config, data.training_texts(), max_length=48)


def test_encoded_posts_and_collator(data, trainee):
    _, processor = trainee
    posts = [dict(post) for post in data.posts["train"]]
    posts[1]["image"] = None
    encoded = encode_posts(posts, processor, image_batch_size=5)
    assert [post["id"] for post in encoded] == [post["id"] for post in posts]
    assert "pixel_values" not in encoded[1]
    whole = processor(
        images=[post["image"] for post in posts],
        text=[post["text"] for post in posts],
        mentions=[[tuple(span) for span in post["mentions"]] for post in posts],
        return_tensors="pt",
    )
    collator = PostCollator(processor, data.labels["train"])
    batch = collator(encoded)
    for name, value in whole.items():
        assert torch.equal(batch[name], value), name
    names = collator.candidate_labels
    assert names == [*data.labels["train"]["typing"], *data.labels["train"]["relation"]]
    assert len(batch["candidate_input_ids"]) == len(names) == 8
    for post, mask, label in zip(posts, batch["candidate_mask"], batch["labels"], strict=True):
        own = "typing" if len(post["mentions"]) == 1 else "relation"
        assert [name for name, open_ in zip(names, mask, strict=True) if open_] == list(data.labels["train"][own])
        assert names[label] == post["label"]


def test_collator_shares_columns_and_reads_descriptions(trainee):
    _, processor = trainee
    labels = {"typing": ["red", "blue"], "relation": ["blue", "green"]}
    collator = PostCollator(processor, labels, {"red": "a red star boat"})
    assert collator.candidate_labels == ["red", "blue", "green"]
    assert {task: mask.tolist() for task, mask in collator.task_masks.items()} == {
        "typing": [True, True, False],
        "relation": [False, True, True],
    }
    expected = processor.encode_candidates(["a red star boat", "blue", "green"], return_tensors="pt")
    assert torch.equal(collator.candidates["candidate_input_ids"], expected["candidate_input_ids"])


def test_collator_refuses_a_label_of_another_task(data, trainee):
    _, processor = trainee
    post = encode_posts(data.posts["train"][:1], processor)[0]
    collator = PostCollator(processor, data.labels["train"])
    wrong = data.labels["train"]["relation"][0]
    with pytest.raises(ValueError, match=f"post '{post['id']}' has '{wrong}', which is not one of the 4 typing"):
        collator([{**post, "label": wrong}])


def test_an_error_in_a_post_names_the_post(data, trainee):
    post = {**data.posts["train"][0], "id": "n7", "text": "e\u0301", "mentions": [[0, 3]]}
    with pytest.raises(ValueError, match="post 'n7': mentions: 0 <= start < end <= 2"):
        encode_posts([post], trainee[1])


def test_data_checks_its_splits(data):
    with pytest.raises(ValueError, match=r"the splits train, validation, test are needed \(missing: \['test'\]\)"):
        ZeroShotData({**data.posts, "test": []}, {split: data.labels[split] for split in ("train", "validation")})
    labels = {**data.labels, "test": data.labels["train"]}
    with pytest.raises(ValueError, match=r"labels\['test'\]: unseen classes must not be in training \(got typing"):
        ZeroShotData(data.posts, labels)


def write_folder(folder, data, changed=None):
    import datasets

    for split, posts in {**data.posts, **(changed or {})}.items():
        datasets.Dataset.from_list(list(posts), features=post_features()).to_parquet(folder / f"{split}.parquet")


def test_data_from_a_folder(tmp_path, data, trainee):
    write_folder(tmp_path, data)
    found = load_data(DataArguments(dataset=str(tmp_path)))
    for split, posts in data.posts.items():
        assert len(found.posts[split]) == len(posts)
        for post, read in zip(posts, found.posts[split], strict=True):
            assert {key: value for key, value in read.items() if key != "image"} == {
                key: value for key, value in post.items() if key != "image"
            }
            assert read["image"].tobytes() == post["image"].tobytes()
        assert {task: set(names) for task, names in found.labels[split].items()} == {
            task: set(names) for task, names in data.labels[split].items()
        }
    assert sorted(found.training_texts()) == sorted(data.training_texts())
    ours, theirs = (encode_posts(part.posts["test"], trainee[1]) for part in (data, found))
    assert all((one["pixel_values"] == two["pixel_values"]).all() for one, two in zip(ours, theirs, strict=True))


def test_data_from_a_folder_errors(tmp_path, data):
    with pytest.raises(FileNotFoundError, match=r"dataset: .*train\.parquet does not exist, nor another"):
        data_from_folder(tmp_path)
    bad = {**data.posts["test"][1], "mentions": [[0, 999]]}
    write_folder(tmp_path, data, {"test": [data.posts["test"][0], bad]})
    with pytest.raises(ValueError, match=r"test\.parquet, row 1: post .*mentions: 0 <= start < end"):
        data_from_folder(tmp_path)
    write_folder(tmp_path, data, {"test": data.posts["train"]})
    assert set(data_from_folder(tmp_path).labels["test"]["typing"]) == set(data.labels["train"]["typing"])
    declared = {
        "dataset": "ours",
        "split": "by hand",
        "label_descriptions": {},
        "label_types": {},
        "type_descriptions": {},
    }
    labels = {**data.labels, "test": data.labels["train"]}
    (tmp_path / "labels.json").write_text(json.dumps({**declared, "labels": labels}))
    with pytest.raises(ValueError, match="unseen classes must not be in training"):
        data_from_folder(tmp_path)


def test_built_in_data():
    found = sketchbook_data(seed=1, posts_per_class=1, eval_posts_per_class=1)
    assert {split: len(posts) for split, posts in found.posts.items()} == {"train": 80, "validation": 24, "test": 24}
    assert found.labels["test"]["typing"] == split_classes("typing", 1).test


def test_predictions_do_not_depend_on_the_batch(data, trainee):
    model, processor = trainee
    model.train()
    encoded = encode_posts(data.posts["validation"], processor)
    collator = PostCollator(processor, data.labels["validation"])
    found = predict_labels(model, encoded, collator)
    assert model.training
    assert predict_labels(model, encoded, collator, batch_size=1) == found
    assert predict_labels(model, encoded[::-1], collator, batch_size=5) == found[::-1]
    assert len(set(found)) > 1
    for post, label in zip(encoded, found, strict=True):
        assert label in data.labels["validation"][post["task"]]
    # The best candidate of the model itself.
    model.eval()
    with torch.no_grad():
        best = model(**collator(encoded)).logits.argmax(-1)
    assert found == [collator.candidate_labels[column] for column in best]


def test_conditions(data, trainee):
    post = data.posts["test"][0]
    whole, text, image = (seen_as(post, condition) for condition in CONDITIONS)
    assert whole == post
    assert text == {**post, "image": None}
    assert image == neutral_text(post)
    assert image["text"] != post["text"]
    assert image["image"] is post["image"]
    with pytest.raises(ValueError, match="condition: one of .* is needed .got 'neither'"):
        seen_as(post, "neither")

    model, processor = trainee
    found = evaluate_conditions(model, processor, data.posts["test"], data.labels["test"], batch_size=3)
    assert list(found) == list(CONDITIONS)
    collator = PostCollator(processor, data.labels["test"])
    for condition in CONDITIONS:
        encoded = encode_posts([seen_as(post, condition) for post in data.posts["test"]], processor)
        guessed = predict_labels(model, encoded, collator)
        assert found[condition] == score_predictions(encoded, guessed, data.labels["test"])
        assert {task: scores["n"] for task, scores in found[condition].items()} == {"typing": 4, "relation": 4}
        assert found[condition]["typing"]["chance"] == 0.5


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def arguments_of(folder, **changes):
    values = {
        "output_dir": str(folder),
        "max_train_steps": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "eval_steps": 3,
    }
    return TrainingArguments(**{**values, **changes})


def test_training(tmp_path, data, trainee):
    model, processor = trainee
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    found = train(model, processor, data, arguments_of(tmp_path, keep_best=False))
    assert [entry["step"] for entry in found["history"]] == [3, 6]
    for entry in found["history"]:
        weighted = sum(getattr(model.config, f"{name}_coef") * entry[name] for name in TERMS)
        assert entry["loss"] == pytest.approx(weighted, rel=1e-5)
        assert all(math.isfinite(entry[name]) for name in TERMS)
        assert set(entry["validation"]) == {"typing", "relation"}
        mean = sum(scores["macro_f1"] for scores in entry["validation"].values()) / 2
        assert entry["macro_f1"] == pytest.approx(mean)
    assert found["best"] == found["history"][-1]
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    # The query part and the bias of E7 and the bias of the candidates' projection have no gradient: they cancel.
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert {"perturbation", "mgvmoe.experts.router.weight", "mention_projection.weight"} < moved
    assert len(moved) > 0.9 * len(before)

    loaded = MGVMoEForZeroShotIE.from_pretrained(tmp_path / "model")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert MGVMoEProcessor.from_pretrained(tmp_path / "model").max_length == 48
    assert (tmp_path / "model" / "pipeline_mgvmoe.py").is_file()
    again, _ = build_model(ModelArguments(model_name_or_path=str(tmp_path / "model")), data)
    assert torch.equal(again.perturbation, model.perturbation)


def test_the_history_holds_means_over_steps(tmp_path, data, trainee):
    model, processor = trainee
    runs = []
    for number, part in enumerate((copy.deepcopy(model), model)):
        arguments = arguments_of(tmp_path / str(number), max_train_steps=2, eval_steps=number + 1)
        runs.append(train(part, processor, data, arguments)["history"])
    (first, second), (both,) = runs
    for name in ("loss", *TERMS):
        assert both[name] == pytest.approx((first[name] + second[name]) / 2, rel=1e-5)


def test_the_same_seed_gives_the_same_weights(tmp_path, data, trainee):
    found = []
    for number, seed in enumerate((0, 0, 1)):
        arguments = ModelArguments(model_config=scratch_config(), max_length=48)
        model, processor = build_model(arguments, data, seed)
        folder = tmp_path / str(number)
        train(model, processor, data, arguments_of(folder, seed=seed, max_train_steps=3, keep_best=False))
        found.append(load_file(folder / "model" / "model.safetensors"))
        torch.rand(5)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.equal(found[0]["mention_projection.weight"], found[2]["mention_projection.weight"])


def test_the_best_weights_are_kept(tmp_path, data, trainee, monkeypatch):
    from modeling_mgvmoe.training import loop

    f1 = iter([0.2, 0.7, 0.7, 0.5])
    monkeypatch.setattr(loop, "validate", lambda *arguments: {"macro_f1": next(f1), "validation": {}})
    weights, save = [], loop.save
    monkeypatch.setattr(
        loop, "save", lambda *given: (weights.append(given[1].mention_projection.weight.clone()), save(*given))
    )
    found = train(*trainee, data, arguments_of(tmp_path, max_train_steps=4, eval_steps=1))
    assert (found["best"]["step"], len(weights)) == (2, 2)
    saved = load_file(tmp_path / "model" / "model.safetensors")["mention_projection.weight"]
    assert torch.equal(saved, weights[1])
    assert not torch.equal(saved, trainee[0].mention_projection.weight)


def test_a_cap_on_validation_posts(tmp_path, data, trainee, capsys):
    whole = len(data.posts["validation"])
    found = [
        train(*copy.deepcopy(trainee), data, arguments_of(tmp_path / name, max_train_steps=1, max_eval_samples=cap))
        for name, cap in (("few", 3), ("again", 3), ("all", whole))
    ]
    numbers = [sum(scores["n"] for scores in one["best"]["validation"].values()) for one in found]
    assert numbers == [3, 3, whole] and found[0] == found[1]
    told = [line for line in capsys.readouterr().err.splitlines() if "max_eval_samples" in line]
    assert len(told) == 2 and all(f"3 of {whole} validation posts" in line for line in told)
    with pytest.raises(ValueError, match="max_eval_samples must be at least 1, got 0"):
        arguments_of(tmp_path, max_eval_samples=0)


def test_validation_has_a_bar_of_its_own(tmp_path, data, trainee, monkeypatch):
    from modeling_mgvmoe.inference import predict as unseen

    seen, batches = [], unseen.outputs_in_batches
    monkeypatch.setattr(
        unseen, "outputs_in_batches", lambda *given, **more: seen.append((given[4], more)) or batches(*given, **more)
    )
    train(*trainee, data, arguments_of(tmp_path, max_train_steps=1))
    assert seen == [("validation", {"leave": False})]


def test_accumulated_steps_count_once(tmp_path, data, trainee):
    found = train(
        *trainee, data, arguments_of(tmp_path, gradient_accumulation_steps=2, max_train_steps=2, eval_steps=2)
    )
    assert [entry["step"] for entry in found["history"]] == [2]


def test_accumulation_that_the_launcher_sets_is_recorded(tmp_path, data, trainee, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    train(*trainee, data, arguments_of(tmp_path, max_train_steps=1))
    (state,) = tmp_path.glob("checkpoints/*/state.json")
    assert json.loads(state.read_text())["identity"]["gradient_accumulation_steps"] == 2


def test_a_split_without_a_post_that_can_be_encoded(tmp_path, data, trainee):
    post = {**data.posts["validation"][0], "text": "Kelo \ufffd sails", "mentions": [[5, 6]]}
    posts = {**data.posts, "validation": [post]}
    trainee[1].mention_style = "prefix"
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="data: validation needs posts, got none that could be encoded of 1"),
    ):
        train(*trainee, dataclasses.replace(data, posts=posts), arguments_of(tmp_path, max_train_steps=1))


def test_a_folder_with_a_model_is_not_overwritten_unasked(tmp_path, data, trainee):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="output_dir: .*model already holds a model; choose another or"):
        train(*trainee, data, arguments_of(tmp_path))
    assert (tmp_path / "model" / "config.json").read_text() == "{}"
    train(*trainee, data, arguments_of(tmp_path, max_train_steps=1, overwrite_output_dir=True))
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path, data, trainee):
    model, processor = trainee
    with torch.no_grad():
        model.mgvmoe.experts.expert_means.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="The loss is nan at step 1; its terms are .*'ranking_loss': nan"):
        train(model, processor, data, arguments_of(tmp_path))
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_one_batch_is_learnt_by_heart(data, trainee):
    model, processor = trainee
    model.config.projection_dropout = 0.0
    model.train()
    posts = encode_posts(data.posts["train"], processor)
    batch = PostCollator(processor, data.labels["train"])(posts)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.0), lr=3e-3)
    losses = []
    for _ in range(60):
        output = model(**batch)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.ranking_loss.item())
    assert losses[0] > 1
    assert sum(losses[-5:]) / 5 < 0.1 * losses[0]
    model.eval()
    with torch.no_grad():
        found = model(**batch).logits.argmax(-1)
    assert (found == batch["labels"]).float().mean() > 0.9


@pytest.mark.slow
def test_accelerate_launch(tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(ROOT / "configuration/accelerate/cpu.yaml"), str(ROOT / "examples/train.py")]
    command += ["--config", str(ROOT / "configuration/recipes/sketchbook.yaml"), "--output_dir", str(tmp_path / "run")]
    command += ["--max_train_steps", "3", "--posts_per_class", "1", "--eval_posts_per_class", "1"]
    command += ["--per_device_train_batch_size", "4", "--num_threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "best validation macro-F1" in done.stdout
    assert f"model saved to {tmp_path / 'run'}/model" in done.stdout
    history = json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]
    assert [entry["step"] for entry in history] == [3]
    config = yaml.safe_load((ROOT / "configuration/accelerate/cpu.yaml").read_text())
    assert config["num_processes"] == 1
    assert {"config.json", "model.safetensors", "processor_config.json", "pipeline_mgvmoe.py"} < {
        path.name for path in (tmp_path / "run" / "model").iterdir()
    }


def test_class_balanced_order():
    classes = ["rare"] * 2 + ["common"] * 50 + ["usual"] * 10
    drawn = class_balanced_order(classes, 6000, seed=1)
    assert len(drawn) == 6000
    # Binomial with p = 1/3: standard deviation 37.
    counts = Counter(classes[index] for index in drawn)
    assert set(counts) == {"rare", "common", "usual"}
    assert all(abs(count - 2000) < 150 for count in counts.values())
    # Within a class every post alike, with replacement: 1000 each for the rare ones, 40 for the common ones.
    posts = Counter(drawn)
    assert set(posts) == set(range(len(classes)))
    assert all(abs(posts[index] - 1000) < 120 for index in (0, 1))
    assert all(abs(posts[index] - 40) < 30 for index in range(2, 52))


def order(size, num_samples, seed=0):
    """Epochs of posts without classes."""
    return training_order([{}] * size, TrainingArguments(class_balanced=False, seed=seed), num_samples)


def test_orders_are_repeatable_differ_by_seed_and_begin_alike():
    for make in (lambda count, seed: class_balanced_order("aabbb", count, seed), lambda *given: order(5, *given)):
        first = make(40, 1)
        torch.rand(3)
        assert make(40, 1) == first and make(40, 2) != first


def test_without_classes_every_post_is_read_once_per_epoch():
    drawn = order(5, 13)
    assert len(drawn) == 13
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == list(range(5))
    assert len(set(drawn[10:])) == 3
    assert drawn[:5] != drawn[5:10]


def test_classes_in_turn():
    classes = ["rare"] * 2 + ["common"] * 50 + ["usual"] * 10
    drawn = class_balanced_order(classes, 3 * 20 + 1, seed=1, in_turn=True)
    rounds = [tuple(classes[index] for index in drawn[start : start + 3]) for start in range(0, 60, 3)]
    assert all(set(names) == {"rare", "common", "usual"} for names in rounds) and len(drawn) == 61
    assert len(set(rounds)) > 2  # in a new order every round
    assert len(set(drawn)) > 15  # and a new post
    assert class_balanced_order(classes, 0, seed=1, in_turn=True) == []


# 12 posts of 4 labels of either task.
POSTS = [
    {"task": task, "label": label} for task, label in zip(["typing", "relation"] * 12, "abcdefgh" * 3, strict=True)
]


def test_arguments_of_sampling():
    with pytest.raises(ValueError, match="class_order must be one of drawn, in_turn, got 'both'"):
        TrainingArguments(class_order="both")
    with pytest.raises(ValueError, match="class_order: 'in_turn' needs class_balanced, got class_balanced False"):
        TrainingArguments(class_order="in_turn", class_balanced=False)
    in_turn = training_order(POSTS, TrainingArguments(class_order="in_turn"), 16)
    # 8 pairs of task and label, each twice in two rounds.
    assert set(Counter((POSTS[index]["task"], POSTS[index]["label"]) for index in in_turn).values()) == {2}


def test_datasets_alike():
    posts = [{"task": "a/typing", "dataset": "a/typing", "label": f"c{index % 3}"} for index in range(9)]
    posts += [{"task": "b/relation", "dataset": "b/relation", "label": "d"} for _ in range(100)]
    drawn = training_order(posts, TrainingArguments(), 4000)
    counts = Counter((posts[index]["dataset"], posts[index]["label"]) for index in drawn)
    # Half to each dataset, and a sixth of all to each class of the first: standard deviations 32 and 24.
    assert abs(counts["b/relation", "d"] - 2000) < 130
    assert all(abs(counts["a/typing", f"c{index}"] - 667) < 100 for index in range(3))
    with pytest.raises(ValueError, match="class_order"):
        training_order(posts, TrainingArguments(class_order="in_turn"), 4)
