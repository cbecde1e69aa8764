# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain sampler for any denoiser: it shows the density itself, for contact sheets and tests."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Denoiser, karras_sigmas, randn
from .conditions import Condition

SIGMA_RANGE = (0.03, 14.6)  # Stable Diffusion's


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    shape: Sequence[int],
    condition: Condition | None = None,
    steps: int = 30,
    generator: torch.Generator | None = None,
    sigma_range: tuple[float, float] = SIGMA_RANGE,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Latents of `shape` (B, …), float32, drawn by the probability-flow ODE: deterministic DDIM in VE form.

    Euler steps over a Karras grid (Karras 2022, algorithm 1 without its second-order correction).

    Args:
        sigma_range: lowest and highest noise level, such as a prior's own `sigma_range`.
        device: of the latents.
    """
    low, high = sigma_range
    sigmas = karras_sigmas(steps, high, low)
    x = sigmas[0] * randn(tuple(shape), generator, device)
    for sigma, lower in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        clean = denoiser.denoise(x, torch.full((len(x),), sigma, device=x.device), condition)
        x = clean + (x - clean) * (lower / sigma)
    return x
