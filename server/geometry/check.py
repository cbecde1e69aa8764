# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an artist's mesh can be worked on, as it is."""

from __future__ import annotations

import numpy as np

from msd_blender.protocol import MAX_FACES, MAX_SLOTS

from .mesh import Mesh

SIZES = (1e-6, 1e6)  # metres across: what float32 and cameras can work with
PRECISION = 1e-3  # of the size: how coarse float32 may be where the mesh is


def check(mesh: Mesh) -> Mesh:
    """The same mesh, nothing of it changed, if it can be worked on.

    Fine as they are: non-manifold, open and crossing surfaces, several components, degenerate and double faces,
    double and unused vertices, and UVs that are missing, not finite, without an area or on top of each other:
    `uvs.missing_uvs` says which faces have none that can be used.

    Raises ValueError with one sentence that says what to do, where it cannot.
    """
    positions, faces = mesh.positions, mesh.faces
    _same_lengths(mesh)
    if not len(positions) or not len(faces):
        raise ValueError("The mesh has no faces: choose an object with a surface.")
    if len(faces) > MAX_FACES:
        raise ValueError(f"The mesh has {len(faces):,} triangles: decimate it to at most {MAX_FACES:,}.")
    if int(faces.min()) < 0 or int(faces.max()) >= len(positions):
        raise ValueError(
            f"The mesh has faces with corners that are not among its {len(positions):,} vertices: "
            "export it again, or run Mesh > Clean Up > Validate on it."
        )
    bad = int((~np.isfinite(positions)).any(axis=1).sum())
    if bad:
        raise ValueError(f"The mesh has {bad:,} vertices whose position is not a number: delete them.")
    used = positions[np.unique(faces)].astype(np.float64)
    size = float(np.ptp(used, axis=0).max())
    if not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"The mesh is {size:.3g} m across: scale it to between {SIZES[0]:g} and {SIZES[1]:g} m.")
    away = float(np.abs(used).max())
    if np.spacing(np.float32(away)) > PRECISION * size:
        raise ValueError(
            f"The mesh is {away:.3g} m from the origin, where its {size:.3g} m cannot be told apart: move it nearer."
        )
    a, b, c = (positions[faces[:, i]].astype(np.float64) for i in range(3))
    if not (np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-12 * size**2).any():
        raise ValueError("None of the mesh's faces has an area: choose an object with a surface.")
    if mesh.slots is not None and not (0 <= int(mesh.slots.min()) and int(mesh.slots.max()) < MAX_SLOTS):
        raise ValueError(f"The mesh has more than {MAX_SLOTS} textures: join materials or UV tiles.")
    if mesh.locked is not None and mesh.locked.all():
        raise ValueError("Every vertex of the mesh is locked: take some out of the locked group.")
    for name, array in mesh.textures.items():
        if not array.size:
            raise ValueError(f"The image {name} has no pixels: give it some or leave it out.")
        kind, _, slot = name.partition(".")
        texture = mesh.textures.get(f"texture.{slot}")
        if kind == "frozen" and texture is not None and array.shape[:2] != texture.shape[:2]:
            raise ValueError(f"The mask {name} is {_size(array)} and its texture {_size(texture)}: scale the mask.")
    return mesh


def _same_lengths(mesh: Mesh) -> None:
    vertices, faces = len(mesh.positions), len(mesh.faces)
    for name, array, count, of in (
        ("colours", mesh.colours, vertices, "vertices"),
        ("locks", mesh.locked, vertices, "vertices"),
        ("UVs", mesh.uvs, faces, "faces"),
        ("slots", mesh.slots, faces, "faces"),
    ):
        if array is not None and len(array) != count:
            raise ValueError(f"The mesh has {count:,} {of} but {name} for {len(array):,}: send one for each.")


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
