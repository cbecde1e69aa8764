# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol arrays -> a Blender object: mesh, colours, material, image, custom properties. Main thread only.

Positions go straight into the attribute's memory; the mesh is rebuilt only when its faces changed. What an
artist adds meanwhile (vertex groups, materials, modifiers, custom properties) is kept.
"""

from __future__ import annotations

import math
from typing import Any

import bpy
import numpy as np
from mathutils import Vector
from mathutils.kdtree import KDTree

from . import __version__
from .protocol import JobRequest, ProtocolError, Snapshot

COLOUR = "Color"                            # names that Blender and glTF tools expect
UV_MAP = "UVMap"
PREFIX = "msd_"                             # of the custom properties
SHOWN = PREFIX + "snapshot"                 # on the mesh: the version of the snapshot it shows


class Gone(RuntimeError):
    """The object was deleted (or undone) while its job still ran."""


class Asset:
    """The object that a job grows. References are looked up by `session_uid` each time, because undo and
    file loading move Blender's data."""

    def __init__(self, request: JobRequest) -> None:
        name = " ".join(request.prompt.split())
        mesh = bpy.data.meshes.new(name)
        object = bpy.data.objects.new(name, mesh)
        material = _material(name)
        mesh.materials.append(material)
        bpy.context.collection.objects.link(object)
        object.location = bpy.context.scene.cursor.location
        self._uid = object.session_uid
        self._material_uid = material.session_uid
        self._shown: dict[str, np.ndarray] = {}
        self._version: int | None = None
        self.record(prompt=request.prompt, negative_prompt=request.negative_prompt, seed=request.seed,
                    guidance=request.guidance, iterations=request.iterations,
                    guidance_scale=request.guidance_scale, model=request.model,
                    versions={"msd_blender": __version__, "blender": bpy.app.version_string})

    @property
    def object(self) -> Any:
        """The bpy object. Raises `Gone`."""
        return _find(bpy.data.objects, self._uid)

    def record(self, **values: Any) -> None:
        """Keep values as custom properties ``msd_…``; None is left out."""
        for name, value in values.items():
            if isinstance(value, int) and abs(value) >= 2**31:
                value = str(value)          # an integer property has 32 bits
            if value is not None:
                self.object[PREFIX + name] = value

    def apply(self, snapshot: Snapshot) -> bool:
        """Show the whole snapshot; False (nothing done) while the object is edited, sculpted or painted.

        Raises `Gone`, and `ProtocolError` for arrays that do not fit each other.
        """
        object = self.object
        mesh = object.data
        if mesh.is_editmode or object.mode != "OBJECT":
            return False
        if mesh.get(SHOWN) != self._version:    # undo or redo brought another state back
            self._shown = {}
        new = {name: array for name, array in snapshot.arrays.items()
               if name not in self._shown or not np.array_equal(array, self._shown[name])}
        if not new:
            return True
        arrays = snapshot.arrays
        _check(arrays)
        if "faces" in new or len(mesh.vertices) != len(arrays["positions"]):
            _rebuild(object, arrays["positions"], arrays["faces"])
            new = arrays
        elif "positions" in new:
            mesh.attributes["position"].data.foreach_set("vector", _floats(arrays["positions"]))
        if "colours" in new:
            _set_colours(mesh, arrays["colours"])
        if "uvs" in new:
            layer = mesh.uv_layers.get(UV_MAP) or mesh.uv_layers.new(name=UV_MAP)
            layer.uv.foreach_set("vector", _floats(arrays["uvs"]))
        if "texture.0" in new and "uvs" in arrays:
            self._set_texture(arrays["texture.0"])
        mesh.update()
        self._shown = dict(arrays)
        self._version = mesh[SHOWN] = snapshot.version
        return True

    def finish(self, **values: Any) -> None:
        """The last step of a generation: pack the texture into the .blend, record the values."""
        image = _image_of(_find(bpy.data.materials, self._material_uid))
        if image is not None and image.is_dirty:
            image.pack()
        self.record(**values)

    def _set_texture(self, texture: np.ndarray) -> None:
        material = _find(bpy.data.materials, self._material_uid)
        height, width = texture.shape[:2]
        image = _image_of(material)
        if image is None:
            image = bpy.data.images.new(material.name, width, height)
            image.colorspace_settings.name = "sRGB"
            _show_image(material, image)
        elif tuple(image.size) != (width, height):
            image.scale(width, height)
        pixels = np.ones((height, width, 4), np.float32)
        np.divide(texture, 255, out=pixels[..., :3])
        image.pixels.foreach_set(pixels.ravel())
        image.update()


def add_stage(object: Any) -> None:
    """A camera that sees the whole object, a sun and a grey world, so that the scene renders as it is."""
    scene = bpy.context.scene
    corners = [object.matrix_world @ Vector(corner) for corner in object.bound_box]
    centre = sum(corners, Vector()) / 8
    radius = max((corner - centre).length for corner in corners) or 1.0
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    back = Vector((0.55, -1.0, 0.5)).normalized()       # from the front, a little right and above
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
    scene.view_settings.view_transform = "Standard"     # base colours come out as they are


