# SPDX-License-Identifier: GPL-3.0-or-later
"""Diversity by MSD's starting bandwidth: modes found on densities, spread of pictures on a text-to-image prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from .. import priors
from ..bundled_prior import captions
from ..evaluation.classifier import load_classifier
from ..guidance import Geometric
from ..guidance.msd import RENDERS
from ..priors.sampling import sample
from . import report
from .convergence import CALLS, descend
from .densities import Mixture, fractal, pinwheel, scattered
from .metrics import measure
from .text_to_2d import SCALE, score, sheet

STARTS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)  # in standard deviations of the data
END = 0.02
IMAGE_STARTS = (0.35, 0.7, 1.0, 2.0, 4.0)
# The end of the bandwidth, and the other settings.
IMAGE_SETTINGS: dict[str, tuple[float, Mapping[str, float | str]]] = {"exact": (0.3, {}), "for renders": (0.6, RENDERS)}
SETS: dict[str, Callable[[], Mixture]] = {
    "24 Gaussians in 2 dimensions": scattered,
    "24 Gaussians in 16 dimensions": lambda: scattered(24, 16),
    "24 Gaussians in 256 dimensions": lambda: scattered(24, 256),
    "pinwheel": pinwheel,
    "fractal": fractal,
}


def rows_for_density(density: Mixture, count: int) -> list[report.Row]:
    """A row for each start of the bandwidth; the points begin as white noise of the data's standard deviation."""
    start = torch.randn(count, density.dimensions, generator=torch.Generator().manual_seed(2))
    rows: list[report.Row] = []
    for width in STARTS:
        x, _ = descend(density, ("msd", {"bandwidth": Geometric(width, END)}), start, 0.5, calls=CALLS)
        measures = measure(x, density, torch.Generator().manual_seed(1))
        rows.append(
            {
                "start": width,
                "modes covered": f"{measures['modes']:.0f} of {len(density.modes)}",
                "evenly": measures["modes_evenly"],
                "recall": measures["recall"],
                "inside": measures["inside"],
                "nll": measures["nll"],
            }
        )
    return rows


def rows_for_pictures(output: Path, quick: bool, model: str) -> list[report.Row]:
    """A row for each start of the bandwidth, from latents of white noise; writes pictures.png, first row samples.

    spread: mean distance between two pictures of a prompt in the classifier's features, relative to the samples'.
    """
    kinds, seeds = (2, 2) if quick else (4, 8)
    prior = priors.load(model or None, "cpu")
    labels = [pair for pair in captions.balanced_prompts(kinds) for _ in range(seeds)]
    texts = [f"a {colour} {noun}, front view" for colour, noun in labels]
    condition = prior.text_condition(texts, "", SCALE)
    generator = torch.Generator().manual_seed(4)
    start = torch.randn(len(labels), *prior.latent_shape, generator=generator)
    ends = {"samples": sample(prior, start.shape, condition, 4 if quick else 25, generator, prior.sigma_range)}
    for name, (end, settings) in IMAGE_SETTINGS.items():
        for width in IMAGE_STARTS[::4] if quick else IMAGE_STARTS:
            msd = ("msd", {"bandwidth": Geometric(width, min(width, end)), **settings})
            ends[f"{name}, {width:g}"], _ = descend(
                prior, msd, start, 0.5, calls=16 if quick else CALLS, condition=condition
            )
    shown = {name: prior.decode(latents) for name, latents in ends.items()}
    with torch.no_grad():
        features = {name: load_classifier().features(pictures) for name, pictures in shown.items()}

    def spread(name: str) -> float:
        return float(torch.stack([torch.pdist(part).mean() for part in features[name].split(seeds)]).mean())

    sheet(list(shown.values()), output / "pictures.png", columns=len(labels))
    return [
        {
            "start": name,
            "spread": spread(name) / spread("samples"),
            "deviation of the latents": float(latents.std()),
            **score(shown[name], labels, shown["samples"]),
        }
        for name, latents in ends.items()
    ]


def run(output: Path, quick: bool = False, model: str = "") -> report.Tables:
    """Write a table for each density and the prior, coverage.png (relative to each line's best) and pictures.png."""
    names = list(SETS)[:2] if quick else list(SETS)
    tables: report.Tables = {name: rows_for_density(SETS[name](), 64 if quick else 512) for name in names}
    report.write(output, "Diversity", tables)
    _plot(tables, output / "coverage.png")
    tables["Text-to-image prior"] = rows_for_pictures(output, quick, model)
    report.write(output, "Diversity", tables)
    return tables


def _plot(tables: report.Tables, path: Path) -> None:
    with report.figure(path, width=6.4, height=3.6) as axes:
        for name, rows in tables.items():
            evenly = report.numbers(rows, "evenly")
            most = max(evenly)
            axes[0, 0].plot(report.numbers(rows, "start"), [value / most for value in evenly], marker=".", label=name)
        axes[0, 0].set(
            xlabel="bandwidth at the start, in the data's standard deviations",
            xscale="log",
            ylim=(0, 1.05),
            ylabel="effective number of modes, relative to the most",
        )
        axes[0, 0].set_xticks(STARTS, [f"{start:g}" for start in STARTS])
        axes[0, 0].minorticks_off()
        axes[0, 0].legend(fontsize=8)
