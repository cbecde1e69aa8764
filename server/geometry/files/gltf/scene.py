# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the scene of a glTF 2.0 file: its triangles in the rest pose, and its materials."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from msd_blender.protocol import MAX_FACES

from ...material import JsonObject, Material
from ...mesh import Mesh
from ...uvs import outside_unit_tile
from ..common import MeshFileError, Submesh, Warn, merge, to_z_up, transform_normals, weld
from .document import DRACO, INSTANCES, LIGHTS, REFUSED, Document, is_kept
from .materials import Materials, UVMap, texture_maps

_TRIANGLES, _STRIP, _FAN = 4, 5, 6  # modes of primitives
_REPEAT = 10497
_MAX_INSTANCES = 1 << 16  # of one object


@dataclass
class _Instance:
    """A mesh at its place in the scene."""

    mesh: int  # its index
    matrix: np.ndarray  # (4, 4) to the world
    joints: np.ndarray | None = None  # (J, 4, 4) of a skin
    weights: list[float] = field(default_factory=list)  # of the morph targets


class Scene:
    """The scene of a document."""

    def __init__(self, document: Document):
        self.document, self.materials = document, Materials(document)

    def _instances(self) -> list[_Instance]:
        """The meshes that the scene shows, in its order."""
        self.document.place = "its scenes"
        nodes = self.document.json.get("nodes", [])
        above = {child: i for i, node in enumerate(nodes) for child in node.get("children", [])}
        roots = [index for index in range(len(nodes)) if index not in above]
        if self.document.json.get("scenes"):
            roots = self.document.get("scenes", self.document.json.get("scene", 0)).get("nodes", [])
        todo = [(root, np.eye(4)) for root in roots]
        worlds: dict[int, np.ndarray] = {}
        shown: list[int] = []
        for index, matrix in todo:  # which grows
            if index in worlds:
                raise MeshFileError(f"{self.document.name} has an object inside itself or twice: export it again.")
            node = self.document.get("nodes", index)
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
                matrix = matrix @ _matrix(self.document.get("nodes", each))
            return matrix

        found: list[_Instance] = []
        for index in shown:
            self.document.place = f"node {index}"
            node = nodes[index]
            mesh = self.document.get("meshes", node["mesh"])
            weights = node.get("weights", mesh.get("weights", []))
            joints = None
            if "skin" in node:
                skin = self.document.get("skins", node["skin"])
                joints = np.array([world(joint) for joint in skin["joints"]]).reshape(-1, 4, 4)
                if "inverseBindMatrices" in skin:
                    bind = self.document.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4)
                    joints = joints @ bind.transpose(0, 2, 1)
            places = self._copies(node) if joints is None else [np.eye(4)]
            found += [_Instance(node["mesh"], worlds[index] @ place, joints, weights) for place in places]
        return found

    def _copies(self, node: JsonObject) -> list[np.ndarray]:
        """(4, 4) of each copy of a node's mesh by EXT_mesh_gpu_instancing, in the node's own axes."""
        given = node.get("extensions", {}).get(INSTANCES, {}).get("attributes", {})
        rows = {
            key.lower(): self.document.array(given[key]).astype(float)
            for key in ("TRANSLATION", "ROTATION", "SCALE")
            if key in given
        }
        if not rows:
            return [np.eye(4)]
        count = max(map(len, rows.values()))
        if count > _MAX_INSTANCES:
            raise MeshFileError(
                f"{self.document.name} has {count:,} copies of one object: leave at most {_MAX_INSTANCES:,}."
            )
        return [_matrix({key: values[i] for key, values in rows.items()}) for i in range(count)]

    def read(self) -> tuple[list[Submesh], dict[int, Material]]:
        """(the triangles of all primitives in the scene, the material of each slot that has one)."""
        shapes = self._instances()
        primitives = [
            (shape, primitive)
            for shape in shapes
            for primitive in self.document.get("meshes", shape.mesh)["primitives"]
        ]
        sets: dict[int, set[int]] = {}
        for _, primitive in primitives:
            sets.setdefault(primitive.get("material", -1), set()).update(_uv_sets(primitive))
        parts, slots, materials, count = list[Submesh](), list[int](), dict[int, Material](), 0
        found: dict[int, tuple[Material, list[UVMap]]] = {}
        loose, shape_keys, others = 0, set[int](), set[str]()
        for shape, primitive in primitives:
            if primitive.get("mode", _TRIANGLES) not in (_TRIANGLES, _STRIP, _FAN):
                loose += 1
                continue
            material = primitive.get("material", -1)
            if material not in slots:
                slots.append(material)
                if material >= 0:
                    found[material] = self.materials.read(material, sets[material])
                    materials[slots.index(material)] = found[material][0]
            self.document.place = f"mesh {shape.mesh}"
            own, maps = found.get(material, (Material(), []))
            blended = own.gltf.get("alphaMode", "OPAQUE") != "OPAQUE"
            part = self._part(shape, primitive, maps, slots.index(material), blended)
            count += len(part.faces)
            if count > MAX_FACES:
                raise MeshFileError(f"The mesh has more than {MAX_FACES:,} triangles: decimate it.")
            parts.append(part)
            if primitive.get("targets"):
                shape_keys.add(shape.mesh)
            others |= {
                name
                for name in primitive["attributes"].keys() - {"POSITION", "NORMAL", "COLOR_0"}
                if not name.startswith(("TEXCOORD_", "JOINTS_", "WEIGHTS_"))
                and (name != "TANGENT" or "normalTexture" in own.gltf)
            }  # only normal maps need tangents
            self._warn_about_wraps(part, own)
        if loose:
            self.document.warn(
                f"{self.document.name} has {loose:,} primitives of points or lines, which are left out: only faces "
                "have a surface."
            )
        if others:
            self.document.warn(
                f"{self.document.name} has values of vertices that are left out: {', '.join(sorted(others))}."
            )
        self._warn_about_rest(shapes, shape_keys, set(found))
        return self._coloured(parts, materials), materials

    def _part(self, shape: _Instance, primitive: JsonObject, maps: list[UVMap], slot: int, blended: bool) -> Submesh:
        attributes = primitive["attributes"]
        if DRACO in primitive.get("extensions", {}) and "bufferView" not in self.document.get(
            "accessors", attributes["POSITION"]
        ):
            self.document.refuse(DRACO)
        places = self._morphed(shape, primitive, "POSITION")
        corners = (
            self.document.array(primitive["indices"])[:, 0].astype(np.int64)
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
            normals = to_z_up(transform_normals(normals, matrix))[faces]
        sets = sorted(_uv_sets(primitive))
        maps = maps or [UVMap(number) for number in sets[:1]]
        maps = maps + [UVMap(number) for number in sets if number not in {each.number for each in maps}]
        uvs = [
            each.uvs(self.document.of_vertices(attributes, f"TEXCOORD_{each.number}"))[faces]
            if each.number in sets
            else None
            for each in maps
        ]
        colours = self.document.of_vertices(attributes, "COLOR_0") if "COLOR_0" in attributes else None
        if colours is not None and colours.dtype.kind == "u":
            colours = colours / np.iinfo(colours.dtype).max
        if blended and colours is not None and colours.shape[1] > 3 and (colours[:, 3] < 1).any():
            self.document.warn(f"{self.document.name} has vertex colours with transparency, which is left out.")
        nowhere = np.full((len(faces), 3, 2), np.nan)
        return Submesh(
            to_z_up(places),
            faces,
            uvs[0] if uvs else None,
            None if colours is None else colours[:, :3],
            np.full(len(faces), slot),
            np.full((len(faces), 3, 3), np.nan) if normals is None else normals,
            tuple(nowhere if each is None else each for each in uvs[1:]),
        )

    def _morphed(self, shape: _Instance, primitive: JsonObject, name: str) -> np.ndarray:
        values = self.document.of_vertices(primitive["attributes"], name).astype(np.float64)
        for weight, target in zip(shape.weights, primitive.get("targets", [])):
            if weight and name in target:
                values = values + weight * self.document.array(target[name])
        return values

    def _skin(self, attributes: JsonObject, joints: np.ndarray) -> np.ndarray:
        """(V, 4, 4) skinning matrix of each vertex; (4, 4) if all joints have the same one."""
        if np.ptp(joints, axis=0).max() <= 1e-6 * np.abs(joints).max():
            return np.eye(4) if np.allclose(joints[0], np.eye(4), atol=1e-6) else joints[0]
        total, weights, number = np.zeros((1, 4, 4)), np.zeros(1), 0
        while f"JOINTS_{number}" in attributes:
            own = self.document.of_vertices(attributes, f"WEIGHTS_{number}").astype(np.float64)
            index = self.document.of_vertices(attributes, f"JOINTS_{number}")
            for i in range(4):
                total = total + own[:, i, None, None] * joints[index[:, i]]
                weights = weights + own[:, i]
            number += 1
        unweighted = weights <= 0
        mean = total / np.where(unweighted, 1, weights)[:, None, None]
        return np.where(unweighted[:, None, None], np.eye(4), mean)

    def _coloured(self, parts: list[Submesh], materials: dict[int, Material]) -> list[Submesh]:
        """Move the base colour factors of untextured materials into the vertex colours, if any part has some.

        A slot without a texture then shows its vertex colours and nothing else.
        """
        coloured = [part for part in parts if part.colours is not None]
        pictured = {slot for slot, material in materials.items() if "baseColorTexture" in material.metallic_roughness}
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
                materials[slot].metallic_roughness["baseColorFactor"] = [1, 1, 1, float(factor[3])]
        return made

    # What is left out

    def _warn_about_wraps(self, part: Submesh, material: Material) -> None:
        info = material.metallic_roughness.get("baseColorTexture")
        if info is None or part.uvs is None or not len(part.uvs):
            return
        sampler = material.textures[info["index"]][1]
        if (
            any(sampler.get(key, _REPEAT) != _REPEAT for key in ("wrapS", "wrapT"))
            and outside_unit_tile(part.uvs).any()
        ):
            self.document.warn(
                f"The picture of the material {material.name!r} is clamped or mirrored beyond its edge, where "
                "some of its UVs lie: they are painted as if it was repeated."
            )

    def _warn_about_rest(self, shapes: list[_Instance], shape_keys: set[int], materials: set[int]) -> None:
        document = self.document.json
        targets = sum(
            max(len(primitive.get("targets", [])) for primitive in self.document.get("meshes", mesh)["primitives"])
            for mesh in shape_keys
        )
        lights = document.get("extensions", {}).get(LIGHTS, {}).get("lights", [])
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
            self.document.warn(f"{self.document.name} is taken as it stands, and left out are {', '.join(left)}.")
        if len(shapes) > 1:
            self.document.warn(f"{self.document.name}: its {len(shapes):,} objects become one mesh.")
        used = {str(each) for each in document.get("extensionsUsed", [])}
        if unread := sorted(each for each in used if not is_kept(each) and each not in REFUSED):
            self.document.warn(f"{self.document.name} uses {', '.join(unread)}, which is left out.")


def load(path: Path, warn: Warn) -> Mesh:
    """All triangles of a file's scene, welded, because the format splits vertices at seams."""
    document = Document(path, warn)
    try:
        document.open()
        parts, materials = Scene(document).read()
        maps = {slot: texture_maps(material) for slot, material in materials.items()}
        mesh = weld(merge(parts))
    except MeshFileError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError, struct.error):
        raise document.damaged() from None
    return replace(
        mesh,
        materials=materials,
        textures={f"{kind}.{slot}": values for slot, found in maps.items() for kind, values in found.items()},
    )


def _uv_sets(primitive: JsonObject) -> Iterator[int]:
    """The numbers n of a primitive's TEXCOORD_n."""
    for name in primitive["attributes"]:
        kind, _, number = name.rpartition("_")
        if kind == "TEXCOORD" and number.isdecimal():
            yield int(number)


def _faces(corners: np.ndarray, mode: int) -> np.ndarray:
    """(F, 3) of the corners of triangles, of a triangle strip or of a triangle fan."""
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
    return faces[(a != b) & (b != c) & (c != a)]  # degenerate ones join strips


def _times(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.einsum("vij,vj->vi", matrix[:, :3, :3], vectors)


def _matrix(node: JsonObject) -> np.ndarray:
    """(4, 4) of a node's own transform; glTF's matrices are column-major, its quaternions x, y, z, w."""
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1, 1, 1)), float)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix
