import base64
import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_mgvmoe.images import to_rgb

RED = (255, 0, 0)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(drawing, place=(0, 0)):
    image = to_rgb(drawing)
    assert image.mode == "RGB"
    return image.getpixel(place)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "LA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"]
)
def test_every_mode_keeps_white(mode):
    white = {"I": 255, "F": 1.0, "I;16": 65535}
    image = Image.new(mode, (3, 2), white[mode]) if mode in white else Image.new("RGB", (3, 2), "white").convert(mode)
    assert to_rgb(image).size == (3, 2)
    assert pixel(image) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "P", "HSV"])
def test_colour_modes_keep_red(mode):
    assert pixel(Image.new("RGB", (2, 2), RED).convert(mode)) == RED


def test_transparency_is_laid_on_white():
    assert pixel(Image.new("RGBA", (2, 2), (255, 0, 0, 0))) == (255, 255, 255)
    red, green, blue = pixel(Image.new("RGBA", (2, 2), (255, 0, 0, 128)))
    assert red == 255 and abs(green - 127) <= 1 and abs(blue - 127) <= 1
    assert pixel(Image.new("LA", (2, 2), (0, 0))) == (255, 255, 255)


def test_transparent_palette_and_colour_key():
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    read = Image.open(io.BytesIO(encoded(palette, transparency=1)))
    assert read.mode == "P"
    assert pixel(read) == RED
    assert pixel(read, (1, 0)) == (255, 255, 255)
    keyed = Image.open(io.BytesIO(encoded(Image.new("RGB", (1, 1), RED), transparency=RED)))
    assert keyed.mode == "RGB"
    assert pixel(keyed) == (255, 255, 255)


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bit_grey_is_scaled_and_not_clipped(dtype):
    # 0x8080 is 128 * 257: exactly 128 in 8 bits; PIL's convert("RGB") makes 255 of it.
    image = Image.frombytes("I;16" if dtype == "<u2" else "I;16B", (2, 1), np.array([0x8080, 514], dtype).tobytes())
    assert pixel(image) == (128, 128, 128)
    assert pixel(image, (1, 0)) == (2, 2, 2)


def test_16_bit_png_file(tmp_path):
    Image.fromarray(np.full((2, 2), 0x4040, np.uint16)).save(tmp_path / "deep.png")
    assert pixel(tmp_path / "deep.png") == (64, 64, 64)


def test_32_bit_grey():
    assert pixel(Image.new("I", (1, 1), 200)) == (200, 200, 200)
    assert pixel(Image.new("I", (1, 1), 0x8080)) == (128, 128, 128)
    assert pixel(Image.new("F", (1, 1), 0.4)) == (102, 102, 102)
    assert pixel(Image.new("F", (1, 1), 102.0)) == (102, 102, 102)
    with pytest.raises(ValueError, match=r"mode I needs values in \[0,65535\] \(got 70000 to 70000\)"):
        to_rgb(Image.new("I", (1, 1), 70000))
    with pytest.raises(ValueError, match=r"mode F needs values in \[0,1\] or \[0,255\] \(got nan to nan\)"):
        to_rgb(Image.new("F", (1, 1), float("nan")))


