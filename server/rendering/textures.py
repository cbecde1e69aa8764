# SPDX-License-Identifier: GPL-3.0-or-later
"""Textures of a mesh: UVs by corner, a material slot by face, texture maps by slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_blender.protocol import BASE_COLOUR, METALLIC, ROUGHNESS

from ..precision import widest
from .rasterize import Rasterizer


@dataclass(frozen=True)
class MaterialMaps:
    """The texture maps of one slot, each (H, W, C) in [0, 1] of a size of its own, bottom row first.

    base: C = 3, sRGB. roughness, metallic: C = 1, linear. normal: C = 3, the tangent-space normal as (n + 1) / 2 with
    green up (OpenGL's convention, and glTF's).
    """

    base: Tensor
    roughness: Tensor | None = None
    metallic: Tensor | None = None
    normal: Tensor | None = None


@dataclass(frozen=True)
class UVCharts:
    """The faces in UV space. Corners with the same vertex, UV and handedness are one *chart vertex*.

    faces (F, 3) int32: the chart vertices of each face. uvs (N, 2), origin bottom left, repeated outside of [0, 1].
    slots (F,) int64: the material of each face. handedness (F,): 1, or -1 where the UVs are mirrored, 0 where they
    have no area.
    """

    faces: Tensor
    uvs: Tensor
    slots: Tensor
    handedness: Tensor

    @classmethod
    def from_faces(cls, faces: Tensor, uvs: Tensor, slots: Tensor | None = None) -> UVCharts:
        """The charts of faces (F, 3) int with uvs (F, 3, 2) and slots (F,) int, all 0 if None."""
        a, b = uvs[:, 1] - uvs[:, 0], uvs[:, 2] - uvs[:, 0]
        handedness = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sign()
        corners = torch.cat(
            [
                widest(faces.reshape(-1, 1)),  # float32 has each of the first 16 million
                widest(handedness.repeat_interleave(3)[:, None]),
                widest(uvs.reshape(-1, 2)),
            ],
            dim=1,
        )
        unique, index = corners.unique(dim=0, return_inverse=True)
        if slots is None:
            slots = torch.zeros(len(faces), dtype=torch.int64, device=faces.device)
        return cls(index.view(-1, 3).int(), unique[:, 2:].to(uvs.dtype), slots.long(), handedness)

    def tangents(self, positions: Tensor, faces: Tensor) -> Tensor:
        """(N, 4) tangents at the chart vertices, as glTF's TANGENT has them: the unit direction in which u grows on
        the surface, 0 where it has none, and the handedness, which multiplies the bitangent.

        positions, faces: (V, 3) and (F, 3) of the mesh.
        """
        corners, uvs = positions[faces.long()], self.uvs[self.faces.long()]
        p, t = corners[:, 1:] - corners[:, :1], uvs[:, 1:] - uvs[:, :1]
        along = self.handedness[:, None] * (p[:, 0] * t[:, 1, 1:] - p[:, 1] * t[:, 0, 1:])
        index = self.faces.long().T.reshape(-1)
        total = positions.new_zeros(len(self.uvs), 3).index_add(0, index, along.repeat(3, 1))
        handedness = self.handedness.to(positions.dtype).repeat(3)
        signs = positions.new_zeros(len(self.uvs)).index_copy(0, index, handedness)
        return torch.cat([F.normalize(total, dim=1, eps=1e-20), signs[:, None]], dim=1)


@dataclass(frozen=True)
class UVTextures:
    """A surface's appearance by textures, in place of vertex colours."""

    charts: UVCharts
    materials: Sequence[MaterialMaps]

    @property
    def physical(self) -> bool:
        """Whether a material has any map besides base colour, so that Lambert's shading is not enough."""
        return any(m.roughness is not None or m.metallic is not None or m.normal is not None for m in self.materials)

    def sample(self, rasterizer: Rasterizer, rast: Tensor, clip: Tensor, faces: Tensor) -> list[Tensor | None]:
        """[base, roughness, metallic, normal] at the pixels, each (B, H, W, C); None where no material has such a map.

        A material without a map that another one has gets the constant of a plain material there.

        Args:
            rast: (B, H, W, 4) of `clip` (B, V, 4) and `faces` (F, 3).
        """
        charts = self.charts
        uvs = charts.uvs[None]
        uv = rasterizer.interpolate(uvs, rast, charts.faces)
        footprint = rasterizer.footprint(uvs, rast, charts.faces, clip, faces)
        slot = F.pad(charts.slots, (1, 0), value=-1)[rast[..., 3].long()][..., None]

        def sampled(maps: list[Tensor | None], default: tuple[float, ...]) -> Tensor | None:
            if all(each is None for each in maps):
                return None
            image = uv.new_tensor(default).expand(*uv.shape[:3], -1)
            for k, each in enumerate(maps):
                if each is not None and (len(maps) == 1 or bool((slot == k).any())):
                    image = torch.where(slot == k, rasterizer.texture(each[None], uv, footprint), image)
            return image

        return [
            sampled([m.base for m in self.materials], (BASE_COLOUR, BASE_COLOUR, BASE_COLOUR)),
            sampled([m.roughness for m in self.materials], (ROUGHNESS,)),
            sampled([m.metallic for m in self.materials], (METALLIC,)),
            sampled([m.normal for m in self.materials], (0.5, 0.5, 1.0)),
        ]

    def apply_normal_map(
        self,
        normals: Tensor,
        normal_map: Tensor,
        rasterizer: Rasterizer,
        positions: Tensor,
        rast: Tensor,
        faces: Tensor,
    ) -> Tensor:
        """(B, H, W, 3) unit normals turned by a normal map, in the tangent space of the mesh's own UVs.

        Args:
            normals: (B, H, W, 3) unit, of the surface.
            normal_map: (B, H, W, 3) as (n + 1) / 2, sampled at the pixels.
            positions, faces: (V, 3) and (F, 3) of the mesh; rast: (B, H, W, 4) of it.
        """
        frame = self.charts.tangents(positions, faces)[None]
        tangent, handedness = rasterizer.interpolate(frame, rast, self.charts.faces).split([3, 1], dim=-1)
        tangent = F.normalize(tangent - (tangent * normals).sum(dim=-1, keepdim=True) * normals, dim=-1, eps=1e-6)
        bitangent = handedness * torch.linalg.cross(normals, tangent)
        x, y, z = (2 * normal_map - 1).split(1, dim=-1)
        return F.normalize(x * tangent + y * bitangent + z * normals, dim=-1, eps=1e-6)
