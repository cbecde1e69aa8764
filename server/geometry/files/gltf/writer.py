# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing glTF 2.0 in one file: GLB, or .gltf with all data in it."""

from __future__ import annotations

import base64
import copy
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from msd_blender.protocol import METALLIC, ROUGHNESS

from ...colour import srgb_to_linear
from ...material import GLTF_TEXTURES, JsonObject, Material, texture_references
from ...mesh import Mesh
from ...normals import vertex_normals
from ..common import Warn, corner_normals, split_vertices, to_y_up
from ..images import encode_png, resize_nearest
from .document import BINARY, JSON, KINDS, MAGIC, WIDTHS
from .materials import texture_maps, with_alpha

_ARRAY, _ELEMENTS = 34962, 34963  # targets of buffer views
_PNG = b"\x89PNG"
_SAMPLER = {"magFilter": 9729, "minFilter": 9987}


@dataclass
class _Writer:
    """The lists of a glTF document, and its buffer."""

    data: bytearray = field(default_factory=bytearray)
    views: list[JsonObject] = field(default_factory=list)
    accessors: list[JsonObject] = field(default_factory=list)
    images: list[JsonObject] = field(default_factory=list)
    samplers: list[JsonObject] = field(default_factory=list)
    textures: list[dict[str, int]] = field(default_factory=list)
    files: dict[bytes, int] = field(default_factory=dict)  # the image of each file that came with a material

    def view(self, content: bytes, **more: object) -> int:
        self.data += bytes(-len(self.data) % 4)
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)} | more)
        self.data += content
        return len(self.views) - 1

    def array(self, values: np.ndarray, kind: int, target: int = _ARRAY, **more: object) -> int:
        """An accessor of (N,) or (N, C) values."""
        width = 1 if values.ndim == 1 else values.shape[1]
        name = next(name for name, columns in WIDTHS.items() if columns == width)
        content = np.ascontiguousarray(values, KINDS[kind]).tobytes()
        self.accessors.append(
            {"bufferView": self.view(content, target=target), "componentType": kind, "count": len(values), "type": name}
            | more
        )
        return len(self.accessors) - 1

    def texture(self, image: np.ndarray, sampler: JsonObject) -> dict[str, int]:
        """A textureInfo of an image (H, W), (H, W, 3) or (H, W, 4) uint8, bottom row first."""
        return self._texture(self._image(encode_png(image), "image/png"), sampler)

    def texture_file(self, content: bytes, sampler: JsonObject) -> dict[str, int]:
        """A textureInfo of a PNG or JPEG file as it is."""
        if content not in self.files:
            self.files[content] = self._image(content, f"image/{'png' if content[:4] == _PNG else 'jpeg'}")
        return self._texture(self.files[content], sampler)

    def _image(self, content: bytes, kind: str) -> int:
        self.images.append({"bufferView": self.view(content), "mimeType": kind})
        return len(self.images) - 1

    def _texture(self, image: int, sampler: JsonObject) -> dict[str, int]:
        texture = {"source": image}
        if sampler:
            if sampler not in self.samplers:
                self.samplers.append(sampler)
            texture["sampler"] = self.samplers.index(sampler)
        if texture not in self.textures:
            self.textures.append(texture)
        return {"index": self.textures.index(texture)}


