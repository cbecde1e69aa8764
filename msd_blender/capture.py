# SPDX-License-Identifier: GPL-3.0-or-later
"""A Blender mesh -> protocol arrays. Main thread only.

What is sent is the *base* mesh, before its modifiers, because that is what can be written back; its object's
rotation and scale are applied, its place is not. N-gons go as Blender's own triangles, and come back as n-gons.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .materials import COLOUR, FIRST_TILE, KINDS, image_of, pixels_of
from .protocol import MAX_SLOTS, SLOT_ARRAYS, ProtocolError, check_mesh

BORDER = 1e-4                               # how far a UV may lie outside of its tile


class Unfit(ValueError):
    """Why a mesh cannot be sent, in one sentence that says what to do."""


@dataclass
class Source:
    """What is sent of an object, and what is needed to bring the answer back.

    arrays: of `protocol.UPLOADED`; slots: what each slot's number means, (index of the material, UDIM tile);
    linear: (3, 3) from the mesh's coordinates to the wire's. loops, polygons: of each triangle; corners: the vertex
    of each loop.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    slots: list[tuple[int, int]] = field(default_factory=list)
    linear: np.ndarray = field(default_factory=lambda: np.eye(3))
    loops: Any = None
    polygons: Any = None
    corners: Any = None

    @property
    def mirrored(self) -> bool:
        """Whether the object's scale turns faces inside out: on the wire they wind the other way round."""
        return bool(np.linalg.det(self.linear) < 0)


def why_not(context: Any) -> str:
    """Why the active object cannot be sent, "" where it can; cheap enough for a panel's `poll`."""
    selected = [item for item in context.selected_objects if item.type == "MESH"]
    object = context.active_object
    if object is None or object.type != "MESH":
        return "Select a mesh object first"
    if len(selected) > 1:
        return f"{len(selected)} meshes are selected: select one, or join them"
    if object.mode == "EDIT":
        return "Leave Edit Mode first"
    if not object.data.polygons:
        return "The mesh has no faces"
    return ""


def capture(object: Any, mode: str = "", lock: str = "", frozen: dict[str, np.ndarray] | None = None,
            base: Source | None = None) -> Source:
    """The base mesh of an object as arrays.

    mode: for "texture" it must have a UV map, for "refine" no shape keys. lock: name of the vertex group whose
    members, of a weight above one half, must not move. frozen: arrays "frozen.N" to send along. base: what was
    sent before, whose coordinates and, where the faces are still the same, triangles are kept. Raises `Unfit`.
    """
    mesh, name = object.data, object.name
    if mesh.is_editmode:
        raise Unfit(f"{name!r} is in Edit Mode: leave it first.")
    if not mesh.polygons:
        raise Unfit(f"{name!r} has no faces: choose a mesh that has a surface.")
    if mode == "texture" and not mesh.uv_layers.active:
        raise Unfit(f"{name!r} has no UV map: unwrap it first, for example with UV > Smart UV Project.")
    if mode == "refine" and mesh.shape_keys:
        raise Unfit(f"{name!r} has shape keys, which say where its vertices are: apply or remove them first.")
    linear = np.array(object.matrix_world.to_3x3()) if base is None else base.linear
    if abs(np.linalg.det(linear)) < 1e-9:
        raise Unfit(f"{name!r} is scaled to nothing: give it a scale other than 0.")
    corners = _numbers(mesh.loops, "vertex_index", 1)
    source = Source(slots=[(0, FIRST_TILE)], linear=linear, corners=corners)
    if base is not None and base.corners is not None and np.array_equal(corners, base.corners):
        source.loops, source.polygons = base.loops, base.polygons
    else:
        mesh.calc_loop_triangles()
        source.loops = _numbers(mesh.loop_triangles, "loops", 3)
        source.polygons = _numbers(mesh.loop_triangles, "polygon_index", 1)
    loops = source.loops[:, ::-1] if source.mirrored else source.loops
    source.arrays["positions"] = np.ascontiguousarray(positions(mesh) @ linear.T, np.float32)
    source.arrays["faces"] = np.ascontiguousarray(corners[loops])
    colour = mesh.color_attributes.get(COLOUR)
    if colour is not None and colour.domain == "POINT":
        source.arrays["colours"] = colours(colour)
    if mesh.uv_layers.active:
        _textures(object, source, loops, _numbers(mesh.polygons, "material_index", 1)[source.polygons], mode)
    source.arrays.update({name: array for name, array in (frozen or {}).items()
                          if name.replace("frozen", "texture") in source.arrays})
    if lock:
        source.arrays["locked"] = locked(object, lock)
    try:
        check_mesh(source.arrays)
    except ProtocolError as error:
        raise Unfit(f"{name!r} cannot be sent: {error}") from None
    return source


