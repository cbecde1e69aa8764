# SPDX-License-Identifier: GPL-3.0-or-later
"""Normals of triangle meshes as differentiable tensors; `server.geometry.normals` has them as arrays."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def vertex_normals(positions: Tensor, faces: Tensor) -> Tensor:
    """(V, 3) unit normals of positions (V, 3) and faces (F, 3), each the area-weighted mean of its faces'."""
    index = faces.long()
    total = torch.zeros_like(positions).index_add(0, index.T.reshape(-1), _crosses(positions, index).repeat(3, 1))
    return F.normalize(total, dim=1, eps=1e-12)


def face_normals(positions: Tensor, faces: Tensor) -> Tensor:
    """(F, 3) unit normals of positions (V, 3) and faces (F, 3), 0 where a face has no area."""
    return F.normalize(_crosses(positions, faces.long()), dim=1, eps=1e-20)


def face_areas(positions: Tensor, faces: Tensor) -> Tensor:
    """(F,) areas of faces (F, 3) with vertices (V, 3)."""
    return _crosses(positions, faces.long()).norm(dim=1) / 2


def _crosses(positions: Tensor, faces: Tensor) -> Tensor:
    """(F, 3) normals that are as long as twice the area of their face."""
    corners = positions[faces]
    return torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
