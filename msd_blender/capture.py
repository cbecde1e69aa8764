# SPDX-License-Identifier: GPL-3.0-or-later
"""A Blender mesh -> protocol arrays.

The base mesh is sent, without its modifiers, because only the base mesh can be written back. The object's rotation and
scale are applied, its location is not. N-gons are sent as Blender's own triangles and stay n-gons in the scene.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import bpy
import numpy as np

from . import nodes
from .errors import InvalidMeshError
from .materials import COLOUR, FIRST_TILE, coordinates_of, is_linked, read_tile
from .nodes import KINDS
from .pixels import linear_to_srgb
from .protocol import MAX_SLOTS, SLOT_ARRAYS, ProtocolError, check_mesh

UV_TOLERANCE = 1e-4  # distance that a UV may lie outside of its tile
DEFAULT_TEXTURE_SIZE = 1024  # pixels, the server's default
MIN_SCALE_RATIO = 1e-6  # smallest allowed ratio of an object's smallest scale to its largest
_LUMINANCE = (0.2126, 0.7152, 0.0722)  # weights by which a shader converts a colour to a number (Rec. 709)


@dataclass
class CapturedMesh:
    """A mesh as it is sent, with the data to write the server's answer back.

    arrays: by name, those of `protocol.UPLOADED` that the mesh has.
    slots: of each slot's number, the (material index, UDIM tile). Indices with the same material share the first one's.
    uv_maps: material index -> name of the UV map at which its images are read.
    alphas: slot -> (H, W) uint8, where the base colour image is not opaque.
    notes: sentences for the user on materials that are left out or changed.
    linear: (3, 3) matrix from the mesh's own coordinates to those on the wire.
    offset: (3,) metres from the job's first object, where the job has several.
    local_positions: (V, 3) in the mesh's own coordinates.
    triangle_loops: (F, 3) loop indices; triangle_polygons: (F,) polygon indices; corner_vertices: (L,) the vertex of
        each loop.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    slots: list[tuple[int, int]] = field(default_factory=list)
    uv_maps: dict[int, str] = field(default_factory=dict)
    alphas: dict[int, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    linear: np.ndarray = field(default_factory=lambda: np.eye(3))
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))
    local_positions: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.float32))
    triangle_loops: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.int32))
    triangle_polygons: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    corner_vertices: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))

    @property
    def mirrored(self) -> bool:
        """Whether the object's scale turns faces inside out, so that they are sent in the reverse winding order."""
        return bool(np.linalg.det(self.linear) < 0)


_NO_MESH = "Select a mesh object first"


def capture_problem(context: bpy.types.Context) -> str:
    """Why the selected meshes cannot be sent, "" where they can. Quick, for `poll`; `capture` checks the rest."""
    chosen = selected_meshes(context)
    if len({object.data for object in chosen}) < len(chosen):
        return "Several selected objects have one mesh: select one of them"
    return next((problem for object in chosen if (problem := object_problem(object))), "" if chosen else _NO_MESH)


def selected_meshes(context: bpy.types.Context) -> list[bpy.types.Object]:
    """The mesh objects that a job of the panel starts on: those that are selected, else the active one."""
    active = context.active_object
    chosen = [object for object in context.selected_objects if object.type == "MESH"]
    return chosen or ([active] if active is not None and active.type == "MESH" else [])


def object_problem(object: bpy.types.Object | None) -> str:
    """As `capture_problem`, for one object."""
    if object is None or object.type != "MESH":
        return _NO_MESH
    if object.mode == "EDIT":
        return "Leave Edit Mode first"
    if not object.data.polygons:
        return "The mesh has no faces"
    return _library_problem(object).rstrip(".")


