# SPDX-License-Identifier: GPL-3.0-or-later
"""Colour as a smooth function of the position in space, so that a texture's seams cannot show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geometry.field import sample
from .base import ParamGroup
from .sparse_grid import SparseGrid

FULL_RATE = 17 / 65  # of the finest grid's points: grids above it are learned more slowly, since they see mostly noise
DENSE = 65  # points of the finest grid that has values everywhere
FINEST = 1025  # points of the finest grid of all


def levels_for(levels: tuple[int, ...], resolution: int) -> tuple[int, ...]:
    """Levels that reach `DENSE`, continued until a cell is about half a pixel of a prior of that resolution.

    Cells of `DENSE` are a pixel of the bundled prior, whose pictures have nothing finer.
    """
    if resolution - 1 < DENSE * 2**0.5:
        return levels
    while DENSE <= levels[-1] < FINEST and levels[-1] - 1 < resolution * 2**0.5:
        levels = (*levels, 2 * levels[-1] - 1)
    return levels


def levels_within(levels: tuple[int, ...], spacing: float) -> tuple[int, ...]:
    """The levels that points that far apart, in metres, can tell; the dense ones always."""
    return tuple(n for n in levels if n <= DENSE or 2 / (n - 1) >= spacing / 2)


class ColourGrid(nn.Module):
    """A sum of trilinear grids over the cube [-1, 1]^3, coarse to fine, read at points of the surface only.

    Both sides of a seam are the same point, and so have the same value.

    Args:
        levels: points along an edge of each grid, ascending; above `DENSE` they are sparse.
        channels: values a point.
        surface: points (N, 3) near which the sparse grids have values, in parts.
        finest: the last level that suits the prior, if the levels end before it.
        heights: the last channel is a height, which sparse grids hold in units of their own cells.
    """

    def __init__(
        self,
        levels: tuple[int, ...],
        channels: int,
        device: str | torch.device = "cpu",
        surface: Sequence[Tensor] = (),
        finest: int = 0,
        heights: bool = False,
    ):
        super().__init__()
        self.levels, self.channels, self.heights = levels, channels, heights
        self.finest = max(finest, levels[-1])
        self.grids = nn.ParameterList(
            [nn.Parameter(torch.zeros(1, channels, n, n, n, device=device)) for n in levels if n <= DENSE]
        )
        self.fine = nn.ModuleList([SparseGrid(n, channels, surface, device, heights) for n in levels if n > DENSE])

    def param_groups(self) -> list[ParamGroup]:
        full = FULL_RATE * max(self.finest, DENSE)
        parameters = [*self.grids, *(grid.values for grid in self.fine)]
        return [{"params": [each], "lr_scale": min(1.0, full / n)} for n, each in zip(self.levels, parameters)]

    def forward(self, points: Tensor) -> Tensor:
        """(N, C) logits at (N, 3) points."""
        return self._sum(points, [*self.grids, *self.fine])

    def on_both_sides(self, points: Tensor, way: Tensor) -> Tensor:
        """(2, N, C) logits at points (N, 3) plus and minus a way (N, 3) of less than a pixel.

        Only the two finest grids are read twice; for the others, whose cells are wide, the two are one place.
        """
        coarse = self._sum(points, [*self.grids, *self.fine[:-2]])
        return coarse + torch.stack([self._sum(points + side, self.fine[-2:]) for side in (way, -way)])

    def _sum(self, points: Tensor, grids: Iterable[nn.Module | nn.Parameter]) -> Tensor:
        values = [self._read(grid, points) for grid in grids]
        total = values[0]
        for each in values[1:]:
            total = total + each
        return total

    def _read(self, grid: nn.Module | nn.Parameter, points: Tensor) -> Tensor:
        if isinstance(grid, nn.Parameter):
            return sample(grid, points)
        assert isinstance(grid, SparseGrid)
        values: Tensor = grid(points)
        if self.heights:
            return torch.cat([values[:, :-1], values[:, -1:] * ((DENSE - 1) / (grid.edge - 1))], dim=1)
        return values

    @torch.no_grad()
    def start_from(self, grid: Tensor) -> None:
        """Begin with a dense (1, C, n, n, n) grid of logits for the first channels; the others begin at 0."""
        fine = F.interpolate(grid, size=self.grids[-1].shape[2:], mode="trilinear", align_corners=True)
        self.grids[-1][:, : grid.shape[1]] = fine

    def fit(
        self, points: Tensor, logits: Tensor, generator: torch.Generator, steps: int = 60, batch: int = 8192
    ) -> None:
        """Come near given values (N, C) at (N, 3) points."""
        optimizer = torch.optim.Adam(
            [{"params": group["params"], "lr": 0.2 * group["lr_scale"]} for group in self.param_groups()],
            betas=(0.9, 0.99),
            fused=True,  # two thirds of the time: the grids are read once a step
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
