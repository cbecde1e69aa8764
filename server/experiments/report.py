# SPDX-License-Identifier: GPL-3.0-or-later
"""An experiment's files: table.json, table.md and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor

matplotlib.use("agg")
from matplotlib import pyplot


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of rows with the same keys; numbers have three digits, from 100 on none after the point."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_cell(row[name]) for name in names] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def write(output: Path, title: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write table.json and table.md; tables are given by their headings."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "table.json").write_text(json.dumps(tables, indent=1) + "\n")
    (output / "table.md").write_text(
        "\n".join([f"# {title}\n", *(f"## {heading}\n\n{markdown(rows)}" for heading, rows in tables.items())])
    )


@contextmanager
def figure(
    path: Path, rows: int = 1, columns: int = 1, width: float = 3.4, height: float = 3.0, **settings: Any
) -> Iterator[Any]:
    """A figure's axes, an array (rows, columns); it is saved to the path (PNG) at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made, axes = pyplot.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained", **settings
    )
    try:
        yield axes
        made.savefig(path, dpi=100)
    finally:
        pyplot.close(made)


def background(
    axis: Any, log_density: Callable[[Tensor], Tensor], reach: float = 2.6, edge: int = 160, floor: float = -8.0
) -> None:
    """Draw a log density of the plane in grey, down to `floor` below its maximum, without ticks."""
    ticks = torch.linspace(-reach, reach, edge)
    values = log_density(torch.cartesian_prod(ticks, ticks)).view(edge, edge).T
    axis.imshow(
        (values - values.max()).clamp(min=floor),
        origin="lower",
        extent=(-reach, reach, -reach, reach),
        cmap="Greys",
        vmin=floor,
        vmax=3,
    )
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
