# SPDX-License-Identifier: GPL-3.0-or-later
"""The second representation of an object that is made from nothing: the field's surface."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from ..geometry.field import Field, sample
from ..geometry.marching import marching_tetrahedra
from ..geometry.regularize import bending, normal_consistency, total_variation
from ..rendering.cameras import Cameras
from ..rendering.rasterize import Rasterizer
from ..rendering.render import render
from ..rendering.shading import Lights
from .base import Asset, BuildContext
from .field_asset import FieldAsset
from .mesh_asset import MeshAsset
from .volume import Volume


class Surface(FieldAsset):
    """The mesh at the zero level of the occupancy logit, rebuilt at every step, so that its topology stays free.

    Args:
        flat: shaded by its faces' normals.
    """

    name: ClassVar[str] = "surface"

    def __init__(self, field: Field, rasterizer: Rasterizer, symmetry: str = "", flat: bool = False):
        super().__init__(field, symmetry)
        self.rasterizer, self.flat = rasterizer, flat

    @classmethod
    def from_previous(cls, previous: Asset | None, context: BuildContext) -> Asset:
        if isinstance(previous, MeshAsset):  # edited by an artist
            return previous
        if not isinstance(previous, Volume):
            raise TypeError(f"A surface is made of a volume, not of {previous!r}.")
        return cls.of(previous.solid_field(context.levels), context)

    @classmethod
    def of(cls, field: Field, context: BuildContext) -> Self:
        """As `FieldAsset.of`."""
        return cls(field, context.rasterizer, context.options.symmetry, context.options.flat)

    def render(
        self,
        cameras: Cameras,
        lights: Lights,
        backgrounds: Tensor,
        resolution: int,
        progress: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """As `Asset.render`."""
        grid = self.grid()
        positions, faces = marching_tetrahedra(grid[0, 0])
        colours = sample(grid[:, 1:], positions.detach()).sigmoid()
        images = render(self.rasterizer, positions, faces, colours, cameras, lights, backgrounds, resolution, self.flat)
        penalty = (
            0.2 * normal_consistency(positions, faces) + 2 * bending(grid[:, :1]) + 0.01 * total_variation(grid[:, 1:])
        )
        return images, penalty
