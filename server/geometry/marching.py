# SPDX-License-Identifier: GPL-3.0-or-later
"""Marching tetrahedra: the zero level set of a grid as a mesh, differentiable in the grid's values.

Doi and Koide 1991; as a differentiable layer, Shen et al. 2021 (DMTet). Each cube is cut into six
tetrahedra round its diagonal, so the result is watertight and manifold for any signs.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations

import torch
from torch import Tensor

_EDGES = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def _parity(order: tuple[int, ...]) -> int:
    return sum(a > b for i, a in enumerate(order) for b in order[i + 1 :]) % 2


def _tetrahedra() -> list[list[int]]:
    """Six positively oriented tetrahedra of a cube whose corner x + 2y + 4z has those offsets."""
    tetrahedra = []
    for axes in permutations(range(3)):
        a, b = 1 << axes[0], (1 << axes[0]) | (1 << axes[1])
        tetrahedra.append([0, b, a, 7] if _parity(axes) else [0, a, b, 7])
    return tetrahedra


def _triangles() -> list[list[int]]:
    """For each set of inside corners (bit i = corner i): two triangles of edge numbers, -1 for none."""
    table = []
    for code in range(16):
        inside = [i for i in range(4) if code >> i & 1]
        outside = [i for i in range(4) if not code >> i & 1]
        quad: list[tuple[int, int]] = []
        if len(inside) == 2:
            i, j, k, m = *inside, *outside
            quad = [(i, k), (i, m), (j, m), (j, k)]
        elif len(inside) in (1, 3):
            apex = inside[0] if len(inside) == 1 else outside[0]
            quad = [(apex, other) for other in (outside if len(inside) == 1 else inside)]
        flip = (
            _parity((*inside, *outside))
            if len(inside) == 2
            else (_parity((quad[0][0], *(b for _, b in quad))) ^ (len(inside) == 3) if quad else 0)
        )
        if flip:
            quad.reverse()
        edges = [_EDGES.index((min(e), max(e))) for e in quad]
        row = [edges[0], edges[1], edges[2]] if quad else [-1, -1, -1]
        row += [edges[0], edges[2], edges[3]] if len(quad) == 4 else [-1, -1, -1]
        table.append(row)
    return table


@cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Corners of the tetrahedra, triangles by inside corners, ends of the edges, and the corners' bits."""
    return (
        torch.tensor(_tetrahedra(), device=device),
        torch.tensor(_triangles(), device=device),
        torch.tensor(_EDGES, device=device),
        torch.tensor([1, 2, 4, 8], device=device),
    )


def marching_tetrahedra(values: Tensor) -> tuple[Tensor, Tensor]:
    """The surface where `values` is zero, on the cube [-1, 1]^3 in metres.

    Args:
        values: (n, n, n), axes (z, y, x), positive inside; the border counts as outside.
    Returns:
        positions (V, 3), differentiable in `values`, and faces (F, 3) int32, counter-clockwise seen
        from outside. Both are empty where no value is positive.
    """
    n, device = values.shape[0], values.device
    tetrahedra_of_cube, triangles_of_code, edge_ends, bits = _tables(device)
    inside = values.detach() > 0
    for side in (0, -1):
        inside[side], inside[:, side], inside[:, :, side] = False, False, False

    index = torch.arange(n**3, device=device).view(n, n, n)
    offsets = index[:2, :2, :2].flatten()
    count = sum(
        inside[z : n - 1 + z, y : n - 1 + y, x : n - 1 + x].int() for z in (0, 1) for y in (0, 1) for x in (0, 1)
    )
    crossed = (count > 0) & (count < 8)  # type: ignore[operator]
    corners = index[:-1, :-1, :-1][crossed][:, None] + offsets
    tetrahedra = corners[:, tetrahedra_of_cube].view(-1, 4)

    flat = inside.view(-1)
    code = (flat[tetrahedra].long() * bits).sum(dim=1)
    triangles = triangles_of_code[code].view(-1, 2, 3)
    owner, half = torch.nonzero(triangles[..., 0] >= 0, as_tuple=True)
    ends = tetrahedra[owner][:, None].expand(-1, 3, 4).gather(2, edge_ends[triangles[owner, half]])
    ends = ends.sort(dim=-1).values
    edges, faces = torch.unique(ends[..., 0] * n**3 + ends[..., 1], return_inverse=True)
    a, b = edges // n**3, edges % n**3

    # A border point counts as outside whatever its value, hence the clamp.
    value = values.reshape(-1)
    va, vb = value[a], value[b]
    va = torch.where(flat[a], va.clamp(min=1e-6), va.clamp(max=-1e-6))
    vb = torch.where(flat[b], vb.clamp(min=1e-6), vb.clamp(max=-1e-6))
    # Away from the grid points themselves, so that no triangle degenerates; the gradient goes straight through.
    t = va / (va - vb)
    t = (t + (t.clamp(0.05, 0.95) - t).detach())[:, None]

    def position(i: Tensor) -> Tensor:
        return torch.stack([i % n, i // n % n, i // n**2], dim=1).to(values.dtype) * (2 / (n - 1)) - 1

    return torch.lerp(position(a), position(b), t), faces.int()
