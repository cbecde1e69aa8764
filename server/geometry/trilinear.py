# SPDX-License-Identifier: GPL-3.0-or-later
"""Trilinear values of a grid at single points on the CPU, and their gradient: compiled loops, several times as fast as
`torch.nn.functional.grid_sample` there.

One thread adds in a fixed order, so that every run gives the same bytes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numba import njit
from torch import Tensor


class _Context(Protocol):
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, grid: Tensor, points: Tensor) -> Tensor:
        ctx.save_for_backward(grid, points)
        out = grid.new_empty(len(points), grid.shape[1])
        _read(points.contiguous().numpy(), grid.detach()[0].contiguous().numpy(), out.numpy())
        return out

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grid, points = ctx.saved_tensors
        total = torch.zeros(grid.shape, dtype=grid.dtype)
        _add(points.contiguous().numpy(), grad.contiguous().numpy(), total[0].numpy())
        return total, None


def sample_on_cpu(grid: Tensor, points: Tensor) -> Tensor:
    """(N, C) values of a (1, C, n, n, n) grid, n >= 2, at (N, 3) points, clamped at the border; no gradient to them."""
    values: Tensor = _Sample.apply(grid, points)  # type: ignore[no-untyped-call]
    return values


@njit(cache=True, nogil=True, inline="always")
def cell(coordinate, edge):  # type: ignore[no-untyped-def]
    """Along an axis of `edge` points: the first point of the cell at a coordinate in [-1, 1], and the second's weight.

    Beyond the border it is the border's, and so it is for NaN.
    """
    place = (coordinate + np.float32(1)) * np.float32((edge - 1) / 2)
    if not place > 0:
        return 0, np.float32(0)
    if place >= edge - 1:
        return edge - 2, np.float32(1)
    low = int(place)
    return low, np.float32(place - low)


@njit(cache=True, nogil=True)
def _read(points, grid, out):  # type: ignore[no-untyped-def]
    one, edge = np.float32(1), grid.shape[1]
    for n in range(len(points)):
        x, fx = cell(points[n, 0], edge)
        y, fy = cell(points[n, 1], edge)
        z, fz = cell(points[n, 2], edge)
        for c in range(grid.shape[0]):
            v00 = (one - fx) * grid[c, z, y, x] + fx * grid[c, z, y, x + 1]
            v01 = (one - fx) * grid[c, z, y + 1, x] + fx * grid[c, z, y + 1, x + 1]
            v10 = (one - fx) * grid[c, z + 1, y, x] + fx * grid[c, z + 1, y, x + 1]
            v11 = (one - fx) * grid[c, z + 1, y + 1, x] + fx * grid[c, z + 1, y + 1, x + 1]
            out[n, c] = (one - fz) * ((one - fy) * v00 + fy * v01) + fz * ((one - fy) * v10 + fy * v11)


@njit(cache=True, nogil=True)
def _add(points, grad, total):  # type: ignore[no-untyped-def]
    one, edge = np.float32(1), total.shape[1]
    for n in range(len(points)):
        x, fx = cell(points[n, 0], edge)
        y, fy = cell(points[n, 1], edge)
        z, fz = cell(points[n, 2], edge)
        for c in range(total.shape[0]):
            for dz, g in ((0, (one - fz) * grad[n, c]), (1, fz * grad[n, c])):
                for dy, h in ((0, (one - fy) * g), (1, fy * g)):
                    total[c, z + dz, y + dy, x] += (one - fx) * h
                    total[c, z + dz, y + dy, x + 1] += fx * h
