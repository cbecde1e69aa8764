# SPDX-License-Identifier: GPL-3.0-or-later
"""Penalties that keep a field and its mesh smooth and solid."""

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
    """Mean of 1 - cos of the angle between faces that share an edge, for a closed manifold mesh."""
    corners = positions[faces.long()]
    normals = F.normalize(torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]),
                          dim=1, eps=1e-12)
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).long().sort(dim=1).values
    owner = torch.arange(len(faces), device=faces.device).repeat(3)
    key = edges[:, 0] * len(positions) + edges[:, 1]
    pairs = owner[key.argsort(stable=True)].view(-1, 2)
    return (1 - (normals[pairs[:, 0]] * normals[pairs[:, 1]]).sum(dim=1)).mean()
