# SPDX-License-Identifier: GPL-3.0-or-later
"""A regularizer that keeps a mesh near the shape in which it was given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Stiffness:
    """Bending, stretching and distance from a mesh's rest form: 0 there, so that its own sharp edges cost nothing.

    rest: (V, 3); faces: (F, 3) any triangles.
    """

    def __init__(self, rest: Tensor, faces: Tensor):
        self.rest, self.faces = rest, faces.long()
        edges = torch.cat([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]]).sort(dim=1).values
        key = edges[:, 0] * len(rest) + edges[:, 1]
        owner = torch.arange(len(faces), device=faces.device).repeat(3)
        order = key.argsort(stable=True)
        key, owner, edges = key[order], owner[order], edges[order]
        first = torch.ones(len(key), dtype=torch.bool, device=key.device)
        first[1:] = key[1:] != key[:-1]
        self.edges = edges[first]
        self.length = self._lengths(rest).clamp(min=1e-9)
        next_same = torch.zeros_like(first)
        next_same[:-1] = key[:-1] == key[1:]
        self.pairs = torch.stack([owner[:-1][next_same[:-1]], owner[1:][next_same[:-1]]], dim=1)
        self.cosine = self._cosines(rest)

    def __call__(self, positions: Tensor) -> Tensor:
        """(): mean growth of 1 - cos between neighbouring faces, squared strain of edges, squared distance."""
        if not len(self.faces):
            return positions.sum() * 0
        bending = (self.cosine - self._cosines(positions)).clamp(min=0).mean() if len(self.pairs) else 0
        strain = (self._lengths(positions) / self.length - 1).clamp(max=4).square().mean()
        return 0.5 * bending + 0.05 * strain + 0.02 * (positions - self.rest).square().sum(dim=1).mean()

    def _lengths(self, positions: Tensor) -> Tensor:
        return ((positions[self.edges[:, 0]] - positions[self.edges[:, 1]]).square().sum(dim=1) + 1e-18).sqrt()

    def _cosines(self, positions: Tensor) -> Tensor:
        corners = positions[self.faces]
        normals = F.normalize(
            torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), dim=1, eps=1e-12
        )
        return (normals[self.pairs[:, 0]] * normals[self.pairs[:, 1]]).sum(dim=1)
