# SPDX-License-Identifier: GPL-3.0-or-later
"""Synthetic snapshots."""

from __future__ import annotations

import numpy as np

from msd_blender.protocol import Snapshot


def box(half: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(8, 3) positions and (12, 3) outward triangles of a cube that stands on z = 0."""
    corners = np.array([(x, y, z) for z in (0, 2) for y in (-1, 1) for x in (-1, 1)], np.float32) * half
    quads = np.array([(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)], np.int32)
    return corners, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def grid(n: int, version: int = 1) -> Snapshot:
    """A flat sheet of 2 (n-1)² triangles."""
    y, x = np.mgrid[:n, :n].astype(np.float32) / (n - 1)
    index = np.arange(n * n, dtype=np.int32).reshape(n, n)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    positions = np.stack([x.ravel(), y.ravel(), np.zeros(n * n, np.float32)], 1)
    return Snapshot(
        version, version, {"positions": positions, "faces": faces, "colours": np.full((n * n, 3), 128, np.uint8)}
    )


def cube(version: int = 1, colour: tuple[int, int, int] = (200, 40, 30), half: float = 1.0) -> Snapshot:
    positions, faces = box(half)
    return Snapshot(
        version, version, {"positions": positions, "faces": faces, "colours": np.tile(np.uint8(colour), (8, 1))}
    )
