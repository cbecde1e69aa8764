# SPDX-License-Identifier: GPL-3.0-or-later
"""Shading in linear light, Lambert's or physically based, under one lamp and an environment; backgrounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .cameras import Cameras
from .colour import linear_to_srgb, srgb_to_linear

BACKGROUND_GREYS = {"white": 1.0, "gray": 0.5, "black": 0.0}
# Of random lamps and backgrounds. The bundled prior's corpus has the same (`bundled_prior.objects`).
LAMP_TILT = 50.0  # degrees off the camera, at most
AMBIENT, DIFFUSE = (0.35, 0.55), (0.5, 0.65)  # shares of linear light
GREYS = (0.1, 0.95)  # sRGB of the grey backgrounds
COLOURED_SHARE = 0.3  # of the backgrounds
MIN_ROUGHNESS = 0.1  # a lamp at infinity is a point, whose highlight would otherwise shrink to one, too


@dataclass(frozen=True)
class Lights:
    """One lamp at infinity and an environment for each of B views.

    direction (B, 3): unit vector toward the lamp. ambient, diffuse (B,): the environment's and the lamp's irradiance
    over pi, in linear light. sky (B, 3), at most 1 long: the environment's radiance from direction d is
    ambient * (1 + sky . d); None is an even one.
    """

    direction: Tensor
    ambient: Tensor
    diffuse: Tensor
    sky: Tensor | None = None

    @classmethod
    def sample(cls, cameras: Cameras, generator: torch.Generator) -> Lights:
        """Random lamps up to `LAMP_TILT` degrees off the camera, more often above it than below."""
        batch, device = len(cameras), cameras.azimuth.device

        def uniform(low: float, high: float) -> Tensor:
            return (low + (high - low) * torch.rand(batch, generator=generator)).to(device, non_blocking=True)

        tilt, side = uniform(0, math.radians(LAMP_TILT)), uniform(-math.radians(70), math.radians(70))
        right, up, backward = cameras.axes()
        off = side.sin()[:, None] * right + side.cos()[:, None] * up
        direction = tilt.cos()[:, None] * backward + tilt.sin()[:, None] * off
        return cls(direction, uniform(*AMBIENT), uniform(*DIFFUSE))

    def part(self, views: slice) -> Lights:
        """The lights of some of the views."""
        sky = None if self.sky is None else self.sky[views]
        return Lights(self.direction[views], self.ambient[views], self.diffuse[views], sky)

    def under_sky(self, generator: torch.Generator) -> Lights:
        """The same lamps in an environment that is brighter on one random side, more often above than below.

        A texture that is optimized under changing lamps and skies keeps albedo only: no baked light.
        """
        toward = F.normalize(torch.randn(len(self.ambient), 3, generator=generator) + torch.tensor([0, 0, 1.0]), dim=1)
        strength = 0.9 * torch.rand(len(self.ambient), 1, generator=generator)
        return replace(self, sky=(strength * toward).to(self.direction, non_blocking=True))

    @classmethod
    def headlight(cls, cameras: Cameras, tilt: float = 25.0) -> Lights:
        """The same lamp for every view, `tilt` degrees above the camera."""
        _, up, backward = cameras.axes()
        angle = math.radians(tilt)
        full = torch.ones_like(cameras.azimuth)
        return cls(math.cos(angle) * backward + math.sin(angle) * up, 0.45 * full, 0.6 * full)

    def shade(self, albedo: Tensor, normals: Tensor) -> Tensor:
        """(B, ..., 3) sRGB in [0, 1]: Lambert's shading of albedo (B, ..., 3) sRGB with unit normals (B, ..., 3)."""
        shape = (len(self.ambient), *[1] * (normals.ndim - 2))
        cosine = (normals * self.direction.view(*shape, 3)).sum(dim=-1).clamp(min=0)
        light = self.ambient.view(shape) + self.diffuse.view(shape) * cosine
        if self.sky is not None:
            # The mean of 1 + sky . d over the hemisphere, weighted by the cosine.
            light = light + self.ambient.view(shape) * (normals * self.sky.view(*shape, 3)).sum(dim=-1) * (2 / 3)
        return linear_to_srgb(srgb_to_linear(albedo) * light[..., None]).clamp(0, 1)

    def shade_physically(
        self, base: Tensor, normals: Tensor, toward: Tensor, roughness: Tensor, metallic: Tensor
    ) -> Tensor:
        """(B, ..., 3) sRGB in [0, 1] of the metallic-roughness material of glTF 2.0 and Blender's Principled BSDF.

        A Lambert and a GGX lobe (Walter et al. 2007, "Microfacet Models for Refraction through Rough Surfaces") with
        Schlick's Fresnel term and the Schlick-Smith shadowing of Karis 2013 ("Real Shading in Unreal Engine 4"). The
        environment's reflection follows the fit of Karis 2014 ("Physically Based Shading on Mobile"). Without the
        GGX lobe it is `shade`.

        Args:
            base: (B, ..., 3) sRGB.
            normals, toward: (B, ..., 3) unit; toward the camera.
            roughness, metallic: (B, ..., 1) in [0, 1].
        """
        shape = (len(self.ambient), *[1] * (normals.ndim - 2), 1)
        lamp = self.direction.view(*shape[:-1], 3)
        ambient, diffuse = self.ambient.view(shape), self.diffuse.view(shape)
        sky = torch.zeros_like(lamp) if self.sky is None else self.sky.view(*shape[:-1], 3)

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return (a * b).sum(dim=-1, keepdim=True)

        albedo = srgb_to_linear(base)
        mirror = 0.04 + (albedo - 0.04) * metallic  # reflectance seen head on
        roughness = roughness.clamp(min=MIN_ROUGHNESS)
        alpha, k = roughness.square(), roughness.square() / 2
        half = F.normalize(lamp + toward, dim=-1)
        nl, nv = dot(normals, lamp).clamp(min=0), dot(normals, toward).clamp(min=1e-3)
        nh, vh = dot(normals, half).clamp(0, 1), dot(toward, half).clamp(0, 1)

        scale, offset = _environment_fit(roughness, nv)
        # A single bounce between rough facets loses energy; Blender's lobe adds it back likewise (Turquin 2019).
        gain = 1 + mirror * (1 / (scale + offset) - 1)
        fresnel = mirror + (1 - mirror) * (1 - vh) ** 5
        # pi * D, as `diffuse` is the lamp's irradiance over pi
        peak = alpha.square() / (nh.square() * (alpha.square() - 1) + 1).square()
        shadowing = 1 / (4 * (nl * (1 - k) + k) * (nv * (1 - k) + k))
        body = (1 - metallic) * albedo
        lit = diffuse * nl * ((1 - fresnel) * body + gain * fresnel * peak * shadowing)

        reflected = 2 * dot(normals, toward) * normals - toward
        reflectance = gain * (mirror * scale + offset)
        seen = 1 + (1 - roughness / 3) * dot(sky, reflected)  # blurred from the mirror's to the hemisphere's
        around = ambient * ((1 - reflectance) * body * (1 + dot(sky, normals) * (2 / 3)) + reflectance * seen)
        return linear_to_srgb((lit + around).clamp(0, 1))


