# SPDX-License-Identifier: GPL-3.0-or-later
"""Score distillation sampling (Poole et al. 2022, arXiv 2209.14988): the baseline."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..priors.base import Denoiser, append_dims, randn
from ..priors.conditions import Condition, nfe
from .base import Guidance, GuidanceStep, NoiseLevels, working


@dataclass
class SDS(NoiseLevels, Guidance):
    """Pulls latents toward D(x + sigma n; sigma); the gradient is sigma times the error of the noise prediction.

    anneal: lower sigma with progress, the stronger baseline; otherwise each latent draws its own, the usual form.
    """

    @torch.no_grad()
    def step(
        self,
        prior: Denoiser,
        latents: Tensor,
        condition: Condition | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> GuidanceStep:
        """One denoising of the noised latents; the gradient is latents - target; as `Guidance.step`."""
        x = working(latents)
        sigma = self.draw(x, progress, generator, condition)
        noise = randn(x.shape, generator, x.device)
        target = prior.denoise(x + append_dims(sigma, x) * noise, sigma, condition)
        return GuidanceStep(
            target=target.to(latents.dtype), gradient=(x - target).to(latents.dtype), nfe=nfe(condition), sigma=sigma
        )
