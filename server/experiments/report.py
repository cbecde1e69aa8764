# SPDX-License-Identifier: GPL-3.0-or-later
"""An experiment's files: table.json, table.md and plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

matplotlib.use("agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

Row = Mapping[str, float | str]  # a line of a table: a value for each column
Tables = dict[str, Sequence[Row]]  # by their headings


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table of rows with the same keys; numbers have three digits, from 100 on none after the point."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_cell(row[name]) for name in names] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: float | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def numbers(rows: Sequence[Row], name: str) -> list[float]:
    """A column of numbers. Raises TypeError where it has a text."""
    return [number(row, name) for row in rows]


def number(row: Row, name: str) -> float:
    """A row's number. Raises TypeError where it is a text."""
    value = row[name]
    if isinstance(value, str):
        raise TypeError(f"The column {name!r} has the text {value!r}.")
    return value


def write(output: Path, title: str, tables: Mapping[str, Sequence[Row]]) -> None:
    """Write table.json and table.md; tables are given by their headings."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "table.json").write_text(json.dumps(tables, indent=1) + "\n")
    (output / "table.md").write_text(
        "\n".join([f"# {title}\n", *(f"## {heading}\n\n{markdown(rows)}" for heading, rows in tables.items())])
    )


@contextmanager
def figure(
    path: Path, rows: int = 1, columns: int = 1, width: float = 3.4, height: float = 3.0, sharey: bool = False
) -> Iterator[NDArray[np.object_]]:
    """A figure's axes, an array (rows, columns); it is saved to the path (PNG) at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made, axes = pyplot.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained", sharey=sharey
    )
    try:
        yield axes
        made.savefig(path, dpi=100)
    finally:
        pyplot.close(made)


def background(
    axis: Axes, log_density: Callable[[Tensor], Tensor], reach: float = 2.6, edge: int = 160, floor: float = -8.0
) -> None:
    """Draw a log density in the plane in grey, from `floor` to its maximum, without ticks."""
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
