# SPDX-License-Identifier: GPL-3.0-or-later
"""The Object File Format of Geomview, as an example of a format: positions and triangles in text, Z up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from server.geometry.files.common import MeshFileError, Warn
from server.geometry.files.features import FEATURES, warn_unsupported
from server.geometry.files.polygons import triangulate
from server.geometry.mesh import Mesh


def save(mesh: Mesh, path: Path, flat: bool, warn: Warn) -> list[Path]:
    """Positions and faces; all else has no place."""
    warn_unsupported(mesh, FEATURES, path, warn)
    lines = ["OFF", f"{len(mesh.positions)} {len(mesh.faces)} 0"]
    lines += [f"{x:.9g} {y:.9g} {z:.9g}" for x, y, z in mesh.positions.tolist()]
    lines += [f"3 {a} {b} {c}" for a, b, c in mesh.faces.tolist()]
    path.write_text("\n".join(lines) + "\n")
    return [path]


def load(path: Path, warn: Warn) -> Mesh:
    """Positions and polygons."""
    lines = [words for line in path.read_text().splitlines() if (words := line.partition("#")[0].split())]
    if not lines or lines.pop(0) != ["OFF"]:
        raise MeshFileError(f"{path.name} is no OFF file: export it again.")
    vertices, faces = (int(word) for word in lines.pop(0)[:2])
    positions = np.array(lines[:vertices], np.float32)
    polygons = [[int(word) for word in words] for words in lines[vertices : vertices + faces]]
    corners = np.array([corner for polygon in polygons for corner in polygon[1:]])
    triangles, _ = triangulate(positions[corners], np.array([polygon[0] for polygon in polygons]), path.name, warn)
    return Mesh(positions, corners[triangles].astype(np.int32))
