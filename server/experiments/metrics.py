# SPDX-License-Identifier: GPL-3.0-or-later
"""Quality measures of points against a density that is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from .densities import Mixture

EDGE = 0.05  # quantile of the samples' own log density


def measure(x: Tensor, density: Mixture, generator: torch.Generator, count: int = 1000) -> dict[str, float]:
    """All measures of points x (N, D) against the density and `count` of its samples.

    nll: mean of -log p; inside: share above the density's 5 % quantile; precision, recall: share of points
    (of samples) within the 3-nearest-neighbour radius of a sample (a point) (Kynkaanniemi et al. 2019); mmd:
    squared maximum mean discrepancy, Gaussian kernel at the samples' median distance, unbiased (Gretton et al.
    2012, equation 3); mode_distance: mean distance to the nearest mode; modes: the number of
    modes that are the nearest one of some point inside; modes_evenly: the exponential of the entropy of the points'
    shares, the number of modes with equal shares that has it.
    """
    samples, _ = density.sample(count, generator)
    x = x.float()
    log = density.log_density(x)
    inside = log > density.quantile(EDGE)
    distance, nearest = torch.cdist(x, density.modes).min(dim=1)
    counts = nearest[inside].unique(return_counts=True)[1]
    return {
        "nll": float(-log.mean()),
        "inside": float(inside.float().mean()),
        "precision": _covered(x, samples),
        "recall": _covered(samples, x),
        "mmd": mmd(x, samples),
        "mode_distance": float(distance.mean()),
        "modes": float(len(counts)),
        "modes_evenly": float(torch.special.entr(counts / counts.sum()).sum().exp()) if len(counts) else 0.0,
    }


def _covered(points: Tensor, by: Tensor, neighbours: int = 3) -> float:
    """The share of points within a ball around one of `by` that reaches to that one's `neighbours`-th neighbour."""
    radius = torch.cdist(by, by).kthvalue(neighbours + 1, dim=1).values
    return float((torch.cdist(points, by) <= radius).any(dim=1).float().mean())


def mmd(x: Tensor, y: Tensor) -> float:
    """Squared maximum mean discrepancy of two sets (N, D), (M, D), unbiased."""
    width = torch.cdist(y, y).median()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-torch.cdist(a, b).square() / (2 * width**2)).exp()

    def own(a: Tensor) -> Tensor:
        return (kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return float(own(x) + own(y) - 2 * kernel(x, y).mean())
