# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol arrays -> a Blender object: mesh, colours, images, materials, custom properties. Main thread only.

Positions go straight into the attribute's memory; the mesh is rebuilt only when its faces changed. What an
artist adds meanwhile (vertex groups, materials, modifiers, custom properties) is kept.
"""

from __future__ import annotations

import math
from typing import Any

import bpy
import numpy as np
from mathutils import Vector

from . import __version__, materials
from .capture import Source, capture, positions, shared
from .carry import rebuild
from .materials import COLOUR, FIRST_TILE, UV_MAP, is_linked
from .nodes import KINDS
from .pictures import Prepared, floats
from .protocol import JobRequest, ProtocolError, Snapshot

PREFIX = "msd_"  # of the custom properties
KEY = PREFIX + "key"  # on objects and images: the job that made them
SHOWN = PREFIX + "snapshot"  # on the mesh: the job and the version of the snapshot it shows


class Gone(RuntimeError):
    """The object was deleted while its job still ran."""


class Asset:
    """The object that a job grows, or whose mesh it works on.

    Blender's data moves with undo and file loading, so the object is looked up each time.

    Args:
        request: the job's; its `client_key` marks what the job makes.
        object, source: the artist's own, and what was sent of it; None: a new object is made.
        place: where a new object goes.
    """

    def __init__(
        self, request: JobRequest, object: Any = None, source: Source | None = None, place: Vector | None = None
    ) -> None:
        self.request, self.key = request, request.client_key
        self.source = source or Source(slots=[(0, FIRST_TILE)])
        self.kinds = ("texture", *request.maps)
        self._frozen: dict[int, np.ndarray] = {}  # of each image, the texels that the artist painted
        self._shown: dict[str, np.ndarray] = {}
        self._written: dict[str, np.ndarray] = {}  # what Blender holds of it: positions, images
        self._images: dict[str, int] = {}  # which image has each of those, by its session_uid
        self._scratch: np.ndarray | None = None  # for reading images
        self._version = 0
        self._inverse = np.linalg.inv(self.source.linear)
        if object is None:
            object = self._make(place if place is not None else bpy.context.scene.cursor.location)
        else:
            self._written["positions"] = positions(object.data)
        self._uid = object.session_uid
        if not str(object.data.get(SHOWN, "")).startswith(self.key + ":"):
            object.data[SHOWN] = self._mark
        self._shown_by = object.data[SHOWN]
        self.record(
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

    def _make(self, place: Vector) -> Any:
        name = " ".join(self.request.prompt.split())
        object = bpy.data.objects.new(name, bpy.data.meshes.new(name))
        object.data.materials.append(materials.new_material(name))
        (bpy.context.collection or bpy.context.scene.collection).objects.link(object)
        object.location = place
        return object

    @property
    def object(self) -> Any:
        """The bpy object. Raises `Gone`."""
        for item in bpy.data.objects:
            if item.session_uid == self._uid and item.users_scene:  # a record's pointer keeps deleted ones
                return item
        raise Gone("The object was deleted while it was being made.")

    @property
    def _mark(self) -> str:
        return f"{self.key}:{self._version}"

    def record(self, **values: Any) -> None:
        """Keep values as custom properties ``msd_…``; None is left out."""
        for name, value in values.items():
            if isinstance(value, int) and abs(value) >= 2**31:
                value = str(value)  # an integer property has 32 bits
            if value is not None:
                self.object[PREFIX + name] = value

    @property
    def busy(self) -> bool:
        """Whether the artist is editing, sculpting or painting the object, which then must be left alone."""
        object = self.object
        return bool(object.data.is_editmode or object.mode != "OBJECT")

    def apply(self, snapshot: Snapshot) -> bool:
        """Show the whole snapshot; False (nothing done) while the object is edited, sculpted or painted.

        Raises `Gone`, and `ProtocolError` for arrays that do not fit each other.
        """
        if self.busy:
            return False
        object = self.object
        mesh = object.data
        if mesh.get(SHOWN) != self._shown_by:  # undo or redo brought another state back
            self._shown, self._written, self._images = {}, {"positions": positions(mesh)}, {}
        arrays, ready = snapshot.arrays, snapshot.pixels if isinstance(snapshot, Prepared) else {}
        new = self._news(arrays)
        _check(arrays, new)
        if self.request.mode != "texture":
            new = self._set_shape(object, arrays, new)
        for name in sorted(new):
            kind, dot, slot = name.partition(".")
            if dot and kind in self.kinds and "uvs" in arrays:
                pixels = ready.get(name)
                self._set_texture(
                    object, kind, int(slot), arrays[name], floats(arrays[name]) if pixels is None else pixels
                )
        mesh.update()
        self._shown = dict(arrays)
        self._version = snapshot.version
        self._shown_by = mesh[SHOWN] = self._mark
        return True

    def _news(self, arrays: dict[str, np.ndarray]) -> set[str]:
        """Names of what is not shown yet; the stream's arrays stay the same objects until they change."""
        shown = self._shown
        return {
            name
            for name, array in arrays.items()
            if name not in shown or array is not shown[name] and not np.array_equal(array, shown[name])
        }

    def _set_shape(self, object: Any, arrays: dict[str, np.ndarray], new: set[str]) -> set[str]:
        """Write vertices, faces, colours and UVs; the names of arrays that are still to be written."""
        mesh = object.data
        local = arrays["positions"]
        if not np.array_equal(self._inverse, np.eye(3)):
            local = local @ self._inverse.T.astype(np.float32)
        sent = self.source.arrays.get("faces")
        keeps = (
            self.request.mode == "refine"
            and not self.request.remesh
            or sent is not None
            and np.array_equal(arrays["faces"], sent)
        )
        if keeps and len(mesh.vertices) == len(local):
            written = {"positions"}
            if len(sent_positions := self.source.arrays.get("positions", local[:0])) == len(local):
                still = (arrays["positions"] == sent_positions).all(1)
                local = np.where(still[:, None], self.source.local, local)  # to the same bits
        elif "faces" in new or len(mesh.vertices) != len(local):
            faces = arrays["faces"][:, ::-1] if self.source.mirrored else arrays["faces"]
            rebuild(object, local, faces, {COLOUR, UV_MAP})
            new, written = set(arrays), {"colours", "uvs", "slots"}
            self._written["positions"] = np.array(local, np.float32)
        else:
            written = {"positions", "colours", "uvs", "slots"}
        if "positions" in new & written:
            self._written["positions"] = local = np.ascontiguousarray(local, np.float32)
            mesh.attributes["position"].data.foreach_set("vector", local.ravel())
        if "colours" in new and (not keeps or COLOUR in mesh.color_attributes):
            _set_colours(mesh, arrays["colours"])
        if "uvs" in new & written:
            self._set_uvs(mesh, arrays)
        return new

    def _set_uvs(self, mesh: Any, arrays: dict[str, np.ndarray]) -> None:
        uvs, slots = arrays["uvs"], arrays.get("slots")
        if slots is not None and len(self.source.slots) > 1:
            index, tile = np.array(self.source.slots, np.int32)[slots].T
            uvs = uvs + np.stack([(tile - FIRST_TILE) % 10, (tile - FIRST_TILE) // 10], 1)[:, None]
            mesh.polygons.foreach_set("material_index", np.ascontiguousarray(index))
        if self.source.mirrored:
            uvs = uvs[:, ::-1]
        layer = mesh.uv_layers.get(UV_MAP) or mesh.uv_layers.new(name=UV_MAP)
        layer.uv.foreach_set("vector", np.ascontiguousarray(uvs, np.float32).ravel())

    # Textures.

    def _set_texture(self, object: Any, kind: str, slot: int, array: np.ndarray, pixels: np.ndarray) -> None:
        if slot >= len(self.source.slots):
            raise ProtocolError(f"The server sent a texture {slot} of a mesh with {len(self.source.slots)}.")
        index, _ = self.source.slots[slot]
        if self._tiles(index) != [FIRST_TILE]:
            return  # Blender's Python cannot write tiles: `finish` makes them files
        height, width = array.shape[:2]
        name, alpha = f"{kind}.{slot}", self.source.alphas.get(slot) if kind == "texture" else None
        material = self._material(object, index)
        image = materials.image_of(material, kind)
        taken = {uid for other, uid in self._images.items() if other != name}
        if not self._is_ours(image) or image.session_uid in taken:
            image = self._show(
                material, index, kind, materials.new_image(_image_name(material, kind), kind, width, height), image
            )
            if image is None:
                return
        if alpha is not None:
            pixels.reshape(height, width, 4)[..., 3] = _resized(alpha, height, width) * np.float32(1 / 255)
        materials.write(image, pixels, width, height)
        self._written[name], self._images[name] = pixels, image.session_uid

    def _show(self, material: Any, index: int, kind: str, image: Any, before: Any) -> Any:
        """The new image, shown in place of the one before; None where the material cannot show its kind."""
        image[KEY] = self.key
        if before is not None and kind == "texture":
            image.alpha_mode = before.alpha_mode
        if materials.show(material, kind, image, self.source.uv_maps.get(index, UV_MAP)):
            return image
        bpy.data.images.remove(image)
        return None

    def _tiles(self, index: int) -> list[int]:
        return sorted(tile for material, tile in self.source.slots if material == index)

    def _material(self, object: Any, index: int) -> Any:
        """The material of an index, made where there is none; one that other objects or a library have is first made
        the object's own."""
        while len(object.material_slots) <= index:
            object.data.materials.append(None)
        material = object.material_slots[index].material
        if material is None:
            material = object.material_slots[index].material = bpy.data.materials.new(f"{object.name} texture")
            materials.principled(material)
        elif is_linked(material) or material.get(KEY) != self.key and shared(object, material):
            own = material.copy()
            for slot in object.material_slots:
                if slot.material == material:
                    slot.material = own
            material = own
        if material.get(KEY) != self.key:
            material[KEY] = self.key
        return material

    def _is_ours(self, image: Any) -> bool:
        return bool(image is not None and image.get(KEY) == self.key)

    # What the artist does meanwhile.

    def edited(self, snapshot: Snapshot | None = None) -> bool:
        """Whether vertices were moved, texels painted or images exchanged since the last snapshot; painted texels
        are frozen from now on. What undo brought back is no edit. With the next snapshot, only those textures are
        looked at that it would write over. Raises `Gone`."""
        object = self.object
        if self.busy or object.data.get(SHOWN) != self._shown_by or not self._written:
            return False
        names = sorted(self._images)
        if snapshot is not None:
            names = sorted(self._news({name: snapshot.arrays[name] for name in names if name in snapshot.arrays}))
        painted = [name for name in names if self._painted(name)]
        return bool(painted) or not np.array_equal(positions(object.data), self._written["positions"])

    def _shown_image(self, index: int, kind: str) -> Any:
        slots = self.object.material_slots
        material = slots[index].material if index < len(slots) else None
        return materials.image_of(material, kind) if material else None

    def _painted(self, name: str) -> bool:
        """Whether the artist painted on the image of a texture, or put another in its place."""
        kind, _, slot = name.partition(".")
        image, pixels = self._shown_image(self.source.slots[int(slot)][0], kind), self._written[name]
        if image is None or image.session_uid != self._images[name]:
            del self._images[name]
            return image is not None
        if len(image.pixels) != len(pixels):
            return False
        now = self._scratch = materials.read(image, self._scratch)
        if materials.same(now, pixels):
            return False
        width, height = image.size
        changed = (materials.to_bytes(now, width, height) != materials.to_bytes(pixels, width, height)).any(-1)
        if not changed.any():
            return False  # the same texels, stored otherwise
        self._scratch, self._written[name] = None, now
        before = self._frozen.get(image.session_uid)
        self._frozen[image.session_uid] = (
            changed if before is None or before.shape != changed.shape else changed | before
        )
        return True

    def overwrite(self) -> None:
        """Give up what the artist changed since the last snapshot."""
        self._shown, self._shown_by = {}, ""

    def edit(self, lock: str) -> dict[str, np.ndarray]:
        """The asset as the artist left it, to be sent; from now on that is what is shown. Raises `Gone`,
        `Unfit`."""
        object = self.object
        mode = "" if self.request.mode == "generate" else self.request.mode
        source = capture(object, mode, lock if lock in object.vertex_groups else "", self.kinds, self.source)
        self._written, self._images = {"positions": positions(object.data)}, {}
        before = {pair: slot for slot, pair in enumerate(self.source.slots)}
        for slot, (index, tile) in enumerate(source.slots):
            masks = []
            for kind in self.kinds:
                name, image = f"{kind}.{slot}", self._shown_image(index, kind)
                if image is not None and image.source == "TILED":  # not written yet
                    reached = self._shown.get(f"{kind}.{before.get((index, tile))}")
                    source.arrays |= {} if reached is None else {name: reached}
                elif self._is_ours(image) and image.session_uid not in self._images.values():
                    self._images[name], self._written[name] = image.session_uid, materials.read(image)
                    masks += [self._frozen[image.session_uid]] if image.session_uid in self._frozen else []
            if masks and f"texture.{slot}" in source.arrays:
                size = source.arrays[f"texture.{slot}"].shape[:2]
                source.arrays[f"frozen.{slot}"] = np.any([_resized(mask, *size) for mask in masks], 0).astype(np.uint8)
        self.source = source
        self._shown = {}
        return source.arrays

    # The end.

    def finish(self, **values: Any) -> None:
        """The last step of a job: pack the textures into the .blend, record the values."""
        object = self.object
        for index, slot in enumerate(object.material_slots):
            if slot.material is None:
                continue
            if self._tiles(index) not in ([], [FIRST_TILE]):
                self._write_tiles(object, index)
            for kind in KINDS:
                image = materials.image_of(slot.material, kind)
                if self._is_ours(image) and image.is_dirty and image.source != "TILED":
                    image.pack()
        self.record(**values)

    def _write_tiles(self, object: Any, index: int) -> None:
        for kind in self.kinds:
            tiles = {
                tile: self._with_alpha(kind, slot)
                for slot, (material, tile) in enumerate(self.source.slots)
                if material == index and f"{kind}.{slot}" in self._shown
            }
            if tiles:
                material = self._material(object, index)
                image = materials.new_tiled_image(_image_name(material, kind), kind, tiles)
                self._show(material, index, kind, image, materials.image_of(material, kind))

    def _with_alpha(self, kind: str, slot: int) -> np.ndarray:
        array, alpha = self._shown[f"{kind}.{slot}"], self.source.alphas.get(slot)
        if kind != "texture" or alpha is None:
            return array
        return np.dstack([array, _resized(alpha, *array.shape[:2])])


def find(key: str) -> Any:
    """The object that a job made or works on; None where there is none."""
    return (
        next(
            (item for item in bpy.data.objects if item.type == "MESH" and item.get(KEY) == key and item.users_scene),
            None,
        )
        if key
        else None
    )


def _resized(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """The nearest pixels of (H, W) as (height, width)."""
    rows, columns = (np.arange(new) * old // new for new, old in zip((height, width), array.shape))
    return array if array.shape == (height, width) else array[rows][:, columns]


def _image_name(material: Any, kind: str) -> str:
    return str(material.name) if kind == "texture" else f"{material.name} {kind}"


def add_stage(object: Any) -> None:
    """A camera that sees the whole object, a sun and a grey world, so that the scene renders as it is."""
    scene = bpy.context.scene
    corners = [object.matrix_world @ Vector(corner) for corner in object.bound_box]
    centre = sum(corners, Vector()) / 8
    radius = max((corner - centre).length for corner in corners) or 1.0
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    back = Vector((0.55, -1.0, 0.5)).normalized()  # from the front, a little right and above
    camera.location = centre + back * radius * 1.15 / math.sin(camera.data.angle_y / 2)
    camera.rotation_euler = back.to_track_quat("Z", "Y").to_euler()
    sun = bpy.data.objects.new("Sun", bpy.data.lights.new("Sun", "SUN"))
    sun.data.energy = 3.0
    sun.rotation_euler = (math.radians(40), math.radians(10), math.radians(35))
    for item in (camera, sun):
        scene.collection.objects.link(item)
    scene.camera = camera
    scene.world = bpy.data.worlds.new("World")
    scene.world.use_nodes = True
    scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.4, 0.4, 0.4, 1.0)
    scene.view_settings.view_transform = "Standard"  # base colours come out as they are


def _check(arrays: dict[str, np.ndarray], new: set[str]) -> None:
    """Blender trusts indices, and a wrong one ends the whole program: look before it does."""
    if not {"positions", "faces"} <= arrays.keys():
        raise ProtocolError("The server sent a snapshot without positions and faces.")
    positions, faces = arrays["positions"], arrays["faces"]
    if len(faces) and (new & {"positions", "faces"}) and not 0 <= faces.min() <= faces.max() < len(positions):
        raise ProtocolError("The server sent faces that name vertices which do not exist.")
    a, b, c = faces.T
    if "faces" in new and ((a == b) | (b == c) | (c == a)).any():
        raise ProtocolError("The server sent faces that use a vertex twice.")
    if "positions" in new and not np.isfinite(positions).all():
        raise ProtocolError("The server sent positions that are no finite numbers.")
    for name, length in (("colours", len(positions)), ("uvs", len(faces)), ("slots", len(faces))):
        if name in arrays and len(arrays[name]) != length:
            raise ProtocolError(f"The server sent {len(arrays[name])} {name}, expected {length}.")


def _set_colours(mesh: Any, colours: np.ndarray) -> None:
    attribute = mesh.color_attributes.get(COLOUR)
    if attribute is None:
        attribute = mesh.color_attributes.new(COLOUR, "BYTE_COLOR", "POINT")
        mesh.color_attributes.active_color = attribute
        mesh.color_attributes.render_color_index = mesh.color_attributes.active_color_index
    if attribute.domain != "POINT" or len(attribute.data) != len(colours):
        return  # it is the artist's own
    rgba = np.ones((len(colours), 4), np.float32)
    np.multiply(colours, np.float32(1 / 255), out=rgba[:, :3])
    attribute.data.foreach_set("color_srgb", rgba.ravel())
