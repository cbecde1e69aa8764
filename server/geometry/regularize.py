# SPDX-License-Identifier: GPL-3.0-or-later
"""Penalties that keep a field and its mesh smooth and solid; those of a mesh take any triangles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def total_variation(grid: Tensor) -> Tensor:
    """Mean squared difference of neighbouring values of a (1, C, n, n, n) grid."""
    return sum(grid.diff(dim=axis).square().mean() for axis in (2, 3, 4))  # type: ignore[return-value]


def bending(grid: Tensor) -> Tensor:
    """Mean squared second difference of a (1, C, n, n, n) grid along its axes: zero for a linear field."""
    return sum(grid.diff(n=2, dim=axis).square().mean() for axis in (2, 3, 4))  # type: ignore[return-value]


def binary_entropy(alpha: Tensor) -> Tensor:
    """Mean entropy of opacities in [0, 1], in nats: fog costs, empty and solid do not."""
    alpha = alpha.clamp(1e-4, 1 - 1e-4)
    return -(alpha * alpha.log() + (1 - alpha) * (1 - alpha).log()).mean()


def normal_consistency(positions: Tensor, faces: Tensor) -> Tensor:
    """Mean of 1 - cos of the angle between the two faces at an edge; 0 where no edge has two.

    An edge with one face or more than two says nothing, and which way round its two faces are does not count.
    """
    corners = positions[faces.long()]
    normals = F.normalize(
        torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), dim=1, eps=1e-12
    )
    ends = torch.stack([faces, faces.roll(-1, dims=1)], dim=2).transpose(0, 1).reshape(-1, 2).long()
    low, high = ends.sort(dim=1).values.T
    key, order = (low * len(positions) + high).sort(stable=True)
    last = key.diff(append=key.new_full((1,), -1)) != 0
    first = last.roll(1)
    pair = (first[:-1] & ~last[:-1] & last[1:]).nonzero()[:, 0]
    if not len(pair):
        return 0 * positions.sum()
    one, other = order[pair], order[pair + 1]
    turn = 2 * (ends[one, 0] == ends[other, 1]).long() - 1  # faces alike round run along it either way
    one, other = one % len(faces), other % len(faces)
    return (1 - turn * (normals[one] * normals[other]).sum(dim=1)).mean()


def laplacian(positions: Tensor, faces: Tensor) -> Tensor:
    """Mean squared distance of a vertex from the mean of its neighbours, in squared metres."""
    a, b = edges(faces, len(positions))
    start, end = torch.cat([a, b]), torch.cat([b, a])
    count = torch.bincount(start, minlength=len(positions))[:, None]
    mean = torch.zeros_like(positions).index_add(0, start, positions[end]) / count.clamp(min=1)
    return torch.where(count > 0, positions - mean, 0).square().sum() / max(len(positions), 1)


def edge_length(positions: Tensor, faces: Tensor, length: Tensor | float | None = None) -> Tensor:
    """Mean squared relative deviation of the edges from `length`, metres, one or (E,) as `edges` has them.

    None is their mean length: triangles then tend to be equilateral and as large as each other.
    """
    a, b = edges(faces, len(positions))
    if not len(a):
        return 0 * positions.sum()
    # Where an edge has no length its root has no slope: better none than infinity.
    lengths = (positions[a] - positions[b]).square().sum(dim=1).clamp(min=1e-30).sqrt()
    if length is None:
        length = lengths.detach().mean()
    return (lengths / length - 1).square().mean()


def offset(positions: Tensor, start: Tensor, free: float = 0.0) -> Tensor:
    """Mean squared distance of the vertices from where they started, beyond the first `free` metres."""
    distance = (positions - start).square().sum(dim=1).clamp(min=1e-30).sqrt()
    return (distance - free).clamp(min=0).square().sum() / max(len(positions), 1)


def edges(faces: Tensor, vertices: int) -> tuple[Tensor, Tensor]:
    """(E,) lower and higher ends of each edge once."""
    ends = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).long().sort(dim=1).values
    key = torch.unique(ends[:, 0] * vertices + ends[:, 1])
    low, high = key // max(vertices, 1), key % max(vertices, 1)
    return low[low != high], high[low != high]
