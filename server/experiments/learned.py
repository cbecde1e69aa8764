# SPDX-License-Identifier: GPL-3.0-or-later
"""Learned denoisers: networks trained on samples of a density, as in practice."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..priors.conditions import Condition
from ..priors.mlp import MLPDenoiser
from .densities import Mixture, guided


class Learned:
    """A trained network as a prior, with labels and classifier-free guidance."""

    def __init__(self, network: MLPDenoiser):
        self.network = network

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        return guided(lambda classes: self.network(x.float(), sigma.float(), classes), condition).to(x)


def learn(density: Mixture, path: Path, steps: int = 6000, batch: int = 1024, seed: int = 0) -> Learned:
    """Train a denoiser on samples of the density, or load it from `path` (safetensors) if that exists.

    Uses EDM's loss and noise distribution (Karras 2022, table 1), and drops a tenth of the labels.
    """
    network = MLPDenoiser(
        (density.dimensions,), width=128, layers=4, classes=int(density.classes.max()) + 1, detail=(1.0, 4.0, 16.0)
    )
    if path.is_file():
        network.load_state_dict(load_file(path))
        return Learned(network.requires_grad_(False))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    averages = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(steps):
        clean, classes = density.sample(batch, generator)
        classes[torch.rand(batch, generator=generator) < 0.1] = -1
        sigma = (1.4 * torch.randn(batch, generator=generator) - 1.6).exp()
        noisy = clean + sigma[:, None] * torch.randn(clean.shape, generator=generator)
        weight = (1 + sigma**-2)[:, None]
        loss = (weight * (network(noisy, sigma, classes) - clean).square()).mean()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (steps - step) / (0.7 * steps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, value in network.state_dict().items():
            averages[name].lerp_(value, 0.005) if step > 200 else averages[name].copy_(value)
    network.load_state_dict(averages)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(averages, path)
    return Learned(network.requires_grad_(False))
