# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading glTF 2.0: a scene's triangles as a viewer shows them at rest, and its materials as they are."""

from __future__ import annotations

import base64
import copy
import io
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from PIL import Image

from msd_blender.protocol import MAX_FACES

from ..material import Material, textures, tinted
from ..mesh import Mesh
from ..uvs import beyond
from .common import Part, Say, beside, eight_bits, join, picture, turned, weld, z_up

MAGIC, JSON = 0x46546C67, 0x4E4F534A
KINDS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_ATTRIBUTES = {"POSITION": (3,), "NORMAL": (3,), "TEXCOORD": (2,), "COLOR": (3, 4), "JOINTS": (4,), "WEIGHTS": (4,)}
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_REPEAT = 10497
_TRANSFORM, _INSTANCES, _LIGHTS = "KHR_texture_transform", "EXT_mesh_gpu_instancing", "KHR_lights_punctual"
_PICTURES = ("EXT_texture_webp", "EXT_texture_avif")
_READ = {_TRANSFORM, _INSTANCES, _LIGHTS, "KHR_mesh_quantization", *_PICTURES}
# A mesh at rest can do without these, even if its file requires them; that is said.
_SPARED = {
    "KHR_materials_variants",
    "KHR_animation_pointer",
    "KHR_xmp_json_ld",
    "EXT_lights_image_based",
    "EXT_lights_ies",
}
_DRACO, _MESHOPT, _BASISU = "KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_texture_basisu"
_REFUSED = {
    _DRACO: "export it without compression",
    _MESHOPT: "export it without compression",
    "KHR_meshopt_compression": "export it without compression",
    _BASISU: "export it with PNG or JPEG pictures",
}
_COPIES = 1 << 16  # of one object
_MOST = 1 << 25  # values of an accessor without bytes of its own


class Refused(ValueError):
    """Why a file is not read, in one sentence."""


@dataclass(frozen=True)
class _Map:
    """A UV map that a material uses: which of the vertices', and how it is transformed."""

    number: int
    transform: tuple[float, ...] = (0, 0, 0, 1, 1)  # offset, rotation, scale

    def uvs(self, values: np.ndarray) -> np.ndarray:
        """(V, 2), origin bottom left, of the file's (V, 2), which has its origin at the top."""
        x, y, turn, wide, high = self.transform
        if self.transform != _Map.transform:
            u, v = wide * values[:, 0].astype(float), high * values[:, 1].astype(float)
            cos, sin = np.cos(turn), np.sin(turn)
            values = np.stack([x + cos * u + sin * v, y - sin * u + cos * v], axis=1)
        return values * (1, -1) + (0, 1)


@dataclass
class _Shape:
    """A mesh's place in the scene."""

    mesh: int
    matrix: np.ndarray  # (4, 4)
    joints: np.ndarray | None = None  # (J, 4, 4)
    weights: list[float] = field(default_factory=list)


