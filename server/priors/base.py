# SPDX-License-Identifier: GPL-3.0-or-later
"""What a prior is: a denoiser in variance-exploding form, and the noise levels to run it at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # errors and files are asked about where torch is not loaded
    import torch
    from torch import Tensor


class PriorError(ValueError):
    """A prior that cannot be loaded or used; the message says what to do about it."""


class Prior(Protocol):
    """A density of clean latents, known through its denoiser (k-diffusion's D(x, sigma))."""

    def denoise(self, x: Tensor, sigma: Tensor, condition: Any = None) -> Tensor:
        """E[clean | x] for ``x = clean + sigma * noise``.

        x: (B, …) latents; sigma: (B,) standard deviations >= 0 of the noise in them; condition: whatever
        the prior itself hands out, or None for the unconditional density. Returns a tensor like x.
        """
        ...


def denoiser_calls(condition: Any) -> int:
    """Network evaluations of one ``denoise`` with this condition: 2 under classifier-free guidance."""
    return getattr(condition, "denoiser_calls", 1)


def unguided(condition: Any) -> Any:
    """The same condition without classifier-free guidance, where it has any and says how: `condition.unguided()`."""
    return condition.unguided() if hasattr(condition, "unguided") else condition


def karras(steps: int, sigma_max: float, sigma_min: float, rho: float = 7.0) -> list[float]:
    """`steps` noise levels falling from sigma_max to sigma_min, both included (Karras 2022, equation 5)."""
    if steps < 1 or not 0 < sigma_min <= sigma_max:
        raise ValueError(
            f"A noise grid needs steps >= 1 and 0 < sigma_min <= sigma_max, "
            f"but got {steps} steps from {sigma_max} to {sigma_min}."
        )
    if steps == 1:
        return [float(sigma_max)]
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    inner = [(high + i / (steps - 1) * (low - high)) ** rho for i in range(1, steps - 1)]
    return [float(sigma_max), *inner, float(sigma_min)]


def randn(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device | str) -> Tensor:
    """float32 standard normal noise, drawn on the generator's own device so that a seed means one thing."""
    import torch

    source = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=source).to(device, non_blocking=True)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values shaped (B, 1, …) to multiply `like` (B, …)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
