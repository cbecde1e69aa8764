# SPDX-License-Identifier: GPL-3.0-or-later
"""What the formats share: pictures, the turn to Y up, corners as vertices."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ..mesh import Mesh, linear_to_srgb

Say = Callable[[str], None]                 # takes a note about what a reader left out or guessed: one sentence
ROUGHNESS = 0.8                             # of a material without a map; its metallic is 0


def y_up(vectors: np.ndarray) -> np.ndarray:
    """(N, 3) from Z up to Y up, exactly."""
    return np.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], axis=1)


def z_up(vectors: np.ndarray) -> np.ndarray:
    """(N, 3) from Y up to Z up, exactly."""
    return np.stack([vectors[:, 0], -vectors[:, 2], vectors[:, 1]], axis=1)


def vertex_normals(mesh: Mesh) -> np.ndarray:
    """(V, 3) float32 unit normals, weighted by area; up where a vertex has no face."""
    normals = np.zeros((len(mesh.positions), 3))
    for i in range(3):
        np.add.at(normals, mesh.faces[:, i], _crosses(mesh))
    return _unit(normals)


def face_normals(mesh: Mesh) -> np.ndarray:
    """(F, 3) float32 unit normals; up where a face has no area."""
    return _unit(_crosses(mesh))


def _crosses(mesh: Mesh) -> np.ndarray:
    a, b, c = (mesh.positions[mesh.faces[:, i]].astype(np.float64) for i in range(3))
    return np.cross(b - a, c - a)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > 0, vectors / np.where(length > 0, length, 1), (0, 0, 1)).astype(np.float32)


def split_corners(faces: np.ndarray, uvs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A vertex for each (vertex, UV): (source vertex (N,), UVs (N, 2), faces (F, 3)), in the vertices' order."""
    corner = np.concatenate([faces.reshape(-1, 1).astype(np.float64), uvs.reshape(-1, 2)], axis=1)
    _, first, inverse = np.unique(corner, axis=0, return_index=True, return_inverse=True)
    return faces.reshape(-1)[first], uvs.reshape(-1, 2)[first], inverse.reshape(-1, 3)


@dataclass
class Part:
    """One object of a file, placed in its scene."""

    positions: np.ndarray                   # (V, 3)
    faces: np.ndarray                       # (F, 3)
    uvs: np.ndarray | None                  # (F, 3, 2)
    colours: np.ndarray | None              # (V, 3) linear, in [0, 1]
    slots: np.ndarray                       # (F,)


def join(parts: list[Part]) -> Mesh:
    """One mesh of all parts: white where others have colours, UVs that are not numbers where others have some."""
    if not parts:
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    for part in parts:
        if len(part.faces) and not 0 <= part.faces.min() <= part.faces.max() < len(part.positions):
            raise IndexError("a face has a corner that is nowhere")
    starts = np.cumsum([0, *(len(part.positions) for part in parts)])
    uvs = colours = None
    if any(part.uvs is not None for part in parts):
        uvs = np.concatenate([np.full((len(part.faces), 3, 2), np.nan) if part.uvs is None else part.uvs
                              for part in parts]).astype(np.float32)
    if any(part.colours is not None for part in parts):
        linear = np.concatenate([np.ones((len(part.positions), 3)) if part.colours is None else part.colours
                                 for part in parts])
        colours = np.round(255 * linear_to_srgb(linear.clip(0, 1))).astype(np.uint8)
    slots = np.concatenate([part.slots for part in parts]).astype(np.int32)
    return Mesh(np.concatenate([part.positions for part in parts]).astype(np.float32),
                np.concatenate([part.faces + start for part, start in zip(parts, starts)]).astype(np.int32),
                colours, uvs, slots if slots.any() else None)


def weld(mesh: Mesh) -> Mesh:
    """The mesh with vertices of one place and colour made one, in the order in which they first come."""
    key = mesh.positions.astype(np.float64)
    if mesh.colours is not None:
        key = np.concatenate([key, mesh.colours], axis=1)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    kept = first[order]
    return replace(mesh, positions=mesh.positions[kept], faces=number[inverse.reshape(-1)][mesh.faces].astype(np.int32),
                   colours=None if mesh.colours is None else mesh.colours[kept])


def fans(counts: np.ndarray) -> np.ndarray:
    """(T, 3) corners of the triangles of polygons with `counts` corners each, the corners numbered through."""
    first = np.cumsum(counts) - counts
    triangles = np.maximum(counts - 2, 0)
    base = np.repeat(first, triangles)
    step = np.arange(triangles.sum()) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    return np.stack([base, base + step + 1, base + step + 2], axis=1)


def png(picture: np.ndarray) -> bytes:
    """A (H, W) or (H, W, 3) uint8 picture, bottom row first, as a PNG file."""
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture[::-1])).save(data, "PNG")
    return data.getvalue()


def picture(file: BinaryIO | Path, mode: str) -> np.ndarray:
    """A file's pixels, bottom row first: mode "L" (H, W), "RGB" (H, W, 3) uint8. Raises ValueError."""
    try:
        with Image.open(file) as image:
            return np.ascontiguousarray(np.asarray(image.convert(mode))[::-1])
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"A picture of the mesh cannot be read ({error}): save it again as PNG.") from None


def beside(path: Path, name: str) -> Path:
    """The file of this name in the folder of `path`. Raises ValueError for any other place, links included."""
    folder = path.parent.resolve()
    name = name.strip().replace("\\", "/")
    found = (folder / name).resolve() if name and "\0" not in name else folder
    if folder not in found.parents:
        raise ValueError(f"{path.name} names the file {name!r}, which is not in its folder: put it beside the mesh.")
    if not found.is_file():
        raise ValueError(f"{path.name} names the file {name!r}, which is not there: put it beside the mesh.")
    return found
