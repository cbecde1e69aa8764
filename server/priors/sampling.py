# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain sampler for any prior: what the density itself looks like, for contact sheets and tests."""

from typing import Any

import torch
from torch import Tensor

from .base import Prior, karras, randn


@torch.no_grad()
def sample(
    prior: Prior,
    shape: tuple[int, ...],  # (B, …)
    condition: Any = None,
    steps: int = 30,
    generator: torch.Generator | None = None,
    sigmas: tuple[float, float] | None = None,
) -> Tensor:
    """Latents (B, …), float32, drawn by the probability-flow ODE: deterministic DDIM in VE form.

    Euler steps over a Karras grid (Karras 2022, algorithm 1 without its second-order correction).
    sigmas: lowest and highest noise level; without it the prior's own `sigmas`, or Stable Diffusion's range.
    """
    low, high = getattr(prior, "sigmas", (0.03, 14.6)) if sigmas is None else sigmas
    device = getattr(prior, "device", "cpu" if generator is None else generator.device)
    levels = karras(steps, high, low)
    x = levels[0] * randn(shape, generator, device)
    for sigma, lower in zip(levels, [*levels[1:], 0.0], strict=True):
        clean = prior.denoise(x, torch.full(shape[:1], sigma, device=x.device), condition)
        x = clean + (x - clean) * (lower / sigma)
    return x
