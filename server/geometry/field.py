# SPDX-License-Identifier: GPL-3.0-or-later
"""Shape and colour as one smooth field on a regular grid over the cube [-1, 1]^3."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .trilinear import sample_on_cpu


class Field(nn.Module):
    """A sum of trilinear grids, coarse to fine: channel 0 is the occupancy logit, 1..3 the colour logits.

    The surface is the zero level set of the occupancy logit, positive inside. Optimizing the sum rather than
    the finest grid alone is a preconditioner: a step moves low frequencies first, so surfaces and colours
    come out smooth. Grid axes are (z, y, x), the order of `torch.nn.functional.grid_sample`.

    Args:
        levels: points along an edge of each grid, ascending.
        radius: of the ball with which the field begins, in metres.
    """

    def __init__(self, levels: tuple[int, ...], radius: float = 0.6, device: str | torch.device = "cpu"):
        super().__init__()
        self.levels = levels
        self.grids = nn.ParameterList([nn.Parameter(torch.zeros(1, 4, n, n, n, device=device)) for n in levels])
        with torch.no_grad():
            distance = grid_points(levels[-1], device).norm(dim=-1)
            self.grids[-1][0, 0] = 4.0 * (radius - distance)

    @property
    def resolution(self) -> int:
        return self.levels[-1]

    def grid(self) -> Tensor:
        """(1, 4, n, n, n) logits at the finest resolution, smoothed by `smooth`."""
        total = self.grids[-1]
        for coarse in self.grids[:-1]:
            total = total + F.interpolate(coarse, size=(self.resolution,) * 3, mode="trilinear", align_corners=True)
        return smooth(total)

    def refined(self, levels: tuple[int, ...], occupancy: Tensor) -> Field:
        """A field of other levels with this one's colours and the given occupancy logit (1, 1, n, n, n)."""
        field = Field(levels, device=occupancy.device)
        size = (field.resolution,) * 3
        with torch.no_grad():
            colour = F.interpolate(self.grid()[:, 1:], size=size, mode="trilinear", align_corners=True)
            field.grids[-1].copy_(torch.cat([occupancy, colour], dim=1))
        return field


def smooth(grid: Tensor) -> Tensor:
    """A (1, C, n, n, n) grid filtered by the binomial kernel (1, 2, 1) / 4 along each axis, its border repeated.

    On parameters it is a preconditioner like the Laplacian one of Nicolet et al. 2021: gradients reach neighbouring
    points, too, and a gradient of one point alone, which is mostly noise, is damped.
    """
    channels = grid.shape[1]
    kernel = _binomial(grid.device).expand(channels, -1, -1, -1, -1)
    for _ in range(3):  # each permutation brings the next axis to the front
        grid = F.conv3d(F.pad(grid, (0, 0, 0, 0, 1, 1), mode="replicate"), kernel, groups=channels)
        grid = grid.permute(0, 1, 3, 4, 2)
    return grid.contiguous()


@cache
def _binomial(device: torch.device) -> Tensor:
    return torch.tensor([0.25, 0.5, 0.25], device=device).view(1, 1, 3, 1, 1)


def grid_points(resolution: int, device: str | torch.device = "cpu") -> Tensor:
    """(n, n, n, 3) positions (x, y, z) of the points of a grid with axes (z, y, x)."""
    axis = torch.linspace(-1, 1, resolution, device=device)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def sample(grid: Tensor, points: Tensor) -> Tensor:
    """(N, C) trilinear values of a (1, C, n, n, n) grid at (N, 3) points, clamped at the border."""
    if grid.device.type == "cpu" and not points.requires_grad:
        return sample_on_cpu(grid, points)
    values = F.grid_sample(grid, points[None, None, None], align_corners=True, padding_mode="border")
    return values[0, :, 0, 0].T
