# SPDX-License-Identifier: GPL-3.0-or-later
"""Densities in closed form: mixtures of isotropic Gaussians, from eight of them to a fractal's thousand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..priors.conditions import Condition

CHUNK = 1 << 24  # numbers of a batch-by-components matrix at a time


@dataclass(frozen=True)
class Labels:
    """A condition: a class for each latent, with classifier-free guidance where the scale is not 1."""

    classes: Tensor  # (B,) long
    guidance_scale: float = 1.0

    @property
    def nfe(self) -> int:
        return 1 if self.guidance_scale == 1 else 2

    def without_cfg(self) -> Labels:
        """The same classes without classifier-free guidance."""
        return Labels(self.classes)


def guided(denoise: Callable[[Tensor | None], Tensor], condition: Condition | None) -> Tensor:
    """Classifier-free guidance: D = D_none + w (D_class - D_none); `denoise` takes classes or None.

    Raises TypeError for a condition other than `Labels`.
    """
    if condition is None:
        return denoise(None)
    if not isinstance(condition, Labels):
        raise TypeError(f"A density takes Labels, not {condition!r}.")
    positive = denoise(condition.classes)
    if condition.guidance_scale == 1:
        return positive
    negative = denoise(None)
    return negative + condition.guidance_scale * (positive - negative)


@dataclass(frozen=True)
class Mixture:
    """p = sum over k of w_k N(m_k, s_k^2 I), with its ideal denoiser, samples and modes.

    means (K, D), stds (K,), weights (K,) summing to 1, classes (K,) long.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor
    classes: Tensor

    @property
    def dimensions(self) -> int:
        return self.means.shape[1]

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """E[clean | x] in closed form, of the whole density or of one class; as `Prior.denoise`."""

        def exact(classes: Tensor | None) -> Tensor:
            step = max(1, CHUNK // len(self.means))
            return (
                torch.cat(
                    [
                        self._posterior_mean(
                            x[i : i + step], sigma[i : i + step], None if classes is None else classes[i : i + step]
                        )
                        for i in range(0, len(x), step)
                    ]
                )
                if len(x)
                else x
            )

        return guided(exact, condition)

    def _posterior_mean(self, x: Tensor, sigma: Tensor, classes: Tensor | None) -> Tensor:
        if (sigma == sigma[0]).all():
            sigma = sigma[:1]  # one level saves passes over batch by components
        variance = self.stds.to(x).square()[None] + sigma.to(x)[:, None].square()
        log = self._log_parts(x, variance)
        if classes is not None:
            log = log.masked_fill(self.classes[None] != classes[:, None], -torch.inf)
        share, means = log.softmax(dim=1), self.means.to(x)
        keep = self.stds.to(x).square() / variance  # the share of x that each component keeps
        if len(keep) == 1:
            return share @ ((1 - keep).T * means) + share @ keep.T * x
        keep = share * keep
        return (share - keep) @ means + keep.sum(dim=1, keepdim=True) * x

    def _log_parts(self, x: Tensor, variance: Tensor) -> Tensor:
        """log of w_k N(x; m_k, variance_k I), (B, K)."""
        # A matrix product would have rounding errors as large as the narrowest components' variances.
        distance = torch.cdist(x, self.means.to(x), compute_mode="donot_use_mm_for_euclid_dist").square()
        height = self.weights.to(x).log() - self.dimensions / 2 * (2 * math.pi * variance).log()
        return torch.addcdiv(height, distance, variance, value=-0.5)

    def log_density(self, x: Tensor, bandwidth: float = 0.0, classes: Tensor | None = None) -> Tensor:
        """log (p * G_bandwidth)(x), (B,); with classes (B,), of the class's own density."""
        variance = self.stds.to(x).square().expand(len(x), -1) + bandwidth**2
        log = self._log_parts(x, variance)
        if classes is None:
            return log.logsumexp(dim=1)
        mask = self.classes[None] == classes[:, None]
        share = (self.weights.to(x) * mask).sum(dim=1).log()
        return log.masked_fill(~mask, -torch.inf).logsumexp(dim=1) - share

    def class_of(self, x: Tensor) -> Tensor:
        """The most likely class at each point, (B,)."""
        count = int(self.classes.max()) + 1
        log = self._log_parts(x, self.stds.to(x).square().expand(len(x), -1))
        return torch.stack([log[:, self.classes == c].logsumexp(dim=1) for c in range(count)], dim=1).argmax(dim=1)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(points (count, D), their classes (count,))."""
        part = torch.multinomial(self.weights.double(), count, replacement=True, generator=generator)
        noise = torch.randn(count, self.dimensions, generator=generator)
        return self.means[part] + self.stds[part][:, None] * noise, self.classes[part]

    @cached_property
    def modes(self) -> Tensor:
        """(M, D) local maxima of p: gradient ascent by mean shift from every mean (Carreira-Perpinan 2000)."""
        x = self.means.double()
        precision = self.stds.double() ** -2
        for _ in range(2000):
            share = self._log_parts(x, self.stds.double().square()[None]).softmax(dim=1) * precision
            moved = share @ self.means.double() / share.sum(dim=1, keepdim=True)
            still = (moved - x).abs().max() < 1e-9
            x = moved
            if still:
                break
        found: list[Tensor] = []
        for point in x:
            if all((point - other).norm() > 0.1 * float(self.stds.min()) for other in found):
                found.append(point)
        return torch.stack(found).float()

    def quantile(self, share: float, count: int = 20_000) -> float:
        """A quantile of the log density of the density's own samples."""
        x, _ = self.sample(count, torch.Generator().manual_seed(12345))
        return float(self.log_density(x).quantile(share))


def _mixture(means: Tensor, stds: Tensor, classes: Tensor | None = None, weights: Tensor | None = None) -> Mixture:
    """A mixture, shifted and scaled to zero mean and unit standard deviation over all coordinates."""
    weights = torch.ones(len(means)) if weights is None else weights
    weights = weights / weights.sum()
    means = means - weights @ means
    scale = (((weights @ means.square()) + weights @ stds.square()).mean()).sqrt()
    classes = torch.zeros(len(means), dtype=torch.long) if classes is None else classes
    return Mixture(means / scale, stds / scale, weights, classes)


def gaussians(count: int = 8, std: float = 0.12) -> Mixture:
    """Gaussians on a ring, alternating between two classes."""
    angle = 2 * math.pi * torch.arange(count) / count
    return _mixture(torch.stack([angle.cos(), angle.sin()], dim=1), torch.full((count,), std), torch.arange(count) % 2)


def scattered(count: int = 24, dimensions: int = 2, std: float = 0.06, seed: int = 0) -> Mixture:
    """Gaussians at random places, of unequal weights, so that some modes are easier to find."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(count, dimensions, generator=generator)
    return _mixture(
        means, torch.full((count,), std), torch.arange(count) % 2, 0.2 + torch.rand(count, generator=generator)
    )


def pinwheel(arms: int = 5, parts: int = 40) -> Mixture:
    """Bent arms that widen outward from a centre, alternating between two classes."""
    t = torch.linspace(0.3, 1.5, parts).repeat(arms)
    arm = torch.arange(arms).repeat_interleave(parts)
    angle = 2 * math.pi * arm / arms + 0.9 * t
    return _mixture(torch.stack([t * angle.cos(), t * angle.sin()], dim=1), 0.03 + 0.05 * t, arm % 2)


def spiral(parts: int = 100, turns: float = 2.5) -> Mixture:
    """One spiral arm of Gaussians; its inner and its outer half are two classes."""
    t = torch.linspace(0.04, 1, parts).sqrt()
    angle = 2 * math.pi * turns * t
    return _mixture(
        torch.stack([t * angle.cos(), t * angle.sin()], dim=1),
        torch.full((parts,), 0.025),
        (torch.arange(parts) >= parts // 2).long(),
    )


def fractal(levels: int = 7, parts: int = 4, seed: int = 4) -> Mixture:
    """Two interleaved classes that branch like trees, each branch thinner and shorter than the one before.

    Modelled on the density of Karras et al. 2024 (arXiv 2406.02507, section 3).
    """
    generator = torch.Generator().manual_seed(seed)
    means: list[Tensor] = []
    stds, weights, classes = list[float](), list[float](), list[int]()

    def grow(place: Tensor, angle: float, length: float, level: int, kind: int) -> None:
        way = torch.tensor([math.cos(angle), math.sin(angle)])
        for i in range(parts):
            means.append(place + way * length * (i + 0.5) / parts)
            stds.append(0.09 * length * (1 - 0.35 * i / parts))
            weights.append(length**1.3)
            classes.append(kind)
        if level + 1 < levels:
            jitter = 0.35 * (torch.rand(2, 2, generator=generator) - 0.5)
            for side in (0, 1):
                turn = (0.55 if side else -0.55) + float(jitter[side, 0])
                grow(
                    place + way * length, angle + turn, length * (0.72 + 0.2 * float(jitter[side, 1])), level + 1, kind
                )

    for kind, angle in enumerate((math.pi * 0.25, math.pi * 1.25)):
        start = 0.08 * torch.tensor([math.cos(angle), math.sin(angle)])
        grow(start, angle, 0.9, 0, kind)
    return _mixture(torch.stack(means), torch.tensor(stds), torch.tensor(classes), torch.tensor(weights))


DENSITIES: dict[str, Callable[[], Mixture]] = {
    "fractal": fractal,
    "pinwheel": pinwheel,
    "spiral": spiral,
    "gaussians": gaussians,
}
