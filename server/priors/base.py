# SPDX-License-Identifier: GPL-3.0-or-later
"""The contracts of a prior: a `Denoiser` is all that a guidance needs, a `TextToImagePrior` all that a job needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .conditions import Condition, Views
from .distilled import Distillation

if TYPE_CHECKING:  # the server's own process asks for errors and files, and does not load torch
    import torch
    from torch import Tensor

    from .cost import Cost


class PriorError(ValueError):
    """A prior that cannot be loaded or used; the message says what to do about it."""


class Denoiser(Protocol):
    """A density of clean latents, known through its denoiser (k-diffusion's D(x, sigma))."""

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """E[clean | x] for ``x = clean + sigma * noise``, the variance-exploding form.

        Args:
            x: (B, …) latents.
            sigma: (B,) standard deviations of their noise, in [0, inf].
            condition: made by the prior; None is the unconditional density.

        Returns:
            Tensor of x's shape and dtype.
        """
        ...


Prior = Denoiser  # the public name of earlier versions


class TrainableDenoiser(Denoiser, Protocol):
    """A denoiser that is fitted while a job runs, such as VSD's: differentiable in its parameters."""

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object: ...


@runtime_checkable
class HasStudent(Protocol):
    """A denoiser that can make a trainable copy of itself."""

    def student(self) -> TrainableDenoiser:
        """A denoiser that begins as this one, without classifier-free guidance. Fitting it leaves this one as it is."""
        ...


@runtime_checkable
class MayBeDistilled(Protocol):
    """A prior that knows whether its model was distilled; of another one it is taken that it was not."""

    distillation: Distillation | None


@runtime_checkable
class SavesMemory(Protocol):
    """A prior whose `encode` can keep less memory for its gradient."""

    def save_memory(self, on: bool) -> None:
        """Whether the gradient of `encode` computes again most of what it needs, to the same bits."""
        ...


@runtime_checkable
class HasCost(Protocol):
    """A prior that knows what it needs."""

    def cost(self) -> Cost:
        """Memory and arithmetic of its parts."""


class TextToImagePrior(Denoiser, HasStudent, Protocol):
    """A text-to-image model as the optimization loop uses it. `loading.PIPELINES` lists the classes."""

    device: torch.device
    resolution: int
    """Edge of the square pictures, in pixels, that `encode` takes."""
    latent_shape: tuple[int, int, int]
    """(C, h, w) of the latents at that resolution."""
    sigma_range: tuple[float, float]
    """Lowest and highest noise level that the model was trained for."""

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), sRGB in [0, 1], top row first -> latents (B, C, h, w) float32; differentiable."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W), float32 sRGB in [0, 1]."""
        ...

    def condition(
        self,
        views: Views,
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        guidance_scale: float = 5.0,
        against_overhead: Tensor | None = None,
    ) -> Condition:
        """The condition of B pictures of one object, each seen from its own view.

        Args:
            views: of the B pictures.
            prompt: one for all pictures, or one for each.
            guidance_scale: w of classifier-free guidance (Ho & Salimans 2022, equation 6); 1 turns it off.
            against_overhead: (B,) bool, the pictures whose negative prompt is the object seen from overhead.
        """
        ...

    def text_condition(
        self, prompts: Sequence[str], negative: str | Sequence[str] = "", guidance_scale: float = 5.0
    ) -> Condition:
        """The condition of plain prompts, one per latent or one for all, without views of an object."""
        ...

    def prompt_warnings(self, prompt: str, negative_prompt: str = "", against_overhead: bool = False) -> list[str]:
        """One sentence for each part of the prompts that the model does not get, words it does not know among them.

        against_overhead: whether some iterations use `condition`'s `against_overhead`.
        """
        ...

    def not_finite(self) -> PriorError:
        """The error for answers that are NaN or infinite; it says which precision to try."""
        ...


@runtime_checkable
class MultiViewPrior(TextToImagePrior, Protocol):
    """A prior that denoises several views of one object at once, and is given their cameras.

    `condition` takes views in groups of `views_at_once`, each at equal angles round the object and with one elevation,
    distance and field of view. Under a condition without cameras, or none, every latent is a picture of its own.
    """

    views_at_once: int
    elevation: tuple[float, float] | None
    """Lowest and highest elevation, in degrees, that the model was trained for; None for any."""


def karras_sigmas(steps: int, sigma_max: float, sigma_min: float, rho: float = 7.0) -> list[float]:
    """`steps` noise levels falling from sigma_max to sigma_min, both included (Karras 2022, equation 5).

    Raises ValueError unless steps >= 1 and 0 < sigma_min <= sigma_max.
    """
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


def append_dims(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values shaped (B, 1, …) to multiply `like` (B, …)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