def _find(collection: Any, uid: int) -> Any:
    for item in collection:
        if item.session_uid == uid:
            return item
    raise Gone("The object was deleted while it was being made.")


def _floats(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32).ravel()


def _check(arrays: dict[str, np.ndarray]) -> None:
    """Blender trusts indices, and a wrong one ends the whole program: look before it does."""
    if not {"positions", "faces"} <= arrays.keys():
        raise ProtocolError("The server sent a snapshot without positions and faces.")
    positions, faces = arrays["positions"], arrays["faces"]
    if len(faces) and not 0 <= faces.min() <= faces.max() < len(positions):
        raise ProtocolError("The server sent faces that name vertices which do not exist.")
    if (faces == np.roll(faces, 1, axis=1)).any():
        raise ProtocolError("The server sent faces that use a vertex twice.")
    if not np.isfinite(positions).all():
        raise ProtocolError("The server sent positions that are no finite numbers.")
    for name, length in (("colours", len(positions)), ("uvs", len(faces))):
        if name in arrays and len(arrays[name]) != length:
            raise ProtocolError(f"The server sent {len(arrays[name])} {name}, expected {length}.")


def _rebuild(object: Any, positions: np.ndarray, faces: np.ndarray) -> None:
    mesh = object.data
    groups = _VertexGroups(object)
    mesh.clear_geometry()                   # erases vertex groups too
    mesh.vertices.add(len(positions))
    mesh.loops.add(3 * len(faces))
    mesh.polygons.add(len(faces))
    mesh.attributes["position"].data.foreach_set("vector", _floats(positions))
    mesh.loops.foreach_set("vertex_index", np.ascontiguousarray(faces).ravel())
    mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * len(faces), 3, dtype=np.int32))
    mesh.update(calc_edges=True)
    groups.restore(object, positions)


class _VertexGroups:
    """An object's vertex groups, carried over to a new topology: each new vertex takes the weights of the
    nearest old one."""

    def __init__(self, object: Any) -> None:
        vertices = object.data.vertices
        self.names = [group.name for group in object.vertex_groups]
        self.active = object.vertex_groups.active_index
        self.weights = np.full((len(self.names), len(vertices)), np.nan, np.float32)    # nan: no member
        self.tree = KDTree(len(vertices))
        if not self.names:
            return
        for index, vertex in enumerate(vertices):
            self.tree.insert(vertex.co, index)
            for item in vertex.groups:
                self.weights[item.group, index] = item.weight
        self.tree.balance()

    def restore(self, object: Any, positions: np.ndarray) -> None:
        groups = [object.vertex_groups.new(name=name) for name in self.names]
        if groups:
            object.vertex_groups.active_index = self.active
        if np.isnan(self.weights).all():
            return
        nearest = np.array([self.tree.find(position)[1] for position in positions], np.intp)
        for group, weights in zip(groups, self.weights[:, nearest]):
            for index in np.flatnonzero(~np.isnan(weights)).tolist():
                group.add([index], float(weights[index]), "REPLACE")


def _set_colours(mesh: Any, colours: np.ndarray) -> None:
    attribute = mesh.color_attributes.get(COLOUR)
    if attribute is None:
        attribute = mesh.color_attributes.new(COLOUR, "BYTE_COLOR", "POINT")
        mesh.color_attributes.active_color = attribute
        mesh.color_attributes.render_color_index = mesh.color_attributes.active_color_index
    rgba = np.ones((len(colours), 4), np.float32)
    np.divide(colours, 255, out=rgba[:, :3])
    attribute.data.foreach_set("color_srgb", rgba.ravel())


def _material(name: str) -> Any:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    shader = nodes["Principled BSDF"]
    shader.inputs["Roughness"].default_value = 0.7
    colour = nodes.new("ShaderNodeVertexColor")
    colour.layer_name = COLOUR
    colour.location = (-300, 200)
    links.new(colour.outputs["Color"], shader.inputs["Base Color"])
    return material


def _show_image(material: Any, image: Any) -> None:
    nodes, links = material.node_tree.nodes, material.node_tree.links
    uv = nodes.new("ShaderNodeUVMap")
    uv.uv_map = UV_MAP
    uv.location = (-800, 200)
    texture = nodes.new("ShaderNodeTexImage")
    texture.image = image
    texture.location = (-600, 200)
    links.new(uv.outputs["UV"], texture.inputs["Vector"])
    links.new(texture.outputs["Color"], nodes["Principled BSDF"].inputs["Base Color"])


def _image_of(material: Any) -> Any:
    return next((node.image for node in material.node_tree.nodes if node.type == "TEX_IMAGE" and node.image), None)
