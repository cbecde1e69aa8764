# SPDX-License-Identifier: GPL-3.0-or-later
"""From a field's grid to a mesh."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .field import sample
from .marching import marching_tetrahedra
from .mesh import Mesh
from .occupancy import bridge_gaps


def mirrored(grid: Tensor, axis: str) -> Tensor:
    """A (1, C, n, n, n) grid, axes (z, y, x), averaged with its mirror image along "x", "y" or "z"; "" as it is."""
    return (grid + grid.flip(4 - "xyz".index(axis))) / 2 if axis else grid


@torch.no_grad()
def join_parts(grid: Tensor) -> Tensor:
    """A (1, 4, n, n, n) grid of logits whose parts are joined where they nearly touch.

    No camera sees a gap such as between a stem and its cap, so no prior closes it.
    """
    inside = grid[0, 0] > 0
    bridge = torch.from_numpy(bridge_gaps(inside.cpu().numpy())).to(grid.device) & ~inside
    return torch.cat([torch.where(bridge, 1.0, grid[:, :1]), grid[:, 1:]], dim=1)


@torch.no_grad()
def extract_mesh(grid: Tensor) -> Mesh:
    """The mesh of a (1, 4, n, n, n) grid of logits, standing on the ground; never empty.

    Channel 0 is the occupancy, whose zero level is the surface; the others are the vertex colours.
    """
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
