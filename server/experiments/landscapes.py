# SPDX-License-Identifier: GPL-3.0-or-later
"""Plots of the losses that SDS and MSD descend, by bandwidth (arXiv 2502.15989, Figures 3 and 5)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from . import report
from .convergence import LEVELS, METHODS, descend, grid
from .densities import DENSITIES, Mixture, scattered

BANDWIDTHS = (30.0, 1.0, 0.3, 0.1, 0.03)
SETS: dict[str, Callable[[], Mixture]] = {
    "scattered": lambda: scattered(12, std=0.12),
    "pinwheel": DENSITIES["pinwheel"],
    "fractal": DENSITIES["fractal"],
}


def sds_loss(density: Mixture, x: Tensor, draws: int = 64, seed: int = 0) -> Tensor:
    """(N,) the loss of SDS: -E over sigma and n of sigma^2 log p_sigma(x + sigma n), with the same draws for all x.

    By Tweedie's formula its gradient is E[x + sigma n - D(x + sigma n; sigma)], the mean of SDS's gradient.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(x))
    span = LEVELS["sigma_max"] / LEVELS["sigma_min"]
    for i in range(draws):
        sigma = LEVELS["sigma_min"] * span ** ((i + 0.5) / draws)
        noise = torch.randn(1, density.dimensions, generator=generator)
        for sign in (1, -1):
            total -= sigma**2 * density.log_density(x + sign * sigma * noise, sigma) / (2 * draws)
    return total


def msd_loss(density: Mixture, x: Tensor, bandwidth: float) -> Tensor:
    """(N,) the loss of MSD: -lambda^2 log (p * G_lambda)(x)."""
    return -(bandwidth**2) * density.log_density(x, bandwidth)


def run(output: Path, quick: bool = False) -> report.Tables:
    """Write landscapes.png, bandwidths.png and a table of the distances between each loss's minima and the modes."""
    edge = 60 if quick else 220
    names = list(SETS)[:1] if quick else list(SETS)
    rows: list[report.Row] = []
    losses: dict[str, Callable[[Mixture, Tensor], Tensor]] = {
        "-log p": lambda density, x: -density.log_density(x),
        "SDS": lambda density, x: sds_loss(density, x, 16 if quick else 64),
        "MSD, λ = 0.3": lambda density, x: msd_loss(density, x, 0.3),
        "MSD, λ = 0.05": lambda density, x: msd_loss(density, x, 0.05),
    }
    with report.figure(output / "landscapes.png", len(names), len(losses), width=2.6, height=2.7) as axes:
        for line, name in zip(axes, names):
            density = SETS[name]()
            for axis, (title, loss) in zip(line, losses.items()):
                values = loss(density, grid(edge)).view(edge, edge).T
                low = _minima(values)
                places = torch.stack([low[1], low[0]], dim=1) * (5 / (edge - 1)) - 2.5
                distance = torch.cdist(places, density.modes).min(dim=1).values
                from_modes = torch.cdist(density.modes, places).min(dim=1).values
                rows.append(
                    {
                        "density": name,
                        "loss": title,
                        "minima": len(places),
                        "from a minimum to the nearest mode": float(distance.mean()),
                        "from a mode to the nearest minimum": float(from_modes.mean()),
                    }
                )
                shown = values.clamp(max=float(values.flatten().kthvalue(int(0.9 * values.numel())).values))
                axis.contourf(shown, levels=24, extent=(-2.5, 2.5, -2.5, 2.5), cmap="viridis_r")
                axis.plot(*places.T, "o", color="crimson", markersize=3)
                axis.set(title=f"{name}: {title}", xticks=[], yticks=[], aspect="equal")
                axis.title.set_fontsize(9)
    _bandwidths(output / "bandwidths.png", edge, 8 if quick else 16)
    tables: report.Tables = {"Where the losses have their minima": rows}
    report.write(output, "Loss landscapes", tables)
    return tables


def _minima(values: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) of the points below their eight neighbours, without the border."""
    inner = values[1:-1, 1:-1]
    around = torch.stack(
        [
            values[1 + i : values.shape[0] - 1 + i, 1 + j : values.shape[1] - 1 + j]
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            if (i, j) != (0, 0)
        ]
    )
    row, column = torch.where(inner < around.min(dim=0).values)
    return row + 1.0, column + 1.0


def _bandwidths(path: Path, edge: int, arrows: int) -> None:
    """Plot one bandwidth: the smoothed density, the mean shift's direction, and the end points of descents."""
    density = DENSITIES["pinwheel"]()
    start = grid(12)
    with report.figure(path, 1, len(BANDWIDTHS), width=2.4, height=2.6) as axes:
        for axis, bandwidth in zip(axes[0], BANDWIDTHS):

            def smooth(x: Tensor, bandwidth: float = bandwidth) -> Tensor:
                return density.log_density(x, bandwidth)

            report.background(axis, smooth)
            x = grid(arrows)
            shift = density.denoise(x, torch.full((len(x),), bandwidth)) - x
            way = shift / shift.norm(dim=1, keepdim=True).clamp(min=1e-6)
            axis.quiver(*x.T, *way.T, color="steelblue", scale=26, width=0.004)
            end, _ = descend(
                density, ("msd", {**METHODS["MSD"][1], "bandwidth": bandwidth}), start, 0.3, iterations=100
            )
            axis.plot(*end.T, ".", color="crimson", markersize=3)
            axis.set_title(f"λ = {bandwidth:g}", fontsize=9)
