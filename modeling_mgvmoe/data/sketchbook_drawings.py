"""The drawings of the sketchbook: one figure for typing, two for a relation, before a sky.

Positions and sizes are fractions of the picture's width until the moment they are put on the canvas.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

# Inks and papers, as 8-bit RGB.
INK: Colour = (30, 26, 34)
RIM: Colour = (251, 248, 242)  # a paper rim around each figure: without it blue would be lost on the night's navy
FILLS: dict[str, Colour] = {
    "red": (216, 36, 42),
    "blue": (36, 92, 222),
    "green": (44, 158, 66),
    "yellow": (252, 214, 36),
}
SKIES: dict[str, tuple[Colour, Colour]] = {  # top and bottom of the background
    "dawn": ((255, 200, 214), (247, 160, 188)),
    "noon": ((247, 249, 240), (228, 240, 244)),
    "dusk": ((116, 74, 156), (232, 130, 74)),
    "night": ((10, 14, 52), (28, 38, 96)),
}
SHAPES = ("circle", "square", "triangle", "star")
ARRANGEMENTS = ("beside", "above", "inside", "across")
SUPERSAMPLING = 4


def draw_entity(rng: random.Random, colour: str, shape: str, image_size: int) -> Image.Image:
    """One figure; where it stands, how large it is and the time of day behind it are random."""
    canvas = _paint_sky(rng, rng.choice(list(SKIES)), image_size * SUPERSAMPLING)
    radius = rng.uniform(0.26, 0.36)
    slack = 0.47 - 1.2 * radius  # the points of a star reach 1.2 radii
    centre = (0.5 + rng.uniform(-slack, slack), 0.5 + rng.uniform(-slack, slack))
    _draw_figure(rng, canvas, colour, shape, centre, radius)
    return canvas.reduce(SUPERSAMPLING)


def draw_relation(rng: random.Random, arrangement: str, time: str, image_size: int) -> Image.Image:
    """Two figures of random shapes and of different random colours; their arrangement and the sky are the message."""
    canvas = _paint_sky(rng, time, image_size * SUPERSAMPLING)
    colours = rng.sample(list(FILLS), 2)
    shapes = [rng.choice(SHAPES), rng.choice(SHAPES)]
    radii = [rng.uniform(0.145, 0.175), rng.uniform(0.145, 0.175)]
    near, far = 0.26, 0.74
    drift = rng.uniform(-0.12, 0.12)  # common to both figures, so that their own line stays level or upright
    if arrangement == "beside":
        centres = [(near, 0.5 + drift), (far, 0.5 + drift)]
    elif arrangement == "above":
        centres = [(0.5 + drift, near), (0.5 + drift, far)]
    elif arrangement == "across":
        centres = [(near, near), (far, far)] if rng.random() < 0.5 else [(far, near), (near, far)]
    else:  # inside
        radii = [rng.uniform(0.34, 0.38), rng.uniform(0.12, 0.14)]
        centres = [(0.5, 0.5), (0.5, 0.5)]
    for colour, shape, (x, y), radius in zip(colours, shapes, centres, radii, strict=True):
        place = (x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02))
        _draw_figure(rng, canvas, colour, shape, place, radius)
    return canvas.reduce(SUPERSAMPLING)


def _paint_sky(rng: random.Random, time: str, side: int) -> Image.Image:
    """A sky in two blending colours with a few broad strokes of crayon; `side` in canvas pixels."""
    top, bottom = (_jitter(rng, colour, 8) for colour in SKIES[time])
    column = Image.new("RGB", (1, 2))
    column.putpixel((0, 0), top)
    column.putpixel((0, 1), bottom)
    sky = column.resize((1, side), Image.Resampling.BILINEAR).resize((side, side), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(sky)
    for _ in range(5):
        y = rng.uniform(0.0, 1.0)
        shade = _jitter(rng, tuple(round(a + (b - a) * y) for a, b in zip(top, bottom, strict=True)), 14)
        start = (rng.uniform(-0.1, 0.5) * side, y * side)
        end = (start[0] + rng.uniform(0.3, 0.6) * side, (y + rng.uniform(-0.06, 0.06)) * side)
        draw.line([start, end], fill=shade, width=max(1, round(0.05 * side)))
    return sky


def _draw_figure(
    rng: random.Random, canvas: Image.Image, colour: str, shape: str, centre: Point, radius: float
) -> None:
    """Paper rim, fill, and two unsteady passes of the pen."""
    side = canvas.width
    draw = ImageDraw.Draw(canvas)
    corners = _corners(shape, math.radians(rng.uniform(-12.0, 12.0)))
    steady = _trace(rng, corners, centre, radius, side, wobble=0.02)
    draw.line(steady, fill=RIM, width=round(0.085 * side), joint="curve")
    draw.polygon(steady, fill=_jitter(rng, FILLS[colour], 14))
    for _ in range(2):
        stroke = _trace(rng, corners, centre, radius, side, wobble=0.025)
        draw.line(stroke, fill=INK, width=max(1, round(0.022 * side)))


def _corners(shape: str, angle: float) -> list[Point]:
    """Corners of a figure about the origin, turned by `angle` radians. Extents are chosen for like areas."""
    count, outer, inner = {
        "circle": (28, 0.95, 0.95),
        "square": (4, 1.2, 1.2),
        "triangle": (3, 1.2, 1.2),
        "star": (10, 1.2, 0.52),
    }[shape]
    first = -math.pi / 2 + (math.pi / 4 if shape == "square" else 0.0)  # stand on an edge, a point upwards
    corners = []
    for index in range(count):
        reach = inner if index % 2 and shape == "star" else outer
        turn = first + angle + 2 * math.pi * index / count
        corners.append((reach * math.cos(turn), reach * math.sin(turn)))
    return corners


def _trace(
    rng: random.Random, corners: Sequence[Point], centre: Point, radius: float, side: int, wobble: float
) -> list[Point]:
    """Walk round the corners as an unsteady hand would; a closed line in canvas pixels.

    `wobble` is the reach of the unsteadiness in radii.
    """
    steps = max(1, 28 // len(corners))
    phases = [rng.uniform(0.0, 2 * math.pi) for _ in range(4)]
    total = len(corners) * steps
    points = []
    for index in range(total):
        (x0, y0), (x1, y1) = corners[index // steps], corners[(index // steps + 1) % len(corners)]
        part = index % steps / steps
        walk = 2 * math.pi * index / total
        # Whole numbers of waves, so that the end meets the beginning.
        shake_x = math.sin(2 * walk + phases[0]) + math.sin(5 * walk + phases[1])
        shake_y = math.sin(3 * walk + phases[2]) + math.sin(4 * walk + phases[3])
        x = centre[0] + radius * (x0 + (x1 - x0) * part + wobble * shake_x)
        y = centre[1] + radius * (y0 + (y1 - y0) * part + wobble * shake_y)
        points.append((x * side, y * side))
    return [*points, points[0], points[1]]  # one step on, so that the last joint is rounded too


def _jitter(rng: random.Random, colour: Sequence[int], reach: int) -> Colour:
    red, green, blue = (min(255, max(0, part + rng.randint(-reach, reach))) for part in colour)
    return red, green, blue
