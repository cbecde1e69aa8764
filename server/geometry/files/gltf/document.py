# SPDX-License-Identifier: GPL-3.0-or-later
"""The document and buffers of a glTF 2.0 file: its JSON objects, and accessors as arrays."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

import numpy as np

from ...material import JsonObject
from ..common import MeshFileError, Warn
from ..lookup import sibling_file

MAGIC, JSON, BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942  # of a GLB and its chunks
# Component and element types of accessors.
KINDS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
TEXTURE_TRANSFORM, INSTANCES, LIGHTS = "KHR_texture_transform", "EXT_mesh_gpu_instancing", "KHR_lights_punctual"
DRACO = "KHR_draco_mesh_compression"
IMAGE_EXTENSIONS = ("EXT_texture_webp", "EXT_texture_avif")
REFUSED = {
    DRACO: "export it without compression",
    "EXT_meshopt_compression": "export it without compression",
    "KHR_meshopt_compression": "export it without compression",
    "KHR_texture_basisu": "export it with PNG or JPEG pictures",
}
_READ = {TEXTURE_TRANSFORM, INSTANCES, LIGHTS, "KHR_mesh_quantization", *IMAGE_EXTENSIONS}
# A mesh at rest can be read without these even where its file requires them; a warning names them.
_IGNORED = {
    "KHR_materials_variants",
    "KHR_animation_pointer",
    "KHR_xmp_json_ld",
    "EXT_lights_image_based",
    "EXT_lights_ies",
}
_ATTRIBUTES = {"POSITION": (3,), "NORMAL": (3,), "TEXCOORD": (2,), "COLOR": (3, 4), "JOINTS": (4,), "WEIGHTS": (4,)}
_MAX_IMPLICIT_ZEROS = 1 << 25  # values of an accessor without bytes of its own


class Document:
    """A file that is being read.

    place: the part of the file that is being read, in words, for the error about a damaged one.
    """

    def __init__(self, path: Path, warn: Warn):
        self.path, self.name, self.warn, self.place = path, path.name, warn, "its header"
        self.json, self.binary = JsonObject(), b""

    def open(self) -> None:
        """Read the file. Raises `MeshFileError` for another format, and for required extensions that are not read."""
        content = self.path.read_bytes()
        if self.path.suffix.lower() == ".gltf":
            text = content
        elif len(content) < 20 or struct.unpack_from("<II", content) != (MAGIC, 2):
            raise MeshFileError(f"{self.name} is no glTF 2.0 binary file: export it as GLB.")
        else:
            length, kind = struct.unpack_from("<II", content, 12)
            if kind != JSON:
                raise MeshFileError(f"{self.name} is damaged: export it again.")
            text, self.binary = content[20 : 20 + length], content[28 + length :]
        try:
            self.json = json.loads(text.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            raise MeshFileError(f"{self.name} is damaged: export it again.") from None
        if not isinstance(self.json, dict):
            raise MeshFileError(f"{self.name} is damaged: export it again.")
        if not str(self.json.get("asset", {}).get("version", "2.0")).startswith("2."):
            raise MeshFileError(f"{self.name} is of an old version of glTF: export it as glTF 2.0.")
        needs = [
            each
            for each in map(str, self.json.get("extensionsRequired", []))
            if not is_kept(each) and each not in _IGNORED
        ]
        for extension in sorted(needs, key=lambda each: each not in REFUSED):
            self.refuse(extension)

    def refuse(self, extension: str) -> None:
        """Raise `MeshFileError` for a file that cannot be read without this extension."""
        remedy = REFUSED.get(extension, "export it without this extension")
        raise MeshFileError(f"{self.name} needs {extension}: {remedy}.")

    def damaged(self) -> MeshFileError:
        """The error for damage in the part that is being read."""
        return MeshFileError(f"{self.name} is damaged in {self.place}: export it again.")

    def get(self, kind: str, index: int) -> JsonObject:
        """An object of one of the document's lists, such as "accessors". Raises LookupError."""
        if index < 0:
            raise IndexError(index)
        found: JsonObject = self.json[kind][index]
        return found

    def buffer(self, index: int) -> bytes:
        """The bytes of a buffer."""
        buffer = self.get("buffers", index)
        if "uri" in buffer:
            return self.resource(buffer["uri"])
        if index or "EXT_meshopt_compression" in buffer.get("extensions", {}):
            self.refuse("EXT_meshopt_compression")
        return self.binary

    def resource(self, uri: str) -> bytes:
        """The bytes of a data URI, or of a file beside the document."""
        if uri.startswith("data:"):
            head, _, data = uri.partition(",")
            return base64.b64decode(data) if head.endswith(";base64") else unquote_to_bytes(data)
        return sibling_file(self.path, unquote(uri)).read_bytes()

    def view(self, index: int) -> tuple[bytes, int]:
        """(the bytes of a buffer view, its stride or 0)."""
        view = self.get("bufferViews", index)
        start = view.get("byteOffset", 0)
        content = self.buffer(view["buffer"])[start : start + view["byteLength"]]
        if start < 0 or len(content) != view["byteLength"]:
            raise MeshFileError(f"{self.name} is shorter than it says: export it again.")
        return content, view.get("byteStride", 0)

    def array(self, index: int) -> np.ndarray:
        """(N, C) values of an accessor; normalized integers become float32 in [-1, 1]."""
        accessor = self.get("accessors", index)
        kind, width, count = np.dtype(KINDS[accessor["componentType"]]), WIDTHS[accessor["type"]], accessor["count"]
        if "bufferView" in accessor:
            values = self._rows(accessor, kind, width, count)
        elif 0 < count * width <= _MAX_IMPLICIT_ZEROS:
            values = np.zeros((count, width), kind)
        else:
            raise self.damaged()
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            places = sparse["indices"]
            rows = self._rows(places, np.dtype(KINDS[places["componentType"]]), 1, sparse["count"])[:, 0]
            values = values.copy()
            values[rows] = self._rows(sparse["values"], kind, width, sparse["count"])
        if accessor.get("normalized") and kind.kind != "f":
            return np.maximum(values.astype(np.float32) / np.iinfo(kind).max, -1)
        return values

    def of_vertices(self, attributes: JsonObject, name: str) -> np.ndarray:
        """(V, C) values of a vertex attribute.

        Raises `MeshFileError` for another count than that of the positions, or a wrong width.
        """
        values, count = self.array(attributes[name]), self.get("accessors", attributes["POSITION"])["count"]
        if len(values) != count or values.shape[1] not in _ATTRIBUTES[name.partition("_")[0]]:
            raise self.damaged()
        return values

    def _rows(self, where: JsonObject, kind: np.dtype, width: int, count: int) -> np.ndarray:
        content, stride = self.view(where["bufferView"])
        start, row = where.get("byteOffset", 0), kind.itemsize * width
        stride = stride or row
        if count < 1 or start < 0 or stride < row or start + (count - 1) * stride + row > len(content):
            raise MeshFileError(f"{self.name} is shorter than it says: export it again.")
        return np.ndarray((count, width), kind, content, start, (stride, kind.itemsize))


def is_kept(extension: str) -> bool:
    """Whether an extension is read, or stays in the materials."""
    return extension in _READ or (extension.startswith("KHR_materials_") and extension not in _IGNORED)
