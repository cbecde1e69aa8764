# SPDX-License-Identifier: GPL-3.0-or-later
"""Regularizers that keep a field and its mesh smooth and solid."""

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
    """Mean entropy in nats of opacities in [0, 1], any shape: high for fog, near 0 for empty or solid space."""
    alpha = alpha.clamp(1e-4, 1 - 1e-4)
    return -(alpha * alpha.log() + (1 - alpha) * (1 - alpha).log()).mean()


def normal_consistency(positions: Tensor, faces: Tensor) -> Tensor:
    """Mean of 1 - cos of the angle between the normals of the two faces at an edge; 0 where no edge has two.

    positions: (V, 3); faces: (F, 3) any triangles. Edges with one face or more than two are left out, and the winding
    of the two faces does not matter.
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
    turn = 2 * (ends[one, 0] == ends[other, 1]).long() - 1  # faces with the same winding run along it both ways
    one, other = one % len(faces), other % len(faces)
    return (1 - turn * (normals[one] * normals[other]).sum(dim=1)).mean()