def save(mesh: Mesh, path: Path, flat: bool, warn: Warn) -> list[Path]:
    """One mesh with a primitive for each slot. A flat one has no normals, which glTF defines to be flat."""
    writer = _Writer()
    slots = mesh.face_slots
    smooth = None if flat or mesh.normals is not None else vertex_normals(mesh.positions, mesh.faces)
    primitives, materials = list[JsonObject](), list[JsonObject]()
    for slot in np.unique(slots).tolist():
        own = slots == slot
        material, coloured = _material(writer, mesh, slot)
        corners = _corners(mesh, slot, flat)
        if corners:
            source, table, faces = split_vertices(mesh.faces[own], np.concatenate(list(corners.values()), axis=2))
            widths = np.cumsum([each.shape[2] for each in corners.values()])[:-1]
            values = dict(zip(corners, np.split(table, widths, axis=1)))
        else:
            source, faces = np.unique(mesh.faces[own], return_inverse=True)
            faces, values = faces.reshape(-1, 3), {}
        places = to_y_up(mesh.positions[source])
        attributes = {
            "POSITION": writer.array(places, 5126, min=places.min(axis=0).tolist(), max=places.max(axis=0).tolist())
        }
        normals = values.pop("NORMAL", None) if smooth is None else smooth[source]
        if normals is not None:
            attributes["NORMAL"] = writer.array(to_y_up(normals), 5126)
        for name, uvs in values.items():
            attributes[name] = writer.array(np.stack([uvs[:, 0], 1 - uvs[:, 1]], axis=1), 5126)
        if mesh.colours is not None and coloured:
            linear = np.ones((len(source), 4))
            linear[:, :3] = srgb_to_linear(mesh.colours[source] / 255)
            attributes["COLOR_0"] = writer.array(np.round(65535 * linear), 5123, normalized=True)
        primitives.append(
            {
                "attributes": attributes,
                "material": len(materials),
                "indices": writer.array(faces.reshape(-1), 5125, _ELEMENTS),
            }
        )
        materials.append(material)
    document: JsonObject = {
        "asset": {"version": "2.0", "generator": "msd_blender"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": path.stem}],
        "meshes": [{"name": path.stem, "primitives": primitives}],
        "materials": materials,
        "accessors": writer.accessors,
        "bufferViews": writer.views,
        "buffers": [{"byteLength": len(writer.data)}],
    }
    if writer.images:
        document |= {"images": writer.images, "samplers": writer.samplers, "textures": writer.textures}
        if not writer.samplers:
            del document["samplers"]
    if used := sorted(set(_extensions(materials))):
        document["extensionsUsed"] = used
    if path.suffix.lower() == ".gltf":
        data = "data:application/octet-stream;base64," + base64.b64encode(writer.data).decode()
        document["buffers"][0]["uri"] = data
        path.write_text(json.dumps(document), encoding="utf-8")
        return [path]
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary = bytes(writer.data) + bytes(-len(writer.data) % 4)
    path.write_bytes(
        b"".join(
            (
                struct.pack("<III", MAGIC, 2, 28 + len(text) + len(binary)),
                struct.pack("<II", len(text), JSON),
                text,
                struct.pack("<II", len(binary), BINARY),
                binary,
            )
        )
    )
    return [path]


def _corners(mesh: Mesh, slot: int, flat: bool) -> dict[str, np.ndarray]:
    """The attributes by corner of a slot's faces, by their names in glTF: (F, 3, 2 or 3) each."""
    own = mesh.face_slots == slot
    found = {}
    if mesh.normals is not None and not flat and np.isfinite(mesh.normals[own]).any():
        found["NORMAL"] = corner_normals(mesh)[own]
    maps = [] if mesh.uvs is None else [mesh.uvs, *mesh.more_uvs]
    while len(maps) > 1 and not np.isfinite(maps[-1][own]).any():
        maps.pop()
    return found | {f"TEXCOORD_{i}": np.nan_to_num(uvs[own], nan=0.0) for i, uvs in enumerate(maps)}


def _material(writer: _Writer, mesh: Mesh, slot: int) -> tuple[JsonObject, bool]:
    """(a slot's material, whether its vertices have colours, which would tint a painted texture).

    Textures that were not painted stay as they were read, byte for byte.
    """
    maps = {kind: mesh.textures.get(f"{kind}.{slot}") for kind in GLTF_TEXTURES}
    own = mesh.materials.get(slot)
    material: JsonObject = (
        {
            "name": f"slot {slot}",
            "pbrMetallicRoughness": {"metallicFactor": METALLIC, "roughnessFactor": ROUGHNESS},
            "doubleSided": True,
        }
        if own is None
        else copy.deepcopy(own.gltf)
    )
    surface: JsonObject = material.setdefault("pbrMetallicRoughness", {})
    parents = {kind: material if kind == "normal" else surface for kind in GLTF_TEXTURES}
    own = own or Material(copy.deepcopy(material))
    given, samplers = texture_maps(own), dict[str, JsonObject]()
    new = {kind for kind in GLTF_TEXTURES if not _same(maps[kind], given.get(kind))}
    for kind in new:
        if GLTF_TEXTURES[kind] in parents[kind]:
            samplers[GLTF_TEXTURES[kind]] = own.textures[parents[kind].pop(GLTF_TEXTURES[kind])["index"]][1]
    for parent, key in texture_references(material):
        parent[key] |= writer.texture_file(*own.textures[parent[key]["index"]])

    def put(kind: str, image: np.ndarray) -> None:
        parents[kind][GLTF_TEXTURES[kind]] = writer.texture(image, samplers.get(GLTF_TEXTURES[kind], _SAMPLER))

    base, normal = maps["texture"], maps["normal"]
    if "texture" in new or (mesh.colours is not None and "baseColorTexture" not in surface):
        _whiten(surface)
    if "texture" in new and base is not None:
        put("texture", with_alpha(base, own))
    if {"roughness", "metallic"} & new:
        channels = [
            own.constants()[kind] if (image := maps[kind]) is None else image for kind in ("roughness", "metallic")
        ]
        height, width = np.max([each.shape for each in channels], axis=0)
        packed = np.zeros((height, width, 3), np.uint8)
        packed[..., 1], packed[..., 2] = (resize_nearest(each, height, width) for each in channels)
        surface |= {"metallicFactor": 1, "roughnessFactor": 1}
        put("roughness", packed)
    if "normal" in new and normal is not None:
        put("normal", normal)
    return material, base is None or (slot in mesh.materials and "texture" not in new)


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _whiten(surface: JsonObject) -> None:
    """Make the base colour factor white, and leave its alpha."""
    factor = surface.pop("baseColorFactor", (1, 1, 1, 1))
    if factor[3] != 1:
        surface["baseColorFactor"] = [1, 1, 1, factor[3]]


def _extensions(value: object) -> Iterator[str]:
    """The extensions that materials use, repeated ones too."""
    if isinstance(value, dict):
        yield from value.get("extensions", {})
        value = [each for key, each in value.items() if key != "extras"]
    if isinstance(value, list):
        for each in value:
            yield from _extensions(each)
