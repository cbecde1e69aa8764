# SPDX-License-Identifier: GPL-3.0-or-later
"""A prior of one's own: a density of pictures with one colour, as a model folder that a job names.

    .venv/bin/python -m examples.prior_of_your_own --output out/prior

A prior is a class with the members of `server.priors.TextToImagePrior`, and a line in `server.priors.PIPELINES` under
the `_class_name` of its folder's model_index.json. This one knows three words, and its latents are the pictures
themselves at 8 x 8 pixels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_blender.protocol import JobRequest
from server.optimize import Settings, generate
from server.priors import PIPELINES, Pipeline, PriorError, Views
from server.priors.files.parts import Parts
from server.priors.mlp import MLPDenoiser

COLOURS = {"red": (0.8, 0.1, 0.1), "green": (0.1, 0.7, 0.2), "blue": (0.1, 0.2, 0.8)}
SPREAD = 0.3  # standard deviation of a latent


@dataclass(frozen=True)
class ColourCondition:
    """A colour for each latent."""

    mean: Tensor  # (B, 3, 1, 1), in [-1, 1]
    nfe: int = 1

    def without_cfg(self) -> ColourCondition:
        return self


class ColourPrior:
    """Pictures whose pixels are Gaussian around the colour that the prompt names."""

    resolution, latent_shape, sigma_range = 32, (3, 8, 8), (0.02, 10.0)

    def __init__(self, parts: Parts, device: torch.device, dtype: torch.dtype):
        self.device = device

    def encode(self, images: Tensor) -> Tensor:
        return 2 * F.avg_pool2d(images, self.resolution // 8) - 1

    def decode(self, latents: Tensor) -> Tensor:
        return F.interpolate((latents + 1) / 2, size=self.resolution).clamp(0, 1)

    def condition(
        self,
        views: Views,
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        guidance_scale: float = 5.0,
        against_overhead: Tensor | None = None,
    ) -> ColourCondition:
        return self.text_condition([prompt] * len(views) if isinstance(prompt, str) else prompt)

    def text_condition(
        self, prompts: Sequence[str], negative: str | Sequence[str] = "", guidance_scale: float = 5.0
    ) -> ColourCondition:
        named = [
            next((COLOURS[word] for word in prompt.split() if word in COLOURS), (0.5, 0.5, 0.5)) for prompt in prompts
        ]
        return ColourCondition(2 * torch.tensor(named, device=self.device)[..., None, None] - 1)

    def denoise(self, x: Tensor, sigma: Tensor, condition: object = None) -> Tensor:
        """The posterior mean of a Gaussian: E[clean | x] = mean + s^2 / (s^2 + sigma^2) (x - mean)."""
        mean = condition.mean if isinstance(condition, ColourCondition) else torch.zeros_like(x)
        share = SPREAD**2 / (SPREAD**2 + sigma.view(-1, 1, 1, 1) ** 2)
        return mean + share * (x - mean)

    def student(self) -> MLPDenoiser:
        return MLPDenoiser(self.latent_shape).to(self.device)

    def prompt_warnings(self, prompt: str, negative_prompt: str = "", against_overhead: bool = False) -> list[str]:
        return [] if set(prompt.split()) & set(COLOURS) else [f"This model knows {', '.join(COLOURS)} only."]

    def not_finite(self) -> PriorError:
        return PriorError("The model's answers are not finite.")


def check(folder: Path) -> None:
    """This prior needs nothing but model_index.json, which was read to find it."""


PIPELINES["ColourPipeline"] = Pipeline(check, f"{__name__}:ColourPrior")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--iterations", type=int, default=60)
    given = parser.parse_args(arguments)
    model: Path = given.output / "model"
    model.mkdir(parents=True, exist_ok=True)
    (model / "model_index.json").write_text(json.dumps({"_class_name": "ColourPipeline"}))
    request = JobRequest("something red", model=str(model), iterations=given.iterations, device="cpu", texture_size=64)
    settings = replace(Settings.of(request), snapshots=0)
    generate(request, given.output, print, lambda: False, settings)


if __name__ == "__main__":
    main()
