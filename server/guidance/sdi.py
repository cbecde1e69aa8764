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
    """SDS with noise from DDIM inversion: the prior's own probability flow carries the latents up to sigma.

    The target D(z; sigma) then lacks the variance of random noise. The inversion runs without classifier-free
    guidance, along the flow of the density itself; docs/guidance.md compares it with guided inversions.

    steps: Euler steps of the inversion, at equal ratios from sigma_min up to sigma.
    anneal: lower sigma with progress, as in the paper; otherwise each latent draws its own sigma.
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
        sigma = self.draw(x, progress, generator, condition)
        flow = without_cfg(condition)
        target = prior.denoise(self.invert(prior, x, sigma, flow), sigma, condition)
        return GuidanceStep(
            target=target.to(latents.dtype),
            gradient=(x - target).to(latents.dtype),
            nfe=self.steps * nfe(flow) + nfe(condition),
            sigma=sigma,
        )

    def invert(self, prior: Denoiser, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """Carry x (B, …), taken as data at level sigma_min, up the probability-flow ODE to sigma (B,).

        dz/dsigma = (z - D(z; sigma)) / sigma (Karras 2022, equation 1 in variance-exploding form), Euler.
        """
        z, level = x, torch.full_like(sigma, self.sigma_min)
        for i in range(1, self.steps + 1):
            higher = self.sigma_min * (sigma / self.sigma_min) ** (i / self.steps)
            clean = prior.denoise(z, level, condition)
            z = clean + (z - clean) * append_dims(higher / level, z)
            level = higher
        return z
