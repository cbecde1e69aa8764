# SPDX-License-Identifier: GPL-3.0-or-later
"""GLB: the Khronos glTF 2.0 specification's binary container."""

from __future__ import annotations

import base64
import io
import json
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from ..mesh import Mesh, srgb_to_linear
from .common import (ROUGHNESS, Part, Say, beside, join, picture, png, split_corners, vertex_normals, weld, y_up,
                     z_up)

_MAGIC, _JSON, _BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942
_KINDS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_ARRAY, _ELEMENTS = 34962, 34963            # what a buffer view is for
_KNOWN = {"KHR_texture_transform", "KHR_materials_unlit", "KHR_materials_emissive_strength"}


@dataclass
class _Writer:
    """The lists of a glTF document, and its buffer."""

    data: bytearray = field(default_factory=bytearray)
    views: list[dict[str, Any]] = field(default_factory=list)
    accessors: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)

    def view(self, content: bytes, **more: Any) -> int:
        self.data += bytes(-len(self.data) % 4)
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)} | more)
        self.data += content
        return len(self.views) - 1

    def array(self, values: np.ndarray, kind: int, target: int = _ARRAY, **more: Any) -> int:
        """An accessor of (N,) or (N, C) values."""
        width = 1 if values.ndim == 1 else values.shape[1]
        name = next(name for name, columns in _WIDTHS.items() if columns == width)
        content = np.ascontiguousarray(values, _KINDS[kind]).tobytes()
        self.accessors.append({"bufferView": self.view(content, target=target), "componentType": kind,
                               "count": len(values), "type": name} | more)
        return len(self.accessors) - 1

    def texture(self, values: np.ndarray) -> dict[str, int]:
        self.images.append({"bufferView": self.view(png(values)), "mimeType": "image/png"})
        return {"index": len(self.images) - 1}


def save(mesh: Mesh, path: Path, flat: bool) -> list[Path]:
    """One mesh with a primitive for each slot. Flat is to have no normals, as glTF defines it."""
    writer = _Writer()
    slots = mesh.face_slots
    normals = None if flat else vertex_normals(mesh)
    primitives, materials = list[dict[str, Any]](), list[dict[str, Any]]()
    for slot in np.unique(slots).tolist():
        own = slots == slot
        material, coloured = _material(writer, mesh, slot), f"texture.{slot}" not in mesh.textures
        if mesh.uvs is None:
            source, faces = np.unique(mesh.faces[own], return_inverse=True)
            faces = faces.reshape(-1, 3)
        else:
            source, uvs, faces = split_corners(mesh.faces[own], mesh.uvs[own])
        places = y_up(mesh.positions[source])
        attributes = {"POSITION": writer.array(places, 5126, min=places.min(axis=0).tolist(),
                                               max=places.max(axis=0).tolist())}
        if normals is not None:
            attributes["NORMAL"] = writer.array(y_up(normals[source]), 5126)
        if mesh.uvs is not None:
            attributes["TEXCOORD_0"] = writer.array(np.stack([uvs[:, 0], 1 - uvs[:, 1]], axis=1), 5126)
        if mesh.colours is not None and coloured:                   # they would tint a texture
            linear = np.ones((len(source), 4))
            linear[:, :3] = srgb_to_linear(mesh.colours[source] / 255)
            attributes["COLOR_0"] = writer.array(np.round(65535 * linear), 5123, normalized=True)
        primitives.append({"attributes": attributes, "material": len(materials),
                           "indices": writer.array(faces.reshape(-1), 5125, _ELEMENTS)})
        materials.append(material)
    document = {
        "asset": {"version": "2.0", "generator": "msd_blender"}, "scene": 0, "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": path.stem}], "meshes": [{"name": path.stem, "primitives": primitives}],
        "materials": materials, "accessors": writer.accessors, "bufferViews": writer.views,
        "buffers": [{"byteLength": len(writer.data)}]}
    if writer.images:
        document |= {"images": writer.images, "samplers": [{"magFilter": 9729, "minFilter": 9987}],
                     "textures": [{"source": i, "sampler": 0} for i in range(len(writer.images))]}
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data = bytes(writer.data) + bytes(-len(writer.data) % 4)
    path.write_bytes(b"".join((
        struct.pack("<III", _MAGIC, 2, 28 + len(text) + len(data)),
        struct.pack("<II", len(text), _JSON), text, struct.pack("<II", len(data), _BINARY), data)))
    return [path]


