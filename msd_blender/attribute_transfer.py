# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace the topology of a mesh and transfer the artist's data to it: vertex groups, UV maps, colours and other
attributes, materials of faces. Each new vertex takes the values of the nearest old one."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np
from mathutils.kdtree import KDTree

# Attributes of these types are transferred: the property that holds a value, its width and its dtype.
_TYPES: dict[str, tuple[str, int, type]] = {
    "FLOAT": ("value", 1, np.float32),
    "INT": ("value", 1, np.int32),
    "BOOLEAN": ("value", 1, bool),
    "FLOAT2": ("vector", 2, np.float32),
    "FLOAT_VECTOR": ("vector", 3, np.float32),
    "FLOAT_COLOR": ("color", 4, np.float32),
    "BYTE_COLOR": ("color", 4, np.float32),
}
_DOMAINS = ("POINT", "CORNER", "FACE")


def replace_geometry(object: bpy.types.Object, positions: np.ndarray, faces: np.ndarray, skip: set[str]) -> None:
    """Give the object's mesh new vertices and triangles.

    positions: (V, 3) in the mesh's own coordinates; faces: (F, 3) indices of vertices; skip: names of attributes
    that are not transferred, because the caller writes them anew.
    """
    mesh = object.data
    saved = _SavedData(object, skip)
    mesh.clear_geometry()  # erases vertex groups and attributes too
    mesh.vertices.add(len(positions))
    mesh.loops.add(3 * len(faces))
    mesh.polygons.add(len(faces))
    mesh.attributes["position"].data.foreach_set("vector", np.ascontiguousarray(positions, np.float32).ravel())
    mesh.loops.foreach_set("vertex_index", np.ascontiguousarray(faces).ravel())
    mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * len(faces), 3, dtype=np.int32))
    mesh.update(calc_edges=True)
    saved.restore(object, positions, faces)


@dataclass
class _Attribute:
    """One attribute's values: (N, width) of its domain's N elements."""

    name: str
    data_type: str
    domain: str
    values: np.ndarray

    @classmethod
    def read(cls, attribute: bpy.types.Attribute) -> _Attribute:
        property, width, dtype = _TYPES[attribute.data_type]
        values: np.ndarray = np.empty(width * len(attribute.data), dtype)
        attribute.data.foreach_get(property, values)
        return cls(attribute.name, attribute.data_type, attribute.domain, values.reshape(-1, width))

    def write(self, mesh: bpy.types.Mesh, sources: np.ndarray) -> None:
        """Write the values of the old elements `sources`, one for each new element, unless the mesh has another
        attribute of this name."""
        attribute = mesh.attributes.get(self.name) or mesh.attributes.new(self.name, self.data_type, self.domain)
        if (attribute.data_type, attribute.domain) == (self.data_type, self.domain) and len(self.values):
            attribute.data.foreach_set(_TYPES[self.data_type][0], np.ascontiguousarray(self.values[sources]).ravel())


class _SavedData:
    """The artist's data of a mesh before its geometry is erased."""

    def __init__(self, object: bpy.types.Object, skip: set[str]) -> None:
        mesh = object.data
        self._groups = [group.name for group in object.vertex_groups]
        self._active_group = object.vertex_groups.active_index
        self._active_uv_map = mesh.uv_layers.active.name if mesh.uv_layers.active else ""
        active_colour = mesh.color_attributes.active_color
        self._active_colour = active_colour.name if active_colour else ""
        self._weights = np.full((len(self._groups), len(mesh.vertices)), np.nan, np.float32)  # nan: not a member
        self._attributes = [
            _Attribute.read(attribute)
            for attribute in mesh.attributes
            if attribute.name not in skip
            and attribute.data_type in _TYPES
            and attribute.domain in _DOMAINS
            and not attribute.is_internal
            and (not attribute.is_required or attribute.name == "material_index")
            and attribute.name not in ("position", "sharp_face")
        ]
        self._tree: KDTree | None = None
        if not (self._groups or self._attributes) or not len(mesh.vertices):
            return
        self._tree = KDTree(len(mesh.vertices))
        for index, vertex in enumerate(mesh.vertices):
            self._tree.insert(vertex.co, index)
            for member in vertex.groups:
                self._weights[member.group, index] = member.weight
        self._tree.balance()
        corners = np.empty(len(mesh.loops), np.int32)
        mesh.loops.foreach_get("vertex_index", corners)
        self._corner = np.zeros(len(mesh.vertices), np.intp)  # one corner and one face of each old vertex
        self._corner[corners] = np.arange(len(corners))
        totals = np.empty(len(mesh.polygons), np.int32)
        mesh.polygons.foreach_get("loop_total", totals)
        self._face = np.repeat(np.arange(len(totals)), totals)[self._corner] if len(corners) else self._corner

    def restore(self, object: bpy.types.Object, positions: np.ndarray, faces: np.ndarray) -> None:
        """Write the data to the object's new geometry: positions (V, 3), faces (F, 3)."""
        groups = [object.vertex_groups.new(name=name) for name in self._groups]
        if groups:
            object.vertex_groups.active_index = self._active_group
        if self._tree is None or not (self._attributes or np.isfinite(self._weights).any()):
            return
        nearest = np.array([self._tree.find(position)[1] for position in positions], np.intp)
        for group, weights in zip(groups, self._weights[:, nearest]):
            for index in np.flatnonzero(~np.isnan(weights)).tolist():
                group.add([index], float(weights[index]), "REPLACE")
        mesh = object.data
        sources = {
            "POINT": nearest,
            "CORNER": self._corner[nearest[faces.ravel()]],
            "FACE": self._face[nearest[faces[:, 0]]],
        }
        for attribute in self._attributes:
            attribute.write(mesh, sources[attribute.domain])
        if self._active_uv_map in mesh.uv_layers:
            mesh.uv_layers.active = mesh.uv_layers[self._active_uv_map]
        if self._active_colour in mesh.color_attributes:
            mesh.color_attributes.active_color = mesh.color_attributes[self._active_colour]
