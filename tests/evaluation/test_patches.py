"""Where an image's tokens lie in it: grids of all kinds of towers, and what they are shown of an image."""

import numpy as np
import pytest
from transformers import CLIPImageProcessorPil

from modeling_mgvmoe.evaluation.explanation import patch_grid, seen_image

pytestmark = pytest.mark.numerical


@pytest.mark.parametrize(
    ("tokens", "height", "width", "patch_size", "expected"),
    [
        (577, 384, 384, 16, (24, 24, 1)),  # ViT-B/16-384: a class token before 24 x 24 patches
        (197, 224, 224, (16, 16), (14, 14, 1)),
        (196, 224, 224, 16, (14, 14, 0)),  # SigLIP: no class token
        (201, 224, 224, 16, (14, 14, 5)),  # DINOv2 with four registers
        (49, 224, 224, None, (7, 7, 0)),  # a feature map of stride 32: MobileNetV2
        (49, 224, 224, 4, (7, 7, 0)),  # Swin: patches of 4, merged three times
        (50, 224, 224, None, (7, 7, 1)),
        (5, 8, 8, 4, (2, 2, 1)),
        (2, 8, 8, None, (1, 1, 1)),
        (20, 32, 32, None, (4, 4, 4)),  # a square image has no grid of 4 x 5
        (3, 24, 8, None, (3, 1, 0)),
        (1 + 24, 64, 96, 16, (4, 6, 1)),
        (12, 100, 120, None, (3, 4, 0)),  # cells of 33 x 30
        (16, 112, 112, None, (4, 4, 0)),  # a feature map that is rounded up: 112 / 32 = 3.5
    ],
)
def test_grids(tokens, height, width, patch_size, expected):
    assert patch_grid(tokens, height, width, patch_size) == expected


def test_tokens_that_make_no_grid():
    assert patch_grid(46, 32, 32) is None  # 6 x 6 would leave ten tokens over


@pytest.mark.parametrize("normalize", [True, False])
def test_what_the_encoder_is_shown(normalize):
    # Left half red, right half green; the shorter side becomes 16, of which 16 x 16 in the middle are kept.
    image = np.zeros((16, 48, 3), np.uint8)
    image[:, :24, 0], image[:, 24:, 1] = 200, 100
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_normalize=normalize
    )
    (pixel_values,) = processor(images=[image])["pixel_values"]
    assert np.array_equal(np.asarray(seen_image(processor, np.asarray(pixel_values))), image[:, 16:32])
