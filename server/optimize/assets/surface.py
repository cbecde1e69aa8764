# SPDX-License-Identifier: GPL-3.0-or-later
"""The second look: the field's surface, whose topology is still free."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...geometry.field import Field, sample
from ...geometry.marching import marching_tetrahedra
from ...geometry.mesh import Mesh
from ...geometry.occupancy import bridge_gaps
from ...geometry.regularize import bending, normal_consistency, total_variation
from ...rendering.cameras import Cameras
from ...rendering.rasterize import Rasterizer
from ...rendering.render import render
from ...rendering.shading import Lights


class Surface(nn.Module):
    """The mesh where the field's occupancy logit is zero, rebuilt at every step, coloured by the field.

    symmetry: of `protocol.AXES`. flat: shaded by its faces' normals.
    """

    name = "surface"

    def __init__(self, field: Field, rasterizer: Rasterizer, symmetry: str = "", flat: bool = False):
        super().__init__()
        self.field, self.rasterizer, self.symmetry, self.flat = field, rasterizer, symmetry, flat

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "pace": 1.0}]

    def grid(self) -> Tensor:
        return mirrored(self.field.grid(), self.symmetry)

    def render(
        self,
        cameras: Cameras,
        lights: Lights,
        backgrounds: Tensor,
        resolution: int,
        progress: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """As `Asset.render`."""
        grid = self.grid()
        positions, faces = marching_tetrahedra(grid[0, 0])
        colours = sample(grid[:, 1:], positions.detach()).sigmoid()
        images = render(self.rasterizer, positions, faces, colours, cameras, lights, backgrounds, resolution, self.flat)
        penalty = (
            0.2 * normal_consistency(positions, faces) + 2 * bending(grid[:, :1]) + 0.01 * total_variation(grid[:, 1:])
        )
        return images, penalty

    def settle(self) -> None:
        pass

    def mesh(self) -> Mesh:
        return extract(self.grid())


def mirrored(grid: Tensor, axis: str) -> Tensor:
    """A (1, C, n, n, n) grid, axes (z, y, x), averaged with its mirror image along "x", "y" or "z"; "" as it is."""
    return (grid + grid.flip(4 - "xyz".index(axis))) / 2 if axis else grid


@torch.no_grad()
def joined(grid: Tensor) -> Tensor:
    """A (1, 4, n, n, n) grid of logits whose parts hang together where they nearly touch: a gap that no camera sees,
    as between a stem and its cap, is not the prior's to close."""
    inside = grid[0, 0] > 0
    bridge = torch.from_numpy(bridge_gaps(inside.cpu().numpy())).to(grid.device) & ~inside
    return torch.cat([torch.where(bridge, 1.0, grid[:, :1]), grid[:, 1:]], dim=1)


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
    return Mesh(
        positions.cpu().numpy().astype(np.float32),
        faces.cpu().numpy().astype(np.int32),
        (255 * colours).round().byte().cpu().numpy(),
    ).on_ground()
