# SPDX-License-Identifier: GPL-3.0-or-later
"""The end points of each guidance: at equal denoiser calls, at equal iterations, with classes, in many dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..guidance import Geometric, create
from ..priors.base import Denoiser
from ..priors.conditions import Condition
from . import report
from .densities import DENSITIES, Labels, Mixture, scattered
from .learned import learn
from .metrics import measure

LEVELS = {"sigma_min": 0.02, "sigma_max": 5.0}
Method = tuple[str, Mapping[str, object]]  # a guidance's name and settings
METHODS: dict[str, Method] = {
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
    prior: Denoiser,
    method: Method,
    start: Tensor,
    rate: float,
    calls: int = 0,
    iterations: int = 0,
    condition: Condition | None = None,
    seed: int = 0,
) -> tuple[Tensor, int]:
    """Descend x <- x - rate * gradient from start (N, D); returns the end points and the denoiser calls per point.

    Ends after `calls` denoiser calls, or after `iterations` if `calls` is 0.
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
    prior: Denoiser, density: Mixture, start: Tensor, methods: Mapping[str, Method], calls: int = 0, iterations: int = 0
) -> Iterator[tuple[str, report.Row, Tensor]]:
    """For each method its name, and the row and the end points of its best rate."""
    for name, method in methods.items():
        best: tuple[float, report.Row, Tensor] | None = None
        for rate in RATES:
            x, spent = descend(prior, method, start, rate, calls, iterations)
            found = measure(x, density, torch.Generator().manual_seed(1))
            if best is None or not best[0] <= found["nll"]:
                best = found["nll"], {"method": name, "rate": rate, "calls": spent, **found}, x
        assert best
        _, row, x = best
        yield name, row, x


def data_row(density: Mixture, count: int) -> report.Row:
    """The row of samples of the density."""
    x, _ = density.sample(count, torch.Generator().manual_seed(7))
    return {
        "method": "the data itself",
        "rate": 0.0,
        "calls": 0,
        **measure(x, density, torch.Generator().manual_seed(1)),
    }


def purity(prior: Denoiser, density: Mixture, start: Tensor, scale: float, calls: int) -> Iterator[report.Row]:
    """For each method the share of points that end where the class of their condition is the most likely one.

    Half of the points have each class.
    """
    targets = torch.arange(len(start)) % 2
    for name, method in METHODS.items():
        best: tuple[float, report.Row] | None = None
        for rate in RATES:
            x, spent = descend(prior, method, start, rate, calls=calls, condition=Labels(targets, scale))
            nll = float(-density.log_density(x, classes=targets).mean())
            if best is None or not best[0] <= nll:
                row: report.Row = {
                    "method": name,
                    "guidance scale": scale,
                    "rate": rate,
                    "calls": spent,
                    "purity": float((density.class_of(x) == targets).float().mean()),
                    "nll of the class": nll,
                }
                best = nll, row
        assert best
        yield best[1]


def run(output: Path, quick: bool = False) -> report.Tables:
    """Write the tables, and a picture of the end points for each kind of denoiser."""
    start = grid(6 if quick else 20)
    count = 200 if quick else 2000
    calls, iterations = (40, 10) if quick else (CALLS, ITERATIONS)
    sets = SETS[1:2] if quick else SETS
    tables: report.Tables = {}
    for denoiser in ("ideal", "learned"):
        ends: dict[str, list[tuple[str, Tensor]]] = {}
        for name in sets:
            density = DENSITIES[name]()
            prior: Denoiser = (
                density
                if denoiser == "ideal"
                else learn(density, output / "learned" / f"{name}.safetensors", steps=100 if quick else 6000)
            )
            own = data_row(density, count)
            for what, budget in (("iterations", iterations), ("calls", calls)):
                found = list(best_rows(prior, density, start, METHODS, **{what: budget}))
                tables[f"{name}, {denoiser} denoiser, {budget} {what}"] = [row for _, row, _ in found] + [own]
            ends[name] = [(method, x) for method, _, x in found]
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
            row for _, row, _ in best_rows(density, density, start, methods, calls=calls)
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
