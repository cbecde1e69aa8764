# SPDX-License-Identifier: GPL-3.0-or-later
"""Images as arrays, bottom row first, from and to files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

UNREADABLE = OSError, SyntaxError, Image.DecompressionBombError  # that Pillow raises
NOT_READ = "A picture of the mesh cannot be read ({}): save it again as PNG."


def encode_png(image: np.ndarray) -> bytes:
    """The bytes of a PNG file of an image (H, W), (H, W, 3) or (H, W, 4) uint8, bottom row first."""
    data = io.BytesIO()
    # Half the time of zlib's level 6, for a tenth more bytes.
    Image.fromarray(np.ascontiguousarray(image[::-1])).save(data, "PNG", compress_level=4)
    return data.getvalue()


def read_image(file: BinaryIO | Path, mode: str) -> np.ndarray:
    """A file's pixels, bottom row first: mode "L" (H, W), "RGB" (H, W, 3) or "RGBA" (H, W, 4) uint8.

    Raises ValueError with one sentence where the file cannot be read.
    """
    try:
        with Image.open(file) as image:
            return np.ascontiguousarray(np.asarray(to_eight_bits(image).convert(mode))[::-1])
    except UNREADABLE as error:
        raise ValueError(NOT_READ.format(error)) from None


def is_transparent(file: BinaryIO | Path) -> bool:
    """Whether a file can hold transparent pixels, by its header. Raises ValueError as `read_image`."""
    try:
        with Image.open(file) as image:
            return bool(image.has_transparency_data)
    except UNREADABLE as error:
        raise ValueError(NOT_READ.format(error)) from None


def to_eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits or floats scaled to 8 bits, where Pillow's own conversion clips; others unchanged."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64) * (255 if image.mode == "F" else 1 / 257)
    return Image.fromarray(np.round(values.clip(0, 255)).astype(np.uint8))


def resize_nearest(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image (H, W, …) at another size, by nearest neighbour."""
    rows, columns = image.shape[:2]
    return image[np.arange(height) * rows // height][:, np.arange(width) * columns // width]
