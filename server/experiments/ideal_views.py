# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job keeps of a true object when its prior loses nothing: the ceiling of representation and optimizer."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from ..evaluation import ideal_views
from ..evaluation.ideal_views import ExactViews, Truth, WordViews
from .report import Row, write

QUICK = {"resolution": 32, "texture_size": 64, "iterations": 4}


def run(
    output: Path,
    quick: bool = False,
    mesh: str = "",
    mode: str = "texture",
    resolution: int = 256,
    texture_size: int = 1024,
    iterations: int | None = None,
    by_word: bool = False,
    new_uvs: bool = False,
    grating: float = 0.0,
) -> None:
    """Write the tables of one mesh, and pictures of the truth above and of the result below.

    Args:
        mesh: file; a ball without one. A picture that it has stays, else it gets `detailed_picture`.
        mode: "texture" or "generate".
        resolution: of the prior, pixels.
        new_uvs: unwrap the mesh, whatever UVs it has.
        by_word: the prior knows pictures by the word of their view, and not the exact one.
        grating: period in pixels; in place of a mesh, a sheet with a grating.
    """
    if quick:
        resolution, texture_size, iterations = QUICK["resolution"], QUICK["texture_size"], QUICK["iterations"]
    if grating:
        truth = Truth(ideal_views.grating(grating, resolution, texture_size))
    else:
        truth = Truth(ideal_views.with_picture(ideal_views.read_mesh(mesh), texture_size, new_uvs))
    prior = (WordViews if by_word else ExactViews)(truth, resolution)
    made = ideal_views.make(prior, mode, texture_size=texture_size, iterations=iterations)
    tables: dict[str, list[Row]] = {}
    if mode == "generate":
        shown = Truth(made.mesh, placed=True)
        tables["Shape"] = [ideal_views.shape_likeness(truth.shape(), shown.shape())]
        pair = ideal_views.held_out(truth, resolution), ideal_views.held_out(shown, resolution)
        tables["Views"] = [{"texture": "result", **ideal_views.likeness(*pair)}]
    else:
        real = ideal_views.held_out(truth, resolution)
        pair = real, ideal_views.held_out(truth, resolution, made.mesh)
        tables["Views"] = [{"texture": "result", **ideal_views.likeness(*pair)}]
        for share in ideal_views.SHARES:
            small = ideal_views.held_out(truth, resolution, ideal_views.less_detailed(truth.mesh, share))
            tables["Views"].append({"texture": f"true at 1/{share}", **ideal_views.likeness(real, small)})
    if grating:
        tables["Grating"] = [{"contrast kept": ideal_views.contrast_kept(truth, made.mesh, resolution)}]
    costs = {f"{name}, ms": 1000 * value / max(1, made.iterations) for name, value in made.seconds.items()}
    parts = ("render forward, ms", "render backward, ms", "optimizer, ms")
    tables["Cost of an iteration"] = [{"iterations": made.iterations, **{name: costs.get(name, 0.0) for name in parts}}]
    title = f"{Path(mesh).name or 'sheet' if grating else Path(mesh).name or 'ball'}, {mode} at {resolution} pixels"
    write(output, f"{title}, texture of {texture_size}", tables)
    _save(output / "views.png", *pair)
    print((output / "table.md").read_text())


def _save(path: Path, real: ideal_views.Held, made: ideal_views.Held, views: tuple[int, ...] = (0, 2, 7)) -> None:
    rows = [torch.cat([each.pictures[i].flip(0) for i in views], dim=1) for each in (real, made)]
    Image.fromarray((255 * torch.cat(rows).clamp(0, 1)).round().byte().numpy()).save(path)
