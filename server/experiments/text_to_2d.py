# SPDX-License-Identifier: GPL-3.0-or-later
"""Text to pictures: every guidance optimizes coordinate networks on a text-to-image prior, at equal denoiser calls.

As in the paper's text-to-2D comparison (arXiv 2502.15989, Figure 4), a picture is a small network of its coordinates,
so that a method cannot set single pixels. The reference is samples of the same prior.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .. import priors
from ..bundled_prior import captions
from ..evaluation.classifier import frechet_distance, load_classifier
from ..guidance import Geometric, create
from ..guidance.msd import RENDERS
from ..priors.base import PriorError, TextToImagePrior
from ..priors.sampling import sample
from . import report

SAMPLES = "DDIM, other seeds"  # the row to compare with
SCALE = 5.0  # of classifier-free guidance, of all methods and of the samples


@dataclass(frozen=True)
class Choice:
    """A guidance with its settings, and Adam's learning rate on the pictures."""

    guidance: str
    settings: Mapping[str, object] = field(default_factory=dict)
    learning_rate: float = 0.01

    def __str__(self) -> str:
        return ", ".join([*(f"{name} {value}" for name, value in self.settings.items()), f"rate {self.learning_rate}"])


METHODS = {
    "MSD": [
        Choice("msd", {"bandwidth": Geometric(4.0, 2.0), **RENDERS}),
        Choice("msd", {"bandwidth": Geometric(4.0, 1.0), **RENDERS}),
        Choice("msd", {"bandwidth": Geometric(4.0, 2.0), **RENDERS, "steps": 3, "sigma_max": 10.0}),
        Choice("msd", {"bandwidth": Geometric(4.0, 2.0), **RENDERS}, 0.003),
    ],
    "MSD, exact estimator": [
        Choice("msd", {"bandwidth": Geometric(1.0, 0.3)}),
        Choice("msd", {"bandwidth": Geometric(1.0, 0.3), "stop_at": 2}),
        Choice("msd", {"bandwidth": Geometric(4.0, 0.3)}),
    ],
    "SDS": [Choice("sds"), Choice("sds", {"sigma_min": 0.3}), Choice("sds", learning_rate=0.003)],
    "SDS, annealed": [
        Choice("sds", {"anneal": True}),
        Choice("sds", {"anneal": True, "sigma_max": 3.0}),
        Choice("sds", {"anneal": True}, 0.003),
    ],
    "SDI": [Choice("sdi"), Choice("sdi", {"steps": 2}), Choice("sdi", {"sigma_max": 3.0})],
    "VSD": [Choice("vsd"), Choice("vsd", {"learning_rate": 1e-4}), Choice("vsd", learning_rate=0.003)],
}


class Pictures(nn.Module):
    """N pictures, each a network of its own on Fourier features of the coordinates (Tancik et al. 2020, equation 5).

    features: random frequencies, standard deviation `bandwidth` periods per picture edge. The small initial
    last layer makes all pictures start nearly grey.
    """

    frequencies: Tensor

    def __init__(
        self, count: int, generator: torch.Generator, features: int = 64, width: int = 64, bandwidth: float = 2.0
    ):
        super().__init__()
        self.register_buffer("frequencies", bandwidth * torch.randn(2, features, generator=generator))
        sizes = [2 * features, width, width, 3]
        self.weights = nn.ParameterList(
            [
                nn.Parameter((2 / fan) ** 0.5 * torch.randn(count, fan, out, generator=generator))
                for fan, out in itertools.pairwise(sizes)
            ]
        )
        with torch.no_grad():
            self.weights[-1].mul_(0.1)
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(count, 1, out)) for out in sizes[1:]])

    def forward(self, size: int) -> Tensor:
        """(N, 3, size, size) sRGB in [0, 1]."""
        axis = (torch.arange(size, device=self.frequencies.device) + 0.5) / size
        place = torch.cartesian_prod(axis, axis)  # (size^2, 2): row, column
        angles = 2 * torch.pi * place @ self.frequencies
        values = torch.cat([angles.sin(), angles.cos()], dim=1).expand(len(self.weights[0]), -1, -1)
        for weight, bias in zip(self.weights, self.biases):
            values = torch.baddbmm(bias, values.relu() if weight is not self.weights[0] else values, weight)
        return values.sigmoid().movedim(2, 1).unflatten(2, (size, size))


@dataclass
class Curve:
    """One method's pictures at increasing numbers of denoiser calls, and the total time."""

    calls: list[int] = field(default_factory=list)
    pictures: list[Tensor] = field(default_factory=list)  # each (N, 3, H, W)
    seconds: float = 0.0


def optimize(
    prior: TextToImagePrior, choice: Choice, prompts: list[str], calls: int, seed: int, stops: int = 4
) -> Curve:
    """Optimize a picture for each prompt; returns `stops` states, the last after `calls` denoiser calls a picture."""
    guidance = create(choice.guidance, **choice.settings)
    generator = torch.Generator().manual_seed(seed)
    pictures = Pictures(len(prompts), generator).to(prior.device)
    optimizer = torch.optim.Adam(pictures.parameters(), lr=choice.learning_rate)
    condition = prior.text_condition(prompts, "", SCALE)
    curve, spent, start = Curve(), 0, time.perf_counter()
    while spent < calls:
        latents = prior.encode(pictures(prior.resolution))
        step = guidance.step(prior, latents, condition, spent / calls, generator)
        latents.backward(step.gradient)
        optimizer.step()
        optimizer.zero_grad()
        spent += step.nfe
        if spent >= calls * (len(curve.calls) + 1) / stops:
            with torch.no_grad():
                curve.calls.append(spent)
                curve.pictures.append(pictures(prior.resolution).cpu())
    curve.seconds = time.perf_counter() - start
    return curve