def _library_problem(object: bpy.types.Object) -> str:
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
    object: bpy.types.Object,
    mode: str = "",
    lock: str = "",
    kinds: Collection[str] = ("texture",),
    previous: CapturedMesh | None = None,
    size: int | None = None,
) -> CapturedMesh:
    """The base mesh of an object as arrays.

    Args:
        mode: "texture" needs a UV map, "refine" no shape keys; "" checks neither.
        lock: name of the vertex group whose members, with a weight above one half, must not change.
        kinds: of `nodes.KINDS`, the textures to paint.
        previous: the mesh as it was sent before. Its coordinates are kept, and its triangles while the polygons are the
            same.
        size: edge in pixels of a texture for locked faces without an image.

    Raises `InvalidMeshError`.
    """
    mesh, name = object.data, object.name
    if problem := _library_problem(object):
        raise InvalidMeshError(problem)
    if mesh.is_editmode:
        raise InvalidMeshError(f"{name!r} is in Edit Mode: leave it first.")
    if not mesh.polygons:
        raise InvalidMeshError(f"{name!r} has no faces: choose a mesh that has a surface.")
    if mode == "texture" and not mesh.uv_layers:
        raise InvalidMeshError(f"{name!r} has no UV map: unwrap it first, for example with UV > Smart UV Project.")
    if mode == "refine" and mesh.shape_keys:
        raise InvalidMeshError(
            f"{name!r} has shape keys, which say where its vertices are: apply or remove them first."
        )
    linear = np.array(object.matrix_world.to_3x3()) if previous is None else previous.linear
    scales = np.linalg.svd(linear, compute_uv=False) if np.isfinite(linear).all() else np.zeros(3)
    if scales[-1] <= MIN_SCALE_RATIO * scales[0]:
        raise InvalidMeshError(f"{name!r} is scaled to nothing: give it a scale other than 0.")
    corners = _read_integers(mesh.loops, "vertex_index", 1)
    captured = CapturedMesh(
        slots=[(0, FIRST_TILE)], linear=linear, corner_vertices=corners, local_positions=read_positions(mesh)
    )
    if previous is not None:
        captured.offset = previous.offset
    if previous is not None and np.array_equal(corners, previous.corner_vertices):
        captured.triangle_loops, captured.triangle_polygons = previous.triangle_loops, previous.triangle_polygons
    else:
        mesh.calc_loop_triangles()
        captured.triangle_loops = _read_integers(mesh.loop_triangles, "loops", 3)
        captured.triangle_polygons = _read_integers(mesh.loop_triangles, "polygon_index", 1)
    loops = captured.triangle_loops[:, ::-1] if captured.mirrored else captured.triangle_loops
    captured.arrays["positions"] = np.ascontiguousarray(captured.local_positions @ linear.T, np.float32)
    captured.arrays["faces"] = np.ascontiguousarray(corners[loops])
    colour = mesh.color_attributes.get(COLOUR)
    if colour is not None and colour.domain == "POINT":
        captured.arrays["colours"] = read_colours(colour)
    if lock:
        captured.arrays["locked"] = lock_mask(object, lock)
    if mesh.uv_layers:
        try:
            indices = _read_integers(mesh.polygons, "material_index", 1)[captured.triangle_polygons]
            _add_textures(object, captured, loops, indices, mode, kinds)
            _add_flat_colours(_materials(object), captured, size or DEFAULT_TEXTURE_SIZE)
        except InvalidMeshError as error:
            if mode != "refine":
                raise
            captured.notes.append(f"Only the shape is refined, and the textures stay as they are. {error}")
    try:
        check_mesh(captured.arrays)
    except ProtocolError as error:
        raise InvalidMeshError(f"{name!r} cannot be sent: {error}") from None
    return captured


def read_positions(mesh: bpy.types.Mesh) -> np.ndarray:
    """(V, 3) float32 in the mesh's own coordinates."""
    values = np.empty(3 * len(mesh.vertices), np.float32)
    if len(values):
        mesh.attributes["position"].data.foreach_get("vector", values)
    return values.reshape(-1, 3)


def read_colours(attribute: bpy.types.Attribute) -> np.ndarray:
    """(V, 3) uint8 sRGB."""
    values = np.empty(4 * len(attribute.data), np.float32)
    attribute.data.foreach_get("color_srgb", values)
    return np.ascontiguousarray(np.rint(values.reshape(-1, 4)[:, :3].clip(0, 1) * 255), np.uint8)


def lock_mask(object: bpy.types.Object, name: str) -> np.ndarray:
    """(V,) uint8: 1 for the members of a vertex group with a weight above one half. Raises `InvalidMeshError`."""
    group = object.vertex_groups.get(name)
    if group is None:
        raise InvalidMeshError(f"{object.name!r} has no vertex group {name!r}: choose another as the lock.")
    index = group.index
    return np.fromiter(
        (any(each.group == index and each.weight > 0.5 for each in vertex.groups) for vertex in object.data.vertices),
        np.uint8,
        len(object.data.vertices),
    )


def _read_integers(collection: bpy.types.bpy_prop_collection, attribute: str, width: int) -> np.ndarray:
    """(N,) int32 of an attribute, (N, width) for a vector."""
    values = np.empty(width * len(collection), np.int32)
    collection.foreach_get(attribute, values)
    return values.reshape(-1, width) if width > 1 else values


