# SPDX-License-Identifier: GPL-3.0-or-later
"""The Blender object of a job: shows snapshots as mesh, images and materials, and detects the artist's edits.

Positions are written with `foreach_set`; the mesh is rebuilt only when its faces change. The artist's vertex groups,
attributes, materials, modifiers and custom properties are kept.

An edit is detected by comparison: `_written` holds the positions and pixels as they were last written (or captured),
and `has_edits` compares Blender's present ones with them. The mesh carries a tag of the snapshot that it shows; undo
and redo change the tag, so a state that undo brought back is not taken for an edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import bpy
import numpy as np
from mathutils import Vector

from . import materials
from .attribute_transfer import replace_geometry
from .capture import CapturedMesh, capture, is_shared, read_positions
from .errors import ObjectDeletedError
from .materials import COLOUR, FIRST_TILE, UV_MAP, is_linked
from .nodes import KINDS
from .pixels import PreparedSnapshot, equal_pixels, to_byte_pixels, to_float_pixels
from .protocol import JobRequest, ProtocolError, Snapshot
from .version import __version__

PROPERTY_PREFIX = "msd_"  # of the custom properties
KEY_PROPERTY = PROPERTY_PREFIX + "key"  # on objects, materials and images: the key of the job that made them
SNAPSHOT_PROPERTY = PROPERTY_PREFIX + "snapshot"  # on the mesh: the job's key and the version of the snapshot


class SceneObject:
    """The object that a job makes, or works on.

    Undo and file loading replace Blender's data, so the object is looked up by its `session_uid` at each use. `adopt`
    names another one, which undo or redo has brought in its place.

    Args:
        request: the job's; its `client_key` marks the data-blocks that the job makes.
        object: the artist's mesh object; None makes a new object.
        captured: the artist's mesh as it was sent.
        location: of a new object; None is the 3D cursor.
    """

    def __init__(
        self,
        request: JobRequest,
        object: bpy.types.Object | None = None,
        captured: CapturedMesh | None = None,
        location: Vector | None = None,
    ) -> None:
        self.request, self.key = request, request.client_key
        self.captured = captured or CapturedMesh(slots=[(0, FIRST_TILE)])
        self.kinds = ("texture", *request.maps)
        self._painted: dict[int, np.ndarray] = {}  # image uid -> (H, W) bool, the texels that the artist painted
        self._shown_arrays: dict[str, np.ndarray] = {}  # of the last snapshot
        self._written: dict[str, np.ndarray] = {}  # positions and float pixels by array name
        self._image_uids: dict[str, int] = {}  # array name -> session_uid of its image
        self._buffer: np.ndarray | None = None  # reused by `read_pixels`
        self._version = 0
        self._uid, self._name = 0, ""
        self._inverse = np.linalg.inv(self.captured.linear)
        if object is None:
            object = self._create(location if location is not None else bpy.context.scene.cursor.location)
        else:
            self._written["positions"] = read_positions(object.data)
        self.adopt([object])
        if not str(object.data.get(SNAPSHOT_PROPERTY, "")).startswith(self.key + ":"):
            object.data[SNAPSHOT_PROPERTY] = self._tag
        self._shown_tag = object.data[SNAPSHOT_PROPERTY]

    def _create(self, location: Vector) -> bpy.types.Object:
        name = object_name(self.request.prompt)
        object = bpy.data.objects.new(name, bpy.data.meshes.new(name))
        object.data.materials.append(materials.new_material(name))
        (bpy.context.collection or bpy.context.scene.collection).objects.link(object)
        object.location = location
        return object

    @property
    def object(self) -> bpy.types.Object:
        """The Blender object. Raises `ObjectDeletedError`."""
        found = bpy.data.objects.get(self._name)  # a search through a large file takes milliseconds
        if found is None or found.session_uid != self._uid:
            found = next((object for object in bpy.data.objects if object.session_uid == self._uid), None)
        if found is None or not found.users_scene:  # a record still refers to a deleted object
            raise ObjectDeletedError("The object was deleted while it was being made.")
        self._name = found.name
        return found

    @property
    def objects(self) -> list[bpy.types.Object]:
        """The object alone, see `JoinedObjects`. Raises `ObjectDeletedError`."""
        return [self.object]

    def adopt(self, objects: Sequence[bpy.types.Object]) -> None:
        """Go on in this object of the same job."""
        (object,) = objects
        self._uid, self._name = object.session_uid, object.name
        if object.get(KEY_PROPERTY) != self.key:  # it is new, or undo has gone back to before the job
            self._describe()

    def _describe(self) -> None:
        """Record on the object how it is made."""
        request = self.request
        self.set_properties(
            key=self.key,
            mode=request.mode,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=request.seed,
            guidance=request.guidance,
            iterations=request.iterations,
            guidance_scale=request.guidance_scale,
            model=request.model,
            versions={"msd_blender": __version__, "blender": bpy.app.version_string},
        )

    @property
    def shows_older_state(self) -> bool:
        """Whether undo or redo restored another state than the last snapshot's. Raises `ObjectDeletedError`."""
        return bool(self.object.data.get(SNAPSHOT_PROPERTY) != self._shown_tag)

    @property
    def _tag(self) -> str:
        return f"{self.key}:{self._version}"

    def set_properties(self, **values: Any) -> None:
        """Set custom properties ``msd_…`` of the object; a value of None sets nothing."""
        for name, value in values.items():
            if isinstance(value, int) and abs(value) >= 2**31:
                value = str(value)  # an integer property has 32 bits
            if value is not None:
                self.object[PROPERTY_PREFIX + name] = value

    @property
    def is_being_edited(self) -> bool:
        """Whether the artist is in Edit, Sculpt or a paint mode on the object, which must not be written then."""
        object = self.object
        return bool(object.data.is_editmode or object.mode != "OBJECT")

    def apply(self, snapshot: Snapshot) -> bool:
        """Write a whole snapshot into the scene; False, with nothing done, while `is_being_edited`.

        Raises `ObjectDeletedError`, and `ProtocolError` for arrays that do not fit each other.
        """
        if self.is_being_edited:
            return False
        object = self.object
        mesh = object.data
        if self.shows_older_state:
            self._shown_arrays, self._written, self._image_uids = {}, {"positions": read_positions(mesh)}, {}
        arrays, prepared = snapshot.arrays, snapshot.pixels if isinstance(snapshot, PreparedSnapshot) else {}
        changed = self._changed_arrays(arrays)
        _check_snapshot(arrays, changed)
        if self.request.mode != "texture":
            changed = self._write_geometry(object, arrays, changed)
        for name in sorted(changed):
            kind, dot, slot = name.partition(".")
            if dot and kind in self.kinds and "uvs" in arrays:
                pixels = prepared[name] if name in prepared else to_float_pixels(arrays[name])
                self._write_texture(object, kind, int(slot), arrays[name], pixels)
        mesh.update()
        self._shown_arrays = dict(arrays)
        self._version = snapshot.version
        self._shown_tag = mesh[SNAPSHOT_PROPERTY] = self._tag
        return True

    def _changed_arrays(self, arrays: dict[str, np.ndarray]) -> set[str]:
        """Names of the arrays that differ from the last snapshot's. (An array that the stream did not send again is the
        same object, which saves the comparison.)"""
        shown = self._shown_arrays
        return {
            name
            for name, array in arrays.items()
            if name not in shown or array is not shown[name] and not np.array_equal(array, shown[name])
        }

    def _write_geometry(self, object: bpy.types.Object, arrays: dict[str, np.ndarray], changed: set[str]) -> set[str]:
        """Write vertices, faces, colours and UVs. Returns `changed`; after a rebuild of the mesh, all names."""
        mesh = object.data
        local = arrays["positions"]
        if not np.array_equal(self._inverse, np.eye(3)):
            local = local @ self._inverse.T.astype(np.float32)
        sent = self.captured.arrays.get("faces")
        keeps_topology = (
            self.request.mode == "refine"
            and not self.request.remesh
            or sent is not None
            and np.array_equal(arrays["faces"], sent)
        )
        if keeps_topology and len(mesh.vertices) == len(local):
            writes = {"positions"}
            if len(sent_positions := self.captured.arrays.get("positions", local[:0])) == len(local):
                unmoved = (arrays["positions"] == sent_positions).all(1)  # these keep their bits
                local = np.where(unmoved[:, None], self.captured.local_positions, local)
        elif "faces" in changed or len(mesh.vertices) != len(local):
            faces = arrays["faces"][:, ::-1] if self.captured.mirrored else arrays["faces"]
            replace_geometry(object, local, faces, {COLOUR, UV_MAP})
            changed, writes = set(arrays), {"colours", "uvs", "slots"}
            self._written["positions"] = np.array(local, np.float32)
        else:
            writes = {"positions", "colours", "uvs", "slots"}
        if "positions" in changed & writes:
            self._written["positions"] = local = np.ascontiguousarray(local, np.float32)
            mesh.attributes["position"].data.foreach_set("vector", local.ravel())
        if "colours" in changed and (not keeps_topology or COLOUR in mesh.color_attributes):
            _write_colours(mesh, arrays["colours"])
        if "uvs" in changed & writes:
            self._write_uvs(mesh, arrays)
        return changed

    def _write_uvs(self, mesh: bpy.types.Mesh, arrays: dict[str, np.ndarray]) -> None:
        uvs, slots = arrays["uvs"], arrays.get("slots")
        if slots is not None and len(self.captured.slots) > 1:
            index, tile = np.array(self.captured.slots, np.int32)[slots].T
            uvs = uvs + np.stack([(tile - FIRST_TILE) % 10, (tile - FIRST_TILE) // 10], 1)[:, None]
            mesh.polygons.foreach_set("material_index", np.ascontiguousarray(index))
        if self.captured.mirrored:
            uvs = uvs[:, ::-1]
        layer = mesh.uv_layers.get(UV_MAP) or mesh.uv_layers.new(name=UV_MAP)
        layer.uv.foreach_set("vector", np.ascontiguousarray(uvs, np.float32).ravel())

    # Textures.

    def _write_texture(
        self, object: bpy.types.Object, kind: str, slot: int, array: np.ndarray, pixels: np.ndarray
    ) -> None:
        """Write an array's float pixels into the slot's image, which is made if the shader shows none of this job."""
        if slot >= len(self.captured.slots):
            raise ProtocolError(f"The server sent a texture {slot} of a mesh with {len(self.captured.slots)}.")
        index, _ = self.captured.slots[slot]
        if self._tiles_of(index) != [FIRST_TILE]:
            return  # Blender's Python cannot write tiles: `finalize` saves them as files
        height, width = array.shape[:2]
        name, alpha = f"{kind}.{slot}", self.captured.alphas.get(slot) if kind == "texture" else None
        material = self._own_material(object, index)
        image = materials.image_of(material, kind)
        other_uids = {uid for other, uid in self._image_uids.items() if other != name}
        if not self._is_own(image) or image.session_uid in other_uids:
            new = materials.new_image(_image_name(material, kind), kind, width, height)
            image = self._assign_image(material, index, kind, new, image)
            if image is None:
                return
        if alpha is not None:
            pixels.reshape(height, width, 4)[..., 3] = _resize_nearest(alpha, height, width) * np.float32(1 / 255)
        materials.write_pixels(image, pixels, width, height)
        self._written[name], self._image_uids[name] = pixels, image.session_uid

    def _assign_image(
        self,
        material: bpy.types.Material,
        index: int,
        kind: str,
        image: bpy.types.Image,
        replaced: bpy.types.Image | None,
    ) -> bpy.types.Image | None:
        """Show a new image in place of another one. None where the shader has no socket for its kind."""
        image[KEY_PROPERTY] = self.key
        if replaced is not None and kind == "texture":
            image.alpha_mode = replaced.alpha_mode
        if materials.assign_image(material, kind, image, self.captured.uv_maps.get(index, UV_MAP)):
            return image
        bpy.data.images.remove(image)
        return None

    def _tiles_of(self, index: int) -> list[int]:
        return sorted(tile for material, tile in self.captured.slots if material == index)

    def _own_material(self, object: bpy.types.Object, index: int) -> bpy.types.Material:
        """The material of an index, made where there is none. One that another object uses, or that is linked from a
        library, is replaced by a copy first."""
        while len(object.material_slots) <= index:
            object.data.materials.append(None)
        material = object.material_slots[index].material
        if material is None:
            material = object.material_slots[index].material = bpy.data.materials.new(f"{object.name} texture")
            materials.ensure_principled(material)
        elif is_linked(material) or material.get(KEY_PROPERTY) != self.key and is_shared(object, material):
            own = material.copy()
            for slot in object.material_slots:
                if slot.material == material:
                    slot.material = own
            material = own
        if material.get(KEY_PROPERTY) != self.key:
            material[KEY_PROPERTY] = self.key
        return material

    def _is_own(self, image: bpy.types.Image | None) -> TypeGuard[bpy.types.Image]:
        """Whether this job made the image."""
        return bool(image is not None and image.get(KEY_PROPERTY) == self.key)

    # The artist's edits.

    def has_edits(self, snapshot: Snapshot | None = None) -> bool:
        """Whether the artist moved vertices, painted texels or exchanged images since the last snapshot or capture.

        Painted texels are remembered, and protected from the next capture on. Raises `ObjectDeletedError`.

        snapshot: the next one to apply; then only the textures that it would write over are compared.
        """
        object = self.object
        if self.is_being_edited or self.shows_older_state or not self._written:
            return False
        names = sorted(self._image_uids)
        if snapshot is not None:
            names = sorted(
                self._changed_arrays({name: snapshot.arrays[name] for name in names if name in snapshot.arrays})
            )
        painted = [name for name in names if self._has_paint(name)]
        return bool(painted) or not np.array_equal(read_positions(object.data), self._written["positions"])

    def _current_image(self, index: int, kind: str) -> bpy.types.Image | None:
        slots = self.object.material_slots
        material = slots[index].material if index < len(slots) else None
        return materials.image_of(material, kind) if material else None

    def _has_paint(self, name: str) -> bool:
        """Whether the artist painted on the image of a texture, or replaced it."""
        kind, _, slot = name.partition(".")
        image, pixels = self._current_image(self.captured.slots[int(slot)][0], kind), self._written[name]
        if image is None or image.session_uid != self._image_uids[name]:
            del self._image_uids[name]
            return image is not None
        if len(image.pixels) != len(pixels):
            return False
        current = self._buffer = materials.read_pixels(image, self._buffer)
        if equal_pixels(current, pixels):
            return False
        painted = (to_byte_pixels(current, *image.size) != to_byte_pixels(pixels, *image.size)).any(-1)
        if not painted.any():
            return False  # only the rounding differs, as after packing
        self._buffer, self._written[name] = None, current
        before = self._painted.get(image.session_uid)
        if before is not None and before.shape == painted.shape:
            painted |= before
        self._painted[image.session_uid] = painted
        return True

    def discard_edits(self) -> None:
        """Let the next snapshot write over the artist's edits."""
        self._shown_arrays, self._shown_tag = {}, ""

    def capture_edits(self, lock: str) -> dict[str, np.ndarray]:
        """The mesh and textures as the artist left them, as arrays to send; later edits are compared with these.

        lock: name of the vertex group that must not change. Raises `ObjectDeletedError` and `InvalidMeshError`.
        """
        object = self.object
        mode = "" if self.request.mode == "generate" else self.request.mode
        captured = capture(object, mode, lock if lock in object.vertex_groups else "", self.kinds, self.captured)
        self._written, self._image_uids = {"positions": read_positions(object.data)}, {}
        previous_slots = {pair: slot for slot, pair in enumerate(self.captured.slots)}
        for slot, (index, tile) in enumerate(captured.slots):
            masks = []
            for kind in self.kinds:
                name, image = f"{kind}.{slot}", self._current_image(index, kind)
                if image is not None and image.source == "TILED":  # its tiles are written at the end only
                    shown = self._shown_arrays.get(f"{kind}.{previous_slots.get((index, tile))}")
                    captured.arrays |= {} if shown is None else {name: shown}
                elif self._is_own(image) and image.session_uid not in self._image_uids.values():
                    self._image_uids[name], self._written[name] = image.session_uid, materials.read_pixels(image)
                    masks += [self._painted[image.session_uid]] if image.session_uid in self._painted else []
            if masks and f"texture.{slot}" in captured.arrays:
                size = captured.arrays[f"texture.{slot}"].shape[:2]
                frozen = np.any([_resize_nearest(mask, *size) for mask in masks], 0)
                captured.arrays[f"frozen.{slot}"] = frozen.astype(np.uint8)
        self.captured = captured
        self._shown_arrays = {}
        return captured.arrays

    # The job's end.

    def finalize(self, **values: Any) -> None:
        """Pack the textures into the .blend, save tiled ones, and set custom properties."""
        object = self.object
        for index, slot in enumerate(object.material_slots):
            if slot.material is None:
                continue
            if self._tiles_of(index) not in ([], [FIRST_TILE]):
                self._write_tiles(object, index)
            for kind in KINDS:
                image = materials.image_of(slot.material, kind)
                if self._is_own(image) and image.is_dirty and image.source != "TILED":
                    image.pack()
        self.set_properties(**values)

    def _write_tiles(self, object: bpy.types.Object, index: int) -> None:
        """Show a new tiled image of each kind in the material of an index."""
        for kind in self.kinds:
            tiles = {
                tile: self._with_alpha(kind, slot)
                for slot, (material, tile) in enumerate(self.captured.slots)
                if material == index and f"{kind}.{slot}" in self._shown_arrays
            }
            if tiles:
                material = self._own_material(object, index)
                image = materials.new_tiled_image(_image_name(material, kind), kind, tiles)
                self._assign_image(material, index, kind, image, materials.image_of(material, kind))

    def _with_alpha(self, kind: str, slot: int) -> np.ndarray:
        array, alpha = self._shown_arrays[f"{kind}.{slot}"], self.captured.alphas.get(slot)
        if kind != "texture" or alpha is None:
            return array
        return np.dstack([array, _resize_nearest(alpha, *array.shape[:2])])


def object_name(prompt: str) -> str:
    """The name of a new object of this prompt. (Blender shortens it.)"""
    return " ".join(prompt.split())


def find_object(key: str) -> bpy.types.Object | None:
    """The object of the job with this key, None without one."""
    if not key:
        return None
    return next(
        (
            object
            for object in bpy.data.objects
            if object.type == "MESH" and object.get(KEY_PROPERTY) == key and object.users_scene
        ),
        None,
    )


def _resize_nearest(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W) to (height, width) by nearest pixels."""
    rows, columns = (np.arange(new) * old // new for new, old in zip((height, width), array.shape))
    return array if array.shape == (height, width) else array[rows][:, columns]


def _image_name(material: bpy.types.Material, kind: str) -> str:
    return str(material.name) if kind == "texture" else f"{material.name} {kind}"


def _check_snapshot(arrays: dict[str, np.ndarray], changed: set[str]) -> None:
    """Raise `ProtocolError` for arrays that do not make a mesh: a wrong index would crash Blender."""
    if not {"positions", "faces"} <= arrays.keys():
        raise ProtocolError("The server sent a snapshot without positions and faces.")
    positions, faces = arrays["positions"], arrays["faces"]
    if len(faces) and (changed & {"positions", "faces"}) and not 0 <= faces.min() <= faces.max() < len(positions):
        raise ProtocolError("The server sent faces that name vertices which do not exist.")
    a, b, c = faces.T
    if "faces" in changed and ((a == b) | (b == c) | (c == a)).any():
        raise ProtocolError("The server sent faces that use a vertex twice.")
    if "positions" in changed and not np.isfinite(positions).all():
        raise ProtocolError("The server sent positions that are no finite numbers.")
    for name, length in (("colours", len(positions)), ("uvs", len(faces)), ("slots", len(faces))):
        if name in arrays and len(arrays[name]) != length:
            raise ProtocolError(f"The server sent {len(arrays[name])} {name}, expected {length}.")


def _write_colours(mesh: bpy.types.Mesh, colours: np.ndarray) -> None:
    attribute = mesh.color_attributes.get(COLOUR)
    if attribute is None:
        attribute = mesh.color_attributes.new(COLOUR, "BYTE_COLOR", "POINT")
        mesh.color_attributes.active_color = attribute
        mesh.color_attributes.render_color_index = mesh.color_attributes.active_color_index
    if attribute.domain != "POINT" or len(attribute.data) != len(colours):
        return  # an attribute of the artist's
    rgba = np.ones((len(colours), 4), np.float32)
    np.multiply(colours, np.float32(1 / 255), out=rgba[:, :3])
    attribute.data.foreach_set("color_srgb", rgba.ravel())
