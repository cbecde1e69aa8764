# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an artist's mesh can be worked on as it is: the one place that says so."""

from __future__ import annotations

import numpy as np

from msd_blender.protocol import MAX_FACES, MAX_SLOTS

from .mesh import InvalidMeshError, Mesh, corners_exist
from .normals import area_normals

SIZE_RANGE = (1e-6, 1e6)  # metres across, within which float32 and the cameras are exact enough
MAX_SPACING = 1e-3  # largest distance between neighbouring float32 numbers at the mesh's place, of its size


def validate(mesh: Mesh) -> Mesh:
    """Return the mesh unchanged if it can be worked on.

    Accepted: surfaces that are not manifold, not watertight or cross themselves, several components, degenerate and
    duplicate faces, duplicate and unused vertices, and UVs that are missing, not finite, without an area or
    overlapping (`uvs.missing_uvs` finds the faces whose UVs cannot be used).

    Raises `InvalidMeshError` for arrays that do not belong together, for no faces or more than
    `protocol.MAX_FACES`, for corners outside of the vertices, positions that are not finite, a size outside of
    `SIZE_RANGE`, a place too far from the origin, no area at all, slots outside of `protocol.MAX_SLOTS`, all vertices
    locked, empty textures, and masks of another size than their texture.
    """
    positions, faces = mesh.positions, mesh.faces
    _same_lengths(mesh)
    if not len(positions) or not len(faces):
        raise InvalidMeshError("The mesh has no faces: choose an object with a surface.")
    if len(faces) > MAX_FACES:
        raise InvalidMeshError(f"The mesh has {len(faces):,} triangles: decimate it to at most {MAX_FACES:,}.")
    if not corners_exist(faces, len(positions)):
        raise InvalidMeshError(
            f"The mesh has faces with corners that are not among its {len(positions):,} vertices: "
            "export it again, or run Mesh > Clean Up > Validate on it."
        )
    bad = int((~np.isfinite(positions)).any(axis=1).sum())
    if bad:
        raise InvalidMeshError(f"The mesh has {bad:,} vertices whose position is not a number: delete them.")
    used = positions[np.unique(faces)].astype(np.float64)
    size = float(np.ptp(used, axis=0).max())
    if not SIZE_RANGE[0] <= size <= SIZE_RANGE[1]:
        raise InvalidMeshError(
            f"The mesh is {size:.3g} m across: scale it to between {SIZE_RANGE[0]:g} and {SIZE_RANGE[1]:g} m."
        )
    away = float(np.abs(used).max())
    if np.spacing(np.float32(away)) > MAX_SPACING * size:
        raise InvalidMeshError(
            f"The mesh is {away:.3g} m from the origin, where its {size:.3g} m cannot be told apart: move it nearer."
        )
    if not (np.linalg.norm(area_normals(positions, faces), axis=1) > 1e-12 * size**2).any():
        raise InvalidMeshError("None of the mesh's faces has an area: choose an object with a surface.")
    if mesh.slots is not None and not (0 <= int(mesh.slots.min()) and int(mesh.slots.max()) < MAX_SLOTS):
        raise InvalidMeshError(f"The mesh has more than {MAX_SLOTS} textures: join materials or UV tiles.")
    if mesh.locked is not None and mesh.locked.all():
        raise InvalidMeshError("Every vertex of the mesh is locked: take some out of the locked group.")
    for name, array in mesh.textures.items():
        if not array.size:
            raise InvalidMeshError(f"The image {name} has no pixels: give it some or leave it out.")
        kind, _, slot = name.partition(".")
        texture = mesh.textures.get(f"texture.{slot}")
        if kind == "frozen" and texture is not None and array.shape[:2] != texture.shape[:2]:
            raise InvalidMeshError(
                f"The mask {name} is {_size(array)} and its texture {_size(texture)}: scale the mask."
            )
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
            raise InvalidMeshError(f"The mesh has {count:,} {of} but {name} for {len(array):,}: send one for each.")


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
