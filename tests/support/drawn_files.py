"""What a drawing must be."""

from PIL import Image


def colours(path):
    with Image.open(path) as image:
        assert min(image.size) > 150
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