def _add_textures(
    object: bpy.types.Object,
    captured: CapturedMesh,
    loops: np.ndarray,
    indices: np.ndarray,
    mode: str,
    kinds: Collection[str],
) -> None:
    """Add UVs within their tiles, slots, and the images of the materials.

    loops: (F, 3) of the triangles as they are sent; indices: (F,) of their materials. Raises `InvalidMeshError`, and
    then adds nothing.
    """
    materials = _materials(object)
    indices = _first_indices(materials)[indices.clip(0, len(materials) - 1)]
    uvs, tile = np.empty((*loops.shape, 2)), np.empty((len(loops), 2), np.int32)
    coordinates, uv_maps = {}, {}
    for index in np.unique(indices).tolist():
        material, here = materials[index], indices == index
        default_map = nodes.render_uv_map(object.data)
        path, place = None, nodes.TextureCoordinates(default_map)
        if material:
            path, place = nodes.reference_coordinates(material, default_map)
        if place.uv_map not in object.data.uv_layers:
            raise InvalidMeshError(
                f"Material {material.name!r} shows its image through the UV map {place.uv_map!r}, which "
                f"{object.name!r} has not: choose another in its UV Map node."
            )
        coordinates[index], uv_maps[index] = place, place.uv_map
        read = place.transform(_read_uvs(object.data.uv_layers[place.uv_map])[loops[here]])
        if not np.isfinite(read).all():
            raise InvalidMeshError(f"{object.name!r} has UVs that are no finite numbers: unwrap it again.")
        tile[here] = np.floor(read.mean(1)).clip(-(2**30), 2**30)  # the tile of the triangle's middle
        uvs[here] = read - tile[here][:, None]
        if mode and (uvs[here].min() < -UV_TOLERANCE or uvs[here].max() > 1 + UV_TOLERANCE):
            raise InvalidMeshError(
                f"{object.name!r} has faces whose UVs cross the border of a tile"
                + (
                    f" where a Mapping node of material {material.name!r} takes them: remove that node first, "
                    "or let it keep them within one."
                    if place.is_transformed
                    else ": pack its islands first, with UV > Pack Islands."
                )
            )
        image = path.node.image if path else None
        if image and image.source == "TILED":
            continue
        if mode and path and path.node.extension != "REPEAT" and tile[here].any():
            raise InvalidMeshError(
                f"Material {material.name!r} shows its image only once, and {object.name!r} has UVs outside of "
                "it: set the image node to Repeat, or pack the islands with UV > Pack Islands."
            )
        tile[here] = 0  # the image repeats in every tile
    inside = (tile >= 0).all(1) & (tile[:, 0] < 10)
    numbers = np.where(inside, FIRST_TILE + tile[:, 0] + 10 * tile[:, 1], FIRST_TILE)
    pairs, slots = np.unique(np.stack([indices, numbers], 1), axis=0, return_inverse=True)
    if len(pairs) > MAX_SLOTS:
        raise InvalidMeshError(
            f"{object.name!r} has {len(pairs)} textures: use at most {MAX_SLOTS} materials and UV tiles."
        )
    captured.slots = [(int(index), int(number)) for index, number in pairs]
    captured.uv_maps = uv_maps
    captured.arrays["uvs"] = np.ascontiguousarray(uvs.clip(0, 1), np.float32)
    captured.arrays["slots"] = np.ascontiguousarray(slots.reshape(-1), np.int32)
    for slot, (index, number) in enumerate(captured.slots):
        if materials[index]:
            _add_slot_textures(captured, materials[index], slot, number, coordinates[index])
    if mode:
        for index in dict.fromkeys(index for index, _ in captured.slots):
            captured.notes += _material_notes(object, materials[index], kinds, coordinates[index])


def _add_slot_textures(
    captured: CapturedMesh, material: bpy.types.Material, slot: int, tile: int, place: nodes.TextureCoordinates
) -> None:
    """Add the images that the material shows in one of its slots."""
    for kind in KINDS:
        source = nodes.socket_input(material, kind)
        if not source or not source.path or coordinates_of(material, source.path, place.uv_map) != place:
            continue
        pixels = read_tile(source.path.node.image, tile, kind)
        if pixels is None:
            continue
        has_colour = len(SLOT_ARRAYS[kind][1]) == 2
        if source.channel is not None:
            channel = pixels[..., source.channel]
            texture = np.repeat(channel[..., None], 3, axis=2) if has_colour else channel
        elif has_colour:
            texture = pixels[..., :3]
        else:
            texture = np.rint(pixels[..., :3] @ np.array(_LUMINANCE, np.float32)).astype(np.uint8)
        captured.arrays[f"{kind}.{slot}"] = np.ascontiguousarray(texture)
        if kind == "texture" and source.channel is None and (pixels[..., 3] < 255).any():
            captured.alphas[slot] = np.ascontiguousarray(pixels[..., 3])


