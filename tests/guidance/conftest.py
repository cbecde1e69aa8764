# SPDX-License-Identifier: GPL-3.0-or-later
"""A density with known truth: a Gaussian mixture and its ideal denoiser, in closed form."""

import pytest
import torch
from torch import Tensor


class GaussianMixture:
    """Equal isotropic Gaussians at `means` (K, D); records the noise level of each call."""

    def __init__(self, means: Tensor, std: float):
        self.means, self.std = means, std
        self.levels: list[float] = []

    def denoise(self, x: Tensor, sigma: Tensor, condition: object = None) -> Tensor:
        self.levels.append(float(sigma.max()))
        means, variance = self.means.to(x), (self.std**2 + sigma[:, None] ** 2).to(x)
        weights = (-((x[:, None] - means) ** 2).sum(-1) / (2 * variance)).softmax(-1)
        ratio = self.std**2 / variance
        return (1 - ratio) * (weights @ means) + ratio * x

    def log_density(self, x: Tensor, bandwidth: float = 0.0) -> Tensor:
        """log (p * G_bandwidth) (N,) up to a constant."""
        variance = self.std**2 + bandwidth**2
        return (-((x[:, None] - self.means) ** 2).sum(-1) / (2 * variance)).logsumexp(-1)


@pytest.fixture
def mixture() -> GaussianMixture:
    angle = torch.arange(7, dtype=torch.float64) * (2 * torch.pi / 7)
    radius = torch.linspace(0.7, 1.5, 7, dtype=torch.float64)
    return GaussianMixture(torch.stack([radius * angle.cos(), radius * angle.sin()], -1), std=0.1)
