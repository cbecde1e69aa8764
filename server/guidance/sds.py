# SPDX-License-Identifier: GPL-3.0-or-later
"""Score distillation sampling (Poole et al. 2022, arXiv 2209.14988): the baseline."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..priors.base import Prior, denoiser_calls, per_sample, randn
from .bandwidth import Geometric
from .base import GuidanceStep, working


@dataclass
class SDS:
    """Pulls latents toward D(x + sigma n; sigma): the noise prediction's error, times sigma.

    anneal: sigma falls geometrically from sigma_max to sigma_min with progress, the stronger baseline;
    otherwise each latent draws its own, log-uniform between the two.
    """

    sigma_min: float = 0.1
    sigma_max: float = 10.0
    anneal: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min <= self.sigma_max < math.inf:
            raise ValueError(
                f"SDS needs 0 < sigma_min <= sigma_max, not {self.sigma_min} and {self.sigma_max}."
            )

    @torch.no_grad()
    def step(
        self,
        prior: Prior,
        latents: Tensor,
        condition: Any = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> GuidanceStep:
        """One denoising of the noised latents; the gradient is latents - target; as `Guidance.step`."""
        x = working(latents)
        if self.anneal:
            sigma = x.new_full(x.shape[:1], Geometric(self.sigma_max, self.sigma_min)(progress))
        else:
            sigma = self._log_uniform(len(x), generator, x.device).to(x)
        noise = randn(x.shape, generator, x.device)
        target = prior.denoise(x + per_sample(sigma, x) * noise, sigma, condition)
        return GuidanceStep(
            target=target.to(latents.dtype),
            gradient=(x - target).to(latents.dtype),
            denoiser_calls=denoiser_calls(condition),
            sigma=sigma,
        )

    def _log_uniform(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        source = device if generator is None else generator.device
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return (low + (high - low) * torch.rand(count, generator=generator, device=source)).exp()
