# SPDX-License-Identifier: GPL-3.0-or-later
"""Mean-shift distillation (Thamizharasan et al. 2025, arXiv 2502.15989), with an exact estimator.

The mean shift of the prior p under a Gaussian of standard deviation lambda, the bandwidth, is
m(x) = E[y] - x with y drawn from the product density p(y) G_lambda(x - y) / Z: a positive multiple of the
gradient of log (p * G_lambda), whose zeros tend to p's modes as lambda falls.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..precision import widest
from ..priors.base import Denoiser, karras_sigmas, randn
from ..priors.conditions import Condition, nfe
from .bandwidth import Adaptive, Geometric, Schedule, as_schedule
from .base import Guidance, GuidanceStep, working
from .product import diffused_kernel, kernel_step, product_posterior

ESTIMATORS = ("exact", "tweedie", "paper", "added")
REACH = 8.0  # times lambda: more noise adds nothing, since y spreads about lambda around its mean
STOP = 4.0  # times lambda: the reverse process may end below it, and below sigma_max by the same factor
# Settings for renders under a learned prior, see `estimator`.
RENDERS: dict[str, float | str] = {"estimator": "paper", "steps": 2, "sigma_min": 0.2, "sigma_max": 2.0}


@dataclass
class MSD(Guidance):
    """Estimates E[y] of the product density by reverse diffusion, wholly or in part.

    Two observations of y, x at level lambda and z at level sigma, are together one observation mu at a
    lower level s (`product_posterior`), so the product density's denoiser is the prior's own at (mu, s). The
    reverse process runs Euler steps of the probability-flow ODE from infinite noise, where z says nothing and
    the estimate is D(x; lambda), through a Karras grid from min(sigma_max, 8 lambda), above which every step is
    nearly the first, down to min(sigma_min, lambda / 4).

    Every step's denoised estimate is unbiased (tower property). An early stop lowers variance and cost; in return a
    learned denoiser works farther from its training data, since x is a render and not a noised image.

    Args:
        estimator: "exact"; or "tweedie", D(x; lambda) alone, the limit of the early stop. Two others add the kernel's
            force to the prior's score from x + sigma n down through all steps, and return the sample itself. "paper"
            integrates the force (x - z) / lambda^2 exactly over each step, toward x with its noise scaled to the
            step's level; the paper's public text leaves the levels open, and here they are the same grid.
            "added" takes the score of the kernel diffused to each level. Neither is the score of the diffused
            product, so both are biased. For renders under a learned prior "paper" is the better one: it gives the
            denoiser points with just the noise level it states, where "exact" mixes in x as it is and the denoiser
            keeps its lumps as details (docs/guidance.md).
        bandwidth: lambda, a number or a schedule of progress; its start sets diversity, its end sharpness. Above one
            standard deviation of the data (1 by convention) more points share fewer modes.
        steps: denoiser evaluations of the full process, a sample of the product density.
        stop_at: evaluations to make of these, from 1 (Tweedie) to steps. None goes down to the first noise level at
            or below 4 lambda and sigma_max / 4, the fourth of 8 for all but extreme bandwidths: below it variance
            grows fast (docs/guidance.md).
        sigma_min, sigma_max: bounds of the grid's ends, in the data's standard deviations; see above.
    """

    estimator: str = "exact"
    bandwidth: float | Schedule = Geometric(1.0, 0.3)
    steps: int = 8
    stop_at: int | None = None
    sigma_min: float = 0.02
    sigma_max: float = 5.0

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"MSD has no estimator {self.estimator!r}: choose {', '.join(ESTIMATORS)}.")
        if self.steps < 1:
            raise ValueError(f"MSD needs steps >= 1, not {self.steps}.")
        if self.stop_at is not None and not 1 <= self.stop_at <= self.steps:
            raise ValueError(f"MSD stops at 1 to {self.steps}, its steps, but stop_at is {self.stop_at}.")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"MSD needs 0 < sigma_min < sigma_max, not {self.sigma_min} and {self.sigma_max}.")
        as_schedule(self.bandwidth)  # raises for a number that is no bandwidth

    @torch.no_grad()
    def step(
        self,
        prior: Denoiser,
        latents: Tensor,
        condition: Condition | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> GuidanceStep:
        """One mean shift: the target estimates E[y], the gradient is latents - target; as `Guidance.step`."""
        x = working(latents)
        schedule = as_schedule(self.bandwidth)
        bandwidth = schedule(progress)
        levels = self._levels(bandwidth)
        estimate = self._exact if self.estimator in ("exact", "tweedie") else self._approximate
        target, level, calls = estimate(prior, x, bandwidth, levels, condition, generator)
        if isinstance(schedule, Adaptive):
            schedule.observe(float(widest(target - x).square().mean().sqrt()))
        return GuidanceStep(
            target=target.to(latents.dtype),
            gradient=(x - target).to(latents.dtype),
            nfe=calls * nfe(condition),
            sigma=x.new_full(x.shape[:1], level),
            bandwidth=bandwidth,
            converged=isinstance(schedule, Adaptive) and schedule.converged,
        )

    def _exact(
        self,
        prior: Denoiser,
        x: Tensor,
        bandwidth: float,
        levels: list[float],
        condition: Condition | None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, float, int]:
        """(E[y] (B, …), the noise level of the last evaluation, the number of evaluations) for latents x (B, …)."""
        level = bandwidth  # infinite noise: x alone observes y
        target = prior.denoise(x, x.new_full(x.shape[:1], level), condition)
        if levels:
            z = target + levels[0] * randn(x.shape, generator, x.device)
        for i, sigma in enumerate(levels):
            mu, level = product_posterior(x, z, bandwidth, sigma)
            target = prior.denoise(mu, x.new_full(x.shape[:1], level), condition)
            if i + 1 < len(levels):
                z = target + (z - target) * (levels[i + 1] / sigma)
        return target, level, 1 + len(levels)

    def _approximate(
        self,
        prior: Denoiser,
        x: Tensor,
        bandwidth: float,
        levels: list[float],
        condition: Condition | None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, float, int]:
        """As `_exact`, with the estimators "paper" and "added"."""
        noise = randn(x.shape, generator, x.device)
        z = x + levels[0] * noise
        for sigma, lower in zip(levels, [*levels[1:], 0.0], strict=True):
            target = prior.denoise(z, x.new_full(x.shape[:1], sigma), condition)
            if self.estimator == "added":
                target = target + diffused_kernel(x - z, bandwidth, sigma)
                z = target + (z - target) * (lower / sigma)
            else:
                z = target + (z - target) * (lower / sigma)
                place = x + lower * noise  # x at this noise level
                z = place + (z - place) * kernel_step(bandwidth, sigma, lower)
        return z, levels[-1], len(levels)

    def _levels(self, bandwidth: float) -> list[float]:
        """The finite noise levels to visit, falling; the first evaluation is at infinity."""
        high, low = min(self.sigma_max, REACH * bandwidth), min(self.sigma_min, bandwidth / 4)
        if self.estimator in ("paper", "added"):
            return karras_sigmas(self.steps, high, low)  # all of them: an early stop would give no sample
        if self.estimator == "tweedie" or self.steps == 1:
            return []
        grid = karras_sigmas(self.steps - 1, high, low)
        if self.stop_at is None:
            return grid[: 1 + sum(level > min(STOP * bandwidth, self.sigma_max / STOP) for level in grid)]
        return grid[: self.stop_at - 1]
