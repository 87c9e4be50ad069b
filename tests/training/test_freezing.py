"""Parts of the text encoder that training leaves alone."""

import pytest

from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.optimization import freeze_text_layers, parameter_groups


def trained_text_parts(model):
    """Parts of the text encoder, by the first words of their parameters' names, that have a gradient."""
    names = [name for name, parameter in model.mgvmoe.text_model.named_parameters() if parameter.requires_grad]
    return {".".join(name.split(".")[:3]) if name.startswith("encoder") else name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    ("number", "left"), [(0, {"encoder.layer.0", "encoder.layer.1"}), (1, {"encoder.layer.1"}), (2, set())]
)
def test_embeddings_and_first_layers(model, number, left):
    others = [p for name, p in model.named_parameters() if ".text_model." not in name and ".vision_model." not in name]
    freeze_text_layers(model, number)
    assert trained_text_parts(model) == left
    assert all(parameter.requires_grad for parameter in others)
    # The optimizer gets nothing that is frozen.
    assert all(parameter.requires_grad for group in parameter_groups(model, 0.01) for parameter in group["params"])


@pytest.mark.parametrize("number", [-1, 3])
def test_there_must_be_so_many_layers(model, number):
    with pytest.raises(ValueError, match=f"freeze_text_layers must be between 0 and 2, .* got {number}"):
        freeze_text_layers(model, number)


def test_the_argument_is_checked_and_off_by_default():
    assert TrainingArguments().freeze_text_layers is None
    with pytest.raises(ValueError, match="freeze_text_layers must not be negative, got -1"):
        TrainingArguments(freeze_text_layers=-1)
