# SPDX-License-Identifier: GPL-3.0-or-later
"""Smoothed steps on a mesh: Nicolet, Jacobson and Jakob, "Large Steps in Inverse Rendering of Geometry", 2021."""

from __future__ import annotations

from typing import Protocol

import cholespy
import torch
from torch import Tensor


def solver_device(device: torch.device) -> torch.device:
    """Where cholespy solves for tensors of a device: it has CUDA, and for all others the CPU."""
    return device if device.type == "cuda" and torch.version.cuda else torch.device("cpu")


class Preconditioner:
    """The change of variables u = M x, M = I + strength L, with L the combinatorial Laplacian of a mesh.

    A gradient step on u is a step on x smoothed by M⁻¹ twice: noise is damped, and the shape moves as a whole. A
    locked vertex is a Dirichlet boundary, which the free ones join smoothly; its row of u is its position itself,
    which gets no gradient and comes back bit for bit.

    Solved in float64 for any dtype of x, so that a round trip of x and u changes the last digits of float32 at most.
    On the CPU the same input gives the same bytes.

    Args:
        faces: (F, 3) any triangles: open, non-manifold, degenerate, in several components.
        vertices: V. Those without a face are not smoothed.
        strength: lambda of the paper, in squared edges; 0 does not smooth.
        locked: (V,) bool, the vertices that must not move.
    """

    def __init__(self, faces: Tensor, vertices: int, strength: float = 19.0, locked: Tensor | None = None):
        device = self.device = solver_device(faces.device)
        faces, locked = faces.to(device), None if locked is None else locked.to(device)
        self.vertices = vertices
        self.locked = torch.zeros(vertices, dtype=torch.bool, device=device) if locked is None else locked.bool()
        row, column = _neighbours(faces.long(), vertices)
        degree = torch.bincount(row, minlength=vertices)
        every = torch.arange(vertices, device=device)
        row, column = torch.cat([every, row]), torch.cat([every, column])
        value = torch.cat(
            [
                1 + strength * degree.double(),
                torch.full((len(row) - vertices,), -strength, dtype=torch.float64, device=device),
            ]
        )
        self.matrix = row, column, value
        # Free rows see locked vertices as given values; a locked row is the identity.
        across = ~self.locked[row] & self.locked[column]
        self.given = row[across], column[across], value[across]
        inner = (row == column) | ~(self.locked[row] | self.locked[column])
        value = torch.where(self.locked[row], 1.0, value)
        self.solver = (
            cholespy.CholeskySolverD(
                vertices, row[inner].int(), column[inner].int(), value[inner], cholespy.MatrixType.COO
            )
            if vertices
            else None
        )

    def from_positions(self, x: Tensor) -> Tensor:
        """(V, 3) positions -> (V, 3) u, without a gradient."""
        u = _product(self.matrix, x.detach().to(self.device).double()).to(x)
        return torch.where(self.locked[:, None].to(x.device), x.detach(), u)

    def to_positions(self, u: Tensor) -> Tensor:
        """(V, 3) u -> (V, 3) positions, differentiable."""
        return _Solve.apply(u, self)  # type: ignore[no-any-return]

    def solve(self, b: Tensor) -> Tensor:
        """(V, C) -> M⁻¹ b between the locked vertices."""
        if self.solver is None or not b.shape[1]:
            return b
        wide = b.to(self.device).double().contiguous()
        x = torch.empty_like(wide)
        self.solver.solve(wide, x)
        return x


class _Context(Protocol):
    preconditioner: Preconditioner


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, u: Tensor, preconditioner: Preconditioner) -> Tensor:
        ctx.preconditioner = preconditioner
        wide = u.to(preconditioner.device).double()
        x = preconditioner.solve(wide - _product(preconditioner.given, wide)).to(u)
        return torch.where(preconditioner.locked[:, None].to(u.device), u, x)

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        free = ~ctx.preconditioner.locked[:, None].to(grad.device)
        # M is symmetric, so the adjoint is the same solve.
        return ctx.preconditioner.solve(grad * free).to(grad).masked_fill(~free, 0), None


def _neighbours(faces: Tensor, vertices: int) -> tuple[Tensor, Tensor]:
    """Each edge once in either direction: (2 E,) starts and ends."""
    a = faces[:, [0, 1, 2, 1, 2, 0]].reshape(-1)
    b = faces[:, [1, 2, 0, 0, 1, 2]].reshape(-1)
    pairs = torch.unique((a * vertices + b)[a != b])
    return pairs // max(vertices, 1), pairs % max(vertices, 1)


def _product(matrix: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    """A square matrix of (rows, columns, values), each (N,), times x (V, C)."""
    row, column, value = matrix
    return torch.zeros_like(x).index_add(0, row, value[:, None] * x[column])