def _material(writer: _Writer, mesh: Mesh, slot: int) -> dict[str, Any]:
    """Base colour; roughness and metallic as one picture's green and blue; OpenGL's normals."""
    def given(kind: str) -> np.ndarray | None:
        return mesh.textures.get(f"{kind}.{slot}")

    surface: dict[str, Any] = {"metallicFactor": 0, "roughnessFactor": ROUGHNESS}
    base, roughness, metallic, normal = map(given, ("texture", "roughness", "metallic", "normal"))
    if base is not None:
        surface["baseColorTexture"] = writer.texture(base)
    if roughness is not None or metallic is not None:
        height, width = np.max([each.shape for each in (roughness, metallic) if each is not None], axis=0)
        packed = np.zeros((height, width, 3), np.uint8)
        packed[..., 1] = round(255 * ROUGHNESS) if roughness is None else _sized(roughness, height, width)
        packed[..., 2] = 0 if metallic is None else _sized(metallic, height, width)
        surface |= {"metallicFactor": 1, "roughnessFactor": 1, "metallicRoughnessTexture": writer.texture(packed)}
    material = {"name": f"slot {slot}", "pbrMetallicRoughness": surface, "doubleSided": True}
    if normal is not None:
        material["normalTexture"] = writer.texture(normal)
    return material


