# SPDX-License-Identifier: GPL-3.0-or-later
"""The content of mesh files, counted without the readers of `server.geometry.files`, to test these."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np


@dataclass
class Content:
    """Counts of a mesh file's parts."""

    faces: int = 0
    materials: list[str] = field(default_factory=list)
    alpha: list[str] = field(default_factory=list)  # names of the materials that are not opaque
    textures: list[str] = field(default_factory=list)  # "material: place"
    uvs: int = 0  # maps
    normals: bool = False
    hard: float = 0.0  # share of the places with normals over 25 degrees apart
    colours: bool = False
    nodes: int = 0  # with a mesh
    skins: int = 0
    shape_keys: int = 0
    animations: int = 0

    def words(self) -> str:
        """One cell of the table."""
        counts = {
            "material": len(self.materials),
            "transparent": len(self.alpha),
            "picture": len(self.textures),
            "UV map": self.uvs,
            "node": self.nodes,
            "skin": self.skins,
            "shape key": self.shape_keys,
            "animation": self.animations,
        }
        found = [
            f"{count} {name}{'s' if count > 1 and name != 'transparent' else ''}"
            for name, count in counts.items()
            if count
        ]
        found += [name for name, has in (("normals", self.normals), ("colours", self.colours)) if has]
        return ", ".join(found)


def content(path: Path) -> Content:
    """The content of a mesh file by its suffix. Raises any exception for a damaged file."""
    kind = path.suffix.lower()
    return {".glb": of_gltf, ".gltf": of_gltf, ".obj": of_obj, ".ply": of_ply}.get(kind, of_usd)(path)


def hard_share(places: np.ndarray, normals: np.ndarray) -> float:
    """The share of the different places (N, 3) of corners whose normals (N, 3) are over 25 degrees apart on an axis."""
    length = np.linalg.norm(normals, axis=1)
    good = np.isfinite(length) & (length > 0)
    if not good.any():
        return 0.0
    places, normals = places[good], normals[good] / length[good, None]
    _, index = np.unique(np.round(places, 6), axis=0, return_inverse=True)
    most = np.full((index.max() + 1, 3), -1.0)
    least = -most
    np.maximum.at(most, index.reshape(-1), normals)
    np.minimum.at(least, index.reshape(-1), normals)
    return float(((most - least).max(axis=1) > 2 * math.sin(math.radians(12.5))).mean())


_KINDS = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def of_gltf(path: Path) -> Content:
    data, binary = path.read_bytes(), b""
    if path.suffix.lower() == ".glb":
        length = int.from_bytes(data[12:16], "little")
        data, binary = data[20 : 20 + length], data[28 + length :]
    document = json.loads(data)
    made = Content(skins=len(document.get("skins", [])), animations=len(document.get("animations", [])))

    def values(index: int) -> np.ndarray | None:
        accessor = document["accessors"][index]
        if "bufferView" not in accessor:
            return None
        view = document["bufferViews"][accessor["bufferView"]]
        uri = document["buffers"][view["buffer"]].get("uri")
        whole = (
            binary
            if uri is None
            else base64.b64decode(uri.partition(",")[2])
            if uri.startswith("data:")
            else (path.parent / unquote(uri)).read_bytes()
        )
        kind, width = np.dtype(_KINDS[accessor["componentType"]]), _WIDTHS[accessor["type"]]
        row = kind.itemsize * width
        return np.ndarray(
            (accessor["count"], width),
            kind,
            whole,
            view.get("byteOffset", 0) + accessor.get("byteOffset", 0),
            (view.get("byteStride", row), kind.itemsize),
        ).astype(float)

    nodes = document.get("nodes", [])
    scenes = document.get("scenes", [])
    waiting = list(scenes[document.get("scene", 0)].get("nodes", [])) if scenes else list(range(len(nodes)))
    meshes, seen = list[int](), set[int]()
    while waiting:
        number = waiting.pop()
        if number in seen:
            continue
        seen.add(number)
        waiting += nodes[number].get("children", [])
        if "mesh" in nodes[number]:
            meshes.append(nodes[number]["mesh"])
    made.nodes = len(meshes)
    names, places, normals = dict[int, str](), list[np.ndarray](), list[np.ndarray]()
    for number in meshes:
        for primitive in document["meshes"][number]["primitives"]:
            if primitive.get("mode", 4) < 4:
                continue
            attributes = primitive["attributes"]
            count = document["accessors"][primitive.get("indices", attributes["POSITION"])]["count"]
            made.faces += count // 3 if primitive.get("mode", 4) == 4 else count - 2
            made.uvs = max(made.uvs, sum(name.startswith("TEXCOORD_") for name in attributes))
            made.colours |= "COLOR_0" in attributes
            made.shape_keys += len(primitive.get("targets", []))
            if "material" in primitive:
                index = primitive["material"]
                names[index] = document["materials"][index].get("name") or "unnamed"
            if "NORMAL" in attributes:
                made.normals = True
                own = values(attributes["POSITION"]), values(attributes["NORMAL"])
                if own[0] is not None and own[1] is not None:
                    places.append(own[0] + number)  # parts of different objects do not touch
                    normals.append(own[1])
    if places:
        made.hard = hard_share(np.concatenate(places), np.concatenate(normals))
    made.materials = sorted(names.values())
    for index, name in names.items():
        material = document["materials"][index]
        if material.get("alphaMode", "OPAQUE") != "OPAQUE":
            made.alpha.append(name)
        made.textures += [f"{name}: {place}" for place in _pictures(material)]
    made.textures.sort()
    return made


