# SPDX-License-Identifier: GPL-3.0-or-later
"""Lambert shading in linear light, under one random lamp near the camera; backgrounds of one colour."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .cameras import Cameras


def srgb_to_linear(colour: Tensor) -> Tensor:
    """IEC 61966-2-1, values in [0, 1]."""
    curve = ((colour.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(colour <= 0.04045, colour / 12.92, curve)


def linear_to_srgb(colour: Tensor) -> Tensor:
    """The inverse of `srgb_to_linear`, with finite gradients at 0."""
    curve = 1.055 * colour.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(colour <= 0.0031308, 12.92 * colour, curve)


@dataclass(frozen=True)
class Lights:
    """One lamp at infinity for each of B views.

    direction (B, 3) unit, toward the lamp; ambient (B,) and diffuse (B,) shares of linear light.
    """

    direction: Tensor
    ambient: Tensor
    diffuse: Tensor

    @classmethod
    def sample(cls, cameras: Cameras, generator: torch.Generator) -> Lights:
        """Lamps up to 50 degrees off the camera, more often above it than below."""
        batch, device = len(cameras), cameras.azimuth.device

        def uniform(low: float, high: float) -> Tensor:
            return (low + (high - low) * torch.rand(batch, generator=generator)).to(device)

        tilt, side = uniform(0, math.radians(50)), uniform(-math.radians(70), math.radians(70))
        right, up, backward = cameras.axes()
        off = side.sin()[:, None] * right + side.cos()[:, None] * up
        direction = tilt.cos()[:, None] * backward + tilt.sin()[:, None] * off
        return cls(direction, uniform(0.35, 0.55), uniform(0.5, 0.65))

    @classmethod
    def headlight(cls, cameras: Cameras, tilt: float = 25.0) -> Lights:
        """The same lamp for every view, `tilt` degrees above the camera."""
        _, up, backward = cameras.axes()
        angle = math.radians(tilt)
        full = torch.ones_like(cameras.azimuth)
        return cls(math.cos(angle) * backward + math.sin(angle) * up, 0.45 * full, 0.6 * full)

    def shade(self, albedo: Tensor, normals: Tensor) -> Tensor:
        """(B, ..., 3) sRGB in [0, 1] of albedo (B, ..., 3) sRGB seen under unit normals (B, ..., 3)."""
        shape = (len(self.ambient), *[1] * (normals.ndim - 2))
        cosine = (normals * self.direction.view(*shape, 3)).sum(dim=-1).clamp(min=0)
        light = self.ambient.view(shape) + self.diffuse.view(shape) * cosine
        return linear_to_srgb(srgb_to_linear(albedo) * light[..., None]).clamp(0, 1)


def backgrounds(batch: int, generator: torch.Generator, device: str | torch.device = "cpu") -> Tensor:
    """(B, 3) sRGB: mostly greys, some coloured, so that no object can hide in its background."""
    grey = (0.1 + 0.85 * torch.rand(batch, 1, generator=generator)).expand(-1, 3)
    hue = torch.rand(batch, 1, generator=generator) + torch.tensor([0.0, 1 / 3, 2 / 3])
    pure = (3 * (2 * (hue % 1 - 0.5).abs()) - 1).clamp(0, 1)
    strength = 0.2 + 0.4 * torch.rand(batch, 1, generator=generator)
    value = 0.4 + 0.5 * torch.rand(batch, 1, generator=generator)
    coloured = value * (1 - strength + strength * pure)
    pick = torch.rand(batch, 1, generator=generator) < 0.3
    return torch.where(pick, coloured, grey).to(device)
