"""The use of the experts, over all posts and by class."""

import numpy as np
import pytest
import torch

from modeling_mgvmoe.evaluation.expert_usage import expert_usage
from modeling_mgvmoe.evaluation.plots import draw_expert_usage
from tests.support.drawn_files import colours
from tests.support.evaluation_data import drawn_posts
from tests.support.from_scratch import scratch_model


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
