"""`torch.export` of the forward pass: traced once, it scores batches of other sizes as the model does."""

import pytest
import torch
from torch.export import Dim

from tests.support.tiny import doubled, tiny_inputs, tiny_model, with_mentions, with_types

# Tracing takes seconds, however small the model.
pytestmark = pytest.mark.slow

CONFIGS = [
    {"fusion": "additive"},
    {"fusion": "query"},
    {"fusion": "query", "deterministic_experts": True},
    {"score": "similarity", "fusion": "query"},
]
AXES = {
    "input_ids": {0: "posts", 1: "tokens"},
    "attention_mask": {0: "posts", 1: "tokens"},
    "mention_positions": {0: "posts"},
    "mention_mask": {0: "posts", 2: "tokens"},
    "pixel_values": {0: "posts"},
    "image_mask": {0: "posts"},
    # torch cannot compare 5 tokens of pixels and any number of words with three times as many, one for each expert:
    # image texts are padded to one length.
    "image_text_input_ids": {0: "posts"},
    "image_text_attention_mask": {0: "posts"},
    "candidate_input_ids": {0: "texts", 1: "label_tokens"},
    "candidate_attention_mask": {0: "texts", 1: "label_tokens"},
    "candidate_index": {0: "texts"},
    "candidate_types": {0: "texts", 2: "types"},
    "type_input_ids": {0: "types", 1: "type_tokens"},
    "type_attention_mask": {0: "types", 1: "type_tokens"},
}


def inputs_for(model, **sizes):
    inputs = doubled(tiny_inputs(model.config, labels=False, **sizes))
    return with_mentions(inputs) if model.config.score == "similarity" else inputs


def export(model, inputs):
    dims = {name: Dim(name, max=48) for axes in AXES.values() for name in axes.values()}
    shapes = {name: {axis: dims[kind] for axis, kind in AXES[name].items()} for name in inputs}
    return torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=False).module()


# A hook on the layer of the experts, of which one kind is enough.
@pytest.mark.parametrize(
    ("config", "written_out"), [*((config, False) for config in CONFIGS), (CONFIGS[1], True)], ids=str
)
def test_scores_are_those_of_the_model(config, written_out):
    # Double precision: the exported program may add up in another order.
    model = tiny_model(**config).double()
    if written_out:
        # A hook on a layer of the experts keeps the model from the shorter way.
        model.mgvmoe.experts.register_forward_pre_hook(lambda *_: None)
    exported = export(model, inputs_for(model))
    for other in (
        inputs_for(model),
        inputs_for(model, text_length=6, num_candidates=9, seed=3),
        *([] if model.config.score == "similarity" else [inputs_for(model, batch_size=7, num_candidates=2, seed=4)]),
    ):
        with torch.no_grad():
            torch.testing.assert_close(exported(**other).logits, model(**other).logits, rtol=1e-9, atol=1e-9)


RESIDUAL = {"score": "similarity", "expert_type": "residual", "adversary": "none"}


@pytest.mark.parametrize("config", [{"score": "projection"}, {"score": "similarity"}, RESIDUAL], ids=str)
def test_image_text(config):
    model = tiny_model(**config).double()
    if model.mgvmoe.residual:
        torch.nn.init.normal_(model.mgvmoe.experts.expert_means)
        torch.nn.init.constant_(model.mgvmoe.image_gate, 0.3)

    def told(inputs, *lengths):
        mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).long()
        return {**inputs, "image_text_input_ids": mask * 7, "image_text_attention_mask": mask}

    exported = export(model, told(inputs_for(model), 3, 0, 5, 2))
    for other in (told(inputs_for(model), 3, 0, 5, 2), told(inputs_for(model, text_length=6, seed=3), 0, 2, 0, 1)):
        with torch.no_grad():
            torch.testing.assert_close(exported(**other).logits, model(**other).logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("config", [{"score": "projection"}, {"score": "similarity"}, RESIDUAL], ids=str)
def test_labels_of_several_texts(config):
    """`candidate_index` makes the number of labels depend on values."""
    model = tiny_model(**config).double()
    index = torch.tensor([0, 2, 1, 1, 0])
    exported = export(model, {**inputs_for(model), "candidate_index": index})
    for other in (index, torch.tensor([0, 1, 0, 1, 1]), torch.arange(5)):
        inputs = {**inputs_for(model), "candidate_index": other}
        with torch.no_grad():
            expected = model(**inputs).logits
            assert expected.shape == (4, int(other.max()) + 1)
            torch.testing.assert_close(exported(**inputs).logits, expected, rtol=1e-9, atol=1e-9)


def test_types_of_head_and_tail():
    model = tiny_model(score="similarity", type_score_coef=2.0).double()
    inputs = with_types(inputs_for(model))
    exported = export(model, inputs)
    with torch.no_grad():
        torch.testing.assert_close(exported(**inputs).logits, model(**inputs).logits, rtol=1e-9, atol=1e-9)
