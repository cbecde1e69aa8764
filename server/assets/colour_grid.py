# SPDX-License-Identifier: GPL-3.0-or-later
"""Colour as a smooth function of the position in space, so that a texture's seams cannot show."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geometry.field import sample
from .base import ParamGroup

FULL_RATE = 17  # points: grids above it are learned more slowly, since they see mostly noise


class ColourGrid(nn.Module):
    """A sum of trilinear grids over the cube [-1, 1]^3, coarse to fine, read at points of the surface only.

    Both sides of a seam are the same point, and so have the same value.

    Args:
        levels: points along an edge of each grid, ascending.
        channels: values a point.
    """

    def __init__(self, levels: tuple[int, ...], channels: int, device: str | torch.device = "cpu"):
        super().__init__()
        self.levels, self.channels = levels, channels
        self.grids = nn.ParameterList([nn.Parameter(torch.zeros(1, channels, n, n, n, device=device)) for n in levels])

    def param_groups(self) -> list[ParamGroup]:
        return [{"params": [grid], "lr_scale": min(1.0, FULL_RATE / n)} for n, grid in zip(self.levels, self.grids)]

    def forward(self, points: Tensor) -> Tensor:
        """(N, C) logits at (N, 3) points."""
        total = sample(self.grids[0], points)
        for grid in self.grids[1:]:
            total = total + sample(grid, points)
        return total

    @torch.no_grad()
    def start_from(self, grid: Tensor) -> None:
        """Begin with a dense (1, C, n, n, n) grid of logits for the first channels; the others begin at 0."""
        fine = F.interpolate(grid, size=(self.levels[-1],) * 3, mode="trilinear", align_corners=True)
        self.grids[-1][:, : grid.shape[1]] = fine

    def fit(
        self, points: Tensor, logits: Tensor, generator: torch.Generator, steps: int = 60, batch: int = 8192
    ) -> None:
        """Come near given values (N, C) at (N, 3) points."""
        optimizer = torch.optim.Adam(
            [{"params": group["params"], "lr": 0.2 * group["lr_scale"]} for group in self.param_groups()],
            betas=(0.9, 0.99),
        )
        for _ in range(steps):
            pick = torch.randint(len(points), (batch,), generator=generator).to(points.device)
            (self(points[pick]) - logits[pick]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    def variation(self, points: Tensor, values: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared difference between `values`, at the points, and the values about a finest cell away."""
        drawn = torch.randn(points.shape, generator=generator).to(points, non_blocking=True)
        offset = drawn * (2 / (self.levels[-1] - 1))
        result: Tensor = (self(points + offset) - values).square().mean()
        return result