@pytest.mark.parametrize("source", ["pil", "path", "str", "bytes", "dict"])
def test_exif_orientation(tmp_path, source):
    image = Image.new("RGB", (4, 2), "white")
    for x in (0, 1):
        for y in (0, 1):
            image.putpixel((x, y), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: the left side comes up
    path = tmp_path / "turned.png"
    path.write_bytes(encoded(image, exif=exif))
    drawing = {
        "pil": Image.open(path),
        "path": path,
        "str": str(path),
        "bytes": path.read_bytes(),
        "dict": {"bytes": path.read_bytes(), "path": "elsewhere.png"},
    }[source]
    upright = to_rgb(drawing)
    assert upright.size == (2, 4)
    assert upright.getpixel((0, 0)) == upright.getpixel((1, 1)) == (0, 0, 0)
    assert upright.getpixel((0, 3)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_broken_exif_leaves_the_image_as_it_is(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 2), "red").save(buffer, kind, exif=b"Exif\x00\x00garbage!", lossless=True)
    found = to_rgb(buffer.getvalue())
    assert found.size == (4, 2) and found.getpixel((1, 1)) == (255, 0, 0)


def test_dict_of_datasets(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (2, 2), RED).save(path)
    assert pixel({"bytes": None, "path": str(path)}) == RED
    assert pixel({"bytes": path.read_bytes(), "path": None}) == RED
    with pytest.raises(ValueError, match="an image dict needs 'bytes' or 'path'"):
        to_rgb({"bytes": None, "path": None})


def test_data_url_and_animation():
    data = base64.b64encode(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)))).decode()
    assert pixel("data:image/png;base64," + data) == (255, 255, 255)
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, "blue")]
    assert pixel(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == RED


@pytest.mark.parametrize("of", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_arrays_of_every_layout(of):
    grey = np.array([[0, 51], [102, 255], [0, 0], [0, 0], [0, 0]], np.uint8)
    red = np.broadcast_to(np.array(RED, np.uint8), (5, 6, 3)).copy()
    assert pixel(of(grey), (1, 0)) == (51, 51, 51)
    assert pixel(of(grey[:, :, None]), (0, 1)) == (102, 102, 102)
    assert pixel(of(grey[None]), (0, 1)) == (102, 102, 102)
    assert pixel(of(red)) == RED
    assert to_rgb(of(red)).size == (6, 5)
    assert to_rgb(of(red.transpose(2, 0, 1).copy())).size == (6, 5)
    assert pixel(of(red.astype(np.float32) / 255)) == RED
    clear = np.zeros((5, 6, 4), np.uint8)
    assert pixel(of(clear)) == (255, 255, 255)


def test_where_both_layouts_fit():
    array = np.zeros((3, 5, 4), np.uint8)
    assert to_rgb(array).size == (5, 3)  # numpy: (H,W,C)
    assert to_rgb(torch.from_numpy(array)).size == (4, 5)  # torch: (C,H,W)


def test_half_precision_tensor():
    assert pixel(torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 2), np.int64), r"array of shape \(2, 2\), int64>: an array is uint8 or .* \(got int64\)"),
        (np.zeros((2, 2), np.uint16), r"\(got uint16\)"),
        (np.full((2, 2, 3), 2.0), r"a float64 array needs values in \[0,1\] \(got 2 to 2\)"),
        (torch.full((3, 2, 2), float("nan")), r"a float32 array needs values in \[0,1\] \(got nan to nan\)"),
        (np.zeros((5, 6, 2), np.uint8), r"1, 3 or 4 channels, first or last \(got shape \(5, 6, 2\)\)"),
        (np.zeros((1, 3, 4, 4), np.uint8), r"\(H,W\), \(H,W,C\) or \(C,H,W\) and not empty \(got shape \(1, 3, 4, 4"),
        (np.zeros((0, 4), np.uint8), r"not empty \(got shape \(0, 4\)\)"),
        (5, r"images\[3\]: cannot read image <int>: a PIL image, path, URL, bytes, .* is needed \(got int\)"),
        (b"no picture", r"images\[3\]: cannot read image <10 bytes>: it is no image"),
        ("missing.jpg", r"images\[3\]: cannot read image 'missing.jpg': there is no such file"),
        ({"bytes": b"x", "path": "x.jpg"}, r"cannot read image 'x.jpg': it is no image"),
        (Image.new("RGB", (0, 3)), r"<PIL image, mode RGB, size \(0, 3\)>: the image is empty"),
    ],
)
def test_unreadable_images(image, message):
    with pytest.raises(ValueError, match=message) as caught:
        to_rgb(image, "images[3]")
    assert caught.value.__cause__ is not None