class _Reader:
    def __init__(self, path: Path, say: Say):
        self.path, self.say, self.place = path, say, "its header"
        self.document, self.binary = dict[str, Any](), b""
        self.opened = cache(self._opened)

    def open(self) -> None:
        """Read the file, and refuse what needs something that is not known."""
        path, content = self.path, self.path.read_bytes()
        if path.suffix.lower() == ".gltf":
            text = content
        elif len(content) < 20 or struct.unpack_from("<II", content) != (MAGIC, 2):
            raise Refused(f"{path.name} is no glTF 2.0 binary file: export it as GLB.")
        else:
            length, kind = struct.unpack_from("<II", content, 12)
            if kind != JSON:
                raise Refused(f"{path.name} is damaged: export it again.")
            text, self.binary = content[20 : 20 + length], content[28 + length :]
        try:
            self.document = json.loads(text.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            raise Refused(f"{path.name} is damaged: export it again.") from None
        if not isinstance(self.document, dict):
            raise Refused(f"{path.name} is damaged: export it again.")
        if not str(self.document.get("asset", {}).get("version", "2.0")).startswith("2."):
            raise Refused(f"{path.name} is of an old version of glTF: export it as glTF 2.0.")
        needs = [
            each
            for each in map(str, self.document.get("extensionsRequired", []))
            if not _kept(each) and each not in _SPARED
        ]
        for extension in sorted(needs, key=lambda each: each not in _REFUSED):
            self.refuse(extension)

    def refuse(self, extension: str) -> None:
        remedy = _REFUSED.get(extension, "export it without this extension")
        raise Refused(f"{self.path.name} needs {extension}: {remedy}.")

    def damaged(self) -> Refused:
        return Refused(f"{self.path.name} is damaged in {self.place}: export it again.")

    def get(self, kind: str, index: int) -> dict[str, Any]:
        if index < 0:
            raise IndexError(index)
        return self.document[kind][index]  # type: ignore[no-any-return]

    def buffer(self, index: int) -> bytes:
        buffer = self.get("buffers", index)
        if "uri" in buffer:
            return self.resource(buffer["uri"])
        if index or _MESHOPT in buffer.get("extensions", {}):
            self.refuse(_MESHOPT)
        return self.binary

    def resource(self, uri: str) -> bytes:
        if uri.startswith("data:"):
            head, _, data = uri.partition(",")
            return base64.b64decode(data) if head.endswith(";base64") else unquote_to_bytes(data)
        try:
            return beside(self.path, unquote(uri)).read_bytes()
        except ValueError as error:
            raise Refused(str(error)) from None

    def view(self, index: int) -> tuple[bytes, int]:
        """(its bytes, its stride or 0)."""
        view = self.get("bufferViews", index)
        start = view.get("byteOffset", 0)
        content = self.buffer(view["buffer"])[start : start + view["byteLength"]]
        if start < 0 or len(content) != view["byteLength"]:
            raise Refused(f"{self.path.name} is shorter than it says: export it again.")
        return content, view.get("byteStride", 0)

    def array(self, index: int) -> np.ndarray:
        """(N, C) values of an accessor; what is normalized as float32 in [-1, 1]."""
        accessor = self.get("accessors", index)
        kind, width, count = np.dtype(KINDS[accessor["componentType"]]), WIDTHS[accessor["type"]], accessor["count"]
        if "bufferView" in accessor:
            values = self._rows(accessor, kind, width, count)
        elif 0 < count * width <= _MOST:
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

    def of_vertices(self, attributes: dict[str, Any], name: str) -> np.ndarray:
        """(V, C) an attribute of a primitive's vertices, as many as it has positions and as wide as it must be."""
        values, count = self.array(attributes[name]), self.get("accessors", attributes["POSITION"])["count"]
        if len(values) != count or values.shape[1] not in _ATTRIBUTES[name.partition("_")[0]]:
            raise self.damaged()
        return values

    def _rows(self, where: dict[str, Any], kind: np.dtype, width: int, count: int) -> np.ndarray:
        content, stride = self.view(where["bufferView"])
        start, row = where.get("byteOffset", 0), kind.itemsize * width
        stride = stride or row
        if count < 1 or start < 0 or stride < row or start + (count - 1) * stride + row > len(content):
            raise Refused(f"{self.path.name} is shorter than it says: export it again.")
        return np.ndarray((count, width), kind, content, start, (stride, kind.itemsize))

    # Pictures and materials

    def _opened(self, index: int) -> tuple[bytes, dict[str, Any]] | None:
        """(a PNG or JPEG file, the sampler) of a texture; None, and a note, where there is none that can be read."""
        texture = self.get("textures", index)
        extensions = texture.get("extensions", {})
        sources = [texture, *(extensions[each] for each in _PICTURES if each in extensions)]
        source = next((each["source"] for each in sources if "source" in each), None)
        if source is None:
            how = f"in {', '.join(sorted(extensions))}" if extensions else "without a picture"
            self.say(f"{self.path.name} has a texture {how}, which is left out: export it with a PNG or JPEG picture.")
            return None
        image = self.get("images", source)
        name = image.get("name") or (image.get("uri", "") if not image.get("uri", "").startswith("data:") else "")
        try:
            content = self.resource(image["uri"]) if "uri" in image else self.view(image["bufferView"])[0]
            with Image.open(io.BytesIO(content)) as opened:
                opened.load()
                if opened.format not in ("PNG", "JPEG"):
                    data = io.BytesIO()
                    eight_bits(opened).save(data, "PNG")
                    content = data.getvalue()
        except Refused as error:
            self.say(f"{str(error).rstrip('.')}; its picture is left out.")
            return None
        except (ValueError, OSError, SyntaxError, Image.DecompressionBombError):
            self.say(
                f"The picture {name or source} of {self.path.name} cannot be read and is left out: save it as PNG "
                "or JPEG."
            )
            return None
        sampler = self.get("samplers", texture["sampler"]) if "sampler" in texture else {}
        return content, sampler

    def material(self, index: int, sets: set[int]) -> tuple[Material, list[_Map]]:
        """A material, and the UV maps that it uses of those that its primitives have; the base colour's is first."""
        self.place = f"material {index}"
        values = copy.deepcopy(self.get("materials", index))
        name = values.get("name") or f"number {index}"
        self._modernize(values, name)
        surface = values.get("pbrMetallicRoughness", {})
        places = list(textures(values))
        first = [(surface, "baseColorTexture"), (surface, "metallicRoughnessTexture"), (values, "normalTexture")]
        places.sort(
            key=lambda place: next(
                (i for i, (parent, key) in enumerate(first) if parent is place[0] and key == place[1]), len(first)
            )
        )
        pictures: list[tuple[bytes, dict[str, Any]]] = []
        maps: list[_Map] = []
        for parent, key in places:
            info = parent[key]
            used, opened = _map(info), self.opened(info["index"])
            if opened is not None and used.number not in sets:
                self.say(
                    f"The {key} of the material {name!r} is left out, because its faces have no UV map {used.number}."
                )
                opened = None
            if opened is None:
                del parent[key]
                continue
            if not maps and not any(parent is each[0] and key == each[1] for each in first) and 0 in sets:
                maps.append(_Map(0))  # base colour is painted on it
            if used not in maps:
                maps.append(used)
            if opened not in pictures:
                pictures.append(opened)
            info["index"], info["texCoord"] = pictures.index(opened), maps.index(used)
            if not info["texCoord"]:
                del info["texCoord"]
        return Material(values, tuple(pictures)), maps

    def _modernize(self, values: dict[str, Any], name: str) -> None:
        """Make a specular-glossiness material one of metallic and roughness, which took its place in glTF."""
        old = values.get("extensions", {}).pop("KHR_materials_pbrSpecularGlossiness", None)
        if old is None:
            return
        surface = {"metallicFactor": 0, "roughnessFactor": 1 - old.get("glossinessFactor", 1)}
        values["pbrMetallicRoughness"] = surface | {
            new: old[key]
            for key, new in (("diffuseTexture", "baseColorTexture"), ("diffuseFactor", "baseColorFactor"))
            if key in old
        }
        if "specularGlossinessTexture" in old or "specularFactor" in old:
            self.say(
                f"The material {name!r} is one of specular and glossiness, which glTF has given up: its specular "
                "colours and its picture of glossiness are left out."
            )

    # The scene

    def shapes(self) -> list[_Shape]:
        """What the scene shows, in its order."""
        self.place = "its scenes"
        nodes = self.document.get("nodes", [])
        above = {child: i for i, node in enumerate(nodes) for child in node.get("children", [])}
        roots = [index for index in range(len(nodes)) if index not in above]
        if self.document.get("scenes"):
            roots = self.get("scenes", self.document.get("scene", 0)).get("nodes", [])
        todo = [(root, np.eye(4)) for root in roots]
        worlds: dict[int, np.ndarray] = {}
        shown: list[int] = []
        for index, matrix in todo:  # which grows
            if index in worlds:
                raise Refused(f"{self.path.name} has an object inside itself or twice: export it again.")
            node = self.get("nodes", index)
            worlds[index] = matrix @ _matrix(node)
            if "mesh" in node:
                shown.append(index)
            todo += [(child, worlds[index]) for child in node.get("children", [])]

        def world(index: int) -> np.ndarray:  # of a joint, which may be outside of the scene
            chain = [index]
            while chain[-1] not in worlds and chain[-1] in above and len(chain) <= len(nodes):
                chain.append(above[chain[-1]])
            matrix = worlds[chain.pop()] if chain[-1] in worlds else np.eye(4)
            for each in reversed(chain):
                matrix = matrix @ _matrix(self.get("nodes", each))
            return matrix

        found: list[_Shape] = []
        for index in shown:
            self.place = f"node {index}"
            node = nodes[index]
            mesh = self.get("meshes", node["mesh"])
            weights = node.get("weights", mesh.get("weights", []))
            joints = None
            if "skin" in node:
                skin = self.get("skins", node["skin"])
                joints = np.array([world(joint) for joint in skin["joints"]]).reshape(-1, 4, 4)
                if "inverseBindMatrices" in skin:
                    joints = joints @ self.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
            places = self._instances(node) if joints is None else [np.eye(4)]
            found += [_Shape(node["mesh"], worlds[index] @ place, joints, weights) for place in places]
        return found

    def _instances(self, node: dict[str, Any]) -> list[np.ndarray]:
        """(4, 4) of each copy of a node's mesh, in the node's own axes."""
        given = node.get("extensions", {}).get(_INSTANCES, {}).get("attributes", {})
        rows = {
            key.lower(): self.array(given[key]).astype(float)
            for key in ("TRANSLATION", "ROTATION", "SCALE")
            if key in given
        }
        if not rows:
            return [np.eye(4)]
        count = max(map(len, rows.values()))
        if count > _COPIES:
            raise Refused(f"{self.path.name} has {count:,} copies of one object: leave at most {_COPIES:,}.")
        return [_matrix({key: values[i] for key, values in rows.items()}) for i in range(count)]

    def parts(self) -> tuple[list[Part], dict[int, Material]]:
        """The scene's triangles, and the material of each slot that has one."""
        shapes = self.shapes()
        primitives = [
            (shape, primitive) for shape in shapes for primitive in self.get("meshes", shape.mesh)["primitives"]
        ]
        sets: dict[int, set[int]] = {}
        for _, primitive in primitives:
            sets.setdefault(primitive.get("material", -1), set()).update(_uv_sets(primitive))
        parts, slots, materials, count = list[Part](), list[int](), dict[int, Material](), 0
        found: dict[int, tuple[Material, list[_Map]]] = {}
        loose, shape_keys, others = 0, set[int](), set[str]()
        for shape, primitive in primitives:
            if primitive.get("mode", _TRIANGLES) not in (_TRIANGLES, _STRIP, _FAN):
                loose += 1
                continue
            material = primitive.get("material", -1)
            if material not in slots:
                slots.append(material)
                if material >= 0:
                    found[material] = self.material(material, sets[material])
                    materials[slots.index(material)] = found[material][0]
            self.place = f"mesh {shape.mesh}"
            own, maps = found.get(material, (Material(), []))
            blended = own.gltf.get("alphaMode", "OPAQUE") != "OPAQUE"
            part = self._part(shape, primitive, maps, slots.index(material), blended)
            count += len(part.faces)
            if count > MAX_FACES:
                raise Refused(_TOO_MANY)
            parts.append(part)
            if primitive.get("targets"):
                shape_keys.add(shape.mesh)
            others |= {
                name
                for name in primitive["attributes"].keys() - {"POSITION", "NORMAL", "COLOR_0"}
                if not name.startswith(("TEXCOORD_", "JOINTS_", "WEIGHTS_"))
                and (name != "TANGENT" or "normalTexture" in own.gltf)
            }  # nothing else looks at it
            self._say_wraps(part, own)
        if loose:
            self.say(
                f"{self.path.name} has {loose:,} primitives of points or lines, which are left out: only faces "
                "have a surface."
            )
        if others:
            self.say(f"{self.path.name} has values of vertices that are left out: {', '.join(sorted(others))}.")
        self._say_rest(shapes, shape_keys, set(found))
        return self._coloured(parts, materials), materials

    def _part(self, shape: _Shape, primitive: dict[str, Any], maps: list[_Map], slot: int, blended: bool) -> Part:
        attributes = primitive["attributes"]
        if _DRACO in primitive.get("extensions", {}) and "bufferView" not in self.get(
            "accessors", attributes["POSITION"]
        ):
            self.refuse(_DRACO)
        places = self._morphed(shape, primitive, "POSITION")
        corners = (
            self.array(primitive["indices"])[:, 0].astype(np.int64)
            if "indices" in primitive
            else np.arange(len(places))
        )
        faces = _faces(corners, primitive.get("mode", _TRIANGLES))
        matrix = shape.matrix
        normals = self._morphed(shape, primitive, "NORMAL") if "NORMAL" in attributes else None
        if shape.joints is not None and "JOINTS_0" in attributes:
            matrix = self._skin(attributes, shape.joints)
        places = (
            _times(matrix, places) + matrix[..., :3, 3]
            if matrix.ndim == 3
            else places @ matrix[:3, :3].T + matrix[:3, 3]
        )
        if np.mean(np.linalg.det(matrix[..., :3, :3])) < 0:
            faces = faces[:, ::-1]  # a mirrored object
        if normals is not None:
            normals = z_up(turned(normals, matrix))[faces]
        sets = sorted(_uv_sets(primitive))
        maps = maps or [_Map(number) for number in sets[:1]]
        maps = maps + [_Map(number) for number in sets if number not in {each.number for each in maps}]
        uvs = [
            each.uvs(self.of_vertices(attributes, f"TEXCOORD_{each.number}"))[faces] if each.number in sets else None
            for each in maps
        ]
        colours = self.of_vertices(attributes, "COLOR_0") if "COLOR_0" in attributes else None
        if colours is not None and colours.dtype.kind == "u":
            colours = colours / np.iinfo(colours.dtype).max
        if blended and colours is not None and colours.shape[1] > 3 and (colours[:, 3] < 1).any():
            self.say(f"{self.path.name} has vertex colours with transparency, which is left out.")
        nowhere = np.full((len(faces), 3, 2), np.nan)
        return Part(
            z_up(places),
            faces,
            uvs[0] if uvs else None,
            None if colours is None else colours[:, :3],
            np.full(len(faces), slot),
            np.full((len(faces), 3, 3), np.nan) if normals is None else normals,
            tuple(nowhere if each is None else each for each in uvs[1:]),
        )

    def _morphed(self, shape: _Shape, primitive: dict[str, Any], name: str) -> np.ndarray:
        values = self.of_vertices(primitive["attributes"], name).astype(np.float64)
        for weight, target in zip(shape.weights, primitive.get("targets", [])):
            if weight and name in target:
                values = values + weight * self.array(target[name])
        return values

    def _skin(self, attributes: dict[str, Any], joints: np.ndarray) -> np.ndarray:
        """(V, 4, 4) where the joints take each vertex; (4, 4) if they take all to the same place."""
        if np.ptp(joints, axis=0).max() <= 1e-6 * np.abs(joints).max():
            return np.eye(4) if np.allclose(joints[0], np.eye(4), atol=1e-6) else joints[0]
        total, weights, number = np.zeros((1, 4, 4)), np.zeros(1), 0
        while f"JOINTS_{number}" in attributes:
            own = self.of_vertices(attributes, f"WEIGHTS_{number}").astype(np.float64)
            index = self.of_vertices(attributes, f"JOINTS_{number}")
            for i in range(4):
                total = total + own[:, i, None, None] * joints[index[:, i]]
                weights = weights + own[:, i]
            number += 1
        still = weights <= 0
        return np.where(still[:, None, None], np.eye(4), total / np.where(still, 1, weights)[:, None, None])

    def _coloured(self, parts: list[Part], materials: dict[int, Material]) -> list[Part]:
        """The parts with their materials' colours in the vertex colours, if any has some: then colours are all that
        a slot without a picture shows."""
        coloured = [part for part in parts if part.colours is not None]
        pictured = {slot for slot, material in materials.items() if "baseColorTexture" in material.surface}
        if all(
            (np.asarray(part.colours) == 1).all() and int(part.slots[0]) in pictured
            for part in coloured
            if len(part.slots)
        ):
            return [replace(part, colours=None) for part in parts]
        made = []
        for part in parts:
            slot = int(part.slots[0]) if len(part.slots) else -1
            if slot in materials and slot not in pictured:
                colours = np.ones((len(part.positions), 3)) if part.colours is None else part.colours
                part = replace(part, colours=colours * materials[slot].base_factor[:3])
            made.append(part)
        for slot in materials.keys() - pictured:
            factor = materials[slot].base_factor
            if (factor[:3] != 1).any():
                materials[slot].surface["baseColorFactor"] = [1, 1, 1, float(factor[3])]
        return made

    # What is left out

    def _say_wraps(self, part: Part, material: Material) -> None:
        info = material.surface.get("baseColorTexture")
        if info is None or part.uvs is None or not len(part.uvs):
            return
        sampler = material.pictures[info["index"]][1]
        if any(sampler.get(key, _REPEAT) != _REPEAT for key in ("wrapS", "wrapT")) and beyond(part.uvs).any():
            self.say(
                f"The picture of the material {material.name!r} is clamped or mirrored beyond its edge, where "
                "some of its UVs lie: they are painted as if it was repeated."
            )

    def _say_rest(self, shapes: list[_Shape], shape_keys: set[int], materials: set[int]) -> None:
        document = self.document
        targets = sum(
            max(len(primitive.get("targets", [])) for primitive in self.get("meshes", mesh)["primitives"])
            for mesh in shape_keys
        )
        lights = document.get("extensions", {}).get(_LIGHTS, {}).get("lights", [])
        counts = {
            "skin": len(document.get("skins", [])),
            "shape key": targets,
            "animation": len(document.get("animations", [])),
            "camera": len(document.get("cameras", [])),
            "light": len(lights),
            "other scene": max(len(document.get("scenes", [])) - 1, 0),
            "unused material": len(document.get("materials", [])) - len(materials),
        }
        left = [f"{count:,} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count > 0]
        if left:
            self.say(f"{self.path.name} is taken as it stands, and left out are {', '.join(left)}.")
        if len(shapes) > 1:
            self.say(f"{self.path.name}: its {len(shapes):,} objects become one mesh.")
        used = {str(each) for each in document.get("extensionsUsed", [])}
        if unread := sorted(each for each in used if not _kept(each) and each not in _REFUSED):
            self.say(f"{self.path.name} uses {', '.join(unread)}, which is left out.")


_TOO_MANY = f"The mesh has more than {MAX_FACES:,} triangles: decimate it."


def load(path: Path, say: Say) -> Mesh:
    """All triangles of a scene, welded, because the format splits vertices at seams."""
    reader = _Reader(path, say)
    try:
        reader.open()
        parts, materials = reader.parts()
        kinds = {slot: maps(material) for slot, material in materials.items()}
        mesh = weld(join(parts))
    except Refused:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError, struct.error):
        raise reader.damaged() from None
    return replace(
        mesh,
        materials=materials,
        textures={f"{kind}.{slot}": values for slot, found in kinds.items() for kind, values in found.items()},
    )


def maps(material: Material) -> dict[str, np.ndarray]:
    """Its pictures that lie on the mesh's first UVs, as `Mesh.textures` has them, with the factors that multiply
    them."""
    surface, found = material.surface, {}
    if (base := pixels(material, surface.get("baseColorTexture"), "RGB")) is not None:
        found["texture"] = base if (material.base_factor[:3] == 1).all() else tinted(base, material.base_factor[:3])
    info = material.gltf.get("normalTexture")
    if (normal := pixels(material, info, "RGB")) is not None:
        scale = float(info.get("scale", 1)) if info else 1.0
        found["normal"] = normal if scale == 1 else _flattened(normal, scale)
    packed = pixels(material, surface.get("metallicRoughnessTexture"), "RGB")
    if packed is not None:
        for kind, channel in (("roughness", 1), ("metallic", 2)):
            factor = float(surface.get(kind + "Factor", 1))
            found[kind] = np.round(packed[..., channel] * min(max(factor, 0.0), 1.0)).astype(np.uint8)
    return found


def alpha(material: Material) -> np.ndarray | None:
    """(H, W) uint8 of its picture of base colour, bottom row first; None where that is opaque all over."""
    base = pixels(material, material.surface.get("baseColorTexture"), "RGBA")
    return None if base is None or (base[..., 3] == 255).all() else base[..., 3]


def pixels(material: Material, info: dict[str, Any] | None, mode: str) -> np.ndarray | None:
    if info is None or info.get("texCoord"):
        return None
    return picture(io.BytesIO(material.pictures[info["index"]][0]), mode)


def _flattened(normals: np.ndarray, scale: float) -> np.ndarray:
    """A (H, W, 3) uint8 normal map, its slopes times a factor."""
    bent = (2 * normals.astype(float) / 255 - 1) * (scale, scale, 1)
    bent /= np.maximum(np.linalg.norm(bent, axis=2, keepdims=True), 1e-9)
    return np.round(255 * (bent + 1) / 2).astype(np.uint8)


def _kept(extension: str) -> bool:
    """Whether an extension is read, or is a material's and so stays with it."""
    return extension in _READ or (extension.startswith("KHR_materials_") and extension not in _SPARED)


def _uv_sets(primitive: dict[str, Any]) -> Iterator[int]:
    for name in primitive["attributes"]:
        kind, _, number = name.rpartition("_")
        if kind == "TEXCOORD" and number.isdecimal():
            yield int(number)


def _map(info: dict[str, Any]) -> _Map:
    """Take out of a texture's place which UV map it uses, and how."""
    number = info.pop("texCoord", 0)
    extensions = info.get("extensions", {})
    given = extensions.pop(_TRANSFORM, {})
    if not extensions:
        info.pop("extensions", None)
    x, y = given.get("offset", (0, 0))
    wide, high = given.get("scale", (1, 1))
    return _Map(int(given.get("texCoord", number)), (x, y, float(given.get("rotation", 0)), wide, high))


def _faces(corners: np.ndarray, mode: int) -> np.ndarray:
    """(F, 3) of the corners of triangles, of a strip or of a fan."""
    if mode == _TRIANGLES:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    step = np.arange(max(len(corners) - 2, 0))
    order = (
        np.stack([step, step + 1 + step % 2, step + 2 - step % 2], axis=1)
        if mode == _STRIP
        else np.stack([step + 1, step + 2, np.zeros_like(step)], axis=1)
    )
    faces = corners[order]
    a, b, c = faces.T
    return faces[(a != b) & (b != c) & (c != a)]  # which join strips


def _times(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.einsum("vij,vj->vi", matrix[:, :3, :3], vectors)


def _matrix(node: dict[str, Any]) -> np.ndarray:
    """(4, 4) of a node's own transform; glTF's matrices are column by column, its quaternions x, y, z, w."""
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)), float)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix
