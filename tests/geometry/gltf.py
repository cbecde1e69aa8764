# SPDX-License-Identifier: GPL-3.0-or-later
"""glTF files that tests make."""

import base64
import io
import json
import struct

import numpy as np
from PIL import Image

from server.geometry.files import load
from server.geometry.validation import validate

KINDS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
SHAPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# A square in the file's axes, seen from +Z, and its corners' UVs from the picture's top left.
SQUARE = np.float32([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
UVS = np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])
TWO = np.uint16([0, 1, 2, 0, 2, 3])


class File:
    """A document and its bytes, in which whatever a test adds gets its number."""

    def __init__(self, **document):
        self.document = {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": []}],
            "accessors": [],
            "bufferViews": [],
        } | document
        self.data = b""

    def add(self, kind, **entry):
        entries = self.document.setdefault(kind, [])
        entries.append(entry)
        return len(entries) - 1

    def view(self, content):
        self.data += bytes(-len(self.data) % 4)
        self.data += content
        return self.add("bufferViews", buffer=0, byteOffset=len(self.data) - len(content), byteLength=len(content))

    def array(self, values, **more):
        values = np.asarray(values)
        width = values.shape[1] if values.ndim == 2 else 1
        return self.add(
            "accessors",
            **{
                "bufferView": self.view(values.tobytes()),
                "count": len(values),
                "componentType": KINDS[values.dtype.str[1:]],
                "type": SHAPES[width],
                **more,
            },
        )

    def primitive(self, mesh=0, material=None, mode=None, indices=TWO, more=None, **attributes):
        """A square, of which any attribute may be given otherwise."""
        given = {"POSITION": SQUARE, "TEXCOORD_0": UVS} | attributes
        primitive = {
            "attributes": {
                name: values if isinstance(values, int) else self.array(values)
                for name, values in given.items()
                if values is not None
            }
        } | (more or {})
        if indices is not None:
            primitive["indices"] = self.array(indices)
        primitive |= {key: value for key, value in (("material", material), ("mode", mode)) if value is not None}
        self.document["meshes"][mesh]["primitives"].append(primitive)
        return primitive

    def picture(self, pixels, format="PNG", **texture):
        """The texture of (H, W, …) pixels, top row first, or of a file's bytes."""
        content = pixels if isinstance(pixels, bytes) else encoded(pixels, format)
        source = self.add("images", bufferView=self.view(content), mimeType=f"image/{format.lower()}")
        return self.add("textures", **{"source": source, **texture})

    def material(self, name="paint", texture=None, info=None, surface=None, **more):
        surface = {"metallicFactor": 0} | (surface or {})
        if texture is not None:
            surface["baseColorTexture"] = {"index": texture} | (info or {})
        return self.add("materials", name=name, pbrMetallicRoughness=surface, **more)

    def save(self, path, uri=None):
        document = self.document | {"buffers": [{"byteLength": len(self.data)}]}
        if path.suffix == ".gltf":
            document["buffers"][0]["uri"] = uri or (
                "data:application/octet-stream;base64," + base64.b64encode(self.data).decode()
            )
            path.write_text(json.dumps(document))
            return path
        text = json.dumps(document).encode()
        text += b" " * (-len(text) % 4)
        data = self.data + bytes(-len(self.data) % 4)
        path.write_bytes(
            struct.pack("<IIIII", 0x46546C67, 2, 28 + len(text) + len(data), len(text), 0x4E4F534A)
            + text
            + struct.pack("<II", len(data), 0x004E4942)
            + data
        )
        return path


def encoded(pixels, format="PNG"):
    data = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(data, format, **({"lossless": True} if format == "WEBP" else {}))
    return data.getvalue()


def quadrants(*colours):
    """A (8, 8, 3) picture: top left, top right, bottom left, bottom right."""
    picture = np.zeros((8, 8, 3), np.uint8)
    for i, colour in enumerate(colours):
        picture[4 * (i // 2) : 4 * (i // 2) + 4, 4 * (i % 2) : 4 * (i % 2) + 4] = colour
    return picture


def read(path):
    """(document, binary) of a GLB."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<I", content, 12)
    return json.loads(content[20 : 20 + length]), content[28 + length :]


def values(document, binary, index):
    """An accessor's (N, C), as whoever reads plain glTF does."""
    accessor = document["accessors"][index]
    view = document["bufferViews"][accessor["bufferView"]]
    kind = np.dtype("<" + {number: name for name, number in KINDS.items()}[accessor["componentType"]])
    width = {name: number for number, name in SHAPES.items()}[accessor["type"]]
    found = np.frombuffer(binary, kind, accessor["count"] * width, view["byteOffset"]).reshape(-1, width)
    return found / np.iinfo(kind).max if accessor.get("normalized") else found


def image(document, binary, texture):
    """The bytes of a texture's picture."""
    view = document["bufferViews"][document["images"][document["textures"][texture]["source"]]["bufferView"]]
    return binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]


def pixels(document, binary, texture):
    with Image.open(io.BytesIO(image(document, binary, texture))) as opened:
        return np.asarray(opened)


def opened(file, tmp_path, name="mesh.glb"):
    """(the mesh, what was said)."""
    said = []
    return validate(load(file.save(tmp_path / name), said.append)), said


def seen(mesh, name="texture.0"):
    """(F, 3) the colour in the middle of each face, of a picture that repeats."""
    picture = mesh.textures[name]
    place = mesh.uvs.mean(axis=1) % 1
    return picture[(place[:, 1] * len(picture)).astype(int), (place[:, 0] * picture.shape[1]).astype(int)]


def corners(mesh):
    """The corners in the file's axes."""
    return mesh.positions[mesh.faces] @ np.float32([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
