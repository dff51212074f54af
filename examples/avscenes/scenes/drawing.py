"""Draws coloured, textured shapes and cluttered backgrounds as NumPy arrays.

Colours are RGB in [0, 1]; an object is drawn inside a box (x0, y0, x1, y1) whose coordinates are
shares of the image. Shapes live inside the unit disc of the box's own coordinates, so a rotated
shape never leaves its box.
"""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHAPES = ("disc", "square", "triangle", "star", "cross", "ring", "diamond", "crescent")
TEXTURES = (
    "striped",
    "checked",
    "dotted",
    "ringed",
    "sectored",
    "pin-striped",
    "bricked",
    "plain",
)


def hsv(hue: float, saturation: float, value: float) -> Array:
    """Return the RGB colour of a hue (any real number, period 1), saturation and value."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def shape_mask(shape: int, u: Array, v: Array) -> NDArray[np.bool_]:
    """Return where the points (u, v) lie inside shape number `shape` of `SHAPES`."""
    radius = np.hypot(u, v)
    if shape == 0:
        return radius < 0.95
    if shape == 1:
        return np.maximum(abs(u), abs(v)) < 0.7
    if shape == 2:
        return (v < 0.49) & (0.87 * abs(u) - 0.5 * v < 0.49)
    if shape == 3:
        # Straight edges from tips at radius 0.97 to inner corners at 0.42.
        beside_tip = abs(np.mod(np.arctan2(u, -v) + np.pi / 5, 2 * np.pi / 5) - np.pi / 5)
        return radius * (np.cos(beside_tip) + 2.55 * np.sin(beside_tip)) < 0.97
    if shape == 4:
        small, large = np.minimum(abs(u), abs(v)), np.maximum(abs(u), abs(v))
        return (small < 0.32) & (large < 0.92)
    if shape == 5:
        return (radius < 0.97) & (radius > 0.5)
    if shape == 6:
        return abs(u) / 0.65 + abs(v) / 0.97 < 1
    return (radius < 0.97) & (np.hypot(u - 0.45, v) > 0.72)


def texture_light(texture: int, u: Array, v: Array) -> NDArray[np.bool_]:
    """Return where texture number `texture` of `TEXTURES` is light rather than dark."""
    light: NDArray[np.bool_] = np.ones_like(u, dtype=bool)
    if texture == 0:
        light = np.sin(2 * np.pi * 1.5 * v) > 0
    elif texture == 1:
        light = np.sin(2 * np.pi * 1.3 * u) * np.sin(2 * np.pi * 1.3 * v) > 0
    elif texture == 2:
        light = np.hypot(np.mod(u * 2.2, 1) - 0.5, np.mod(v * 2.2, 1) - 0.5) > 0.3
    elif texture == 3:
        light = np.sin(2 * np.pi * 2.2 * np.hypot(u, v)) > 0
    elif texture == 4:
        light = np.sin(5 * np.arctan2(v, u)) > 0
    elif texture == 5:
        light = np.sin(2 * np.pi * 3.2 * u) > 0
    elif texture == 6:
        row = np.floor(v * 2.5)
        light = (np.mod(v * 2.5, 1) > 0.25) & (np.mod(u * 1.4 + 0.5 * row, 1) > 0.18)
    return light


def turned_box(
    box: tuple[float, float, float, float], size: int, rotation: float
) -> tuple[slice, slice, Array, Array]:
    """Return the rows and columns of a box, and where its pixels lie in its own turned coordinates.

    Those run from -1 to 1 along both sides of the box before it is turned.
    """
    x0, y0, x1, y1 = box
    rows = slice(int(y0 * size), int(np.ceil(y1 * size)))
    columns = slice(int(x0 * size), int(np.ceil(x1 * size)))
    y = (np.arange(rows.start, rows.stop) + 0.5) / size
    x = (np.arange(columns.start, columns.stop) + 0.5) / size
    across, down = np.meshgrid((2 * x - x0 - x1) / (x1 - x0), (2 * y - y0 - y1) / (y1 - y0))
    cosine, sine = np.cos(rotation), np.sin(rotation)
    return rows, columns, cosine * across + sine * down, cosine * down - sine * across


def draw_object(
    canvas: Array,
    box: tuple[float, float, float, float],
    *,
    shape: int,
    texture: int,
    hue: float,
    rotation: float,
) -> NDArray[np.bool_]:
    """Paint an object into `canvas` [size, size, 3] in place and return its mask [size, size]."""
    size = canvas.shape[0]
    rows, columns, u, v = turned_box(box, size, rotation)
    inside = shape_mask(shape, u, v)
    light = texture_light(texture, u, v)[..., None]
    colour = np.where(light, hsv(hue, 0.85, 0.95), hsv(hue, 0.9, 0.42))
    window = canvas[rows, columns]
    window[inside] = colour[inside]
    mask = np.zeros((size, size), dtype=bool)
    mask[rows, columns] = inside
    return mask


def _stretch(length: int, knots: int) -> Array:
    """Return the matrix [length, knots] that interpolates `knots` values linearly."""
    position = (np.arange(length) + 0.5) / length * (knots - 1)
    return np.maximum(0.0, 1.0 - abs(position[:, None] - np.arange(knots)))


def draw_background(rng: np.random.Generator, size: int, hue: float) -> Array:
    """Return a background [size, size, 3]: octave noise in a dull palette, with clutter bars."""
    noise = np.zeros((size, size))
    for octave, knots in enumerate((3, 6, 12, 24)):
        stretch = _stretch(size, knots)
        noise += 0.55**octave * (stretch @ rng.random((knots, knots)) @ stretch.T)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    dark, bright = hsv(hue, 0.25, 0.25), hsv(hue + 0.06, 0.25, 0.8)
    canvas: Array = dark + noise[..., None] * (bright - dark)

    y, x = np.mgrid[0:size, 0:size] / size
    for _ in range(rng.integers(6, 12)):
        angle, length, width = (
            rng.uniform(0, np.pi),
            rng.uniform(0.1, 0.35),
            rng.uniform(0.01, 0.03),
        )
        across, down = x - rng.random(), y - rng.random()
        along = across * np.cos(angle) + down * np.sin(angle)
        beside = down * np.cos(angle) - across * np.sin(angle)
        bar = (abs(along) < length / 2) & (abs(beside) < width)
        canvas[bar] = hsv(hue + rng.uniform(-0.1, 0.1), 0.25, rng.uniform(0.2, 0.9))
    return canvas
