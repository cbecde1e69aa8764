# SPDX-License-Identifier: GPL-3.0-or-later
"""A small learned denoiser for low-dimensional densities, with EDM's preconditioning."""

import torch
from torch import Tensor, nn

from .base import append_dims
from .conditions import Condition


class MLPDenoiser(nn.Module):
    """D(x; sigma) = c_skip x + c_out F(c_in x, log sigma), F a multilayer perceptron (Karras 2022, table 1).

    Its last layer starts at zero, so that it starts as the denoiser of one Gaussian.

    Args:
        shape: of one latent.
        sigma_data: about the data's standard deviation.
        classes: number of classes that `forward` takes; 0 makes a denoiser without.
        detail: standard deviations of random Fourier features of x (Tancik et al. 2020, equation 5), 32 for each. A
            small network without them blurs structure finer than about a tenth of the data.
    """

    frequencies: Tensor
    places: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int = 64,
        layers: int = 3,
        sigma_data: float = 1.0,
        classes: int = 0,
        detail: tuple[float, ...] = (),
        seed: int = 0,
    ):
        super().__init__()
        self.shape, self.sigma_data = tuple(shape), sigma_data
        size = int(torch.Size(shape).numel())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.register_buffer("frequencies", torch.randn(16) * 2)
            self.label = nn.Embedding(classes + 1, width) if classes else None
            self.register_buffer(
                "places", torch.cat([torch.empty(size, 0)] + [std * torch.randn(size, 32) for std in detail], dim=1)
            )
            self.first = nn.Linear(size + 32 + 64 * len(detail), width)
            self.middle = nn.ModuleList([nn.Linear(width, width) for _ in range(layers - 1)])
            self.last = nn.Linear(width, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """E[clean | x] of the whole density, whatever the condition; as `Denoiser.denoise`, with gradients."""
        return self.forward(x, sigma)

    def forward(self, x: Tensor, sigma: Tensor, classes: Tensor | None = None) -> Tensor:
        """E[clean | x] of a class each, (B,) long with -1 for none; x and sigma as `Denoiser.denoise`."""
        level = append_dims(sigma, x)
        total = (level**2 + self.sigma_data**2).sqrt()
        angles = sigma.log()[:, None] / 4 * self.frequencies
        scaled = (x / total).flatten(1)
        waves = torch.cat([angles, scaled @ self.places], dim=1)
        hidden = self.first(torch.cat([scaled, waves.sin(), waves.cos()], dim=1))
        if self.label is not None:
            labels = torch.full((len(x),), -1, device=x.device) if classes is None else classes
            hidden = hidden + self.label(labels + 1)
        for layer in self.middle:
            hidden = hidden + layer(nn.functional.silu(hidden))
        change = self.last(nn.functional.silu(hidden)).unflatten(1, self.shape)
        result: Tensor = (self.sigma_data / total) ** 2 * x + level * (self.sigma_data / total) * change
        return result