def _environment_fit(roughness: Tensor, nv: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and offset of the head-on reflectance under an even environment: Karis's analytic fit, 2014."""
    x, y = 1 - roughness, 0.0425 - 0.0275 * roughness
    a = torch.minimum(x.square(), torch.exp2(-9.28 * nv)) * x + y
    return -1.04 * a + 1.04 - 0.572 * roughness, 1.04 * a - 0.04 + 0.022 * roughness


def backgrounds(
    batch: int, generator: torch.Generator, device: str | torch.device = "cpu", kind: str = "random"
) -> Tensor:
    """(B, 3) sRGB, of a kind in `protocol.BACKGROUNDS`.

    Random ones are mostly greys, some coloured, so that no object can hide in its background. The other kinds use no
    random numbers. Raises ValueError for an unknown kind.
    """
    if kind in BACKGROUND_GREYS:
        return torch.full((batch, 3), BACKGROUND_GREYS[kind], device=device)
    if kind != "random":
        raise ValueError(f"There is no background {kind!r}: choose random, {', '.join(BACKGROUND_GREYS)}.")
    grey = (GREYS[0] + (GREYS[1] - GREYS[0]) * torch.rand(batch, 1, generator=generator)).expand(-1, 3)
    hue = torch.rand(batch, 1, generator=generator) + torch.tensor([0.0, 1 / 3, 2 / 3])
    pure = (3 * (2 * (hue % 1 - 0.5).abs()) - 1).clamp(0, 1)
    strength = 0.2 + 0.4 * torch.rand(batch, 1, generator=generator)
    value = 0.4 + 0.5 * torch.rand(batch, 1, generator=generator)
    coloured = value * (1 - strength + strength * pure)
    pick = torch.rand(batch, 1, generator=generator) < COLOURED_SHARE
    return torch.where(pick, coloured, grey).to(device, non_blocking=True)
