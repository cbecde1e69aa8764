# SPDX-License-Identifier: GPL-3.0-or-later
"""The common part of the assets whose parameters are a field."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Self

from torch import Tensor, nn

from ..geometry.field import Field
from ..geometry.isosurface import extract_mesh, mirrored
from ..geometry.mesh import Mesh
from .base import AssetState, BuildContext, ParamGroup


class FieldAsset(nn.Module):
    """A field of shape and colour over the cameras' cube.

    Args:
        symmetry: of `protocol.AXES`.
    """

    name: ClassVar[str]

    def __init__(self, field: Field, symmetry: str = ""):
        super().__init__()
        self.field, self.symmetry = field, symmetry

    @classmethod
    @abstractmethod
    def of(cls, field: Field, context: BuildContext) -> Self:
        """The asset of a field."""

    @classmethod
    def from_checkpoint(cls, state: AssetState, context: BuildContext) -> Self:
        """As `Asset.from_checkpoint`."""
        asset = cls.of(Field(context.levels, device=context.device), context)
        asset.load_state_dict(state.tensors)
        return asset

    def checkpoint_state(self) -> AssetState:
        return AssetState(self.name, self.state_dict())

    def param_groups(self) -> list[ParamGroup]:
        return [{"params": list(self.parameters()), "lr_scale": 1.0}]

    def grid(self) -> Tensor:
        """(1, 4, n, n, n) logits of occupancy and colour."""
        return mirrored(self.field.grid(), self.symmetry)

    def apply_constraints(self) -> None:
        """As `Asset.apply_constraints`: a field has none."""

    def mesh(self) -> Mesh:
        return extract_mesh(self.grid())
