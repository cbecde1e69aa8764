# SPDX-License-Identifier: GPL-3.0-or-later
"""A fine trilinear grid over the cube [-1, 1]^3 that has values near a surface only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from ..geometry.trilinear import cell

SHIFT = 2  # a block has 4 x 4 x 4 points
BLOCK = 1 << SHIFT


class SparseGrid(nn.Module):
    """A regular grid with values only where given points of space are interpolated from; it is 0 elsewhere.

    One table numbers the blocks of 4 x 4 x 4 points, another the points of each block. No two places share a value, as
    they would in a hash table (Müller et al. 2022).

    Args:
        edge: points along an edge of the whole grid.
        channels: values a point.
        surface: points of space (N, 3), in parts.
        ahead: the grid also exists half a cell ahead of these points along each axis, for slopes.
    """

    blocks: Tensor
    rows: Tensor

    def __init__(
        self,
        edge: int,
        channels: int,
        surface: Iterable[Tensor],
        device: torch.device | str = "cpu",
        ahead: bool = False,
    ):
        super().__init__()
        self.edge = edge
        points = [part.cpu().contiguous().numpy() for part in surface]
        blocks = np.full((math.ceil(edge / BLOCK),) * 3, -1, np.int32)
        for part in points:
            _mark(part, edge, ahead, blocks, np.empty(0, np.int32))
        blocks[blocks >= 0] = np.arange(np.count_nonzero(blocks >= 0), dtype=np.int32)
        rows = np.full(np.count_nonzero(blocks >= 0) * BLOCK**3, -1, np.int32)
        for part in points:
            _mark(part, edge, ahead, blocks, rows)
        count = int(np.count_nonzero(rows >= 0))
        rows[rows >= 0] = np.arange(count, dtype=np.int32)
        self.register_buffer("blocks", torch.from_numpy(blocks).to(device), persistent=False)
        self.register_buffer("rows", torch.from_numpy(rows).to(device), persistent=False)
        self.values = nn.Parameter(torch.zeros(count, channels, device=device))

    def forward(self, points: Tensor) -> Tensor:
        """(N, C) values at (N, 3) points; differentiable in the values only."""
        result: Tensor = _Read.apply(self.values, points.detach(), self.blocks, self.rows, self.edge)  # type: ignore[no-untyped-call]
        return result


class _Context(Protocol):
    saved_tensors: tuple[Tensor, ...]
    edge: int

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Read(torch.autograd.Function):
    """Kernels on the CPU, PyTorch elsewhere. Nothing is kept for the gradient but the points."""

    @staticmethod
    def forward(ctx: _Context, values: Tensor, points: Tensor, blocks: Tensor, rows: Tensor, edge: int) -> Tensor:
        ctx.save_for_backward(values, points, blocks, rows)
        ctx.edge = edge
        out = values.new_zeros(len(points), values.shape[1])
        if values.device.type == "cpu":
            _read(points.contiguous().numpy(), blocks.numpy(), rows.numpy(), edge, values.detach().numpy(), out.numpy())
        else:
            for row, weight in corners(points, blocks, rows, edge):
                out += weight[:, None] * values[row]
        return out

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, points, blocks, rows = ctx.saved_tensors
        total = torch.zeros_like(values)
        if values.device.type == "cpu":
            arrays = points.contiguous().numpy(), blocks.numpy(), rows.numpy()
            _add(*arrays, ctx.edge, grad.contiguous().numpy(), total.numpy())
        else:
            for row, weight in corners(points, blocks, rows, ctx.edge):
                total.index_add_(0, row, weight[:, None] * grad)
        return total, None, None, None, None


def corners(points: Tensor, blocks: Tensor, rows: Tensor, edge: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The eight points of each place's cell: rows of the values (N,) and weights (N,), 0 where no value is."""
    place = ((points + 1) * ((edge - 1) / 2)).clamp(0, edge - 1)
    low = place.long().clamp(max=edge - 2)
    share = place - low
    for corner in range(8):
        steps = [corner >> axis & 1 for axis in range(3)]
        x, y, z = (low[:, axis] + step for axis, step in enumerate(steps))
        block = blocks[z // BLOCK, y // BLOCK, x // BLOCK].long()
        inside = ((z % BLOCK) * BLOCK + y % BLOCK) * BLOCK + x % BLOCK
        row = rows[(block * BLOCK**3 + inside).clamp(min=0)].long()
        weight = torch.ones_like(share[:, 0])
        for axis, step in enumerate(steps):
            weight = weight * (share[:, axis] if step else 1 - share[:, axis])
        yield row.clamp(min=0), weight.masked_fill((block < 0) | (row < 0), 0)


@njit(cache=True, nogil=True, inline="always")
def _inside(z, y, x):  # type: ignore[no-untyped-def]
    """The number of a point in its block."""
    return ((z % BLOCK) * BLOCK + y % BLOCK) * BLOCK + x % BLOCK


@njit(cache=True, nogil=True)
def _mark(points, edge, ahead, blocks, rows):  # type: ignore[no-untyped-def]
    """Set 0 for the blocks in use, -1 before; with numbered blocks, for the `rows` of their points in use."""
    half = np.float32(1 / (edge - 1))
    numbered = len(rows) > 0
    for n in range(len(points)):
        for shifted in range(4 if ahead else 1):
            x, _ = cell(points[n, 0] + (half if shifted == 1 else np.float32(0)), edge)
            y, _ = cell(points[n, 1] + (half if shifted == 2 else np.float32(0)), edge)
            z, _ = cell(points[n, 2] + (half if shifted == 3 else np.float32(0)), edge)
            for corner in range(8):
                i, j, k = z + (corner >> 2), y + (corner >> 1 & 1), x + (corner & 1)
                if numbered:
                    rows[blocks[i >> SHIFT, j >> SHIFT, k >> SHIFT] * BLOCK**3 + _inside(i, j, k)] = 0
                else:
                    blocks[i >> SHIFT, j >> SHIFT, k >> SHIFT] = 0


@njit(cache=True, nogil=True)
def _read(points, blocks, rows, edge, values, out):  # type: ignore[no-untyped-def]
    one = np.float32(1)
    for n in range(len(points)):
        x, fx = cell(points[n, 0], edge)
        y, fy = cell(points[n, 1], edge)
        z, fz = cell(points[n, 2], edge)
        for corner in range(8):
            dx, dy, dz = corner & 1, corner >> 1 & 1, corner >> 2
            i, j, k = z + dz, y + dy, x + dx
            block = blocks[i >> SHIFT, j >> SHIFT, k >> SHIFT]
            row = rows[block * BLOCK**3 + _inside(i, j, k)] if block >= 0 else -1
            if row >= 0:
                weight = (fx if dx else one - fx) * (fy if dy else one - fy) * (fz if dz else one - fz)
                for c in range(values.shape[1]):
                    out[n, c] += weight * values[row, c]


@njit(cache=True, nogil=True)
def _add(points, blocks, rows, edge, grad, total):  # type: ignore[no-untyped-def]
    """The gradient of `_read`: one thread adds in a fixed order, so that every run gives the same bytes."""
    one = np.float32(1)
    for n in range(len(points)):
        x, fx = cell(points[n, 0], edge)
        y, fy = cell(points[n, 1], edge)
        z, fz = cell(points[n, 2], edge)
        for corner in range(8):
            dx, dy, dz = corner & 1, corner >> 1 & 1, corner >> 2
            i, j, k = z + dz, y + dy, x + dx
            block = blocks[i >> SHIFT, j >> SHIFT, k >> SHIFT]
            row = rows[block * BLOCK**3 + _inside(i, j, k)] if block >= 0 else -1
            if row >= 0:
                weight = (fx if dx else one - fx) * (fy if dy else one - fy) * (fz if dz else one - fz)
                for c in range(grad.shape[1]):
                    total[row, c] += weight * grad[n, c]
