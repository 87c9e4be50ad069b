"""Tiny models and inputs that the tests share: random weights, a few thousand parameters, milliseconds per call."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import BertConfig, PreTrainedConfig, ViTConfig

from modeling_mgvmoe import MGVMoEConfig, MGVMoEForZeroShotIE
from modeling_mgvmoe.configuration_mgvmoe import DEFAULTS_0_1

# Far above the usual 0.02: scores and losses of order 1, so that a wrong mask or a wrong index shows.
INITIALIZER_RANGE = 0.3
# 4 patches and the class token: 5 tokens of an image.
IMAGE_SIZE = 8


def tiny_text_config(**overrides: Any) -> BertConfig:
    """A BERT without dropout: what changes between two calls is then the experts' noise."""
    values = {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "max_position_embeddings": 48,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": INITIALIZER_RANGE,
    }
    return BertConfig(**{**values, **overrides})


def tiny_vision_config(**overrides: Any) -> ViTConfig:
    """A ViT whose width differs from the text encoder's, so that `vision_projection` is there."""
    values = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 29,
        "image_size": IMAGE_SIZE,
        "patch_size": 4,
        "initializer_range": INITIALIZER_RANGE,
    }
    return ViTConfig(**{**values, **overrides})


def tiny_config(
    text_config: dict | PreTrainedConfig | None = None,
    vision_config: dict | PreTrainedConfig | None = None,
    **overrides: Any,
) -> MGVMoEConfig:
    """The paper's configuration with tiny backbones; `overrides` are fields of `MGVMoEConfig`."""
    values = {
        **DEFAULTS_0_1,
        "num_experts": 3,
        "projection_dim": 16,
        "projection_dropout": 0.0,
        # Nodes of 64 numbers of order 1: their products would saturate both softmaxes of the sample graph.
        "graph_temperature": 50.0,
        "alignment_temperature": 10.0,
        "initializer_range": INITIALIZER_RANGE,
    }
    return MGVMoEConfig(
        text_config=text_config or tiny_text_config(),
        vision_config=vision_config or tiny_vision_config(),
        **{**values, **overrides},
    )


def tiny_model(
    config: MGVMoEConfig | None = None,
    seed: int = 0,
    model_class: Callable[[MGVMoEConfig], Any] = MGVMoEForZeroShotIE,
    **overrides: Any,
) -> Any:
    """A model in evaluation mode whose biases are random too: zeros would hide that one is forgotten."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config or tiny_config(**overrides))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.1)
    return model.eval()


def tiny_inputs(
    config: MGVMoEConfig | None = None,
    batch_size: int = 4,
    text_length: int = 11,
    num_candidates: int = 5,
    num_mentions: int = 1,
    labels: bool = True,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Inputs of the model: posts of several lengths, padded right, the second without an image.

    Ids of real tokens are 5 and above, padding is 0, and the mentions lie in the first four tokens.
    """
    config = config or tiny_config()
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    def padded(rows: int, length: int, shortest: int) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = integers(shortest, length + 1, rows)
        lengths[0] = length
        mask = (torch.arange(length) < lengths[:, None]).long()
        return integers(5, config.text_config.vocab_size, rows, length) * mask, mask

    input_ids, attention_mask = padded(batch_size, text_length, min(4, text_length))
    candidate_input_ids, candidate_attention_mask = padded(num_candidates, 4, 1)
    starts = [torch.randperm(3, generator=generator)[:num_mentions] + 1 for _ in range(batch_size)]
    size = config.vision_config.image_size if hasattr(config.vision_config, "image_size") else IMAGE_SIZE
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "mention_positions": torch.stack(starts),
        "pixel_values": torch.randn(batch_size, 3, size, size, generator=generator),
        "image_mask": torch.arange(batch_size) != 1,
        "candidate_input_ids": candidate_input_ids,
        "candidate_attention_mask": candidate_attention_mask,
    }
    if labels:
        inputs["labels"] = integers(0, num_candidates, batch_size)
    return inputs


def doubled(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same inputs for a model in double precision."""
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def with_mentions(inputs, slots=2):
    """Inputs as a processor with mention_style="prefix" makes them: posts 0 and 2 are pairs, 1 and 3 typing."""
    mask = torch.zeros(len(inputs["input_ids"]), slots, inputs["input_ids"].shape[1], dtype=torch.bool)
    mask[:, 0, 1:3] = True
    mask[::2, 1, 3] = True
    positions = torch.tensor([[1, 3], [1, -1], [1, 3], [1, -1]])[:, :slots]
    return {**inputs, "mention_mask": mask, "mention_positions": positions}


def with_types(inputs):
    """Two types; the first candidate wants (0, 1), the second (1, 1), the others take any."""
    allowed = torch.ones(inputs["candidate_input_ids"].shape[0], 2, 2, dtype=torch.bool)
    allowed[0] = torch.tensor([[True, False], [False, True]])
    allowed[1] = torch.tensor([[False, True], [False, True]])
    ids = torch.tensor([[7, 8, 9], [10, 11, 0]])
    return {**inputs, "candidate_types": allowed, "type_input_ids": ids, "type_attention_mask": (ids > 0).long()}
