# SPDX-License-Identifier: GPL-3.0-or-later
"""Noise models: how a network's own noise, timestep and prediction relate to the variance-exploding form.

The form is ``x_sigma = clean + sigma * noise``, and a denoiser answers E[clean | x_sigma]. A network is asked at
`timestep(sigma)` with ``input_scale(sigma) * x_sigma``; `denoised` turns its output into the denoiser's answer.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .base import append_dims
from .files.layouts import PREDICTIONS


class NoiseModel(Protocol):
    """One of the ways in which diffusion models are trained. All sigma are (B,), in `sigma_range`."""

    sigma_range: tuple[float, float]
    """Lowest and highest noise level that the network was trained for."""

    def timestep(self, sigma: Tensor) -> Tensor:
        """(B,) the network's time at a noise level."""
        ...

    def input_scale(self, sigma: Tensor) -> Tensor:
        """(B,) the factor between x_sigma and the network's input."""
        ...

    def denoised(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """E[clean | x], of the network's output at x (B, …)."""
        ...


class DiscreteNoise:
    """Variance-preserving noise on a table of timesteps: DDPM (Ho et al. 2020), Stable Diffusion 1.x, 2.x and XL.

    ``x_t = sqrt(abar_t) clean + sqrt(1 - abar_t) noise``, so that sigma_t = sqrt((1 - abar_t) / abar_t) and the input's
    scale is sqrt(abar_t) = (1 + sigma^2)^(-1/2). Between two timesteps log sigma is linear in time.

    Args:
        alphas_cumprod: (T,) abar, falling.
        prediction: one of `PREDICTIONS`, the network's output: the noise, Salimans & Ho's v (2022,
            v = sqrt(abar) noise - sqrt(1 - abar) clean), or the clean latents.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction: str, device: torch.device | str = "cpu"):
        if prediction not in PREDICTIONS:
            raise ValueError(f"There is no prediction {prediction!r}: choose {', '.join(PREDICTIONS)}.")
        self.prediction = prediction
        abar = alphas_cumprod.double().clamp(min=1e-6)  # keeps zero-terminal-SNR schedules finite
        self.log_sigmas = (((1 - abar) / abar).log() / 2).float().to(device)  # (T,), rising
        low, high = self.log_sigmas[[0, -1]].exp().tolist()
        self.sigma_range: tuple[float, float] = (low, high)

    def timestep(self, sigma: Tensor) -> Tensor:
        """(B,) fractional timesteps, linear in log sigma, clamped to the table."""
        table = self.log_sigmas
        log_sigma = sigma.log().clamp(table[0], table[-1])
        upper = torch.searchsorted(table, log_sigma).clamp(1, len(table) - 1)
        lower = upper - 1
        fractional: Tensor = lower + (log_sigma - table[lower]) / (table[upper] - table[lower])
        return fractional

    def input_scale(self, sigma: Tensor) -> Tensor:
        """As `NoiseModel.input_scale`: sqrt(abar)."""
        return (1 + sigma**2).rsqrt()

    def denoised(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """As `NoiseModel.denoised`."""
        sigma = append_dims(sigma, x)
        if self.prediction == "epsilon":
            return x - sigma * output
        if self.prediction == "v_prediction":
            scale = self.input_scale(sigma)
            return x * scale**2 - sigma * scale * output
        return output


class FlowNoise:
    """Rectified flow (Liu et al. 2022), as Stable Diffusion 3 and Flux use it.

    ``x_t = (1 - t) clean + t noise``, and the network predicts the velocity v = noise - clean. With sigma = t / (1 - t)
    and x_sigma = x_t / (1 - t), the answer is E[clean | x_sigma] = (x_sigma - sigma v) / (1 + sigma).

    Args:
        timesteps: the network's time at t = 1: 1000 for Stable Diffusion 3, 1 for Flux.
        t_range: lowest and highest t that the network was trained for.
    """

    def __init__(self, timesteps: float = 1000.0, t_range: tuple[float, float] = (0.001, 0.999)):
        low, high = t_range
        if not 0 < low < high < 1:
            raise ValueError(f"A flow needs 0 < lowest < highest < 1, not {low} and {high}.")
        self.timesteps = timesteps
        self.sigma_range: tuple[float, float] = (low / (1 - low), high / (1 - high))

    def timestep(self, sigma: Tensor) -> Tensor:
        """As `NoiseModel.timestep`: t times `timesteps`, clamped to the trained range."""
        sigma = sigma.clamp(*self.sigma_range)
        return self.timesteps * sigma / (1 + sigma)

    def input_scale(self, sigma: Tensor) -> Tensor:
        """As `NoiseModel.input_scale`: 1 - t."""
        return 1 / (1 + sigma)

    def denoised(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """As `NoiseModel.denoised`."""
        sigma = append_dims(sigma, x)
        return (x - sigma * output) / (1 + sigma)
