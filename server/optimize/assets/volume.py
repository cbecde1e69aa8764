# SPDX-License-Identifier: GPL-3.0-or-later
"""The first look of an object that is made from nothing: a fog."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...geometry.field import Field
from ...geometry.mesh import Mesh
from ...geometry.occupancy import remove_floaters
from ...geometry.regularize import binary_entropy, total_variation
from ...rendering.cameras import Cameras
from ...rendering.shading import Lights
from ...rendering.volume import march
from .surface import extract, mirrored


class Volume(nn.Module):
    """The field as an emitting and absorbing fog: gradients reach empty space, so holes open and legs part.

    symmetry: of `protocol.AXES`.
    """

    name = "volume"

    def __init__(self, field: Field, samples: int = 48, symmetry: str = ""):
        super().__init__()
        self.field, self.samples, self.symmetry = field, samples, symmetry

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "pace": 1.0}]

    def grid(self) -> Tensor:
        return mirrored(self.field.grid(), self.symmetry)

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
        rgb, alpha = march(grid, cameras, lights, resolution, self.samples, 10 + 40 * progress, generator)
        penalty = (
            (0.02 + 0.2 * progress) * binary_entropy(alpha)
            + 0.02 * total_variation(grid[:, :1])
            + 0.05 * total_variation(grid[:, 1:])
        )
        return rgb + (1 - alpha) * backgrounds[:, None, None], penalty

    def settle(self) -> None:
        pass

    @torch.no_grad()
    def refined(self, levels: tuple[int, ...]) -> Field:
        """The same field made ready for meshing: floaters gone, occupancy bounded."""
        logit = self.grid()[:, :1]
        solid = torch.from_numpy(remove_floaters((logit[0, 0] > 0).cpu().numpy())).to(logit.device)
        logit = torch.where(solid | (logit <= 0), logit, -logit).clamp(-4, 4)
        fine = F.interpolate(logit, size=(levels[-1],) * 3, mode="trilinear", align_corners=True)
        return self.field.refined(levels, fine)

    def mesh(self) -> Mesh:
        return extract(self.grid())