def _add_flat_colours(materials: list[bpy.types.Material | None], captured: CapturedMesh, size: int) -> None:
    """Add a texture of one colour to slots with locked faces and without an image, so that they keep their colour."""
    if "locked" not in captured.arrays:
        return
    is_locked = captured.arrays["locked"][captured.arrays["faces"]].all(1)
    for slot in np.unique(captured.arrays["slots"][is_locked]).tolist():
        material = materials[captured.slots[slot][0]]
        source = nodes.socket_input(material, "texture") if material else None
        if f"texture.{slot}" not in captured.arrays and source and source.end.output is None:
            colour = linear_to_srgb(np.array(source.end.socket.default_value[:3], np.float32))
            others = [captured.arrays[name] for kind in KINDS if (name := f"{kind}.{slot}") in captured.arrays]
            shape = others[0].shape[:2] if others else (size, size)
            captured.arrays[f"texture.{slot}"] = np.full((*shape, 3), np.rint(255 * colour.clip(0, 1)), np.uint8)


def _material_notes(
    object: bpy.types.Object,
    material: bpy.types.Material | None,
    kinds: Collection[str],
    place: nodes.TextureCoordinates,
) -> list[str]:
    """Sentences on the changes to a material's nodes when textures of these kinds are painted."""
    if material is None:
        return []
    name, notes = f"Material {material.name!r}", []
    if is_linked(material):
        notes.append(f"{name} is linked from a library: a local copy of it is painted.")
    elif is_shared(object, material):
        notes.append(f"{name} is on other objects too: a copy of its own is painted.")
    shader = nodes.shader_of(material)
    if shader is None:
        output = nodes.active_output(material.node_tree) if nodes.has_nodes(material) else None
        if output and output.inputs["Surface"].is_linked:
            notes.append(
                f"{name} has no shader with a base colour: a Principled one takes the place of "
                f"{output.inputs['Surface'].links[0].from_node.name!r}, which stays in the tree, unlinked."
            )
        return notes
    if shader.other_shaders:
        notes.append(f"{name} mixes {shader.other_shaders + 1} shaders: only {shader.node.name!r} is painted.")
    for kind in kinds:
        source = nodes.socket_input(material, kind)
        if source is None:
            notes.append(f"{name} has no socket for {kind} in its {shader.node.name!r}: it is left out.")
            continue
        if source.path and coordinates_of(material, source.path, place.uv_map) != place:
            notes.append(
                f"{name} shows the image of {source.name} at other coordinates than that of its base colour: "
                "a new image takes its place."
            )
        elif source.node and read_tile(source.node.image) is None and source.node.image.source != "TILED":
            notes.append(f"{name} has an image {source.node.image.name!r} that cannot be read: it is painted anew.")
        if source.kept_nodes:
            kept = _quoted_names(source.kept_nodes)
            notes.append(
                f"{name} changes its image by {kept} before {source.name}: that stays, and the "
                "image is painted as if it were not there."
            )
        if source.dropped_nodes:
            dropped = _quoted_names(source.dropped_nodes)
            notes.append(
                f"{name} has {dropped} before {source.name}, which cannot be painted through: "
                "left out, it stays in the tree, unlinked, and a new image takes its place."
            )
    return notes


def _quoted_names(names: list[str]) -> str:
    return ", ".join(repr(name) for name in dict.fromkeys(names))


def is_shared(object: bpy.types.Object, material: bpy.types.Material) -> bool:
    """Whether an object with another mesh uses the material too."""
    return any(
        slot.material == material
        for other in bpy.data.objects
        if other != object and other.data != object.data
        for slot in other.material_slots
    )


def _materials(object: bpy.types.Object) -> list[bpy.types.Material | None]:
    """The material of each slot of the object, None for an empty slot; a single None without slots."""
    return [slot.material for slot in object.material_slots] or [None]


def _first_indices(materials: list[bpy.types.Material | None]) -> np.ndarray:
    """For each material index, the first index with the same material."""
    return np.array([materials.index(material) if material else index for index, material in enumerate(materials)])


def _read_uvs(layer: bpy.types.MeshUVLoopLayer) -> np.ndarray:
    """(L, 2) float32 of a UV map."""
    flat = np.empty(2 * len(layer.uv), np.float32)
    layer.uv.foreach_get("vector", flat)
    return flat.reshape(-1, 2)
