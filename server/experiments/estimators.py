# SPDX-License-Identifier: GPL-3.0-or-later
"""The estimators of the mean shift against its closed form, D(x; lambda) - x: bias, variance and cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..guidance import create
from . import report
from .densities import Mixture, fractal
from .learned import learn

BANDWIDTHS = (1.0, 0.3, 0.1, 0.03)
STEPS = 18                                  # of the full process whose stop is studied


def measure(prior: Any, density: Mixture, x: Tensor, estimates: int, bandwidth: float, seed: int = 0,
            **settings: Any) -> dict[str, Any]:
    """`estimates` of one mean shift at each x (N, D), compared with the density's own closed form.

    All lengths are root mean squares over the points, relative to the shift's: bias (of the mean of the
    estimates, their spread taken out), error (the standard error of that mean), nmse (of one estimate); and
    efficiency = 1 / (nmse * calls).
    """
    truth = density.denoise(x.double(), x.new_full(x.shape[:1], bandwidth).double()) - x
    guidance = create("msd", bandwidth=bandwidth, **settings)
    generator = torch.Generator().manual_seed(seed)
    total, square, done = torch.zeros_like(truth), torch.zeros_like(truth), 0
    batch = max(1, min(estimates, (1 << 16) // len(x)))
    while done < estimates:
        step = guidance.step(prior, x.repeat(batch, 1), generator=generator)
        off = -step.gradient.double().view(batch, *x.shape) - truth
        total, square, done = total + off.sum(dim=0), square + off.square().sum(dim=0), done + batch
    mean, length = total / done, truth.square().sum()
    error = (square / done - mean.square()).clamp(min=0).sum() / (done - 1) / length
    squared_bias = mean.square().sum() / length
    nmse = float(square.sum() / done / length)
    return {
        "bias": float((squared_bias - error).clamp(min=0).sqrt()), "mean": float(squared_bias.sqrt()),
        "error": float(error.sqrt()), "nmse": nmse, "calls": step.denoiser_calls,
        "efficiency": 1 / (nmse * step.denoiser_calls) if nmse > 1e-9 else float("inf"),
        "sigma": float(step.sigma[0]),
    }
