# SPDX-License-Identifier: GPL-3.0-or-later
"""Score distillation via inversion (Lukoianov et al. 2024, arXiv 2405.15891)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..priors.base import Denoiser, append_dims
from ..priors.conditions import Condition, nfe, without_cfg
from .base import Guidance, GuidanceStep, NoiseLevels, working


@dataclass
class SDI(NoiseLevels, Guidance):
    """SDS whose noise is not drawn but found: the latents are carried up to sigma by the prior's own flow.

    The target D(z; sigma) is then what the prior makes of these latents, without the variance that random
    noise brings. They go up without classifier-free guidance, along the flow of the density itself: guided as
    the denoising is, or with a negative guidance scale as in the paper, shapes came out worse (docs/guidance.md).

    steps: Euler steps of the inversion, on equal ratios from sigma_min up to sigma.
    anneal: as in the paper; otherwise each latent draws its own sigma.
    """

    anneal: bool = True
    steps: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"SDI inverts in 1 step or more, not {self.steps}.")

    @torch.no_grad()
    def step(
        self,
        prior: Denoiser,
        latents: Tensor,
        condition: Condition | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> GuidanceStep:
        """One denoising of the inverted latents; the gradient is latents - target; as `Guidance.step`."""
        x = working(latents)
        sigma = self.draw(x, progress, generator)
        flow = without_cfg(condition)
        target = prior.denoise(self.invert(prior, x, sigma, flow), sigma, condition)
        return GuidanceStep(
            target=target.to(latents.dtype),
            gradient=(x - target).to(latents.dtype),
            nfe=self.steps * nfe(flow) + nfe(condition),
            sigma=sigma,
        )

    def invert(self, prior: Denoiser, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """x (B, …), taken for data at level sigma_min, carried up the probability-flow ODE to sigma (B,).

        dz/dsigma = (z - D(z; sigma)) / sigma (Karras 2022, equation 1 in variance-exploding form), Euler.
        """
        z, level = x, torch.full_like(sigma, self.sigma_min)
        for i in range(1, self.steps + 1):
            higher = self.sigma_min * (sigma / self.sigma_min) ** (i / self.steps)
            clean = prior.denoise(z, level, condition)
            z = clean + (z - clean) * append_dims(higher / level, z)
            level = higher
        return z
