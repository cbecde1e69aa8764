# SPDX-License-Identifier: GPL-3.0-or-later
"""Differentiable ray marching of a grid: emission and absorption (Max 1995), as in NeRF."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .cameras import Cameras
from .shading import Lights

# Extinction per metre where the logit is 0, at any density. Some tenths of a metre of it are half opaque, so the
# volume's outline lies at the outline of the mesh that is extracted from the same field later.
SURFACE_EXTINCTION = 3.0


def march(
    grid: Tensor,
    cameras: Cameras,
    lights: Lights,
    resolution: int,
    samples: int,
    density: float,
    generator: torch.Generator,
    one_by_one: bool = False,
) -> tuple[Tensor, Tensor]:
    """Render a field inside the ball of radius 1 by emission and absorption.

    Args:
        grid: (1, 4, n, n, n) over the cube [-1, 1]^3, axes (z, y, x): occupancy logit, colour logits.
        resolution: edge of the square images, pixels.
        samples: along each ray, stratified, jittered by the generator.
        density: extinction of a fully occupied point, per metre, above `SURFACE_EXTINCTION`.
        one_by_one: for the gradient each view is rendered once more, so that only one's samples are kept at a time.
            The images have the same bits, and the gradient is the same up to rounding.
    Returns:
        premultiplied colour (B, H, W, 3), shaded by the normals of the occupancy, and opacity (B, H, W, 1);
        bottom row first.
    """
    origin, direction = cameras.rays(resolution)
    jitter = torch.rand(
        *direction.shape[:-1], samples, generator=device_generator(generator, direction.device), device=direction.device
    )
    occupancy = grid[:, :1]
    slope = torch.cat([_central_difference(occupancy, axis) for axis in (4, 3, 2)], dim=1)
    field = torch.cat([grid, slope], dim=1)
    if not one_by_one:
        return _absorb(field, origin, direction, lights, jitter, density)
    views = [
        checkpoint(
            _absorb,
            *(field, origin[view], direction[view], lights.part(view), jitter[view], density),
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for view in (slice(i, i + 1) for i in range(len(origin)))
    ]
    colour, alpha = (torch.cat(images) for images in zip(*views))
    return colour, alpha


def _absorb(
    field: Tensor, origin: Tensor, direction: Tensor, lights: Lights, jitter: Tensor, density: float
) -> tuple[Tensor, Tensor]:
    """As `march`, along rays from origin (B, 3) with directions (B, H, W, 3).

    field: (1, 7, n, n, n), the grid and the slope of its occupancy. jitter: (B, H, W, samples) in [0, 1).
    """
    samples = jitter.shape[-1]
    closest = -(direction * origin[:, None, None]).sum(dim=-1, keepdim=True)
    half = (1 - origin.square().sum(dim=1)[:, None, None, None] + closest.square()).clamp(min=0).sqrt()
    depth = closest + half * (2 * (torch.arange(samples, device=closest.device) + jitter) / samples - 1)
    points = origin[:, None, None, None] + depth[..., None] * direction[..., None, :]
    values = F.grid_sample(field, points.view(1, 1, 1, -1, 3), align_corners=True)
    values = values.view(7, *points.shape[:-1])

    step = 2 * half / samples
    absorbed = density * step * (values[0] - math.log(density / SURFACE_EXTINCTION - 1)).sigmoid()
    transmitted = (-absorbed.cumsum(dim=-1)).exp()
    weight = F.pad(transmitted, (1, 0), value=1.0)[..., :-1] - transmitted
    albedo = (weight * values[1:4].sigmoid()).sum(dim=-1).movedim(0, -1)
    normal = F.normalize(-(weight * values[4:]).sum(dim=-1).movedim(0, -1), dim=-1, eps=1e-6)
    alpha = 1 - transmitted[..., -1:]
    shaded = lights.shade(albedo / alpha.clamp(min=1e-4), normal)
    return alpha * shaded, alpha


def device_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on the device, seeded by the given one of the CPU; on the CPU the given one itself.

    The millions of random numbers of an image's rays would take a GPU long to wait for if the CPU drew them.
    """
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def _central_difference(grid: Tensor, axis: int) -> Tensor:
    """Central difference along one axis of a (1, 1, n, n, n) grid."""
    pad = [0] * 6
    pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = 1
    wide = F.pad(grid, pad, mode="replicate")
    n = grid.shape[axis]
    return wide.narrow(axis, 2, n) - wide.narrow(axis, 0, n)