def _pictures(values: dict[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and key != "extras":
            if key.endswith("Texture") and "index" in value:
                yield key
            else:
                yield from _pictures(value)


def of_obj(path: Path) -> Content:
    made, current, group = Content(), "", ("", "")
    used, groups, libraries = set[str](), set[tuple[str, str]](), list[str]()
    places, normals = list[list[float]](), list[list[float]]()
    corners = list[tuple[int, int]]()
    text = re.sub(r"\\\r?\n", " ", path.read_text(errors="replace"))
    for line in text.splitlines():
        words = line.split()
        match words[:1]:
            case ["v"]:
                places.append([float(word) for word in words[1:4]])
                made.colours |= len(words) >= 7
            case ["vn"]:
                normals.append([float(word) for word in words[1:4]])
            case ["usemtl"]:
                current = line.strip().partition(" ")[2].strip()
            case ["o"]:
                group = line, group[1]
            case ["g"]:
                group = group[0], line
            case ["mtllib"]:
                libraries.append(line.strip().partition(" ")[2].strip())
            case ["f"]:
                made.faces += max(len(words) - 3, 0)
                used |= {current} - {""}
                groups.add(group)
                for word in words[1:]:
                    vertex, _, more = word.partition("/")
                    uv, _, normal = more.partition("/")
                    made.uvs |= int(bool(uv))
                    if normal:
                        corners.append((_index(vertex, len(places)), _index(normal, len(normals))))
    made.nodes, made.materials, made.normals = len(groups), sorted(used), bool(corners)
    if corners:
        index = np.array(corners)
        made.hard = hard_share(np.array(places)[index[:, 0]], np.array(normals)[index[:, 1]])
    for library in libraries:
        if (path.parent / library).is_file():
            name = ""
            for line in (path.parent / library).read_text(errors="replace").splitlines():
                words = line.split() or [""]
                if words[0] == "newmtl":
                    name = line.strip().partition(" ")[2].strip()
                elif name in used and (
                    words[0] == "d"
                    and float(words[-1]) < 1
                    or words[0] == "Tr"
                    and float(words[-1]) > 0
                    or words[0] == "map_d"
                ):
                    made.alpha.append(name)
                elif name in used and words[0].lower().startswith(("map_", "bump", "norm", "disp")):
                    made.textures.append(f"{name}: {words[0]}")
    return made


def _index(word: str, count: int) -> int:
    number = int(word)
    return number - 1 if number > 0 else count + number


def of_ply(path: Path) -> Content:
    header = path.read_bytes().partition(b"end_header")[0].decode("latin-1")
    faces = re.search(r"element face (\d+)", header)
    names = set(re.findall(r"property\s+(?:list\s+\w+\s+)?\w+\s+(\w+)", header))
    pictures = re.findall(r"comment TextureFile (.+)", header)
    return Content(
        int(faces[1]) if faces else 0,
        textures=[f": {name}" for name in pictures],
        uvs=int(bool(names & {"s", "u", "texture_u", "texcoord"})),
        normals="nx" in names,
        colours="red" in names,
        alpha=["vertices"] if "alpha" in names else [],
        nodes=1,
    )


def of_usd(path: Path) -> Content:
    from pxr import Usd, UsdGeom, UsdShade, UsdSkel

    made, used = Content(), {}
    stage = Usd.Stage.Open(str(path))
    places, normals = list[np.ndarray](), list[np.ndarray]()
    for prim in stage.Traverse(Usd.TraverseInstanceProxies()):
        if prim.IsA(UsdSkel.Skeleton):
            made.skins += 1
        if not prim.IsA(UsdGeom.Mesh):
            continue
        shape = UsdGeom.Mesh(prim)
        counts = np.array(shape.GetFaceVertexCountsAttr().Get() or [], int)
        made.faces += int((counts - 2).sum())
        made.nodes += 1
        primvars = UsdGeom.PrimvarsAPI(shape)
        made.uvs = max(
            made.uvs,
            sum(found.GetTypeName().type.typeName == "VtArray<GfVec2f>" for found in primvars.GetPrimvarsWithValues()),
        )
        made.colours |= bool(primvars.GetPrimvar("displayColor").HasValue())
        made.normals |= bool(shape.GetNormalsAttr().HasAuthoredValue() or primvars.GetPrimvar("normals").HasValue())
        for each in [prim, *UsdShade.MaterialBindingAPI(prim).GetMaterialBindSubsets()]:
            material, _ = UsdShade.MaterialBindingAPI(each.GetPrim() if each != prim else prim).ComputeBoundMaterial()
            if material:
                used[str(material.GetPath())] = material
        own = np.array(shape.GetNormalsAttr().Get() or [], float).reshape(-1, 3)
        index = np.array(shape.GetFaceVertexIndicesAttr().Get() or [], int)
        if len(own) == len(index) and len(own):
            places.append(np.array(shape.GetPointsAttr().Get(), float)[index] + made.nodes)
            normals.append(own)
    if places:
        made.hard = hard_share(np.concatenate(places), np.concatenate(normals))
    for material in used.values():
        name = material.GetPrim().GetName()
        made.materials.append(name)
        surface = material.ComputeSurfaceSource()[0]
        if not surface:
            continue
        for entry in surface.GetInputs():
            if entry.HasConnectedSource():
                made.textures.append(f"{name}: {entry.GetBaseName()}")
            if entry.GetBaseName() == "opacity" and (entry.HasConnectedSource() or entry.Get() != 1):
                made.alpha.append(name)
    made.materials.sort()
    return made
