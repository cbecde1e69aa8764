# SPDX-License-Identifier: GPL-3.0-or-later
"""Normals of triangle meshes as arrays; `server.rendering.normals` has them as differentiable tensors."""

from __future__ import annotations

import numpy as np

UP = (0, 0, 1)  # where there is no normal


def area_normals(positions: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) float64 normals, as long as twice the area of their face. positions (V, 3), faces (F, 3)."""
    a, b, c = (positions[faces[:, i]].astype(np.float64) for i in range(3))
    return np.cross(b - a, c - a)


def face_normals(positions: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) float32 unit normals; up where a face has no area."""
    return _unit(area_normals(positions, faces))


def vertex_normals(positions: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) float32 unit normals, each the area-weighted mean of its faces'; up where a vertex has no face."""
    weighted, total = area_normals(positions, faces), np.zeros((len(positions), 3))
    for i in range(3):
        np.add.at(total, faces[:, i], weighted)
    return _unit(total)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > 0, vectors / np.where(length > 0, length, 1), UP).astype(np.float32)
