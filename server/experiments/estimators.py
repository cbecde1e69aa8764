# SPDX-License-Identifier: GPL-3.0-or-later
"""The estimators of the mean shift against its closed form, D(x; lambda) - x: bias, variance and cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..guidance import create
from ..guidance.msd import MSD
from ..priors.base import Denoiser
from . import report
from .densities import Mixture, fractal
from .learned import learn

BANDWIDTHS = (1.0, 0.3, 0.1, 0.03)
STEPS = 18  # of the full reverse process
STOPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18)
PAPER = 8  # steps of the paper's estimator, which cannot stop early


def measure(
    prior: Denoiser, density: Mixture, x: Tensor, estimates: int, bandwidth: float, seed: int = 0, **settings: object
) -> dict[str, float]:
    """`estimates` of one mean shift at each x (N, D), compared with the density's own closed form.

    bias, mean and error are root mean squares over the points, relative to the shift's: the error of the mean estimate
    without and with its sampling noise, and the standard error of that mean. nmse: normalized mean squared error of one
    estimate. efficiency = 1 / (nmse * calls).
    """
    truth = density.denoise(x.double(), x.new_full(x.shape[:1], bandwidth).double()) - x
    guidance = create("msd", bandwidth=bandwidth, **settings)
    generator = torch.Generator().manual_seed(seed)
    total, square, done = torch.zeros_like(truth), torch.zeros_like(truth), 0
    batch = max(1, min(estimates, (1 << 16) // len(x)))
    while done < estimates:
        step = guidance.step(prior, x.repeat(batch, 1), generator=generator)
        off = -step.gradient.double().view(batch, *x.shape) - truth
        total, square, done = total + off.sum(dim=0), square + off.square().sum(dim=0), done + batch
    mean, length = total / done, truth.square().sum()
    error = (square / done - mean.square()).clamp(min=0).sum() / (done - 1) / length
    squared_bias = mean.square().sum() / length
    nmse = float(square.sum() / done / length)
    return {
        "bias": float((squared_bias - error).clamp(min=0).sqrt()),
        "mean": float(squared_bias.sqrt()),
        "error": float(error.sqrt()),
        "nmse": nmse,
        "calls": step.nfe,
        "efficiency": 1 / (nmse * step.nfe) if nmse > 1e-9 else float("inf"),
        "sigma": float(step.sigma[0]),
    }


def near_data(density: Mixture, count: int, bandwidth: float) -> Tensor:
    """(count, D) points such as an optimization with this bandwidth visits: samples plus noise of the bandwidth."""
    generator = torch.Generator().manual_seed(11)
    y, _ = density.sample(count, generator)
    return y + bandwidth * torch.randn(y.shape, generator=generator)


def far_from_data(count: int) -> Tensor:
    """(count, 2) grid points, mostly far from the data, where a learned denoiser was not trained."""
    axis = torch.linspace(-2, 2, round(count**0.5))
    return torch.cartesian_prod(axis, axis)


def biases(density: Mixture, points: int, estimates: int, steps: tuple[int, ...]) -> list[report.Row]:
    """Rows over bandwidths, estimators and lengths of the process, without early stops.

    The biased estimators get an eighth of the estimates, which is enough to show their bias.
    """
    return [
        {
            "bandwidth": bandwidth,
            "estimator": estimator,
            "steps": count,
            **measure(
                density,
                density,
                near_data(density, points, bandwidth),
                estimates if estimator == "exact" else estimates // 8,
                bandwidth,
                estimator=estimator,
                steps=count,
                stop_at=count,
            ),
        }
        for bandwidth in BANDWIDTHS
        for estimator in ("exact", "paper", "added")
        for count in steps
    ]


def stops(prior: Denoiser, density: Mixture, points: int, estimates: int) -> list[report.Row]:
    """Rows over bandwidths, where the points lie, and the step at which the process of STEPS ends."""
    return [
        {
            "bandwidth": bandwidth,
            "points": place,
            "stop_at": stop,
            **measure(prior, density, x, estimates, bandwidth, steps=STEPS, stop_at=stop),
        }
        for bandwidth in BANDWIDTHS
        for place, x in (("near", near_data(density, points, bandwidth)), ("away", far_from_data(points)))
        for stop in STOPS
    ]


def defaults(prior: Denoiser, density: Mixture, points: int, estimates: int) -> list[report.Row]:
    """Rows over bandwidths: MSD with its default settings beside the paper's estimator with `PAPER` steps."""
    rows: list[report.Row] = []
    for bandwidth in BANDWIDTHS:
        x = near_data(density, points, bandwidth)
        ours = measure(prior, density, x, estimates, bandwidth)
        paper = measure(prior, density, x, estimates, bandwidth, estimator="paper", steps=PAPER)
        rows.append(
            {
                "bandwidth": bandwidth,
                "calls": ours["calls"],
                "of": MSD().steps,
                "nmse": ours["nmse"],
                "efficiency": ours["efficiency"],
                "paper's nmse": paper["nmse"],
                "paper's efficiency": paper["efficiency"],
                "ratio": ours["efficiency"] / paper["efficiency"],
            }
        )
    return rows


