# SPDX-License-Identifier: GPL-3.0-or-later
"""The sRGB transfer function of IEC 61966-2-1 on tensors; `server.geometry.colour` has it on arrays."""

from __future__ import annotations

import torch
from torch import Tensor


def srgb_to_linear(colour: Tensor) -> Tensor:
    """Linear light in [0, 1] of sRGB values in [0, 1], any shape."""
    curve = ((colour.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(colour <= 0.04045, colour / 12.92, curve)


def linear_to_srgb(colour: Tensor) -> Tensor:
    """The inverse of `srgb_to_linear`, with finite gradients at 0."""
    curve = 1.055 * colour.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(colour <= 0.0031308, 12.92 * colour, curve)
