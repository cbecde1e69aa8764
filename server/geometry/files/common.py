# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by the formats: axes, normals by corner, merging and welding meshes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..colour import to_srgb_bytes
from ..mesh import Mesh, corners_exist
from ..normals import face_normals, vertex_normals

Warn = Callable[[str], None]  # takes one sentence about a thing that a reader or writer leaves out or guesses


class MeshFileError(ValueError):
    """A mesh file cannot be read or written. The message is one sentence that says what to do."""


def to_y_up(vectors: np.ndarray) -> np.ndarray:
    """(N, 3) from Z up to Y up, exactly."""
    return np.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], axis=1)


def to_z_up(vectors: np.ndarray) -> np.ndarray:
    """(N, 3) from Y up to Z up, exactly."""
    return np.stack([vectors[:, 0], -vectors[:, 2], vectors[:, 1]], axis=1)


def corner_normals(mesh: Mesh) -> np.ndarray:
    """(F, 3, 3) float32 unit normals by corner: the mesh's custom ones, or smooth ones where it has none."""
    if mesh.normals is None:
        return vertex_normals(mesh.positions, mesh.faces)[mesh.faces]
    flat = face_normals(mesh.positions, mesh.faces)[:, None]
    return np.where(np.isfinite(mesh.normals), mesh.normals, flat).astype(np.float32)


def transform_normals(normals: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals of a surface that `matrix`, (4, 4) or (V, 4, 4), transforms; NaN where there is none."""
    if matrix.ndim == 2 and np.array_equal(matrix[:3, :3], np.eye(3)):
        made = normals
    else:
        # Normals transform by the cofactor matrix, which also exists where the inverse transpose does not.
        a, b, c = np.moveaxis(np.broadcast_to(matrix[..., :3, :3], (len(normals), 3, 3)), 2, 0)
        made = normals[:, :1] * np.cross(b, c) + normals[:, 1:2] * np.cross(c, a) + normals[:, 2:] * np.cross(a, b)
        made *= np.sign((a * np.cross(b, c)).sum(axis=1, keepdims=True))
    length = np.linalg.norm(made, axis=1, keepdims=True)
    unit = np.where(np.abs(length - 1) < 1e-6, made, made / np.where(length > 0, length, np.nan))
    return np.where(np.isfinite(unit).all(axis=1, keepdims=True), unit, np.nan)


def split_vertices(faces: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split vertices where their corners' values, such as UVs, differ.

    Args:
        faces: (F, 3). values: (F, 3, C).
    Returns:
        (source vertex (N,), values (N, C), faces (F, 3)) in the order of the source vertices.
    """
    flat = values.reshape(3 * len(faces), -1)
    corner = np.concatenate([faces.reshape(-1, 1).astype(np.float64), flat], axis=1)
    _, first, inverse = np.unique(corner, axis=0, return_index=True, return_inverse=True)
    return faces.reshape(-1)[first], flat[first], inverse.reshape(-1, 3)


@dataclass
class Submesh:
    """One object of a file, placed in its scene."""

    positions: np.ndarray  # (V, 3)
    faces: np.ndarray  # (F, 3)
    uvs: np.ndarray | None  # (F, 3, 2)
    colours: np.ndarray | None  # (V, 3) linear, in [0, 1]
    slots: np.ndarray  # (F,)
    normals: np.ndarray | None = None  # (F, 3, 3)
    more_uvs: tuple[np.ndarray, ...] = ()  # each (F, 3, 2)


def merge(parts: list[Submesh]) -> Mesh:
    """One mesh of all parts. Where some have colours, UVs or normals, those of the others are white or NaN.

    Raises IndexError for a part with a corner outside of its vertices.
    """
    if not parts:
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    if not all(corners_exist(part.faces, len(part.positions)) for part in parts):
        raise IndexError("a face has a corner that is nowhere")
    starts = np.cumsum([0, *(len(part.positions) for part in parts)])

    def corners(values: list[np.ndarray | None], width: int) -> np.ndarray | None:
        if all(each is None for each in values):
            return None
        return np.concatenate(
            [
                np.full((len(part.faces), 3, width), np.nan) if each is None else each
                for part, each in zip(parts, values)
            ]
        ).astype(np.float32)

    more = [
        corners([part.more_uvs[i] if i < len(part.more_uvs) else None for part in parts], 2)
        for i in range(max(len(part.more_uvs) for part in parts))
    ]
    colours = None
    if any(part.colours is not None for part in parts):
        linear = [np.ones((len(part.positions), 3)) if part.colours is None else part.colours for part in parts]
        colours = to_srgb_bytes(np.concatenate(linear))
    slots = np.concatenate([part.slots for part in parts]).astype(np.int32)
    return Mesh(
        np.concatenate([part.positions for part in parts]).astype(np.float32),
        np.concatenate([part.faces + start for part, start in zip(parts, starts)]).astype(np.int32),
        colours,
        corners([part.uvs for part in parts], 2),
        slots if slots.any() else None,
        normals=corners([part.normals for part in parts], 3),
        more_uvs=tuple(each for each in more if each is not None),
    )


def weld(mesh: Mesh) -> Mesh:
    """The mesh with vertices of the same place and colour merged, in the order of their first one."""
    key = mesh.positions.astype(np.float64)
    if mesh.colours is not None:
        key = np.concatenate([key, mesh.colours], axis=1)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    kept = first[order]
    return replace(
        mesh,
        positions=mesh.positions[kept],
        faces=number[inverse.reshape(-1)][mesh.faces].astype(np.int32),
        colours=None if mesh.colours is None else mesh.colours[kept],
    )
