# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guidance is: one step from latents to where a prior would have them."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..priors.base import Prior


@dataclass(frozen=True)
class GuidanceStep:
    """What one step found; both tensors have the latents' shape and dtype and carry no graph."""

    target: Tensor  # (B, …) the point that each latent is pulled toward
    gradient: Tensor  # (B, …) descend it: latents.backward(gradient)
    denoiser_calls: int  # network evaluations per latent, classifier-free guidance's two counted as two
    sigma: Tensor  # (B,) noise level of the last denoiser call
    bandwidth: float | None = None  # MSD's lambda at this step


class Guidance(Protocol):
    """Gradients on latents; knows a prior, no mesh and no file."""

    def step(
        self,
        prior: Prior,
        latents: Tensor,  # (B, …) any float type; computed in float32 or better
        condition: Any = None,  # handed to prior.denoise as it is
        progress: float = 0.0,  # of the whole optimization, in [0, 1]
        generator: torch.Generator | None = None,  # the only source of randomness
    ) -> GuidanceStep: ...


def working(latents: Tensor) -> Tensor:
    """The latents without their graph, in float32 or better."""
    return latents.detach().to(torch.promote_types(latents.dtype, torch.float32))
