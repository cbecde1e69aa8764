# SPDX-License-Identifier: GPL-3.0-or-later
"""Score distillation sampling (Poole et al. 2022, arXiv 2209.14988): the baseline."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..priors.base import Prior, denoiser_calls, per_sample, randn
from .base import GuidanceStep, NoiseLevels, working


@dataclass
class SDS(NoiseLevels):
    """Pulls latents toward D(x + sigma n; sigma): the noise prediction's error, times sigma.

    anneal: the stronger baseline; without it the usual form.
    """

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
        sigma = self.draw(x, progress, generator)
        noise = randn(x.shape, generator, x.device)
        target = prior.denoise(x + per_sample(sigma, x) * noise, sigma, condition)
        return GuidanceStep(
            target=target.to(latents.dtype),
            gradient=(x - target).to(latents.dtype),
            denoiser_calls=denoiser_calls(condition),
            sigma=sigma,
        )
