# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of an asset: the parameters that the loop optimizes, whatever they are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypedDict

import torch
from torch import Tensor

from ..geometry.mesh import Mesh
from ..rendering.cameras import Cameras
from ..rendering.rasterize import Rasterizer
from ..rendering.shading import Lights


@dataclass(frozen=True)
class MeshOptions:
    """How a mesh with a topology of its own is worked on.

    Args:
        from_scratch: the mesh was made from nothing, so that its vertex colours are baked beside its texture.
        colour_levels: of the colour, see `ColourGrid`.
        maps, texture_size, flat, symmetry, max_displacement: as `protocol.JobRequest`.
    """

    from_scratch: bool = False
    colour_levels: tuple[int, ...] = (5, 9, 17, 33, 65)
    maps: tuple[str, ...] = ()
    texture_size: int = 1024
    flat: bool = False
    symmetry: str = ""
    max_displacement: float | None = None


@dataclass(frozen=True)
class BuildContext:
    """The run's part in making an asset, beside the asset before it.

    Args:
        levels: of the phase's field, see `geometry.field.Field`.
        mesh: the uploaded one, for the modes texture and refine.
        target_faces, remesh: as `protocol.JobRequest`.
        warn: takes a sentence for the user.
        stage: of a name such as "unwrap", a context whose time is measured and which a user sees. It gives a function
            that takes the share of the stage that is done, in [0, 1].
        one_by_one: the views of a render that needs much memory are rendered one after another.
    """

    rasterizer: Rasterizer
    device: torch.device
    levels: tuple[int, ...] = ()
    options: MeshOptions = field(default_factory=MeshOptions)
    mesh: Mesh | None = None
    target_faces: int | None = None
    remesh: bool = False
    warn: Callable[[str], None] = print
    stage: Callable[[str], AbstractContextManager[Callable[[float], None]]] = lambda name: nullcontext(
        lambda share: None
    )
    one_by_one: bool = False


class ParamGroup(TypedDict):
    """Parameters of one learning rate, as a share of the phase's."""

    params: list[torch.nn.Parameter]
    lr_scale: float


@dataclass(frozen=True)
class AssetState:
    """An asset in a checkpoint: `ASSETS[name].from_checkpoint` makes it again.

    tensors: parameters and buffers, and for a mesh the one it began with.
    keep_details: see `MeshAsset`.
    """

    name: str
    tensors: Mapping[str, Tensor]
    keep_details: bool = False


class Asset(Protocol):
    """Parameters that can be rendered and end as a mesh.

    `name` is the asset's key in `ASSETS` and in checkpoints, and the phase that a user reads.
    """

    name: ClassVar[str]

    @classmethod
    def from_previous(cls, previous: Asset | None, context: BuildContext) -> Asset:
        """The asset of the next phase, made of the last phase's; None at the start.

        An asset that an artist has edited may be handed on as it is.
        """
        ...

    @classmethod
    def from_checkpoint(cls, state: AssetState, context: BuildContext) -> Asset:
        """The asset of a `checkpoint_state`, to the same bits."""
        ...

    def checkpoint_state(self) -> AssetState: ...

    def param_groups(self) -> list[ParamGroup]:
        """Adam's parameter groups."""
        ...

    def render(
        self,
        cameras: Cameras,
        lights: Lights,
        backgrounds: Tensor,
        resolution: int,
        progress: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Pictures and the regularizers' penalty; both differentiable.

        Args:
            backgrounds: (B, 3) sRGB.
            progress: of the phase, in [0, 1].

        Returns:
            Images (B, resolution, resolution, 3), sRGB in [0, 1], bottom row first; and a penalty ().
        """
        ...

    def apply_constraints(self) -> None:
        """Bring the parameters back within their limits after an optimizer's step, such as a vertex's displacement."""
        ...

    def mesh(self) -> Mesh:
        """The asset as it is."""
        ...
