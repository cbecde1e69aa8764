# SPDX-License-Identifier: GPL-3.0-or-later
"""A guidance of one's own: the mean shift's first step, one evaluation of the denoiser with no noise at all.

    .venv/bin/python -m examples.guidance_of_your_own

A guidance is a class with `server.guidance.Guidance`'s members, whose arguments are its settings, and a line in
`server.guidance.GUIDANCES`. For jobs to choose it, add its name to `msd_blender.protocol.GUIDANCES` as well, from which
command lines, HTTP and panel take it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from server.guidance import GUIDANCES, Guidance, GuidanceStep, create
from server.priors import Condition, Denoiser
from server.priors.conditions import nfe


@dataclass
class Tweedie(Guidance):
    """Pulls latents x toward D(x; sigma), the mean of the clean latents that x could be a noisy one of.

    sigma: noise level that the latents are taken for, in latents' standard deviations.
    """

    sigma: float = 0.5

    @torch.no_grad()
    def step(
        self,
        prior: Denoiser,
        latents: Tensor,
        condition: Condition | None = None,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> GuidanceStep:
        sigma = latents.new_full(latents.shape[:1], self.sigma)
        target = prior.denoise(latents.detach(), sigma, condition)
        return GuidanceStep(target, latents.detach() - target, nfe(condition), sigma)


GUIDANCES["tweedie"] = f"{__name__}:Tweedie"


class TwoPoints:
    """The density of two points of the plane, known through its ideal denoiser."""

    points = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        distance = (x[:, None] - self.points).square().sum(-1)
        return (-distance / (2 * sigma[:, None] ** 2)).softmax(dim=1) @ self.points


def main() -> float:
    """Descend from random points; the farthest that one of them ends from the density."""
    guidance, x = create("tweedie", sigma=0.3), torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    for i in range(60):
        x = x - 0.3 * guidance.step(TwoPoints(), x, progress=i / 60).gradient
    farthest = float(torch.cdist(x, TwoPoints.points).min(dim=1).values.max())
    print(f"The farthest of 100 points is {farthest:.4f} from one of the two.")
    return farthest


if __name__ == "__main__":
    main()
