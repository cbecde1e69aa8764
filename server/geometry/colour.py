# SPDX-License-Identifier: GPL-3.0-or-later
"""The sRGB transfer function of IEC 61966-2-1 on arrays; `server.rendering.colour` has it on tensors."""

from __future__ import annotations

import numpy as np


def srgb_to_linear(colour: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] of sRGB values in [0, 1], any shape."""
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(colour: np.ndarray) -> np.ndarray:
    """The inverse of `srgb_to_linear`."""
    return np.where(colour <= 0.0031308, colour * 12.92, 1.055 * np.maximum(colour, 1e-9) ** (1 / 2.4) - 0.055)


def to_srgb_bytes(linear: np.ndarray) -> np.ndarray:
    """uint8 sRGB of linear values, clipped to [0, 1]."""
    return np.round(255 * linear_to_srgb(linear.clip(0, 1))).astype(np.uint8)


def tint(image: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """An image (…, 3) uint8 sRGB multiplied in linear light by a factor (3,) or (…, 3)."""
    if factor.ndim > 1:
        return to_srgb_bytes(srgb_to_linear(image / 255) * factor)
    table = to_srgb_bytes(srgb_to_linear(np.arange(256)[:, None] / 255) * factor)
    return np.stack([table[image[..., i], i] for i in range(3)], axis=-1)
