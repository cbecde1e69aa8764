# SPDX-License-Identifier: GPL-3.0-or-later
"""Variational score distillation (Wang et al. 2023, arXiv 2305.16213)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import load_optimizer, optimizer_tensors
from ..priors.base import Prior, denoiser_calls, per_sample, randn
from ..priors.mlp import MLPDenoiser
from .base import GuidanceStep, NoiseLevels, working


@dataclass
class VSD(NoiseLevels):
    """Pulls latents along D(z; sigma) - D'(z; sigma), z = x + sigma n, with D' a denoiser of the latents
    themselves that is fitted as they move: a particle is pushed from where particles are to where data is.

    The student D' is the prior's own (`prior.student()`; low-rank updates of its network), or a small
    network where the prior has none. It begins as the prior itself, or as nearly the identity.

    updates: Adam steps on the student for each step of the latents. learning_rate: of the student.
    """

    learning_rate: float = 1e-3
    updates: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.updates < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"VSD needs updates >= 1 and learning_rate > 0, not {self.updates} and {self.learning_rate}."
            )
        self._student: Any = None
        self._saved: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(
        self,
        prior: Prior,
        latents: Tensor,
        condition: Any = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> GuidanceStep:
        """One step of the student and one of the latents; as `Guidance.step`.

        The student's evaluations count as the prior's do; that its fitting also needs their gradients, which
        costs about two more, is not counted.
        """
        x = working(latents)
        if self._student is None:
            make = getattr(prior, "student", None)
            self._student = make() if make else MLPDenoiser(x.shape[1:]).to(x)
            self._optimizer = torch.optim.Adam(self._student.parameters(), lr=self.learning_rate)
            if self._saved:
                self._student.load_state_dict(
                    {
                        name.removeprefix("student."): value
                        for name, value in self._saved.items()
                        if name.startswith("student.")
                    }
                )
                load_optimizer(self._optimizer, self._saved)
        for _ in range(self.updates):
            self._fit(x, condition, progress, generator)
        sigma = self.draw(x, progress, generator)
        noisy = x + per_sample(sigma, x) * randn(x.shape, generator, x.device)
        gradient = self._student.denoise(noisy, sigma, condition) - prior.denoise(noisy, sigma, condition)
        return GuidanceStep(
            target=(x - gradient).to(latents.dtype),
            gradient=gradient.to(latents.dtype),
            denoiser_calls=denoiser_calls(condition) + 1 + self.updates,
            sigma=sigma,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The student and its optimizer, for a checkpoint."""
        if self._student is None:
            return self._saved
        return {f"student.{name}": value for name, value in self._student.state_dict().items()} | optimizer_tensors(
            self._optimizer
        )

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's student, which the next step makes."""
        self._saved = tensors

    def _fit(self, x: Tensor, condition: Any, progress: float, generator: torch.Generator | None) -> None:
        """One Adam step on |D'(x + sigma n; sigma) - x|^2 (1 + 1 / sigma^2), the loss of the noise and the data."""
        sigma = per_sample(self.draw(x, progress, generator), x)
        noisy = x + sigma * randn(x.shape, generator, x.device)
        with torch.enable_grad():
            error = self._student.denoise(noisy, sigma.flatten(), condition) - x
            loss = (error.square() * (1 + sigma**-2)).mean()
        if loss.isfinite():  # else latents that exploded would take the student with them
            self._optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._student.parameters(), 1.0)
            self._optimizer.step()
