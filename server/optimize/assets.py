# SPDX-License-Identifier: GPL-3.0-or-later
"""What is optimized: one field, first seen as a volume, then as the mesh of its surface."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry.field import Field, sample
from ..geometry.marching import marching_tetrahedra
from ..geometry.mesh import Mesh, fill_gutter, largest_parts, unwrap
from ..geometry.regularize import bending, binary_entropy, normal_consistency, total_variation
from ..rendering.cameras import Cameras
from ..rendering.rasterize import Rasterizer
from ..rendering.render import render
from ..rendering.shading import Lights
from ..rendering.volume import march


class Volume:
    """The field as an emitting and absorbing fog: gradients reach empty space, so holes open and legs part."""

    name = "volume"

    def __init__(self, field: Field, samples: int = 48):
        self.field, self.samples = field, samples

    def render(self, cameras: Cameras, lights: Lights, backgrounds: Tensor, resolution: int,
               progress: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(images (B, H, W, 3) sRGB, penalty ()). Fog is thin at first and hardens with progress."""
        grid = self.field.grid()
        rgb, alpha = march(grid, cameras, lights, resolution, self.samples, 10 + 40 * progress, generator)
        penalty = (0.02 + 0.2 * progress) * binary_entropy(alpha) + 0.02 * total_variation(grid[:, :1]) \
            + 0.05 * total_variation(grid[:, 1:])
        return rgb + (1 - alpha) * backgrounds[:, None, None], penalty

    def surface(self, levels: tuple[int, ...], rasterizer: Rasterizer) -> Surface:
        """The same field made ready for meshing: floaters gone, occupancy bounded."""
        with torch.no_grad():
            logit = self.field.grid()[:, :1]
            solid = torch.from_numpy(largest_parts((logit[0, 0] > 0).cpu().numpy())).to(logit.device)
            logit = torch.where(solid | (logit <= 0), logit, -logit).clamp(-4, 4)
            fine = F.interpolate(logit, size=(levels[-1],) * 3, mode="trilinear", align_corners=True)
        return Surface(self.field.refined(levels, fine), rasterizer)

    def mesh(self) -> Mesh:
        return extract(self.field.grid())


class Surface:
    """The mesh where the field's occupancy logit is zero, rebuilt at every step, coloured by the field."""

    name = "surface"

    def __init__(self, field: Field, rasterizer: Rasterizer):
        self.field, self.rasterizer = field, rasterizer

    def render(self, cameras: Cameras, lights: Lights, backgrounds: Tensor, resolution: int,
               progress: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(images (B, H, W, 3) sRGB, penalty ())."""
        grid = self.field.grid()
        positions, faces = marching_tetrahedra(grid[0, 0])
        colours = sample(grid[:, 1:], positions.detach()).sigmoid()
        images = render(self.rasterizer, positions, faces, colours, cameras, lights, backgrounds, resolution)
        penalty = 0.2 * normal_consistency(positions, faces) + 2 * bending(grid[:, :1]) \
            + 0.01 * total_variation(grid[:, 1:])
        return images, penalty

    def mesh(self) -> Mesh:
        return extract(self.field.grid())


@torch.no_grad()
def extract(grid: Tensor) -> Mesh:
    """The mesh of a (1, 4, n, n, n) grid of logits, standing on the ground; never empty."""
    occupancy = grid[0, 0]
    interior = occupancy[1:-1, 1:-1, 1:-1]
    if not bool((interior > 0).any()):
        # A field that vanished leaves its densest thousandth rather than nothing.
        occupancy = occupancy - interior.float().quantile(0.999).clamp(max=interior.max() - 1e-3)
    positions, faces = marching_tetrahedra(occupancy)
    colours = sample(grid[:, 1:], positions).sigmoid()
    return Mesh(positions.cpu().numpy().astype(np.float32), faces.cpu().numpy().astype(np.int32),
                (255 * colours).round().byte().cpu().numpy()).on_ground()


@torch.no_grad()
def bake(mesh: Mesh, field: Field, rasterizer: Rasterizer, size: int) -> Mesh:
    """The mesh unwrapped, with the field's colours as a (size, size) texture."""
    source, split, uvs = unwrap(mesh.positions, mesh.faces)
    device = field.grids[0].device
    # A chart is a picture of the surface: rasterize the UVs, interpolate the place in the field.
    flat = torch.from_numpy(uvs).to(device) * 2 - 1
    clip = torch.cat([flat, torch.zeros_like(flat[:, :1]), torch.ones_like(flat[:, :1])], dim=1)[None]
    faces = torch.from_numpy(split).to(device)
    rast = rasterizer.rasterize(clip.contiguous(), faces, (size, size))
    place = torch.from_numpy(mesh.positions + mesh.lift)[torch.from_numpy(source)].to(device)
    places = rasterizer.interpolate(place[None].contiguous(), rast, faces)[0]
    colours = sample(field.grid()[:, 1:], places.reshape(-1, 3)).sigmoid().view(size, size, 3)
    covered = (rast[0, ..., 3] > 0).cpu().numpy()
    texture = fill_gutter((255 * colours).round().byte().cpu().numpy(), covered)
    return replace(mesh, uvs=uvs[split], textures={"texture.0": texture})
