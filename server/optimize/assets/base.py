# SPDX-License-Identifier: GPL-3.0-or-later
"""What the loop optimizes, whatever it is made of."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ...geometry.mesh import Mesh
from ...rendering.cameras import Cameras
from ...rendering.shading import Lights


class Asset(Protocol):
    """Parameters that can be rendered and end as a mesh. `name` is also the phase that a user reads."""

    name: str

    def groups(self) -> list[dict[str, Any]]:
        """Adam's parameter groups; "pace" is the group's learning rate in the phase's."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that `load_state_dict` of an asset of this kind needs to be this one."""
        ...

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> Any: ...

    def render(
        self,
        cameras: Cameras,
        lights: Lights,
        backgrounds: Tensor,
        resolution: int,
        progress: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """(images (B, resolution, resolution, 3) sRGB in [0, 1], bottom row first; penalty ()).

        Args:
            backgrounds: (B, 3) sRGB.
            progress: of the phase, in [0, 1].
        """
        ...

    def settle(self) -> None:
        """Keep what an optimizer's step must not break, such as how far a vertex may go."""
        ...

    def mesh(self) -> Mesh:
        """The asset as it is."""
        ...
