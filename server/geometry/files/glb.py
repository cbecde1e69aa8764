# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing glTF 2.0 of the Khronos Group, in one file: GLB, or .gltf with all data in it."""

from __future__ import annotations

import base64
import copy
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..material import TEXTURES, Material, textures
from ..mesh import Mesh, srgb_to_linear
from .common import ROUGHNESS, Say, corner_normals, png, split_corners, vertex_normals, y_up
from .glb_reader import JSON, KINDS, MAGIC, WIDTHS, alpha, load, maps

__all__ = ["load", "save"]

_BINARY = 0x004E4942
_ARRAY, _ELEMENTS = 34962, 34963  # what a buffer view is for
_PNG = b"\x89PNG"
_SAMPLER = {"magFilter": 9729, "minFilter": 9987}


@dataclass
class _Writer:
    """The lists of a glTF document, and its buffer."""

    data: bytearray = field(default_factory=bytearray)
    views: list[dict[str, Any]] = field(default_factory=list)
    accessors: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    samplers: list[dict[str, Any]] = field(default_factory=list)
    textures: list[dict[str, int]] = field(default_factory=list)
    carried: dict[bytes, int] = field(default_factory=dict)  # the images of files that came with materials

    def view(self, content: bytes, **more: Any) -> int:
        self.data += bytes(-len(self.data) % 4)
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)} | more)
        self.data += content
        return len(self.views) - 1

    def array(self, values: np.ndarray, kind: int, target: int = _ARRAY, **more: Any) -> int:
        """An accessor of (N,) or (N, C) values."""
        width = 1 if values.ndim == 1 else values.shape[1]
        name = next(name for name, columns in WIDTHS.items() if columns == width)
        content = np.ascontiguousarray(values, KINDS[kind]).tobytes()
        self.accessors.append(
            {"bufferView": self.view(content, target=target), "componentType": kind, "count": len(values), "type": name}
            | more
        )
        return len(self.accessors) - 1

    def picture(self, values: np.ndarray, sampler: dict[str, Any]) -> dict[str, int]:
        """A texture of (H, W), (H, W, 3) or (H, W, 4) uint8, bottom row first."""
        return self._texture(self._image(png(values), "image/png"), sampler)

    def file(self, content: bytes, sampler: dict[str, Any]) -> dict[str, int]:
        """A texture of a PNG or JPEG file as it is."""
        if content not in self.carried:
            self.carried[content] = self._image(content, f"image/{'png' if content[:4] == _PNG else 'jpeg'}")
        return self._texture(self.carried[content], sampler)

    def _image(self, content: bytes, kind: str) -> int:
        self.images.append({"bufferView": self.view(content), "mimeType": kind})
        return len(self.images) - 1

    def _texture(self, image: int, sampler: dict[str, Any]) -> dict[str, int]:
        texture = {"source": image}
        if sampler:
            if sampler not in self.samplers:
                self.samplers.append(sampler)
            texture["sampler"] = self.samplers.index(sampler)
        if texture not in self.textures:
            self.textures.append(texture)
        return {"index": self.textures.index(texture)}


def save(mesh: Mesh, path: Path, flat: bool, say: Say) -> list[Path]:
    """One mesh with a primitive for each slot. Flat is to have no normals, as glTF defines it."""
    writer = _Writer()
    slots = mesh.face_slots
    smooth = None if flat or mesh.normals is not None else vertex_normals(mesh)
    primitives, materials = list[dict[str, Any]](), list[dict[str, Any]]()
    for slot in np.unique(slots).tolist():
        own = slots == slot
        material, coloured = _material(writer, mesh, slot)
        corners = _corners(mesh, slot, flat)
        if corners:
            source, table, faces = split_corners(mesh.faces[own], np.concatenate(list(corners.values()), axis=2))
            widths = np.cumsum([each.shape[2] for each in corners.values()])[:-1]
            values = dict(zip(corners, np.split(table, widths, axis=1)))
        else:
            source, faces = np.unique(mesh.faces[own], return_inverse=True)
            faces, values = faces.reshape(-1, 3), {}
        places = y_up(mesh.positions[source])
        attributes = {
            "POSITION": writer.array(places, 5126, min=places.min(axis=0).tolist(), max=places.max(axis=0).tolist())
        }
        normals = values.pop("NORMAL", None) if smooth is None else smooth[source]
        if normals is not None:
            attributes["NORMAL"] = writer.array(y_up(normals), 5126)
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
    document: dict[str, Any] = {
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
                struct.pack("<II", len(binary), _BINARY),
                binary,
            )
        )
    )
    return [path]


