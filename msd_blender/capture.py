# SPDX-License-Identifier: GPL-3.0-or-later
"""A Blender mesh -> protocol arrays. Main thread only.

What is sent is the *base* mesh, before its modifiers, because that is what can be written back; its object's
rotation and scale are applied, its place is not. N-gons go as Blender's own triangles, and come back as n-gons.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import bpy
import numpy as np

from . import nodes
from .materials import COLOUR, FIRST_TILE, is_linked, pixels_of, srgb
from .nodes import KINDS, Unfit
from .protocol import MAX_SLOTS, SLOT_ARRAYS, ProtocolError, check_mesh

BORDER = 1e-4  # how far a UV may lie outside of its tile
SIZE = 1024  # the server's own choice for a texture
FLAT = 1e-6  # of an object's scale: the smallest beside the largest
_LUMINANCE = (0.2126, 0.7152, 0.0722)  # as a shader makes a number of a colour


@dataclass
class Source:
    """What is sent of an object, and what is needed to bring the answer back.

    arrays: of `protocol.UPLOADED`; slots: what each slot's number means, (index of the material, UDIM tile), where a
    material that several indices have counts with its first; uv_maps: of each such index, the UV map that it shows;
    alphas: of each slot whose image is not opaque, (H, W) uint8; notes: sentences on what is left out or changed;
    linear: (3, 3) from the mesh's coordinates to the wire's; local: (V, 3) in the mesh's own. loops, polygons: of
    each triangle; corners: the vertex of each loop.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    slots: list[tuple[int, int]] = field(default_factory=list)
    uv_maps: dict[int, str] = field(default_factory=dict)
    alphas: dict[int, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    linear: np.ndarray = field(default_factory=lambda: np.eye(3))
    local: Any = None
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
    return _why_linked(object).rstrip(".")


def _why_linked(object: Any) -> str:
    """Why the object or its mesh cannot be written, "" where they can."""
    for each in (object, object.data):
        if each.library:
            return (
                f"{object.name!r} is linked from {each.library.name}: make it local first, with Object > Relations "
                "> Make Local > Selected Objects and Data."
            )
        if each.override_library:
            return (
                f"{object.name!r} is a library override: make it local first, with Library Override > Make Local "
                "in the outliner."
            )
    return ""


def capture(
    object: Any,
    mode: str = "",
    lock: str = "",
    kinds: Collection[str] = ("texture",),
    base: Source | None = None,
    size: int | None = None,
) -> Source:
    """The base mesh of an object as arrays.

    mode: for "texture" it must have a UV map, for "refine" no shape keys. lock: name of the vertex group whose
    members, of a weight above one half, must not move. kinds: of `nodes.KINDS`, those that are to be painted. base:
    what was sent before, whose coordinates and, where the faces are still the same, triangles are kept. size: edge of
    a texture where there is none, in pixels. Raises `Unfit`.
    """
    mesh, name = object.data, object.name
    if problem := _why_linked(object):
        raise Unfit(problem)
    if mesh.is_editmode:
        raise Unfit(f"{name!r} is in Edit Mode: leave it first.")
    if not mesh.polygons:
        raise Unfit(f"{name!r} has no faces: choose a mesh that has a surface.")
    if mode == "texture" and not mesh.uv_layers:
        raise Unfit(f"{name!r} has no UV map: unwrap it first, for example with UV > Smart UV Project.")
    if mode == "refine" and mesh.shape_keys:
        raise Unfit(f"{name!r} has shape keys, which say where its vertices are: apply or remove them first.")
    linear = np.array(object.matrix_world.to_3x3()) if base is None else base.linear
    scales = np.linalg.svd(linear, compute_uv=False) if np.isfinite(linear).all() else np.zeros(3)
    if scales[-1] <= FLAT * scales[0]:
        raise Unfit(f"{name!r} is scaled to nothing: give it a scale other than 0.")
    corners = _numbers(mesh.loops, "vertex_index", 1)
    source = Source(slots=[(0, FIRST_TILE)], linear=linear, corners=corners, local=positions(mesh))
    if base is not None and base.corners is not None and np.array_equal(corners, base.corners):
        source.loops, source.polygons = base.loops, base.polygons
    else:
        mesh.calc_loop_triangles()
        source.loops = _numbers(mesh.loop_triangles, "loops", 3)
        source.polygons = _numbers(mesh.loop_triangles, "polygon_index", 1)
    loops = source.loops[:, ::-1] if source.mirrored else source.loops
    source.arrays["positions"] = np.ascontiguousarray(source.local @ linear.T, np.float32)
    source.arrays["faces"] = np.ascontiguousarray(corners[loops])
    colour = mesh.color_attributes.get(COLOUR)
    if colour is not None and colour.domain == "POINT":
        source.arrays["colours"] = colours(colour)
    if lock:
        source.arrays["locked"] = locked(object, lock)
    if mesh.uv_layers:
        try:
            _textures(object, source, loops, _numbers(mesh.polygons, "material_index", 1)[source.polygons], mode, kinds)
            _flat(_materials(object), source, size or SIZE)
        except Unfit as error:
            if mode != "refine":
                raise
            source.notes.append(f"Only the shape is refined, and the textures stay as they are. {error}")
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
    return np.fromiter(
        (any(item.group == index and item.weight > 0.5 for item in vertex.groups) for vertex in object.data.vertices),
        np.uint8,
        len(object.data.vertices),
    )


def _numbers(collection: Any, attribute: str, width: int) -> np.ndarray:
    values = np.empty(width * len(collection), np.int32)
    collection.foreach_get(attribute, values)
    return values.reshape(-1, width) if width > 1 else values


def _textures(
    object: Any, source: Source, loops: np.ndarray, indices: np.ndarray, mode: str, kinds: Collection[str]
) -> None:
    """Add UVs within their tiles, slots, and the textures that there are. indices: (F,) of the materials. Raises
    `Unfit`, and then adds nothing."""
    materials = _materials(object)
    indices = _first(materials)[indices.clip(0, len(materials) - 1)]
    uvs, tile = np.empty((*loops.shape, 2)), np.empty((len(loops), 2), np.int32)
    leads, uv_maps = {}, {}
    for index in np.unique(indices).tolist():
        material, here = materials[index], indices == index
        shown = nodes.shown_uv_map(object.data)
        route, place = nodes.lead(material, shown) if material else (None, nodes.Coordinates(shown))
        if place.uv_map not in object.data.uv_layers:
            raise Unfit(
                f"Material {material.name!r} shows its image through the UV map {place.uv_map!r}, which "
                f"{object.name!r} has not: choose another in its UV Map node."
            )
        leads[index], uv_maps[index] = place, place.uv_map
        read = place.of(_uvs(object.data.uv_layers[place.uv_map])[loops[here]])
        if not np.isfinite(read).all():
            raise Unfit(f"{object.name!r} has UVs that are no finite numbers: unwrap it again.")
        tile[here] = np.floor(read.mean(1)).clip(-(2**30), 2**30)  # the whole part of the triangle's middle
        uvs[here] = read - tile[here][:, None]
        if mode and (uvs[here].min() < -BORDER or uvs[here].max() > 1 + BORDER):
            raise Unfit(
                f"{object.name!r} has faces whose UVs cross the border of a tile"
                + (
                    f" where a Mapping node of material {material.name!r} takes them: remove that node first, "
                    "or let it keep them within one."
                    if place.moved
                    else ": pack its islands first, with UV > Pack Islands."
                )
            )
        image = route.node.image if route else None
        if image and image.source == "TILED":
            continue
        if mode and route and route.node.extension != "REPEAT" and tile[here].any():
            raise Unfit(
                f"Material {material.name!r} shows its image only once, and {object.name!r} has UVs outside of "
                "it: set the image node to Repeat, or pack the islands with UV > Pack Islands."
            )
        tile[here] = 0  # the image repeats: every tile is the first
    inside = (tile >= 0).all(1) & (tile[:, 0] < 10)
    numbers = np.where(inside, FIRST_TILE + tile[:, 0] + 10 * tile[:, 1], FIRST_TILE)
    pairs, slots = np.unique(np.stack([indices, numbers], 1), axis=0, return_inverse=True)
    if len(pairs) > MAX_SLOTS:
        raise Unfit(f"{object.name!r} has {len(pairs)} textures: use at most {MAX_SLOTS} materials and UV tiles.")
    source.slots = [(int(index), int(number)) for index, number in pairs]
    source.uv_maps = uv_maps
    source.arrays["uvs"] = np.ascontiguousarray(uvs.clip(0, 1), np.float32)
    source.arrays["slots"] = np.ascontiguousarray(slots.reshape(-1), np.int32)
    for slot, (index, number) in enumerate(source.slots):
        if materials[index]:
            _pictures(source, materials[index], slot, number, leads[index])
    if mode:
        for index in dict.fromkeys(index for index, _ in source.slots):
            source.notes += _notes(object, materials[index], kinds, leads[index])


def _pictures(source: Source, material: Any, slot: int, tile: int, place: nodes.Coordinates) -> None:
    """Add what the material shows in one of its slots."""
    for kind in KINDS:
        found = nodes.feed(material, kind)
        if not found or not found.route or _place(material, found, place.uv_map) != place:
            continue
        pixels = pixels_of(found.node.image, tile, kind)
        if pixels is None:
            continue
        coloured = len(SLOT_ARRAYS[kind][1]) == 2
        if found.channel is not None:
            picture = np.repeat(pixels[..., found.channel, None], 3, axis=2) if coloured else pixels[..., found.channel]
        elif coloured:
            picture = pixels[..., :3]
        else:
            picture = np.rint(pixels[..., :3] @ np.array(_LUMINANCE, np.float32)).astype(np.uint8)
        source.arrays[f"{kind}.{slot}"] = np.ascontiguousarray(picture)
        if kind == "texture" and found.channel is None and (pixels[..., 3] < 255).any():
            source.alphas[slot] = np.ascontiguousarray(pixels[..., 3])


def _flat(materials: list[Any], source: Source, size: int) -> None:
    """Where locked faces have a colour and no image, make it one, so that they keep it."""
    if "locked" not in source.arrays:
        return
    held = source.arrays["locked"][source.arrays["faces"]].all(1)
    for slot in np.unique(source.arrays["slots"][held]).tolist():
        material = materials[source.slots[slot][0]]
        found = nodes.feed(material, "texture") if material else None
        if f"texture.{slot}" not in source.arrays and found and found.end.output is None:
            colour = srgb(np.array(found.end.socket.default_value[:3], np.float32))
            pictures = [source.arrays[name] for kind in KINDS if (name := f"{kind}.{slot}") in source.arrays]
            shape = pictures[0].shape[:2] if pictures else (size, size)
            source.arrays[f"texture.{slot}"] = np.full((*shape, 3), np.rint(255 * colour.clip(0, 1)), np.uint8)


def _place(material: Any, found: nodes.Feed, shown: str) -> nodes.Coordinates | None:
    """Where a kind's image is read, None where that cannot be said."""
    assert found.route is not None
    with suppress(Unfit):
        return nodes.coordinates(material, found.route, shown)
    return None


def _notes(object: Any, material: Any, kinds: Collection[str], place: nodes.Coordinates) -> list[str]:
    """Sentences on what becomes of a material's nodes where images of these kinds are painted."""
    if material is None:
        return []
    name, notes = f"Material {material.name!r}", []
    if is_linked(material):
        notes.append(f"{name} is linked from a library: a local copy of it is painted.")
    elif shared(object, material):
        notes.append(f"{name} is on other objects too: a copy of its own is painted.")
    shader = nodes.shader_of(material)
    if shader is None:
        output = nodes.output_of(material.node_tree) if material.use_nodes and material.node_tree else None
        if output and output.inputs["Surface"].is_linked:
            notes.append(
                f"{name} has no shader with a base colour: a Principled one takes the place of "
                f"{output.inputs['Surface'].links[0].from_node.name!r}, which stays in the tree, unlinked."
            )
        return notes
    if shader.others:
        notes.append(f"{name} mixes {shader.others + 1} shaders: only {shader.node.name!r} is painted.")
    for kind in kinds:
        found = nodes.feed(material, kind)
        if found is None:
            notes.append(f"{name} has no socket for {kind} in its {shader.node.name!r}: it is left out.")
            continue
        if found.route and _place(material, found, place.uv_map) != place:
            notes.append(
                f"{name} shows the image of {found.name} at other coordinates than that of its base colour: "
                "a new image takes its place."
            )
        elif found.node and pixels_of(found.node.image) is None and found.node.image.source != "TILED":
            notes.append(f"{name} has an image {found.node.image.name!r} that cannot be read: it is painted anew.")
        if found.kept:
            notes.append(
                f"{name} changes its image by {_named(found.kept)} before {found.name}: that stays, and the "
                "image is painted as if it were not there."
            )
        if found.dropped:
            notes.append(
                f"{name} has {_named(found.dropped)} before {found.name}, which cannot be painted through: "
                "left out, it stays in the tree, unlinked, and a new image takes its place."
            )
    return notes


def _named(names: list[str]) -> str:
    return ", ".join(repr(name) for name in dict.fromkeys(names))


def shared(object: Any, material: Any) -> bool:
    """Whether other objects, with meshes of their own, have the material too."""
    return any(
        slot.material == material
        for other in bpy.data.objects
        if other != object and other.data != object.data
        for slot in other.material_slots
    )


def _materials(object: Any) -> list[Any]:
    """The material of each slot, None for none; one None where there are no slots."""
    return [slot.material for slot in object.material_slots] or [None]


def _first(materials: list[Any]) -> np.ndarray:
    """For each index, the first that has the same material."""
    return np.array([materials.index(material) if material else index for index, material in enumerate(materials)])


def _uvs(layer: Any) -> np.ndarray:
    """(L, 2) of a UV map."""
    flat = np.empty(2 * len(layer.uv), np.float32)
    layer.uv.foreach_get("vector", flat)
    return flat.reshape(-1, 2)
