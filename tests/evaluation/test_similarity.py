"""The similarity baseline, how a post is shown, and for which posts the vision tower runs."""

import pytest
import torch

from modeling_mgvmoe.data.encoding import PostCollator, encode_posts
from modeling_mgvmoe.evaluation.report import mark_mentions
from modeling_mgvmoe.evaluation.similarity import (
    SCALE,
    SimilarityScorer,
    embed_with_model,
    similarity_predictions,
)
from modeling_mgvmoe.inference.predict import predict_labels
from tests.support.from_scratch import LABELS, drawing, scratch_model

pytestmark = pytest.mark.numerical

TEXT = "Kelo Bay sails to Mura"


def make_post(text=TEXT, mentions=((0, 8),), label="boat", image=None):
    spans = [list(span) for span in mentions]
    return {"id": text, "text": text, "mentions": spans, "label": label, "image": image}


def test_the_nearest_label_wins_whatever_the_batch():
    model, processor = scratch_model(torch.double)
    texts = [TEXT, "Mura greets Kelo", "a red boat in the harbour", TEXT]
    posts = [make_post(text, [(0, 4)]) for text in texts]
    found = similarity_predictions(model, processor, posts, LABELS)

    # By hand: one text at a time, the cosine of the means of the states.
    def embed(text):
        encoded = processor.encode_candidates([text], return_tensors="pt")
        return model.get_candidate_embeds(**encoded)[0]

    with torch.no_grad():
        targets = [embed(label) for label in LABELS]
        for text, label in zip(texts, found, strict=True):
            source = embed(f"{text[:4]}: {text}")
            cosines = [torch.cosine_similarity(source, target, dim=0).item() for target in targets]
            assert label == LABELS[cosines.index(max(cosines))]
        scores = SimilarityScorer(embed_with_model(model, processor))(posts, LABELS)
        assert scores[-1] == pytest.approx([SCALE * cosine for cosine in cosines], abs=1e-9)
    assert found == similarity_predictions(model, processor, posts, LABELS, batch_size=1)


def test_descriptions_stand_for_labels_and_the_mode_is_kept():
    model, processor = scratch_model()
    model.train()
    post = make_post("red robot", [(0, 9)])
    # The description of one label is the very text of the post: cosine 1.
    text = "red robot: red robot"
    assert similarity_predictions(model, processor, [post], LABELS, {"cake": text}) == ["cake"]
    assert model.training


@pytest.mark.parametrize(
    ("mentions", "shown"),
    [
        ([(0, 8)], "[Kelo Bay] sails to Mura"),
        ([(0, 8), (18, 22)], "[head Kelo Bay] sails to [tail Mura]"),
        ([(18, 22), (0, 8)], "[tail Kelo Bay] sails to [head Mura]"),
        ([(0, 8), (5, 8)], "[head Kelo [tail Bay]] sails to Mura"),
        ([(0, 4), (0, 8)], "[tail [head Kelo] Bay] sails to Mura"),
        ([(0, 4), (4, 8)], "[head Kelo][tail  Bay] sails to Mura"),
    ],
)
def test_mentions_in_brackets(mentions, shown):
    assert mark_mentions(make_post(mentions=mentions)) == shown


def test_the_tower_runs_only_for_batches_with_an_image(monkeypatch):
    model, processor = scratch_model()
    posts = [make_post(f"{TEXT} {'again ' * number}") for number in range(6)]
    posts[1]["image"], posts[4]["image"] = drawing(1), drawing(2)
    encoded = encode_posts(posts, processor)
    collator = PostCollator(processor, {"typing": LABELS})
    rows = []
    tower = model.mgvmoe.vision_model.forward
    monkeypatch.setattr(
        model.mgvmoe.vision_model,
        "forward",
        lambda *args, **kwargs: rows.append(len(kwargs["pixel_values"])) or tower(*args, **kwargs),
    )
    assert "pixel_values" not in collator([encoded[0], encoded[2]])
    together = predict_labels(model, encoded, collator, batch_size=2)
    # Six posts in three batches; the two with an image share one.
    assert rows == [2]
    assert together == [predict_labels(model, [post], collator)[0] for post in encoded]
