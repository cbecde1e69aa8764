# SPDX-License-Identifier: GPL-3.0-or-later
"""The first representation of an object that is made from nothing: a fog."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry.field import Field
from ..geometry.occupancy import remove_floaters
from ..geometry.regularize import binary_entropy, total_variation
from ..rendering.cameras import Cameras
from ..rendering.shading import Lights
from ..rendering.volume import march
from .base import Asset, BuildContext
from .field_asset import FieldAsset
from .mesh_asset import MeshAsset

SAMPLES = 48  # along a ray


class Volume(FieldAsset):
    """The field as an emitting and absorbing fog: gradients reach empty space, so that holes open and legs part."""

    name: ClassVar[str] = "volume"
    one_by_one = False

    @classmethod
    def from_previous(cls, previous: Asset | None, context: BuildContext) -> Asset:
        if isinstance(previous, MeshAsset):  # edited by an artist
            return previous
        return cls.of(Field(context.levels, device=context.device), context)

    @classmethod
    def of(cls, field: Field, context: BuildContext) -> Self:
        """As `FieldAsset.of`."""
        asset = cls(field, context.options.symmetry)
        asset.one_by_one = context.one_by_one
        return asset

    def render(
        self,
        cameras: Cameras,
        lights: Lights,
        backgrounds: Tensor,
        resolution: int,
        progress: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """As `Asset.render`. Fog is thin at first and hardens with progress."""
        grid = self.grid()
        density = 10 + 40 * progress
        rgb, alpha = march(grid, cameras, lights, resolution, SAMPLES, density, generator, self.one_by_one)
        penalty = (
            (0.02 + 0.2 * progress) * binary_entropy(alpha)
            + 0.02 * total_variation(grid[:, :1])
            + 0.05 * total_variation(grid[:, 1:])
        )
        return rgb + (1 - alpha) * backgrounds[:, None, None], penalty

    @torch.no_grad()
    def solid_field(self, levels: tuple[int, ...]) -> Field:
        """The same field made ready for meshing: without floaters, its occupancy bounded."""
        logit = self.grid()[:, :1]
        solid = torch.from_numpy(remove_floaters((logit[0, 0] > 0).cpu().numpy())).to(logit.device)
        logit = torch.where(solid | (logit <= 0), logit, -logit).clamp(-4, 4)
        fine = F.interpolate(logit, size=(levels[-1],) * 3, mode="trilinear", align_corners=True)
        return self.field.refined(levels, fine)
