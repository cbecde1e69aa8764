# SPDX-License-Identifier: GPL-3.0-or-later
"""Meshes with textures: UVs by corner, a slot by face, maps by slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .rasterize import Rasterizer

ROUGHNESS, METALLIC = 0.8, 0.0  # where a material has no map of them


@dataclass(frozen=True)
class Material:
    """The maps of one slot, each (H, W, C) in [0, 1] of a size of its own, bottom row first.

    base: C = 3, sRGB. roughness, metallic: C = 1. normal: C = 3, the tangent-space normal as (n + 1) / 2, +Y up.
    """

    base: Tensor
    roughness: Tensor | None = None
    metallic: Tensor | None = None
    normal: Tensor | None = None


@dataclass(frozen=True)
class Charts:
    """Where the faces lie in UV space. Corners with the same vertex, UV and side up are one *chart vertex*.

    faces (F, 3) int32: the chart vertices of each face. uvs (N, 2), origin bottom left, repeated beyond [0, 1].
    slots (F,) int64: which material a face has. sides (F,): 1, or -1 where the UVs are mirrored, 0 without area.
    """

    faces: Tensor
    uvs: Tensor
    slots: Tensor
    sides: Tensor

    @classmethod
    def of(cls, faces: Tensor, uvs: Tensor, slots: Tensor | None = None) -> Charts:
        """From faces (F, 3) int, uvs (F, 3, 2) and slots (F,) int, all 0 if None."""
        a, b = uvs[:, 1] - uvs[:, 0], uvs[:, 2] - uvs[:, 0]
        sides = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sign()
        corners = torch.cat(
            [faces.reshape(-1, 1).double(), sides.repeat_interleave(3)[:, None].double(), uvs.reshape(-1, 2).double()],
            dim=1,
        )
        unique, index = corners.unique(dim=0, return_inverse=True)
        if slots is None:
            slots = torch.zeros(len(faces), dtype=torch.int64, device=faces.device)
        return cls(index.view(-1, 3).int(), unique[:, 2:].to(uvs.dtype), slots.long(), sides)

    def tangents(self, positions: Tensor, faces: Tensor) -> Tensor:
        """(N, 4): the unit direction in which u grows on the surface, 0 where it has none, and the face's side."""
        corners, uvs = positions[faces.long()], self.uvs[self.faces.long()]
        p, t = corners[:, 1:] - corners[:, :1], uvs[:, 1:] - uvs[:, :1]
        along = self.sides[:, None] * (p[:, 0] * t[:, 1, 1:] - p[:, 1] * t[:, 0, 1:])
        index = self.faces.long().T.reshape(-1)
        total = positions.new_zeros(len(self.uvs), 3).index_add(0, index, along.repeat(3, 1))
        side = positions.new_zeros(len(self.uvs)).index_copy(0, index, self.sides.to(positions.dtype).repeat(3))
        return torch.cat([F.normalize(total, dim=1, eps=1e-20), side[:, None]], dim=1)


@dataclass(frozen=True)
class Textured:
    """How a surface looks, in place of vertex colours."""

    charts: Charts
    materials: Sequence[Material]

    @property
    def physical(self) -> bool:
        """Whether any map asks for more than Lambert's shading of the base colour."""
        return any(m.roughness is not None or m.metallic is not None or m.normal is not None for m in self.materials)

    def sample(self, rasterizer: Rasterizer, rast: Tensor, clip: Tensor, faces: Tensor) -> list[Tensor | None]:
        """[base, roughness, metallic, normal], each (B, H, W, C); None where no material has such a map."""
        charts = self.charts
        uvs = charts.uvs[None]
        uv = rasterizer.interpolate(uvs, rast, charts.faces)
        footprint = rasterizer.footprint(uvs, rast, charts.faces, clip, faces)
        slot = F.pad(charts.slots, (1, 0), value=-1)[rast[..., 3].long()][..., None]

        def pictures(maps: list[Tensor | None], default: tuple[float, ...]) -> Tensor | None:
            if all(each is None for each in maps):
                return None
            picture = uv.new_tensor(default).expand(*uv.shape[:3], -1)
            for k, each in enumerate(maps):
                if each is not None and (len(maps) == 1 or bool((slot == k).any())):
                    picture = torch.where(slot == k, rasterizer.texture(each[None], uv, footprint), picture)
            return picture

        return [
            pictures([m.base for m in self.materials], (0.8, 0.8, 0.8)),
            pictures([m.roughness for m in self.materials], (ROUGHNESS,)),
            pictures([m.metallic for m in self.materials], (METALLIC,)),
            pictures([m.normal for m in self.materials], (0.5, 0.5, 1.0)),
        ]

    def bend(
        self, normals: Tensor, map: Tensor, rasterizer: Rasterizer, positions: Tensor, rast: Tensor, faces: Tensor
    ) -> Tensor:
        """Unit normals (B, H, W, 3) turned as a sampled normal map says, in the frame of the mesh's own UVs."""
        frame = self.charts.tangents(positions, faces)[None]
        tangent, side = rasterizer.interpolate(frame, rast, self.charts.faces).split([3, 1], dim=-1)
        tangent = F.normalize(tangent - (tangent * normals).sum(dim=-1, keepdim=True) * normals, dim=-1, eps=1e-6)
        bitangent = side * torch.linalg.cross(normals, tangent)
        x, y, z = (2 * map - 1).split(1, dim=-1)
        return F.normalize(x * tangent + y * bitangent + z * normals, dim=-1, eps=1e-6)
