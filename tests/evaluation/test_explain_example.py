"""`examples/explain.py`: one answer as a PNG, the use of the experts as a chart, numbers beside both."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_mgvmoe.evaluation.expert_usage import expert_usage
from modeling_mgvmoe.evaluation.explanation import explain_post
from modeling_mgvmoe.evaluation.plots import draw_expert_usage, draw_explanation
from tests.support.evaluation_data import drawn_posts, write_folder
from tests.support.from_scratch import LABELS, posts, scratch_model
from tests.support.small_runs import small_trainee

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("explain_example", ROOT / "examples" / "explain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("explain")
    for part in small_trainee():
        part.save_pretrained(home / "model")
    write_folder(home / "posts")
    first = drawn_posts()[0]["test"][0]
    first["image"].save(home / "0.png")
    start, end = first["mentions"][0]
    items = [
        {"text": first["text"], "mention": [start, end], "image": "0.png", "candidate_labels": LABELS},
        {"text": "Kelo greets Mura", "head": [0, 4], "tail": [12, 16], "candidate_labels": ["greets"]},
    ]
    (home / "posts.json").write_text(json.dumps(items), encoding="utf-8")
    return home


def colours(path):
    with Image.open(path) as image:
        assert min(image.size) > 150
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


def test_one_post(script, folder, tmp_path, capsys):
    out = tmp_path / "new" / "one.png"
    script.main(["post", "--model", f"{folder}/model", "--posts", f"{folder}/posts.json", "--output", str(out)])
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert f"{numbers['answer']}   uncertainty {numbers['uncertainty']:.2f}" in printed
    assert f"picture: {out}   numbers: {out.with_suffix('.json')}" in printed
    assert len(colours(out)) > 50
    assert {entry["label"] for entry in numbers["ranking"]} == set(LABELS) and numbers["patches"]
    arguments = ["post", "--model", f"{folder}/model", "--posts", f"{folder}/posts.json", "--output", str(out)]
    script.main([*arguments, "--number", "1", "--labels", "greets", "chases", "--none_threshold", "1"])
    assert "none of these" in capsys.readouterr().out
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert {entry["label"] for entry in numbers["ranking"]} == {"greets", "chases"} and numbers["patches"] is None


def test_use_of_the_experts(script, folder, tmp_path, capsys):
    out = tmp_path / "usage.png"
    script.main(
        ["experts", "--model", f"{folder}/model", "--dataset", f"{folder}/posts", "--output", str(out)]
    )  # fmt: skip
    printed = capsys.readouterr().out
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    for modality, usage in numbers["overall"].items():
        assert sum(usage) == pytest.approx(1)
        assert f"{modality:8} " + " ".join(f"{share:.2f}" for share in usage) in printed
    assert {task: len(classes) for task, classes in numbers["by_class"].items()} == {"typing": 3, "relation": 3}
    assert all(own["posts"] == 4 for classes in numbers["by_class"].values() for own in classes.values())
    assert len(colours(out)) > 50


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["post", "--posts", "{}/posts.json", "--number", "2"], "number must be one of 0 to 1, got 2"),
        (["post", "--posts", "{}/nowhere.json"], "nowhere.json"),
        (
            ["post", "--posts", "{}/posts.json", "--none_threshold", "2"],
            "none_threshold must be between 0 and 1, got 2.0",
        ),
        (["experts", "--dataset", "{}/nowhere"], "nowhere/train.parquet does not exist"),
        (["experts", "--dataset", "sketchbook", "--max_posts", "0"], "max_posts must be at least 1, got 0"),
        (["experts", "--dataset", "sketchbook", "--model", "{}"], "did you mean"),
    ],
)
def test_bad_flags(script, folder, tmp_path, flags, message, capsys):
    own = [flag.replace("{}", str(folder)) for flag in flags]
    if "--model" not in own:
        own += ["--model", f"{folder}/model"]
    with pytest.raises(SystemExit):
        script.main([*own, "--output", str(tmp_path / "out.png")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


# The numbers of the chart


def test_usage_is_the_mean_over_tokens():
    """By hand: p of every token of every post, one post at a time."""
    model, processor = scratch_model()
    chosen = drawn_posts()[0]["test"][:6]
    chosen = [*chosen[:5], {**chosen[5], "image": None}]
    found = expert_usage(model, processor, chosen, batch_size=4)
    rows = {"text": [], "picture": []}
    by_class = {}
    for post in chosen:
        inputs = processor(text=post["text"], mentions=[tuple(span) for span in post["mentions"]],
                           images=post["image"], return_tensors="pt")  # fmt: skip
        with torch.no_grad():
            output = model.mgvmoe(**inputs)
        own = {"text": output.text_router_probs[0].double().numpy()}
        if post["image"] is not None:
            own["picture"] = output.image_router_probs[0].double().numpy()
        task = "typing" if len(post["mentions"]) == 1 else "relation"
        for name, probs in own.items():
            rows[name].append(probs)
            by_class.setdefault((task, post["label"]), {}).setdefault(name, []).append(probs)
    for name, usage in found.overall.items():
        assert usage == pytest.approx(np.concatenate(rows[name]).mean(0), abs=1e-6)
    for (task, label), own in by_class.items():
        assert found.posts[task][label] == len(own["text"])
        for name, probs in own.items():
            assert found.by_class[task][label][name] == pytest.approx(np.concatenate(probs).mean(0), abs=1e-6)


def test_posts_without_pictures_have_no_use_by_pictures(tmp_path):
    model, processor = scratch_model()
    chosen = [{**post, "image": None} for post in drawn_posts()[0]["test"][:3]]
    found = expert_usage(model.train(), processor, chosen)
    assert model.training and set(found.overall) == {"text"}
    draw_expert_usage(found, tmp_path / "usage.png", "text alone")
    assert colours(tmp_path / "usage.png")


def test_usage_refuses_what_it_cannot_count():
    model, processor = scratch_model()
    with pytest.raises(ValueError, match="posts: at least one is needed, got none"):
        expert_usage(model, processor, [])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        expert_usage(model, processor, drawn_posts()[0]["test"], batch_size=0)
    model.config.num_experts = 0
    with pytest.raises(ValueError, match="model: its num_experts is 0"):
        expert_usage(model, processor, drawn_posts()[0]["test"])


# The image of an answer


@pytest.mark.parametrize("number", range(len(posts())))
def test_every_kind_of_post_is_drawn(number, tmp_path):
    post = posts()[number]
    found = explain_post(*scratch_model(), post, post.get("candidate_labels", LABELS), none_threshold=0.3)
    draw_explanation(found, tmp_path / "one.png", "a title")
    assert len(colours(tmp_path / "one.png")) > 20


def test_odd_posts_are_drawn(tmp_path):
    """Dollars are no formulas, one word is longer than a line, an image has no grid, there are no experts."""
    text = "costs $5 and $6_x^2$ " + "a" * 200 + " " + "word " * 60
    found = explain_post(
        *scratch_model(), {"text": text, "mention": (0, 5), "image": posts()[0]["image"]}, ["$a$", "b"]
    )
    none = {name: np.zeros(0) for name in found.expert_usage}
    odd = replace(found, patches=None, patch_area=None, expert_usage=none, expert_shares=none, gate=0.1)
    draw_explanation(odd, tmp_path / "odd.png")
    draw_explanation(found, tmp_path / "long.png")
    with Image.open(tmp_path / "long.png") as image, Image.open(tmp_path / "odd.png") as other:
        assert image.width == other.width and image.height > other.height > 400