def positions(mesh: Any) -> np.ndarray:
    """(V, 3) in the mesh's own coordinates."""
    values = np.empty(3 * len(mesh.vertices), np.float32)
    if len(values):
        mesh.attributes["position"].data.foreach_get("vector", values)
    return values.reshape(-1, 3)


def colours(attribute: Any) -> np.ndarray:
    """(V, 3) uint8 sRGB."""
    values = np.empty(4 * len(attribute.data), np.float32)
    attribute.data.foreach_get("color_srgb", values)
    return np.ascontiguousarray(np.rint(values.reshape(-1, 4)[:, :3].clip(0, 1) * 255), np.uint8)


def locked(object: Any, name: str) -> np.ndarray:
    """(V,) uint8: 1 for the members of a vertex group with a weight above one half. Raises `Unfit`."""
    group = object.vertex_groups.get(name)
    if group is None:
        raise Unfit(f"{object.name!r} has no vertex group {name!r}: choose another as the lock.")
    index = group.index
    return np.fromiter((any(item.group == index and item.weight > 0.5 for item in vertex.groups)
                        for vertex in object.data.vertices), np.uint8, len(object.data.vertices))


def _numbers(collection: Any, attribute: str, width: int) -> np.ndarray:
    values = np.empty(width * len(collection), np.int32)
    collection.foreach_get(attribute, values)
    return values.reshape(-1, width) if width > 1 else values


def _textures(object: Any, source: Source, loops: np.ndarray, materials: np.ndarray, mode: str) -> None:
    """Add UVs within their tiles, slots, and the textures that there are."""
    layer = object.data.uv_layers.active
    flat = np.empty(2 * len(layer.uv), np.float32)
    layer.uv.foreach_get("vector", flat)
    uvs = flat.reshape(-1, 2)[loops]
    if not np.isfinite(uvs).all():
        raise Unfit(f"{object.name!r} has UVs that are no finite numbers: unwrap it again.")
    tile = np.floor(uvs.mean(1)).astype(np.int32)       # (F, 2): the whole part of the triangle's middle
    uvs = uvs - tile[:, None]
    if mode == "texture" and (uvs.min() < -BORDER or uvs.max() > 1 + BORDER):
        raise Unfit(f"{object.name!r} has faces whose UVs cross the border of a tile: pack its islands first, "
                    "with UV > Pack Islands.")
    source.arrays["uvs"] = np.ascontiguousarray(uvs.clip(0, 1), np.float32)
    count = max(1, len(object.material_slots))
    materials = materials.clip(0, count - 1)
    tiled = np.array([_is_tiled(material) for material in _materials(object)])[materials]
    # Where the image is not made of tiles it repeats: every tile is the first.
    inside = (tile >= 0).all(1) & (tile[:, 0] < 10) & tiled
    numbers = np.where(inside, FIRST_TILE + tile[:, 0] + 10 * tile[:, 1], FIRST_TILE)
    pairs, slots = np.unique(np.stack([materials, numbers], 1), axis=0, return_inverse=True)
    if len(pairs) > MAX_SLOTS:
        raise Unfit(f"{object.name!r} has {len(pairs)} textures: use at most {MAX_SLOTS} materials and UV tiles.")
    source.slots = [(int(material), int(number)) for material, number in pairs]
    source.arrays["slots"] = np.ascontiguousarray(slots.reshape(-1), np.int32)
    for slot, (index, number) in enumerate(source.slots):
        material = _materials(object)[index]
        for kind in KINDS:
            pixels = pixels_of(image_of(material, kind), number) if material else None
            if pixels is not None:
                depth = len(SLOT_ARRAYS[kind][1])
                source.arrays[f"{kind}.{slot}"] = np.ascontiguousarray(pixels[..., :3] if depth == 2 else
                                                                       pixels[..., 0])


def _materials(object: Any) -> list[Any]:
    """The material of each slot, None for none; one None where there are no slots."""
    return [slot.material for slot in object.material_slots] or [None]


def _is_tiled(material: Any) -> bool:
    image = image_of(material, "texture") if material else None
    return image.source == "TILED" if image else False
