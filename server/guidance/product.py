# SPDX-License-Identifier: GPL-3.0-or-later
"""Combine a Gaussian kernel with Gaussian noise on one latent: exactly, and in two approximations."""

import math

from torch import Tensor


def product_posterior(x: Tensor, z: Tensor, bandwidth: float, sigma: float) -> tuple[Tensor, float]:
    """Mean mu and standard deviation s of y seen as ``x = y + bandwidth n1`` and ``z = y + sigma n2``.

    s^-2 = bandwidth^-2 + sigma^-2 and mu = s^2 (x / bandwidth^2 + z / sigma^2), so the prior's denoiser D gives
    E[y | x, z] = D(mu; s), the denoiser of the product density p(y) G_bandwidth(x - y) / Z at level sigma.
    Both levels may be anything in [0, inf], and x, z (B, …) anything finite: the formulas use only the ratio of the
    levels, which neither overflows nor divides by zero.
    """
    if not (bandwidth >= 0 and sigma >= 0):
        raise ValueError(f"Bandwidth and sigma must be zero or positive, but are {bandwidth} and {sigma}.")
    low, high = min(bandwidth, sigma), max(bandwidth, sigma)
    ratio = 1.0 if low == high else low / high  # also for 0, 0 and inf, inf
    sharper = 1 / (1 + ratio * ratio)  # the weight of the sharper observation, in [1/2, 1]
    blunter = ratio * ratio * sharper  # 1 - sharper, without its cancellation
    mu = sharper * x + blunter * z if bandwidth <= sigma else blunter * x + sharper * z
    return mu, low * math.sqrt(sharper)


def kernel_step(bandwidth: float, sigma: float, lower: float) -> float:
    """Factor by which the kernel's force alone shrinks z - x from level sigma to a lower one.

    The kernel's part of the probability-flow ODE, dz / dsigma = sigma (z - x) / bandwidth^2, has the solution
    exp(-(sigma^2 - lower^2) / (2 bandwidth^2)), in (0, 1], where an explicit step would overshoot.
    """
    high, low = sigma / bandwidth, lower / bandwidth
    return math.exp(-(high - low) * (high + low) / 2)


def diffused_kernel(force: Tensor, bandwidth: float, sigma: float) -> Tensor:
    """sigma^2 times the score of the kernel diffused to level sigma, for force = x - z; to be added to D(z; sigma).

    The diffused kernel about x is Gaussian with variance bandwidth^2 + sigma^2.
    """
    ratio = bandwidth / sigma
    return force / (1 + ratio * ratio)