Features = Callable[[Tensor], Tensor]  # pictures (N, 3, H, W), sRGB in [0, 1] -> (N, d)


def classifier_features(pictures: Tensor) -> Tensor:
    """The classifier's feature vectors, (N, 32)."""
    with torch.no_grad():
        return load_classifier().features(pictures)


def clip_features(folder: Path) -> Features:
    """Features by a CLIP model: its projected image embeddings.

    folder: in transformers' layout with safetensors. Raises PriorError if it holds no such model.
    """
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    try:
        model = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise PriorError(
            f"{folder} is no CLIP model that can be read: it needs config.json, model.safetensors and "
            f"preprocessor_config.json ({str(error).splitlines()[0]})."
        ) from None

    @torch.no_grad()
    def features(pictures: Tensor) -> Tensor:
        pixels = processor(images=list(pictures), do_rescale=False, return_tensors="pt")["pixel_values"]
        return model(pixels).image_embeds

    return features


def score(
    pictures: Tensor, labels: list[tuple[str, str]], reference: Tensor, clip: Features | None = None
) -> dict[str, float]:
    """Fréchet distances to the reference pictures, and the accuracy of nouns and colours by the classifier."""
    predictions = load_classifier().predict(pictures)
    distances = {
        name: frechet_distance(features(pictures), features(reference))
        for name, features in (("frechet", classifier_features), ("frechet, CLIP", clip))
        if features
    }
    return {
        **distances,
        "noun": float(np.mean([p["noun"] == n for p, (_, n) in zip(predictions, labels)])),
        "colour": float(np.mean([p["colour"] == c for p, (c, _) in zip(predictions, labels)])),
        "both": float(np.mean([(p["colour"], p["noun"]) == pair for p, pair in zip(predictions, labels)])),
    }


def sheet(rows: list[Tensor], path: Path, columns: int = 16) -> None:
    """Save a contact sheet with a row for each batch of pictures."""
    lines = [torch.cat(list(row[:columns]), dim=2) for row in rows]
    picture = (255 * torch.cat(lines, dim=1)).round().byte().movedim(0, -1).numpy()
    Image.fromarray(picture).save(path, optimize=True)


def run(output: Path, quick: bool = False, model: str = "", clip: str = "", seed: int = 0) -> report.Tables:
    """Run every method with all its settings and show the best of each; writes tables and pictures."""
    count, calls, batch = (4, 16, 4) if quick else (48, 400, 16)
    prior = priors.load(model or None, "cpu")
    labels = captions.balanced_prompts(count)
    texts = [captions.prompt(*pair, "front") for pair in labels]
    batches = [texts[i : i + batch] for i in range(0, count, batch)]

    def drawn(seed: int) -> Tensor:
        return torch.cat(
            [
                prior.decode(
                    sample(
                        prior,
                        (len(part), *prior.latent_shape),
                        prior.text_condition(part, "", SCALE),
                        4 if quick else 25,
                        torch.Generator().manual_seed(seed + i),
                        prior.sigma_range,
                    )
                )
                for i, part in enumerate(batches)
            ]
        )

    clip_of = clip_features(Path(clip)) if clip else None
    reference = torch.cat([drawn(1000 * i) for i in range(1, 2 if quick else 5)])
    samples = score(drawn(9000), labels, reference, clip_of)
    rows: list[report.Row] = [{"method": SAMPLES, "settings": "", "calls": 50, **samples, "seconds": 0}]
    trials: list[report.Row] = []
    curves: dict[str, Sequence[Mapping[str, float]]] = {}
    pictures = [reference[:count]]
    for name, choices in METHODS.items():
        results = []
        for choice in choices:
            parts = [optimize(prior, choice, part, calls, seed + i) for i, part in enumerate(batches)]
            stops = [torch.cat([part.pictures[k] for part in parts]) for k in range(len(parts[0].calls))]
            curve: list[dict[str, float]] = [
                {"calls": spent, **score(each, labels, reference, clip_of)}
                for spent, each in zip(parts[0].calls, stops)
            ]
            results.append((curve, stops[-1]))
            trials.append(
                {
                    "method": name,
                    "settings": str(choice),
                    **curve[-1],
                    "seconds": round(sum(part.seconds for part in parts)),
                }
            )
        own = trials[-len(choices) :]
        best = min(range(len(choices)), key=lambda i: results[i][0][-1]["frechet"])
        rows.append(own[best])
        curves[name], picture = results[best]
        pictures.append(picture)
        tables: report.Tables = {
            f"{count} pictures, guidance scale {SCALE:g}": rows,
            "All settings": trials,
            **{f"{method} by calls": curve for method, curve in curves.items()},
        }
        report.write(output, "Text to pictures", tables)
        sheet(pictures, output / "sheet.png")
    _plot(curves, samples, output / "curves.png")
    return tables


def _plot(curves: Mapping[str, Sequence[Mapping[str, float]]], samples: Mapping[str, float], path: Path) -> None:
    with report.figure(path, 1, 2, width=4.5, height=3.5) as axes:
        for axis, key in zip(axes[0], ("frechet", "both")):
            for name, curve in curves.items():
                axis.plot([row["calls"] for row in curve], [row[key] for row in curve], marker="o", label=name)
            axis.axhline(samples[key], color="black", linestyle=":", label=SAMPLES)
        axes[0, 0].set(xlabel="denoiser calls per picture", ylabel="Fréchet distance", yscale="log")
        axes[0, 1].set(xlabel="denoiser calls per picture", ylabel="noun and colour classified right", ylim=(0, 1.02))
        axes[0, 1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