def test_truncated_file(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path = tmp_path / "half.jpg"
    path.write_bytes(encoded(noise, "JPEG")[:2000])
    with pytest.raises(ValueError, match=r"images\[0\]: cannot read image '.*half.jpg': .*truncated"):
        to_rgb(path, "images[0]")


# What images from the world can be


def png(width, height):
    """The bytes of a PNG that says it has so many pixels, whatever is in it."""
    drawing = bytearray(encoded(Image.new("L", (1, 1))))
    drawing[16:24] = struct.pack(">II", width, height)
    drawing[29:33] = struct.pack(">I", zlib.crc32(bytes(drawing[12:29])))
    return bytes(drawing)


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (89_478_486, 1), (65_500, 65_500)])
def test_an_image_that_would_fill_the_memory_is_refused(width, height):
    with pytest.raises(ValueError, match=r"cannot read image.*(more than 89,478,485 in all are refused|bomb)"):
        to_rgb(png(width, height))


def test_a_large_open_image_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "large.png").write_bytes(png(10_000, 9_000))
    with (
        Image.open(tmp_path / "large.png") as opened,
        pytest.raises(ValueError, match="10000 x 9000 pixels, more than"),
    ):
        to_rgb(opened)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"></svg>'


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "it is empty"),
        (SVG, "it is an SVG drawing"),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n' + SVG, "it is an SVG drawing"),
        (b"\xef\xbb\xbf" + SVG, "it is an SVG drawing"),
        (b"<html>not here</html>", "it is no image of the formats PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "it is no image of the formats"),
        (b"\x80\x04\x95\x00\x00\x00", "it is no image of the formats"),
        (encoded(Image.new("RGB", (64, 64), RED))[:90], "truncated"),
        (encoded(Image.new("RGB", (64, 64), RED), "JPEG")[:300], "[Tt]runcated"),
    ],
)
def test_what_is_no_image_is_named(content, rule):
    with pytest.raises(ValueError, match=f"images: cannot read image <{len(content)} bytes>: .*{rule}"):
        to_rgb(content)


def test_cmyk_palette_progressive_rotated_and_one_pixel():
    red = Image.new("RGB", (32, 16), RED)
    assert np.abs(np.array(pixel(encoded(red.convert("CMYK"), "JPEG")))[:2] - [255, 0]).max() < 10
    assert np.abs(np.array(pixel(encoded(red, "JPEG", progressive=True)))[:2] - [255, 0]).max() < 10
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9, *RED])
    palette.putpixel((1, 0), 1)
    content = encoded(palette, "PNG", transparency=0)
    assert pixel(content, (0, 0)) == (255, 255, 255) and pixel(content, (1, 0)) == RED
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    assert to_rgb(encoded(red, "JPEG", exif=exif)).size == (16, 32)
    assert pixel(encoded(Image.new("RGB", (1, 1), RED))) == RED


def test_the_content_counts_and_not_the_name(tmp_path):
    path = tmp_path / "boat.jpg"
    path.write_bytes(encoded(Image.new("RGB", (2, 2), RED)))  # a PNG
    assert pixel(str(path)) == RED
    (tmp_path / "boat.png").write_bytes(SVG)
    with pytest.raises(ValueError, match="boat.png': it is an SVG drawing"):
        to_rgb(tmp_path / "boat.png")


def test_what_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        to_rgb(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="it is no file"):
        to_rgb(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")  # nobody will ever write to it
    with pytest.raises(ValueError, match="it is no file"):
        to_rgb(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="embedded null byte|no such file"):
        to_rgb("a\0b.png")


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,###", "data:image/png,abc", "data:", "data:image/svg+xml;base64,PHN2Zz48L3N2Zz4="]
)
def test_data_urls_that_are_none(url):
    with pytest.raises(ValueError, match="cannot read image"):
        to_rgb(url)
