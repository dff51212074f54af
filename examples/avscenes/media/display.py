"""Turns a decoded frame into the picture that a player shows: pixels made square, upright.

Nothing here imports torch: every process that prepares videos loads this module.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type
from PIL import Image

# Shapes of pixels that are rounding errors of a square, and those that only broken headers have.
_SQUARE = 0.01
_WIDEST = 8


def _mirrored(frame: Any) -> bool:  # noqa: ANN401
    """Return whether the matrix of a frame has a mirror in it, besides its turn."""
    for data in frame.side_data:
        if data.type == Type.DISPLAYMATRIX:
            matrix = np.frombuffer(bytes(data), np.int32)[:9].reshape(3, 3).astype(float)
            return bool(np.linalg.det(matrix[:2, :2]) < 0)
    return False


def as_shown(frame: Any, pixel: Fraction | None) -> Image.Image:  # noqa: ANN401
    """Return a frame with its width stretched to square pixels, mirrored and turned upright.

    Args:
        frame: Of PyAV.
        pixel: Width of its pixels over their height, where it is known.
    """
    image: Image.Image = frame.to_image()
    if pixel and Fraction(1, _WIDEST) <= pixel <= _WIDEST and abs(pixel - 1) > _SQUARE:
        image = image.resize((max(1, round(image.width * pixel)), image.height))
    turn = frame.rotation % 360
    if _mirrored(frame):
        # The turn of a matrix with a mirror is that of its first row: the rows are upside down.
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image.rotate(turn, expand=True) if turn else image
