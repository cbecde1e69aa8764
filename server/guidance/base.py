# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guidance is: one step from latents to where a prior would have them."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..priors.base import Prior
from .bandwidth import Geometric


@dataclass(frozen=True)
class GuidanceStep:
    """What one step found; both tensors have the latents' shape and dtype and carry no graph."""

    target: Tensor  # (B, …) the point that each latent is pulled toward
    gradient: Tensor  # (B, …) descend it: latents.backward(gradient)
    denoiser_calls: int  # network evaluations per latent, classifier-free guidance's two counted as two
    sigma: Tensor  # (B,) noise level of the last denoiser call
    bandwidth: float | None = None  # MSD's lambda at this step
    converged: bool = False  # an adaptive bandwidth says that going on would move nothing


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


@dataclass
class NoiseLevels:
    """The noise levels of a guidance that looks at one level each step.

    anneal: sigma falls geometrically from sigma_max to sigma_min with progress; otherwise each latent draws
    its own, log-uniform between the two.
    """

    sigma_min: float = 0.1
    sigma_max: float = 10.0
    anneal: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min <= self.sigma_max < math.inf:
            raise ValueError(
                f"{type(self).__name__} needs 0 < sigma_min <= sigma_max, not {self.sigma_min} and {self.sigma_max}."
            )

    def draw(self, x: Tensor, progress: float, generator: torch.Generator | None) -> Tensor:
        """(B,) levels for latents x (B, …)."""
        if self.anneal:
            return x.new_full(x.shape[:1], Geometric(self.sigma_max, self.sigma_min)(progress))
        source = x.device if generator is None else generator.device
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        drawn = torch.rand(len(x), generator=generator, device=source)
        return (low + (high - low) * drawn).exp().to(x, non_blocking=True)