def _corners(mesh: Mesh, slot: int, flat: bool) -> dict[str, np.ndarray]:
    """What differs from corner to corner of a slot's faces, by its name in glTF: (F, 3, 2 or 3) of numbers."""
    own = mesh.face_slots == slot
    found = {}
    if mesh.normals is not None and not flat and np.isfinite(mesh.normals[own]).any():
        found["NORMAL"] = corner_normals(mesh)[own]
    maps = [] if mesh.uvs is None else [mesh.uvs, *mesh.more_uvs]
    while len(maps) > 1 and not np.isfinite(maps[-1][own]).any():
        maps.pop()
    return found | {f"TEXCOORD_{i}": np.nan_to_num(uvs[own], nan=0.0) for i, uvs in enumerate(maps)}


def _material(writer: _Writer, mesh: Mesh, slot: int) -> tuple[dict[str, Any], bool]:
    """A slot's material, and whether its vertices show their colours: they would tint a painted picture.

    What was not painted stays as it was given, byte for byte.
    """
    pictures = {kind: mesh.textures.get(f"{kind}.{slot}") for kind in TEXTURES}
    own = mesh.materials.get(slot)
    material: dict[str, Any] = (
        {
            "name": f"slot {slot}",
            "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": ROUGHNESS},
            "doubleSided": True,
        }
        if own is None
        else copy.deepcopy(own.gltf)
    )
    surface: dict[str, Any] = material.setdefault("pbrMetallicRoughness", {})
    parents = {kind: material if kind == "normal" else surface for kind in TEXTURES}
    own = own or Material(copy.deepcopy(material))
    given, samplers = maps(own), dict[str, dict[str, Any]]()
    new = {kind for kind in TEXTURES if not _same(pictures[kind], given.get(kind))}
    for kind in new:
        if TEXTURES[kind] in parents[kind]:
            samplers[TEXTURES[kind]] = own.pictures[parents[kind].pop(TEXTURES[kind])["index"]][1]
    for parent, key in textures(material):
        parent[key] |= writer.file(*own.pictures[parent[key]["index"]])

    def put(kind: str, picture: np.ndarray) -> None:
        parents[kind][TEXTURES[kind]] = writer.picture(picture, samplers.get(TEXTURES[kind], _SAMPLER))

    base, normal = pictures["texture"], pictures["normal"]
    if "texture" in new or (mesh.colours is not None and "baseColorTexture" not in surface):
        _whiten(surface)
    if "texture" in new and base is not None:
        put("texture", with_alpha(base, own))
    if {"roughness", "metallic"} & new:
        channels = [
            own.constants()[kind] if (picture := pictures[kind]) is None else picture
            for kind in ("roughness", "metallic")
        ]
        height, width = np.max([each.shape for each in channels], axis=0)
        packed = np.zeros((height, width, 3), np.uint8)
        packed[..., 1], packed[..., 2] = (sized(each, height, width) for each in channels)
        surface |= {"metallicFactor": 1, "roughnessFactor": 1}
        put("roughness", packed)
    if "normal" in new and normal is not None:
        put("normal", normal)
    return material, base is None or (slot in mesh.materials and "texture" not in new)


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _whiten(surface: dict[str, Any]) -> None:
    """Take the colour out of the factor of base colour, and leave its alpha."""
    factor = surface.pop("baseColorFactor", (1, 1, 1, 1))
    if factor[3] != 1:
        surface["baseColorFactor"] = [1, 1, 1, factor[3]]


def with_alpha(base: np.ndarray, material: Material) -> np.ndarray:
    """A (H, W, 3) picture of base colour, (H, W, 4) with the alpha that the material's own picture has."""
    own = alpha(material)
    return base if own is None else np.dstack([base, sized(own, *base.shape[:2])])


def sized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture at another size, its pixels repeated."""
    rows, columns = values.shape[:2]
    return values[np.arange(height) * rows // height][:, np.arange(width) * columns // width]


def _extensions(value: Any) -> Iterator[str]:
    """The extensions that some materials use."""
    if isinstance(value, dict):
        yield from value.get("extensions", {})
        value = [each for key, each in value.items() if key != "extras"]
    if isinstance(value, list):
        for each in value:
            yield from _extensions(each)
