"""Where an image's tokens lie in it: grids of all kinds of towers, and what crops and paddings show of an image."""

import numpy as np
import pytest
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from modeling_mgvmoe.evaluation.explanation import crop_region, patch_grid

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


class Crop:
    """An image processor as seen from outside: cuts pixels out, in units of its own, and shuffles the channels."""

    def __init__(self, left, top, right, bottom):
        self.box = left, top, right, bottom

    def __call__(self, images):
        left, top, right, bottom = self.box
        values = np.asarray(images[0], dtype=float)[..., ::-1].transpose(2, 0, 1) / 255
        pad = (
            (0, 0),
            (max(0, -top), max(0, bottom - values.shape[1])),
            (max(0, -left), max(0, right - values.shape[2])),
        )
        values = np.pad((values - 0.4) / 0.3, pad)
        return {"pixel_values": [values[:, max(0, top) :, max(0, left) :][:, : bottom - top, : right - left]]}


@pytest.mark.parametrize("box", [(0, 0, 60, 40), (10, 5, 50, 35), (0, 20, 60, 40), (-10, -20, 70, 60)])
def test_crops_and_paddings_are_found(box):
    # A ramp of 60 pixels has steps of 255/59: rounded, each is off by at most half a step of brightness, 0.12 pixels.
    assert crop_region(Crop(*box), 60, 40) == pytest.approx(box, abs=0.3)


def test_the_processors_of_transformers():
    whole = ViTImageProcessorPil(size={"height": 32, "width": 32})
    assert crop_region(whole, 90, 50) == (0, 0, 90, 50)
    # The shorter side becomes 16, of which 16 x 16 in the middle are kept: of 90 x 45 pixels the middle 45 x 45.
    cropping = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    assert crop_region(cropping, 90, 45) == pytest.approx((22.5, 0, 67.5, 45), abs=0.8)
    assert crop_region(cropping, 45, 90) == pytest.approx((0, 22.5, 45, 67.5), abs=0.8)


def test_images_of_one_pixel_and_processors_that_see_nothing():
    assert crop_region(Crop(0, 0, 1, 1), 1, 1) == (0, 0, 1, 1)

    def blind(images):
        return {"pixel_values": [np.zeros((3, 8, 8))]}

    assert crop_region(blind, 30, 20) == (0, 0, 30, 20)
