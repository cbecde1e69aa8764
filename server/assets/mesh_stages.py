# SPDX-License-Identifier: GPL-3.0-or-later
"""The stages that turn a mesh into one that can be optimized: clean-up, remeshing, unwrapping, and their warnings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..geometry import remeshing
from ..geometry.colour import srgb_to_linear, tint
from ..geometry.isosurface import extract_mesh, join_parts
from ..geometry.material import Material
from ..geometry.mesh import Mesh
from ..geometry.normals import vertex_normals
from ..geometry.uvs import missing_uvs, move_to_unit_tile, outside_unit_tile, unwrap
from .atlas import rebake
from .base import BuildContext

MAX_BLOCKED = 0.02  # of the free surface: more is worth a warning


def clean_up(grid: Tensor, context: BuildContext) -> Mesh:
    """The surface of a (1, 4, n, n, n) grid of logits, with a topology that is good to work on."""
    with context.stage("clean-up"):
        return remeshing.remesh(extract_mesh(join_parts(grid)), context.target_faces).on_ground()


def remesh(mesh: Mesh, context: BuildContext) -> Mesh:
    """The mesh with new triangles, about as many as it had if no count is given; a texture becomes vertex colours."""
    if mesh.textures:
        context.warn("Remesh makes new faces without UVs: the texture becomes vertex colours, where it is locked too.")
    gone = (["materials"] if mesh.materials else []) + (["hard edges"] if _has_hard_edges(mesh) else [])
    if gone:
        context.warn(f"Remesh makes new faces: the {' and the '.join(gone)} of the old ones are left out.")
    target = context.target_faces or max(100, len(mesh.faces))
    return remeshing.remesh(replace(mesh, colours=_base_colours(mesh)), target)


def _has_hard_edges(mesh: Mesh) -> bool:
    """Whether a corner's normal is more than 20 degrees away from its vertex's."""
    if mesh.normals is None:
        return False
    smooth = vertex_normals(mesh.positions, mesh.faces)[mesh.faces]
    return bool(((mesh.normals * smooth).sum(axis=2) < np.cos(np.radians(20))).any())


def prepare(mesh: Mesh, context: BuildContext, needs_uvs: bool) -> Mesh:
    """The mesh with UVs where it needs them and has none; warns of faces and pictures that cannot be painted."""
    if needs_uvs:
        mesh = _with_uvs(mesh, context)
    replaced = [
        f"{kind} of {material.name!r}"
        for material in mesh.materials.values()
        for kind in context.options.maps
        if material.uses_other_uv_map(kind)
    ]
    if replaced:
        context.warn(
            f"These pictures lie on another UV map, and the painted ones take their place: {', '.join(replaced)}."
        )
    return mesh


def _with_uvs(mesh: Mesh, context: BuildContext) -> Mesh:
    missing, size = missing_uvs(mesh.uvs, len(mesh.faces)), context.options.texture_size
    if missing.all():
        with context.stage("unwrap") as report:
            _, split, uvs = unwrap(mesh.positions, mesh.faces, size, report=report)
            if mesh.uvs is not None and mesh.textures:
                context.warn(
                    "The mesh's UVs have no area, so that each face shows one texel: it gets new ones, "
                    "with the colours that it has; pictures of other kinds are left out."
                )
                mesh = rebake(replace(mesh, materials=_without_pictures(mesh)), uvs[split], size)
            return replace(mesh, uvs=uvs[split])
    if missing.any():
        context.warn(
            f"{missing.sum():,} of {len(missing):,} faces have UVs without an area, so that each shows "
            "one texel: unwrap them to paint them."
        )
    return mesh


def warn_of_texels(mesh: Mesh, blocked: float, context: BuildContext) -> None:
    """Warn of texels that several faces share, where that hinders painting.

    blocked: see `Appearance.blocked`.
    """
    if mesh.uvs is not None and (over := int(outside_unit_tile(move_to_unit_tile(mesh.uvs)).sum())):
        context.warn(
            f"{over:,} of {len(mesh.faces):,} faces have UVs that reach over their picture's edge, "
            "where it repeats: give them UVs inside of it to paint them well."
        )
    if blocked > MAX_BLOCKED:
        context.warn(
            f"Locked and free faces share texels ({blocked:.0%} of the free surface), which stay as they are: give the "
            "free faces UVs of their own to paint them."
        )


def protection_masks(mesh: Mesh) -> dict[str, NDArray[np.generic]]:
    """The textures of a mesh that mark texels an artist has painted, which must not change."""
    return {name: mask for name, mask in mesh.textures.items() if name.startswith("frozen.")}


def with_file_attributes(mesh: Mesh, given: Mesh | None) -> Mesh:
    """A checkpoint's mesh with the parts of the uploaded one that no checkpoint holds: normals, UV maps, materials."""
    if given is None or not np.array_equal(mesh.faces, given.faces):
        return mesh
    same = mesh.uvs is None or given.uvs is None or np.array_equal(mesh.uvs, given.uvs, equal_nan=True)
    materials = given.materials if same else _without_pictures(given)
    return replace(mesh, normals=given.normals, more_uvs=given.more_uvs, materials=materials)


def _without_pictures(mesh: Mesh) -> dict[int, Material]:
    return {slot: material.without_textures() for slot, material in mesh.materials.items()}


def _base_colours(mesh: Mesh) -> NDArray[np.generic] | None:
    """(V, 3) uint8: the base colour at the vertices; None where the mesh has no colour at all."""
    slots = [] if mesh.uvs is None else np.unique(mesh.face_slots).tolist()
    pictures = {slot: mesh.textures[f"texture.{slot}"] for slot in slots if f"texture.{slot}" in mesh.textures}
    if not pictures and all(material.colour is None for material in mesh.materials.values()):
        return mesh.colours
    colours = mesh.shown_colours.copy()
    for slot, picture in pictures.items():
        assert mesh.uvs is not None
        faces = np.flatnonzero(mesh.face_slots == slot)
        size = np.array([picture.shape[1], picture.shape[0]])
        column, row = np.clip((mesh.uvs[faces] * size).astype(int), 0, size - 1).reshape(-1, 2).T
        corner, seen = mesh.faces[faces].reshape(-1), picture[row, column]
        if slot in mesh.materials and mesh.colours is not None:
            seen = tint(seen, srgb_to_linear(mesh.colours[corner] / 255))
        colours[corner] = seen
    return colours
