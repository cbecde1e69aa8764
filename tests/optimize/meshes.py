# SPDX-License-Identifier: GPL-3.0-or-later
"""Typical input meshes, and a measure of a texture's seams."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from server.geometry.files import load
from server.geometry.mesh import Mesh

ROOT = Path(__file__).parents[2]
SUZANNE = ROOT / "scripts" / "suzanne.py"
SAMPLES = ROOT / "out" / "meshes" / "webxr-input-profiles-assets-1-0-20" / "package" / "dist" / "profiles"


def suzanne(folder) -> Mesh:
    """Blender's monkey with Blender's UVs and smooth vertex colours."""
    if importlib.util.find_spec("bpy") is None:
        pytest.skip("there is no bpy for this Python")
    path = folder / "suzanne.npz"
    subprocess.run(
        [sys.executable, SUZANNE, path],
        check=True,
        capture_output=True,
        timeout=120,
        env={**os.environ, "BLENDER_USER_RESOURCES": str(folder / "blender")},
    )
    mesh = Mesh.from_arrays(dict(np.load(path)))
    return Mesh(mesh.positions, mesh.faces, rainbow(mesh.positions), mesh.uvs)


def sample(name: str) -> Mesh:
    """A controller or hand of the npm package @webxr-input-profiles/assets, which `make meshes` unpacks.

    Scaled to about Suzanne's size, with smooth vertex colours.
    """
    path = SAMPLES / name / "left.glb"
    if not path.exists():
        pytest.skip("the meshes are in a package of 94 MB: make meshes")
    mesh = load(path)
    positions = mesh.positions * np.float32(2.7 / np.ptp(mesh.positions, axis=0).max())
    return Mesh(positions, mesh.faces, rainbow(positions), mesh.uvs)


def rainbow(positions: np.ndarray) -> np.ndarray:
    """(V, 3) uint8 colours that change smoothly with the position."""
    return np.round(127.5 + 100 * np.sin(2 * positions + np.arange(3))).astype(np.uint8)


def seam_and_interior(mesh: Mesh, name: str = "texture.0") -> tuple[float, float]:
    """Mean colour jump (0 to 255) between half a texel on either side of an edge: at UV seams, and at other edges."""
    _, index = np.unique(mesh.positions, axis=0, return_inverse=True)
    faces, picture = index.reshape(-1)[mesh.faces], mesh.textures[name].astype(float)
    sides: dict[tuple[int, int], list[np.ndarray]] = {}
    along = np.linspace(0.1, 0.9, 9)[:, None]
    for face, uv in zip(faces, mesh.uvs):
        for k in range(3):
            (i, j), (a, b, c) = (face[k], face[(k + 1) % 3]), (uv[k], uv[(k + 1) % 3], uv[(k + 2) % 3])
            if i > j:
                i, j, a, b = j, i, b, a
            place = a + along * (b - a)
            length = np.linalg.norm((c - place) * len(picture), axis=1, keepdims=True)
            inward = (c - place) * np.minimum(0.5 / np.maximum(length, 1e-9), 0.3)
            sides.setdefault((i, j), []).append(np.stack([place, place + inward]))
    jumps: dict[bool, list[float]] = {True: [], False: []}
    for pair in sides.values():
        if len(pair) == 2:
            one, other = pair
            cut = bool(np.abs(one[0] - other[0]).max() > 1e-6)
            jumps[cut].append(float(np.abs(bilinear(picture, one[1]) - bilinear(picture, other[1])).mean()))
    return float(np.mean(jumps[True])), float(np.mean(jumps[False]))


def bilinear(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Sample an (H, W, C) picture, bottom row first, at uv (N, 2): (N, C)."""
    size = np.array([picture.shape[1], picture.shape[0]])
    place = np.clip(uv * size - 0.5, 0, size - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, size - 1)
    x, y = (place - low).T[..., None]
    return (1 - y) * ((1 - x) * picture[low[:, 1], low[:, 0]] + x * picture[low[:, 1], high[:, 0]]) + y * (
        (1 - x) * picture[high[:, 1], low[:, 0]] + x * picture[high[:, 1], high[:, 0]]
    )
