# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of a guidance: one step from latents toward where a prior would have them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..priors.base import Denoiser
from ..priors.conditions import Condition, views_at_once
from .bandwidth import Geometric


@dataclass(frozen=True)
class GuidanceStep:
    """The result of one step; both tensors have the latents' shape and dtype and carry no graph."""

    target: Tensor  # (B, …) the point that each latent is pulled toward
    gradient: Tensor  # (B, …) descend it: latents.backward(gradient), each latent's own, not divided by the batch
    nfe: int  # network evaluations for each latent, classifier-free guidance's two counted as two
    sigma: Tensor  # (B,) noise level of the last denoiser call
    bandwidth: float | None = None  # MSD's lambda at this step
    converged: bool = False  # an adaptive bandwidth says that going on would move nothing

    @property
    def denoiser_calls(self) -> int:
        """`nfe`, by its public name."""
        return self.nfe


class Guidance(Protocol):
    """Gradients on latents; knows a denoiser, no mesh and no file. A subclass implements `step`."""

    def step(
        self,
        prior: Denoiser,
        latents: Tensor,
        condition: Condition | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> GuidanceStep:
        """One step of all latents.

        Args:
            latents: (B, …) of any float type; computed in float32 or better.
            condition: handed to `prior.denoise` as it is.
            progress: of the stretch that a schedule spans, in [0, 1]; in a job, of its phase.
            generator: the only source of randomness; None is torch's global one.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next steps depend on and that no setting says, for a checkpoint; often nothing."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict` of a guidance with the same settings."""
        return None


def working(latents: Tensor) -> Tensor:
    """The latents without their graph, in float32 or better."""
    return latents.detach().to(torch.promote_types(latents.dtype, torch.float32))


@dataclass
class NoiseLevels:
    """The noise levels of a guidance that looks at one level each step.

    anneal: sigma falls geometrically from sigma_max to sigma_min with progress; otherwise each latent draws
    its own, log-uniform between the two. Views of one object that are denoised together share theirs.
    """

    sigma_min: float = 0.1
    sigma_max: float = 10.0
    anneal: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min <= self.sigma_max < math.inf:
            raise ValueError(
                f"{type(self).__name__} needs 0 < sigma_min <= sigma_max, not {self.sigma_min} and {self.sigma_max}."
            )

    def draw(
        self, x: Tensor, progress: float, generator: torch.Generator | None, condition: Condition | None = None
    ) -> Tensor:
        """(B,) levels for latents x (B, …)."""
        if self.anneal:
            return x.new_full(x.shape[:1], Geometric(self.sigma_max, self.sigma_min)(progress))
        source = x.device if generator is None else generator.device
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        together = views_at_once(condition)
        drawn = torch.rand(len(x) // together, generator=generator, device=source).repeat_interleave(together)
        return (low + (high - low) * drawn).exp().to(x, non_blocking=True)
