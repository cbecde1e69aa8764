# SPDX-License-Identifier: GPL-3.0-or-later
"""Features of a mesh that a file format may have no place for."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from ..mesh import Mesh
from .common import Warn, corner_normals
from .simple_materials import EMISSIVE_STRENGTH, slot_material

_REPEAT = 10497  # glTF's wrap mode


def _features(mesh: Mesh) -> dict[str, bool]:
    """Whether the mesh has each feature beyond positions, faces and vertex colours, by its name in the warning."""
    used = np.unique(mesh.face_slots).tolist()
    slot_materials = {slot: slot_material(mesh, slot) for slot in used}
    own = {slot: mesh.materials[slot] for slot in used if slot in mesh.materials}
    names = [material.name for material in own.values()]
    gltfs = [material.gltf for material in own.values()]
    samplers = [sampler for material in own.values() for _, sampler in material.textures]
    tints = mesh.colours is not None and any(
        (mesh.colours[mesh.faces[mesh.face_slots == slot]] < 255).any()
        for slot in used
        if {"texture", "alpha"} & slot_materials[slot][1].keys()
    )
    sides = {found.double_sided for found, _ in slot_materials.values()}
    return {
        "several materials": len(used) > 1,
        "UV maps": mesh.uvs is not None,
        "further UV maps": bool(mesh.more_uvs),
        "hard edges": has_hard_edges(mesh),
        "pictures": any(pictures for _, pictures in slot_materials.values()),
        "pictures on further UV maps": any(_uses_further_uv_map(gltf) for gltf in gltfs),
        "the clamping or mirroring of pictures": any(
            sampler.get(wrap, _REPEAT) != _REPEAT for sampler in samplers for wrap in ("wrapS", "wrapT")
        ),
        "vertex colours over pictures": tints,
        "names of materials": any(names),
        "roughness and metallic": bool(own),
        "transparency": any(found.alpha < 1 or "alpha" in pictures for found, pictures in slot_materials.values()),
        "where alpha is cut off": any(found.cutoff > 0 for found, _ in slot_materials.values()),
        "emission": any(any(found.emission) or "emission" in pictures for found, pictures in slot_materials.values()),
        "occlusion": any("occlusion" in pictures for _, pictures in slot_materials.values()),
        "which sides are shown": False in sides,
        "different sides of different materials": len(sides) > 1,
        "extensions of materials": any(set(gltf.get("extensions", {})) - {EMISSIVE_STRENGTH} for gltf in gltfs),
        "extras": any("extras" in gltf for gltf in gltfs),
    }


def _uses_further_uv_map(gltf: object) -> bool:
    """Whether a glTF material has a texture on another than the first UV map."""
    if not isinstance(gltf, dict):
        return False
    return bool(gltf.get("texCoord")) or any(
        _uses_further_uv_map(value) for key, value in gltf.items() if key != "extras"
    )


def has_hard_edges(mesh: Mesh) -> bool:
    """Whether corners that share a vertex have different normals."""
    if mesh.normals is None:
        return False
    normals, first = corner_normals(mesh).reshape(-1, 3), np.zeros((len(mesh.positions), 3), np.float32)
    first[mesh.faces.reshape(-1)] = normals
    return bool((np.abs(first[mesh.faces.reshape(-1)] - normals) > 1e-5).any())


# The names of all features.
FEATURES = tuple(_features(Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))))


def warn_unsupported(mesh: Mesh, lost: Collection[str], path: Path, warn: Warn) -> None:
    """Warn in one sentence of all features in `lost` that the mesh has. lost: of `FEATURES`."""
    if found := [name for name, present in _features(mesh).items() if present and name in lost]:
        warn(f"{path.name} has no place for {', '.join(found)}, which it is written without: GLB keeps them.")
