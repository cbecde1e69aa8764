# SPDX-License-Identifier: GPL-3.0-or-later
"""Variational score distillation (Wang et al. 2023, arXiv 2305.16213)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checkpoint import load_optimizer, optimizer_tensors
from ..priors.base import Denoiser, HasStudent, TrainableDenoiser, append_dims, randn
from ..priors.conditions import Condition, nfe
from ..priors.mlp import MLPDenoiser
from .base import Guidance, GuidanceStep, NoiseLevels, working


@dataclass
class VSD(NoiseLevels, Guidance):
    """Pulls latents along D(z; sigma) - D'(z; sigma), with z = x + sigma n, from where latents are to where data is.

    D', the student, is a denoiser of the latents themselves that is fitted as they move. It is the prior's own
    (`prior.student()`: low-rank updates of its network) and begins as the prior itself, or a small network for priors
    without one, which begins as nearly the identity.

    Args:
        updates: Adam steps on the student for each step of the latents.
        learning_rate: of the student.
    """

    learning_rate: float = 1e-3
    updates: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.updates < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"VSD needs updates >= 1 and learning_rate > 0, not {self.updates} and {self.learning_rate}."
            )
        self._fitted: tuple[TrainableDenoiser, torch.optim.Adam] | None = None
        self._saved: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(
        self,
        prior: Denoiser,
        latents: Tensor,
        condition: Condition | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> GuidanceStep:
        """One step of the student and one of the latents; as `Guidance.step`.

        The student's evaluations count as the prior's do. Their gradients, which cost about two more, are not counted.
        """
        x = working(latents)
        student, optimizer = self._fitted or self._make_student(prior, x)
        for _ in range(self.updates):
            self._fit(student, optimizer, x, condition, progress, generator)
        sigma = self.draw(x, progress, generator, condition)
        noisy = x + append_dims(sigma, x) * randn(x.shape, generator, x.device)
        gradient = student.denoise(noisy, sigma, condition) - prior.denoise(noisy, sigma, condition)
        return GuidanceStep(
            target=(x - gradient).to(latents.dtype),
            gradient=gradient.to(latents.dtype),
            nfe=nfe(condition) + 1 + self.updates,
            sigma=sigma,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The student and its optimizer."""
        if self._fitted is None:
            return self._saved
        student, optimizer = self._fitted
        return {f"student.{name}": value for name, value in student.state_dict().items()} | optimizer_tensors(optimizer)

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Go on with a checkpoint's student, which the next step makes."""
        self._saved = dict(state_dict)

    def _make_student(self, prior: Denoiser, x: Tensor) -> tuple[TrainableDenoiser, torch.optim.Adam]:
        student = prior.student() if isinstance(prior, HasStudent) else MLPDenoiser(tuple(x.shape[1:])).to(x)
        optimizer = torch.optim.Adam(student.parameters(), lr=self.learning_rate)
        if self._saved:
            prefix = "student."
            weights = {name.removeprefix(prefix): v for name, v in self._saved.items() if name.startswith(prefix)}
            student.load_state_dict(weights)
            load_optimizer(optimizer, self._saved)
        self._fitted = student, optimizer
        return self._fitted

    def _fit(
        self,
        student: TrainableDenoiser,
        optimizer: torch.optim.Adam,
        x: Tensor,
        condition: Condition | None,
        progress: float,
        generator: torch.Generator | None,
    ) -> None:
        """One Adam step on |D'(x + sigma n; sigma) - x|^2 (1 + 1 / sigma^2), the loss of the noise and the data."""
        sigma = append_dims(self.draw(x, progress, generator, condition), x)
        noisy = x + sigma * randn(x.shape, generator, x.device)
        with torch.enable_grad():
            error = student.denoise(noisy, sigma.flatten(), condition) - x
            loss = (error.square() * (1 + sigma**-2)).mean()
        if loss.isfinite():  # else latents that exploded would take the student with them
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