def _sized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture at another size, its pixels repeated."""
    rows, columns = values.shape[:2]
    return values[np.arange(height) * rows // height][:, np.arange(width) * columns // width]


class _Reader:
    def __init__(self, path: Path):
        self.path = path
        content = path.read_bytes()
        if len(content) < 20 or struct.unpack_from("<II", content) != (_MAGIC, 2):
            raise ValueError(f"{path.name} is no glTF 2.0 binary file: export it as GLB.")
        length, kind = struct.unpack_from("<II", content, 12)
        if kind != _JSON:
            raise ValueError(f"{path.name} is damaged: export it again.")
        try:
            self.document = json.loads(content[20:20 + length])
        except (ValueError, RecursionError):
            raise ValueError(f"{path.name} is damaged: export it again.") from None
        needs = set(self.document.get("extensionsRequired", [])) - _KNOWN
        if needs:
            raise ValueError(f"{path.name} needs {', '.join(sorted(map(str, needs)))}: export it without compression.")
        self.binary = content[28 + length:]

    def get(self, kind: str, index: int) -> dict[str, Any]:
        if index < 0:
            raise IndexError(index)
        return self.document[kind][index]  # type: ignore[no-any-return]

    def buffer(self, index: int) -> bytes:
        uri = self.get("buffers", index).get("uri")
        return self.binary if uri is None else self.resource(uri)

    def resource(self, uri: str) -> bytes:
        if uri.startswith("data:"):
            return base64.b64decode(uri.partition(",")[2])
        return beside(self.path, unquote(uri)).read_bytes()

    def view(self, index: int) -> tuple[bytes, int]:
        """(its bytes, its stride or 0)."""
        view = self.get("bufferViews", index)
        start = view.get("byteOffset", 0)
        content = self.buffer(view["buffer"])[start:start + view["byteLength"]]
        if start < 0 or len(content) != view["byteLength"]:
            raise ValueError(f"{self.path.name} is shorter than it says: export it again.")
        return content, view.get("byteStride", 0)

    def array(self, index: int) -> np.ndarray:
        """(N, C) values of an accessor; what is normalized as float32 in [-1, 1]."""
        accessor = self.get("accessors", index)
        if "sparse" in accessor or "bufferView" not in accessor:
            raise ValueError(f"{self.path.name} has sparse data: export it without shape keys.")
        kind, width, count = np.dtype(_KINDS[accessor["componentType"]]), _WIDTHS[accessor["type"]], accessor["count"]
        content, stride = self.view(accessor["bufferView"])
        start, row = accessor.get("byteOffset", 0), kind.itemsize * width
        stride = stride or row
        if count < 1 or start < 0 or stride < row or start + (count - 1) * stride + row > len(content):
            raise ValueError(f"{self.path.name} is shorter than it says: export it again.")
        values: np.ndarray = np.ndarray((count, width), kind, content, start, (stride, kind.itemsize))
        if accessor.get("normalized"):
            return values.astype(np.float32) / np.iinfo(kind).max
        return values

    def texture(self, info: dict[str, Any] | None, mode: str) -> np.ndarray | None:
        if info is None:
            return None
        image = self.get("images", self.get("textures", info["index"])["source"])
        content = self.resource(image["uri"]) if "uri" in image else self.view(image["bufferView"])[0]
        return picture(io.BytesIO(content), mode)

    def nodes(self) -> list[tuple[int, np.ndarray]]:
        """(mesh, world matrix (4, 4)) of each node that shows one."""
        nodes = self.document.get("nodes", [])
        inner = {child for node in nodes for child in node.get("children", [])}
        roots = [index for index in range(len(nodes)) if index not in inner]
        if "scenes" in self.document:
            roots = self.get("scenes", self.document.get("scene", 0)).get("nodes", [])
        todo = [(root, np.eye(4)) for root in roots]
        found: list[tuple[int, np.ndarray]] = []
        seen: set[int] = set()
        for index, above in todo:           # which grows
            if index in seen:
                raise ValueError(f"{self.path.name} has an object inside itself or twice: export it again.")
            seen.add(index)
            node = self.get("nodes", index)
            matrix = above @ _matrix(node)
            if "mesh" in node:
                found.append((node["mesh"], matrix))
            todo += [(child, matrix) for child in node.get("children", [])]
        return found


def load(path: Path, say: Say) -> Mesh:
    """All triangles of a scene, welded, because the format splits vertices at seams."""
    reader = _Reader(path)
    parts, materials = [], list[int]()
    for index, matrix in reader.nodes():
        for primitive in reader.get("meshes", index)["primitives"]:
            if primitive.get("mode", 4) != 4:
                continue                    # points and lines
            attributes = primitive["attributes"]
            places = reader.array(attributes["POSITION"]).astype(np.float64)
            faces = reader.array(primitive["indices"])[:, 0].astype(np.int64) if "indices" in primitive \
                else np.arange(len(places))
            faces = faces[:len(faces) // 3 * 3].reshape(-1, 3)
            if np.linalg.det(matrix[:3, :3]) < 0:
                faces = faces[:, ::-1]      # a mirrored object
            uvs, colours = (reader.array(attributes[name]) if name in attributes else None
                            for name in ("TEXCOORD_0", "COLOR_0"))
            material = primitive.get("material", -1)
            if material not in materials:
                materials.append(material)
            parts.append(Part(z_up(places @ matrix[:3, :3].T + matrix[:3, 3]), faces,
                              None if uvs is None else (uvs * (1, -1) + (0, 1))[faces],
                              None if colours is None else colours[:, :3],
                              np.full(len(faces), materials.index(material))))
    textures = {f"{kind}.{slot}": values for slot, material in enumerate(materials)
                for kind, values in _pictures(reader, material).items() if values is not None}
    return replace(weld(join(parts)), textures=textures)


def _pictures(reader: _Reader, material: int) -> dict[str, np.ndarray | None]:
    if material < 0:
        return {}
    values = reader.get("materials", material)
    surface = values.get("pbrMetallicRoughness", {})
    found = {"texture": reader.texture(surface.get("baseColorTexture"), "RGB"),
             "normal": reader.texture(values.get("normalTexture"), "RGB")}
    packed = reader.texture(surface.get("metallicRoughnessTexture"), "RGB")
    if packed is not None:
        for kind, channel in (("roughness", 1), ("metallic", 2)):
            factor = float(surface.get(kind + "Factor", 1))
            found[kind] = np.round(packed[..., channel] * min(max(factor, 0.0), 1.0)).astype(np.uint8)
    return found


def _matrix(node: dict[str, Any]) -> np.ndarray:
    """(4, 4) of a node's own transform; glTF's matrices are column by column, its quaternions x, y, z, w."""
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    turn = np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                     [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                     [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)), float)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix
