# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job keeps of a true object when its prior loses nothing: the ceiling of representation and optimizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image

from ..evaluation import ideal_views
from ..evaluation.ideal_views import ExactViews, Truth, WordViews
from ..geometry import files
from ..geometry.mesh import Mesh
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
    grating: float = 0.0,
) -> None:
    """Write the tables of one mesh, and pictures of the truth above and of the result below.

    Args:
        mesh: file; a ball without one. A picture that it has stays, else it gets `detailed_picture`.
        mode: "texture" or "generate".
        resolution: of the prior, pixels.
        by_word: the prior knows pictures by the word of their view, and not the exact one.
        grating: period in pixels; in place of a mesh, a sheet with a grating.
    """
    if quick:
        resolution, texture_size, iterations = QUICK["resolution"], QUICK["texture_size"], QUICK["iterations"]
    if grating:
        truth = Truth(ideal_views.grating(grating, resolution, texture_size))
    else:
        truth = Truth(ideal_views.with_picture(_mesh(mesh), texture_size))
    prior = (WordViews if by_word else ExactViews)(truth, resolution)
    made = ideal_views.make(prior, mode, texture_size=texture_size, iterations=iterations)
    tables: dict[str, list[Row]] = {}
    if mode == "generate":
        meshes = [trimesh.Trimesh(each, faces, process=False) for each, faces in _shapes(truth, made.mesh)]
        tables["Shape"] = [ideal_views.shape_likeness(*meshes)]
        shown = Truth(replace(made.mesh, ground_offset=np.zeros(3, np.float32)), placed=True)
        pair = ideal_views.held_out(truth, resolution), ideal_views.held_out(shown, resolution)
        tables["Views"] = [{"texture": "result", **ideal_views.likeness(*pair)}]
    else:
        real = ideal_views.held_out(truth, resolution)
        pair = real, ideal_views.held_out(truth, resolution, made.mesh)
        tables["Views"] = [{"texture": "result", **ideal_views.likeness(*pair)}]
        for share in ideal_views.SHARES:
            small = ideal_views.held_out(truth, resolution, _blurred(truth.mesh, share))
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


def _mesh(path: str) -> Mesh:
    if path:
        return files.load(Path(path))
    ball = trimesh.creation.icosphere(3)
    return Mesh(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32))


def _blurred(mesh: Mesh, share: int) -> Mesh:
    return replace(mesh, textures={name: ideal_views.blurred(each, share) for name, each in mesh.textures.items()})


def _shapes(truth: Truth, made: Mesh) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(truth.positions.cpu().numpy(), truth.mesh.faces), (made.positions, made.faces)]


def _save(path: Path, real: ideal_views.Held, made: ideal_views.Held, views: tuple[int, ...] = (0, 2, 7)) -> None:
    rows = [torch.cat([each.pictures[i].flip(0) for i in views], dim=1) for each in (real, made)]
    Image.fromarray((255 * torch.cat(rows).clamp(0, 1)).round().byte().numpy()).save(path)
