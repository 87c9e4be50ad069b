"""A tiny model with its processor, and posts for them, shared by the tests of pipeline, Hub folder and training."""

import copy
import functools
from typing import Any

import pytest
import torch
from PIL import Image

from modeling_mgvmoe import MGVMoEForZeroShotIE, MGVMoEProcessor
from modeling_mgvmoe.configuration_mgvmoe import DEFAULTS_0_1
from modeling_mgvmoe.training.build import model_from_scratch

IMAGE_SIZE = 16
TEXTS = [
    "Kelo sails at dawn and greets Mura",
    "we all saw Kelo chase Mura again in the harbour",
    "a boat, a bird, a cake or a robot: it is red",
    "greets chases teaches feeds",
]
LABELS = ["boat", "bird", "cake", "robot"]
RELATIONS = ["greets", "chases", "teaches"]


def scratch_config(**overrides: Any) -> dict[str, Any]:
    """Fields of MGVMoEConfig, the paper's with weights far above the usual, so that scores tell labels apart."""
    values = {
        "text_config": {
            "model_type": "bert",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 37,
            "max_position_embeddings": 64,
            "vocab_size": 300,
            "initializer_range": 0.3,
        },
        "vision_config": {
            "model_type": "vit",
            "hidden_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 3,
            "intermediate_size": 29,
            "image_size": IMAGE_SIZE,
            "patch_size": 8,
            "initializer_range": 0.3,
        },
        **DEFAULTS_0_1,
        "num_experts": 3,
        "projection_dim": 16,
        "initializer_range": 0.15,
    }
    return {**values, **overrides}


@functools.cache
def _built() -> tuple[MGVMoEForZeroShotIE, MGVMoEProcessor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model, processor = model_from_scratch(scratch_config(), TEXTS, max_length=48)
    return model.eval(), processor


def scratch_model(dtype: torch.dtype = torch.float32) -> tuple[MGVMoEForZeroShotIE, MGVMoEProcessor]:
    """A copy of one and the same model, in evaluation mode, and of its processor.

    Take `torch.double` where scores that were computed in two ways are compared: in single precision they differ by
    1e-5 or more, depending on the processor.
    """
    model, processor = copy.deepcopy(_built())
    return model.to(dtype), processor


def nearly(value: Any) -> Any:
    """`value`, to be compared with `==`, all numbers in it up to the rounding of double precision.

    Rows of batches of other sizes, and weights elsewhere in memory, may be added up in another order.
    """
    if isinstance(value, dict):
        return {name: nearly(own) for name, own in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(nearly(own) for own in value)
    return pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value


def drawing(seed: int = 0) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (20, 24, 3), dtype=torch.uint8, generator=generator)
    return Image.fromarray(pixels.numpy())


def posts() -> list[dict[str, Any]]:
    """Typing and relations, with and without image and their own labels, in every spelling of the mentions."""
    return [
        {"text": "Kelo sails at dawn", "image": drawing(1), "mention": (0, 4)},
        {"text": "Kelo greets Mura", "head": (0, 4), "tail": (12, 16), "candidate_labels": RELATIONS},
        {"text": "we all saw Kelo chase Mura again", "image": drawing(2), "mentions": [(22, 26), (11, 15)]},
        {"text": "Mura", "mention": [0, 4], "image": None, "candidate_labels": ["red robot", "cake"]},
        {"text": "in the harbour Mura sails", "mentions": [[15, 19]], "image": drawing(3), "label": "boat", "id": "5"},
    ]


def scratch_similarity(dtype=torch.float32):
    from modeling_mgvmoe.training.build import model_from_scratch
    from tests.support.from_scratch import TEXTS, scratch_config

    torch.manual_seed(1)
    model, processor = model_from_scratch(
        scratch_config(score="similarity"), TEXTS, max_length=48, mention_style="prefix"
    )
    return model.to(dtype).eval(), processor


# Whole posts.
POSTS = [
    {"id": "a", "text": "Kelo greets Mura at dawn", "image": drawing(1), "mentions": [(0, 4), (12, 16), (20, 24)]},
    {"text": "a bird sails", "mentions": [{"start": 2, "end": 6}]},
    {"id": 3, "text": "we all saw Kelo chase Mura again", "mentions": [[22, 26], [11, 15]], "image": drawing(2)},
    {"id": "empty", "text": "nothing here", "mentions": [], "image": drawing(3)},
]
