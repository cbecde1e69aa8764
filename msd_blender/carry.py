# SPDX-License-Identifier: GPL-3.0-or-later
"""A new topology for a mesh, to which what the artist added is carried over: vertex groups, UV maps, colours and
other attributes, materials of faces. What is new takes the values of the nearest old vertex."""

from __future__ import annotations

from typing import Any

import numpy as np
from mathutils.kdtree import KDTree

# Attributes of these types are carried: their property and its width.
_TYPES = {
    "FLOAT": ("value", 1, np.float32),
    "INT": ("value", 1, np.int32),
    "BOOLEAN": ("value", 1, bool),
    "FLOAT2": ("vector", 2, np.float32),
    "FLOAT_VECTOR": ("vector", 3, np.float32),
    "FLOAT_COLOR": ("color", 4, np.float32),
    "BYTE_COLOR": ("color", 4, np.float32),
}
_DOMAINS = ("POINT", "CORNER", "FACE")


def rebuild(object: Any, positions: np.ndarray, faces: np.ndarray, ours: set[str]) -> None:
    """Give the object's mesh new vertices (V, 3) and triangles (F, 3). ours: names of attributes to leave out."""
    mesh = object.data
    kept = _Kept(object, ours)
    mesh.clear_geometry()  # erases vertex groups and attributes too
    mesh.vertices.add(len(positions))
    mesh.loops.add(3 * len(faces))
    mesh.polygons.add(len(faces))
    mesh.attributes["position"].data.foreach_set("vector", np.ascontiguousarray(positions, np.float32).ravel())
    mesh.loops.foreach_set("vertex_index", np.ascontiguousarray(faces).ravel())
    mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * len(faces), 3, dtype=np.int32))
    mesh.update(calc_edges=True)
    kept.restore(object, positions, faces)


class _Kept:
    def __init__(self, object: Any, ours: set[str]) -> None:
        mesh = object.data
        self.names = [group.name for group in object.vertex_groups]
        self.active = object.vertex_groups.active_index
        self.shape = getattr(mesh.uv_layers.active, "name", ""), getattr(mesh.color_attributes.active_color, "name", "")
        self.weights = np.full((len(self.names), len(mesh.vertices)), np.nan, np.float32)  # nan: no member
        self.attributes = [
            _read(attribute)
            for attribute in mesh.attributes
            if attribute.name not in ours
            and attribute.data_type in _TYPES
            and attribute.domain in _DOMAINS
            and not attribute.is_internal
            and (not attribute.is_required or attribute.name == "material_index")
            and attribute.name not in ("position", "sharp_face")
        ]
        if not (self.names or self.attributes) or not len(mesh.vertices):
            return
        self.tree = KDTree(len(mesh.vertices))
        for index, vertex in enumerate(mesh.vertices):
            self.tree.insert(vertex.co, index)
            for item in vertex.groups:
                self.weights[item.group, index] = item.weight
        self.tree.balance()
        corners = np.empty(len(mesh.loops), np.int32)
        mesh.loops.foreach_get("vertex_index", corners)
        self.corner = np.zeros(len(mesh.vertices), np.intp)  # one corner and one face of each old vertex
        self.corner[corners] = np.arange(len(corners))
        totals = np.empty(len(mesh.polygons), np.int32)
        mesh.polygons.foreach_get("loop_total", totals)
        self.face = np.repeat(np.arange(len(totals)), totals)[self.corner] if len(corners) else self.corner

    def restore(self, object: Any, positions: np.ndarray, faces: np.ndarray) -> None:
        groups = [object.vertex_groups.new(name=name) for name in self.names]
        if groups:
            object.vertex_groups.active_index = self.active
        if not hasattr(self, "tree") or not (self.attributes or np.isfinite(self.weights).any()):
            return
        nearest = np.array([self.tree.find(position)[1] for position in positions], np.intp)
        for group, weights in zip(groups, self.weights[:, nearest]):
            for index in np.flatnonzero(~np.isnan(weights)).tolist():
                group.add([index], float(weights[index]), "REPLACE")
        mesh = object.data
        source = {
            "POINT": nearest,
            "CORNER": self.corner[nearest[faces.ravel()]],
            "FACE": self.face[nearest[faces[:, 0]]],
        }
        for name, kind, domain, values in self.attributes:
            attribute = mesh.attributes.get(name) or mesh.attributes.new(name, kind, domain)
            if attribute.data_type == kind and attribute.domain == domain and len(values):
                attribute.data.foreach_set(_TYPES[kind][0], np.ascontiguousarray(values[source[domain]]).ravel())
        layer, colour = self.shape
        if layer in mesh.uv_layers:
            mesh.uv_layers.active = mesh.uv_layers[layer]
        if colour in mesh.color_attributes:
            mesh.color_attributes.active_color = mesh.color_attributes[colour]


def _read(attribute: Any) -> tuple[str, str, str, np.ndarray]:
    name, width, dtype = _TYPES[attribute.data_type]
    values = np.empty(width * len(attribute.data), dtype)
    attribute.data.foreach_get(name, values)
    return attribute.name, attribute.data_type, attribute.domain, values.reshape(-1, width)
