# SPDX-License-Identifier: GPL-3.0-or-later
"""Textures as Blender's pixel buffers, and the sRGB transfer function. Needs no bpy, so threads may use it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

from .protocol import SLOT_ARRAYS, Snapshot

MAX_PREPARED_BYTES = 3 << 22  # an RGB texture of 2048²; a second copy of larger ones would take too much memory
_BYTE = np.float32(1 / 255)


def linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    """Encode linear values in [0, 1] by the sRGB transfer function (IEC 61966-2-1); same shape."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


def srgb_to_linear(srgb: np.ndarray) -> np.ndarray:
    """Decode sRGB values in [0, 1] to linear ones (IEC 61966-2-1); same shape."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_float_pixels(array: np.ndarray) -> np.ndarray:
    """(H, W[, 3 or 4]) uint8 -> (H·W·4,) float32 RGBA in [0, 1], the layout of `Image.pixels`. Alpha defaults to 1."""
    pixels = np.ones((*array.shape[:2], 4), np.float32)
    for channel in range(array.shape[2] if array.ndim == 3 else 3):  # twice as fast as all channels at once
        np.multiply(array[..., channel] if array.ndim == 3 else array, _BYTE, out=pixels[..., channel])
    return pixels.ravel()


def to_byte_pixels(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H·W·4,) float RGBA in [0, 1] -> (H, W, 4) uint8, rounded and clipped."""
    return np.rint(pixels.reshape(height, width, 4).clip(0, 1) * 255).astype(np.uint8)


def encode_png(rows: np.ndarray) -> bytes:
    """(H, W, 4) uint8 RGBA, top row first, as a PNG file (ISO/IEC 15948)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = rows.shape
    unfiltered = np.zeros((height, 1 + 4 * width), np.uint8)
    unfiltered[:, 1:] = rows.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)  # 8 bits, RGBA
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(unfiltered.tobytes(), 1)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def scaled_down(rows: np.ndarray, edge: int) -> np.ndarray:
    """(H, W, 4) uint8 -> means of square blocks, just so large that no edge is longer than `edge`."""
    step = -(-max(rows.shape[:2]) // edge)
    if step == 1:
        return rows
    padding = [(0, -size % step) for size in rows.shape[:2]]
    blocks = np.pad(rows, [*padding, (0, 0)], mode="edge")
    height, width = (size // step for size in blocks.shape[:2])
    return np.rint(blocks.reshape(height, step, width, step, 4).mean((1, 3), np.float32)).astype(np.uint8)


def equal_pixels(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two float32 RGBA buffers hold the same bits. Comparing two floats at a time halves the time."""
    return len(a) == len(b) and bool((a.view(np.uint64) == b.view(np.uint64)).all())


@dataclass
class PreparedSnapshot(Snapshot):
    """A snapshot whose textures a thread has converted to float pixels, to save the main thread that time.

    pixels: array name -> `to_float_pixels` of it, for textures up to `MAX_PREPARED_BYTES`.
    """

    pixels: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot, previous: PreparedSnapshot | None = None) -> PreparedSnapshot:
        """Prepare a snapshot. An array that is the same object as in `previous` shares its pixels."""
        textures = {
            name: array
            for name, array in snapshot.arrays.items()
            if name.partition(".")[0] in SLOT_ARRAYS and array.size <= MAX_PREPARED_BYTES
        }
        pixels = {
            name: previous.pixels[name]
            if previous is not None and previous.arrays.get(name) is array
            else to_float_pixels(array)
            for name, array in textures.items()
        }
        return cls(snapshot.version, snapshot.iteration, snapshot.arrays, snapshot.edits, pixels)
