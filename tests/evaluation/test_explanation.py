"""The explanation of an answer: weights on words and patches, experts, uncertainty, "none of these"."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from modeling_mgvmoe import ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.evaluation.explanation import (
    expert_usage,
    explain_post,
    image_effect_words,
    normalized_entropy,
    split_words,
    weigh_words,
)
from modeling_mgvmoe.training.build import model_from_scratch
from tests.support.encoders import VISION
from tests.support.evaluation_data import drawn_posts
from tests.support.from_scratch import LABELS, RELATIONS, TEXTS, drawing, posts, scratch_config, scratch_model

pytestmark = pytest.mark.numerical

POST = {"text": "Kelo sails at dawn", "image": drawing(1), "mention": (0, 4)}
RELATION = {"text": "we all saw Kelo chase Mura again", "image": drawing(2), "mentions": [(22, 26), (11, 15)]}


@pytest.fixture(scope="module")
def parts():
    return scratch_model(torch.double)


def words_of(text):
    return [text[start:end] for start, end in split_words(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Kelo's boat, don't ask!", ["Kelo's", "boat", ",", "don't", "ask", "!"]),
        ("'quoted' 90's #tag @name_1", ["'", "quoted", "'", "90", "'", "s", "#", "tag", "@", "name_1"]),
        ("梅西在巴黎 ok", ["梅", "西", "在", "巴", "黎", "ok"]),
        ("cafe\u0301 \U0001f469\u200d\U0001f4bb\U0001f44d\U0001f3fd",
         ["cafe\u0301", "\U0001f469\u200d\U0001f4bb", "\U0001f44d\U0001f3fd"]),
        ("किताब है", ["किताब", "है"]),
        ("  ", []),
    ],
)  # fmt: skip
def test_words(text, words):
    assert words_of(text) == words


def test_weights_of_tokens_become_those_of_words():
    # "don't" as three tokens, "new york" as one token over two words: of its 0.4, 3/7 and 4/7.
    text = "don't new york x"
    offsets = [(0, 0), (0, 3), (3, 4), (4, 5), (6, 14), (0, 0)]
    words = weigh_words(text, offsets, np.array([0.1, 0.2, 0.05, 0.05, 0.4, 0.2]))
    assert [(text[w.start : w.end], w.was_read) for w in words] == [
        ("don't", True), ("new", True), ("york", True), ("x", False),
    ]  # fmt: skip
    assert [w.weight for w in words] == pytest.approx([0.3, 0.4 * 3 / 7, 0.4 * 4 / 7, 0])


def test_entropy():
    assert normalized_entropy([0.25] * 4) == pytest.approx(1)
    assert normalized_entropy([1.0, 0.0]) == 0 == normalized_entropy([1.0])
    assert normalized_entropy([0.9, 0.1]) == pytest.approx(-(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1)))


def test_none_of_these(parts):
    ranking = [{"label": "boat", "score": 0.4}, {"label": "bird", "score": 0.3}]
    found = replace(explain_post(*parts, POST, LABELS), ranking=ranking, compared=None)
    answers = [replace(found, threshold=threshold).answer for threshold in (None, 0, 0.4, 0.41)]
    assert answers == ["boat", "boat", "boat", None]


@pytest.mark.parametrize("post", [*posts(), POST, RELATION])
def test_scores_are_the_pipelines_and_all_weights_add_up(parts, post):
    model, processor = parts
    labels = post.get("candidate_labels", LABELS)
    found = explain_post(model, processor, post, labels)
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    expected = pipe(post, candidate_labels=labels)
    assert [entry["label"] for entry in found.ranking] == [entry["label"] for entry in expected]
    assert [entry["score"] for entry in found.ranking] == pytest.approx([entry["score"] for entry in expected])
    has_image = post.get("image") is not None
    assert sum(found.shares.values()) == pytest.approx(1)
    assert sum(part.sum() for part in found.expert_shares.values()) == pytest.approx(1)
    assert set(found.expert_shares) == set(found.expert_usage) == ({"text", "image"} if has_image else {"text"})
    assert all(part.sum() == pytest.approx(1) for part in found.expert_usage.values())
    assert found.shares["words"] == pytest.approx(sum(word.weight for word in found.words))
    assert (found.shares["image"] > 0) is has_image
    if has_image:
        # Images of 16 pixels, patches of 8: 2 x 2, after a class token, which weighs something too.
        assert found.patches.shape == (2, 2) and found.patch_experts.shape == (2, 2, 3)
        assert 0 < found.patches.sum() < found.shares["image"]
        assert found.image.size == (24, 20) and found.seen_image.size == (16, 16)
    else:
        assert found.patches is found.seen_image is found.image is None


def test_weights_and_experts_are_those_of_the_model(parts):
    model, processor = parts
    found = explain_post(model, processor, POST, LABELS)
    inputs = processor(text=POST["text"], mentions=(0, 4), images=POST["image"], candidate_labels=LABELS,
                       return_tensors="pt")  # fmt: skip
    with torch.no_grad():
        output = model(**inputs)
    weights, tokens = (
        output.fusion_attentions[0].tolist(),
        processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]),
    )
    assert found.patches.flatten().tolist() == pytest.approx(weights[1:5])  # after the class token
    text = dict(zip(tokens, weights[5:], strict=True))
    assert len(text) == len(tokens)  # no token twice
    by_word = {POST["text"][word.start : word.end]: word.weight for word in found.words}
    pieces = {word: [token for token in tokens if token.removeprefix("##") in word.lower() and token[0] not in "[<"]
              for word in by_word}  # fmt: skip
    if all("".join(part.removeprefix("##") for part in own) == word.lower() for word, own in pieces.items()):
        assert by_word == pytest.approx({word: sum(text[part] for part in own) for word, own in pieces.items()})
    assert found.shares["other"] == pytest.approx(
        sum(weight for token, weight in text.items() if token[0] in "[<"), abs=1e-6
    )
    probs = output.text_router_probs[0].double().numpy()
    assert found.expert_shares["text"] == pytest.approx(np.array(weights[5:]) @ probs)
    assert found.expert_usage["text"] == pytest.approx(probs.mean(0))


@pytest.mark.parametrize("vision", VISION)
def test_every_kind_of_tower_has_a_grid(vision):
    """With a class token (ViT, DINOv2), without (SigLIP, Swin), and a feature map (MobileNetV2)."""
    tower = CONFIG_MAPPING[vision](**VISION[vision]).to_dict()
    torch.manual_seed(1)
    model, processor = model_from_scratch(scratch_config(vision_config=tower), TEXTS, max_length=48)
    # Double precision: without a class token the two sums below differ by rounding.
    found = explain_post(model.double().eval(), processor, POST, LABELS)
    assert found.patches.shape == (4, 4)  # of 32 pixels, see TOKENS in tests/model/test_loading.py
    has_class_token = vision in ("vit", "dinov2")
    assert bool(found.patches.sum() < found.shares["image"] - 1e-9) is has_class_token


def test_patches_lie_where_they_are_in_the_image(parts):
    """A weight moves with what is drawn: the lower right quarter is changed, and only its patch answers."""
    model, processor = parts
    grid = [explain_post(model, processor, {**POST, "image": image}, LABELS).patch_experts for image in _quarters()]
    changed = np.abs(grid[0] - grid[1]).max(-1)
    assert changed.argmax() == 3  # row 1, column 1


def _quarters():
    """An image and the same with another lower right quarter."""
    from PIL import Image

    first = drawing(4).resize((16, 16))
    second = first.copy()
    second.paste((255, 0, 0), (8, 8, 16, 16))
    assert isinstance(first, Image.Image)
    return first, second


def test_mentions_named_before_the_post_count_as_the_mention(similar):
    model, processor = similar
    found = explain_post(model, processor, RELATION, RELATIONS)
    inputs = processor(text=RELATION["text"], mentions=RELATION["mentions"], images=RELATION["image"],
                       candidate_labels=RELATIONS, return_tensors="pt")  # fmt: skip
    with torch.no_grad():
        output = model(**inputs)
    of_text = output.fusion_attentions[0, -inputs["input_ids"].shape[1] :].numpy()
    mask = inputs["mention_mask"][0].numpy()
    for span, own in zip(RELATION["mentions"], mask, strict=True):
        (word,) = (word for word in found.words if (word.start, word.end) == tuple(span))
        assert word.weight == pytest.approx(of_text[own].sum())
    assert found.gate == pytest.approx(0.2)


@pytest.fixture(scope="module")
def similar():
    torch.manual_seed(1)
    model, processor = model_from_scratch(
        scratch_config(score="similarity"), TEXTS, max_length=48, mention_style="prefix"
    )
    with torch.no_grad():
        model.similarity.gate.fill_(0.2)
    return model.eval(), processor


def test_types_of_head_and_tail_reach_the_scores(similar):
    types = {"greets": ("person", ["person", "place"])}
    plain, typed = (
        explain_post(*similar, RELATION, RELATIONS, label_types=own).ranking for own in (None, types)
    )  # fmt: skip
    assert plain != typed


def test_a_long_post_says_what_was_not_read(parts):
    model, processor = parts
    text = "Kelo" + " sails at dawn" * 40
    found = explain_post(model, processor, {"text": text, "mention": (0, 4)}, LABELS)
    read = [word.was_read for word in found.words]
    assert read[0] and not read[-1] and read == sorted(read, reverse=True)
    assert all(word.weight == 0 for word in found.words if not word.was_read)


def test_a_model_without_experts():
    torch.manual_seed(1)
    model, processor = model_from_scratch(scratch_config(num_experts=0), TEXTS, max_length=48)
    found = explain_post(model, processor, POST, LABELS)
    assert found.expert_shares["text"].shape == found.expert_usage["image"].shape == (0,)
    assert found.patches.shape == (2, 2)


def test_the_model_stays_in_its_mode(parts):
    model, processor = parts
    expected = explain_post(model, processor, POST, LABELS).ranking
    model.train()
    try:
        assert explain_post(model, processor, POST, LABELS).ranking == expected
        assert model.training
    finally:
        model.eval()


def test_what_the_image_changes(parts):
    found = explain_post(*parts, POST, LABELS)
    without = explain_post(*parts, {**POST, "image": None}, LABELS)
    assert found.ranking_without_image == without.ranking
    scores = [{entry["label"]: entry["score"] for entry in own.ranking} for own in (found, without)]
    best = found.ranking[0]["label"]
    assert found.image_effect == pytest.approx(scores[0][best] - scores[1][best], abs=1e-12)
    assert found.as_json()["image_effect"] == found.image_effect
    assert without.ranking_without_image is without.image_effect is None
    assert without.image_strength == 0 and image_effect_words(without) == ""


@pytest.mark.parametrize(
    ("before", "strength", "words"),
    [
        ((0.60, 0.40), 0.0, "The image changes nothing here."),
        ((0.604, 0.396), 0.0, "The image changes nothing here."),
        ((0.55, 0.45), 0.1, "The image moves the score by +0.05."),
        ((0.90, 0.10), 0.6, "The image moves the score by -0.30."),
        ((0.40, 0.60), 0.4, "The image changes the answer."),
        ((0.05, 0.95), 1.0, "The image changes the answer."),
    ],
)
def test_words_and_strength_of_what_the_image_changes(parts, before, strength, words):
    """By hand: boat 0.6 with the image, drawn in full from a change of 0.5 on."""
    found = explain_post(*parts, POST, ["boat", "bird"])
    ranking = [{"label": "boat", "score": 0.6}, {"label": "bird", "score": 0.4}]
    without = [{"label": name, "score": score} for name, score in zip(("boat", "bird"), before, strict=True)]
    without.sort(key=lambda entry: -entry["score"])
    changed = replace(found, ranking=ranking, ranking_without_image=without)
    assert changed.image_strength == pytest.approx(strength)
    best = without[0]
    assert image_effect_words(changed) == (
        f"Without the image: {best['label']} {best['score']:.2f}. With it: boat 0.60. {words}"
    )


def test_json_has_everything_but_the_image(parts):
    found = explain_post(*parts, RELATION, RELATIONS, threshold=0.99)
    content = json.loads(json.dumps(found.as_json()))
    assert content["answer"] is None and content["threshold"] == 0.99
    assert content["mentions"] == [[22, 26], [11, 15]]
    assert [entry["word"] for entry in content["words"]] == RELATION["text"].split()
    assert np.array(content["patches"]) == pytest.approx(found.patches)


@pytest.mark.parametrize(
    ("post", "arguments", "message"),
    [
        (POST, {"candidate_labels": LABELS, "threshold": 1.2}, "threshold: a score between 0 and 1 is needed"),
        (POST, {}, "candidate_labels: a non-empty list of labels is needed, in the call or in the post"),
        ({"text": "Kelo"}, {"candidate_labels": LABELS}, "either 'mention', or 'head' and 'tail'"),
        ({**POST, "mention": (0, 99)}, {"candidate_labels": LABELS}, r"0 <= start < end <= 18 \(text length\)"),
        ({**POST, "image": b"no picture"}, {"candidate_labels": LABELS}, "image: cannot read image <10 bytes>"),
    ],
)
def test_bad_input(parts, post, arguments, message):
    with pytest.raises(ValueError, match=message):
        explain_post(*parts, post, **arguments)


def residual_model():
    """Residual experts with a router that tells posts apart."""
    settings = {"expert_type": "residual", "objective": "cross_entropy", "adversary": "none"}
    torch.manual_seed(1)
    config = scratch_config(score="similarity", **settings)
    model, processor = model_from_scratch(config, TEXTS, max_length=48, mention_style="prefix")
    torch.nn.init.normal_(model.mgvmoe.experts.router.weight)
    return model.eval(), processor


@pytest.mark.parametrize("make", [scratch_model, residual_model])
def test_usage_is_the_mean_over_tokens(make):
    """By hand: p of every token of every post, one post at a time."""
    model, processor = make()
    chosen = drawn_posts()[0]["test"][:6]
    chosen = [*chosen[:5], {**chosen[5], "image": None}]
    found = expert_usage(model, processor, chosen, batch_size=4)
    rows = {"text": [], "image": []}
    by_class = {}
    for post in chosen:
        inputs = processor(text=post["text"], mentions=[tuple(span) for span in post["mentions"]],
                           images=post["image"], return_tensors="pt")  # fmt: skip
        with torch.no_grad():
            output = model.mgvmoe(**inputs)
        own = {"text": output.text_router_probs[0].double().numpy()}
        if post["image"] is not None:
            own["image"] = output.image_router_probs[0].double().numpy()
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


def test_posts_without_images_have_no_use_by_images():
    model, processor = scratch_model()
    chosen = [{**post, "image": None} for post in drawn_posts()[0]["test"][:3]]
    found = expert_usage(model.train(), processor, chosen)
    assert model.training and set(found.overall) == {"text"}


def test_usage_refuses_what_it_cannot_count():
    model, processor = scratch_model()
    with pytest.raises(ValueError, match="posts: at least one is needed, got none"):
        expert_usage(model, processor, [])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        expert_usage(model, processor, drawn_posts()[0]["test"], batch_size=0)
    model.config.num_experts = 0
    with pytest.raises(ValueError, match="model: its num_experts is 0"):
        expert_usage(model, processor, drawn_posts()[0]["test"])
