# SPDX-License-Identifier: GPL-3.0-or-later
"""The end points of each guidance: at equal denoiser calls, at equal iterations, with classes, in many dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..guidance import Geometric, create
from . import report
from .densities import DENSITIES, Labels, Mixture, scattered
from .learned import learn
from .metrics import measure

LEVELS = {"sigma_min": 0.02, "sigma_max": 5.0}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "MSD": ("msd", {"bandwidth": Geometric(5.0, 0.02)}),
    "MSD, λ from 1": ("msd", {"bandwidth": Geometric(1.0, 0.02)}),
    "MSD, paper's estimator": ("msd", {"bandwidth": Geometric(5.0, 0.02), "estimator": "paper"}),
    "SDS": ("sds", LEVELS),
    "SDS, annealed": ("sds", {"anneal": True, **LEVELS}),
    "SDI": ("sdi", LEVELS),
    "VSD": ("vsd", LEVELS),
}
SETS = ("fractal", "pinwheel", "gaussians", "spiral")
RATES = (0.1, 0.2, 0.5, 1.0)  # step sizes; each method's best, by NLL, counts
CALLS, ITERATIONS = 400, 100


def grid(edge: int, reach: float = 2.5) -> Tensor:
    """(edge^2, 2) starting points on a grid that covers the density and its surroundings."""
    axis = torch.linspace(-reach, reach, edge)
    return torch.cartesian_prod(axis, axis)


def descend(
    prior: Any,
    method: tuple[str, dict[str, Any]],
    start: Tensor,
    rate: float,
    calls: int = 0,
    iterations: int = 0,
    condition: Any = None,
    seed: int = 0,
) -> tuple[Tensor, int]:
    """Gradient descent x <- x - rate * gradient from start (N, D); returns the end points and the calls per point.

    It ends after `calls` denoiser calls or after `iterations`, whichever is given.
    """
    kind, settings = method
    guidance, generator = create(kind, **settings), torch.Generator().manual_seed(seed)
    x, spent, made = start.clone(), 0, 0
    while (spent < calls) if calls else (made < iterations):
        step = guidance.step(prior, x, condition, spent / calls if calls else made / iterations, generator)
        x = x - rate * step.gradient
        spent, made = spent + step.nfe, made + 1
    return x, spent


def best_rows(
    prior: Any, density: Mixture, start: Tensor, methods: dict[str, tuple[str, dict[str, Any]]], **budget: int
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """For each method the row and the end points of its best rate."""
    for name, method in methods.items():
        best: tuple[dict[str, Any], Tensor] | None = None
        for rate in RATES:
            x, calls = descend(prior, method, start, rate, **budget)
            row = {
                "method": name,
                "rate": rate,
                "calls": calls,
                **measure(x, density, torch.Generator().manual_seed(1)),
            }
            if best is None or not best[0]["nll"] <= row["nll"]:
                best = row, x
        assert best
        yield best


def data_row(density: Mixture, count: int) -> dict[str, Any]:
    """The row of samples of the density."""
    x, _ = density.sample(count, torch.Generator().manual_seed(7))
    return {
        "method": "the data itself",
        "rate": 0.0,
        "calls": 0,
        **measure(x, density, torch.Generator().manual_seed(1)),
    }


def purity(prior: Any, density: Mixture, start: Tensor, scale: float, calls: int) -> Iterator[dict[str, Any]]:
    """For each method the share of points that end where the class of their condition is the most likely one.

    Half of the points have either class.
    """
    wanted = torch.arange(len(start)) % 2
    for name, method in METHODS.items():
        best: dict[str, Any] | None = None
        for rate in RATES:
            x, spent = descend(prior, method, start, rate, calls=calls, condition=Labels(wanted, scale))
            row = {
                "method": name,
                "guidance scale": scale,
                "rate": rate,
                "calls": spent,
                "purity": float((density.class_of(x) == wanted).float().mean()),
                "nll of the class": float(-density.log_density(x, classes=wanted).mean()),
            }
            if best is None or not best["nll of the class"] <= row["nll of the class"]:
                best = row
        assert best
        yield best


def run(output: Path, quick: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Write the tables, and a picture of the end points for each kind of denoiser."""
    start = grid(6 if quick else 20)
    count = 200 if quick else 2000
    calls, iterations = (40, 10) if quick else (CALLS, ITERATIONS)
    sets = SETS[1:2] if quick else SETS
    tables: dict[str, list[dict[str, Any]]] = {}
    for denoiser in ("ideal", "learned"):
        ends: dict[str, list[tuple[str, Tensor]]] = {}
        for name in sets:
            density = DENSITIES[name]()
            prior: Any = (
                density
                if denoiser == "ideal"
                else learn(density, output / "learned" / f"{name}.safetensors", steps=100 if quick else 6000)
            )
            own = data_row(density, count)
            for what, budget in (("iterations", iterations), ("calls", calls)):
                found = list(best_rows(prior, density, start, METHODS, **{what: budget}))
                tables[f"{name}, {denoiser} denoiser, {budget} {what}"] = [row for row, _ in found] + [own]
            ends[name] = [(row["method"], x) for row, x in found]
            report.write(output, "Convergence", tables)
            if name == "fractal" or quick:
                tables[f"{name}, {denoiser} denoiser, classes, {calls} calls"] = [
                    row for scale in (1.0, 3.0) for row in purity(prior, density, start, scale, calls)
                ]
        _plot(ends, output / f"ends-{denoiser}.png")
    for dimensions in (16,) if quick else (16, 256, 4096):
        density = scattered(8, dimensions)
        generator = torch.Generator().manual_seed(3)
        start = 1.5 * torch.randn(36 if quick else 200, dimensions, generator=generator)
        methods = {name: METHODS[name] for name in ("MSD", "SDS", "SDS, annealed")}
        tables[f"8 Gaussians in {dimensions} dimensions, ideal denoiser, {calls} calls"] = [
            row for row, _ in best_rows(density, density, start, methods, calls=calls)
        ] + [data_row(density, count)]
    report.write(output, "Convergence", tables)
    return tables


def _plot(ends: dict[str, list[tuple[str, Tensor]]], path: Path) -> None:
    with report.figure(path, len(ends), len(METHODS), width=2.2, height=2.3) as axes:
        for line, (name, methods) in zip(axes, ends.items()):
            density = DENSITIES[name]()
            for axis, (method, x) in zip(line, methods):
                report.background(axis, density.log_density)
                axis.plot(*x.T.numpy(), ".", color="crimson", markersize=2.5)
                axis.set_title(f"{name}: {method}", fontsize=7)