def run(output: Path, quick: bool = False) -> report.Tables:
    """Write the tables of bias, stops and defaults, and the plots bias.png and stops.png."""
    points, estimates, spread = (16, 64, 32) if quick else (64, 4096, 512)
    density = fractal()
    learned = learn(density, output / "learned" / "fractal.safetensors", steps=100 if quick else 6000)
    tables: report.Tables = {}
    for name, prior in (("ideal", density), ("learned", learned)):
        tables[f"The default stop, {name} denoiser"] = defaults(prior, density, points, spread)
        tables[f"Stopping a process of {STEPS} steps, {name} denoiser"] = stops(prior, density, points, spread)
        report.write(output, "Estimators of the mean shift", tables)
    _plot_stops({name: rows for name, rows in tables.items() if name.startswith("Stopping")}, output / "stops.png")
    tables["Bias, ideal denoiser, whole process"] = biases(
        density, points, estimates, (4, 8) if quick else (4, 8, 16, 32)
    )
    report.write(output, "Estimators of the mean shift", tables)
    _plot_bias(tables["Bias, ideal denoiser, whole process"], output / "bias.png")
    return tables


def _plot_stops(tables: report.Tables, path: Path) -> None:
    with report.figure(path, len(tables), 3) as axes:
        for line, (name, rows) in zip(axes, tables.items()):
            for axis, (key, place) in zip(line, (("efficiency", "near"), ("nmse", "near"), ("mean", "away"))):
                for bandwidth in BANDWIDTHS:
                    part = [
                        row
                        for row in rows
                        if row["bandwidth"] == bandwidth
                        and row["points"] == place
                        and report.number(row, key) < float("inf")
                    ]
                    axis.plot(
                        report.numbers(part, "stop_at"),
                        report.numbers(part, key),
                        marker=".",
                        label=f"λ = {bandwidth:g}",
                    )
                axis.set(xlabel=f"stopped after call, of {STEPS}", yscale="log")
                if key != "efficiency":
                    axis.set_ylim(bottom=3e-4)  # an ideal denoiser's first estimate is exact
                label = {"mean": "error of the mean", "nmse": "NMSE"}.get(key, key)
                axis.set_title(f"{label}, {'near' if place == 'near' else 'far'}, {name.split(', ')[1]}", fontsize=9)
        axes[0, 0].legend(fontsize=8)


def _plot_bias(rows: Sequence[report.Row], path: Path) -> None:
    with report.figure(path, 1, len(BANDWIDTHS), width=2.8, sharey=True) as axes:
        for axis, bandwidth in zip(axes[0], BANDWIDTHS):
            here = [row for row in rows if row["bandwidth"] == bandwidth]
            for estimator in ("exact", "paper", "added"):
                part = [row for row in here if row["estimator"] == estimator]
                (line,) = axis.plot(
                    report.numbers(part, "steps"), report.numbers(part, "mean"), marker="o", label=estimator
                )
                if estimator == "exact":
                    axis.plot(
                        report.numbers(part, "steps"),
                        report.numbers(part, "error"),
                        "--",
                        color=line.get_color(),
                        label="its standard error",
                    )
            axis.set(title=f"λ = {bandwidth:g}", xlabel="steps", xscale="log", yscale="log")
            axis.set_xticks(report.numbers(part, "steps"), [str(row["steps"]) for row in part])
            axis.minorticks_off()
        axes[0, 0].set_ylabel("bias / length of the shift")
        axes[0, 1].legend(fontsize=7)
