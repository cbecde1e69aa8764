# SPDX-License-Identifier: GPL-3.0-or-later
"""Wavefront OBJ with its MTL: Y up and -Z forward, as its readers expect."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..mesh import Mesh
from .common import ROUGHNESS, Say, decoded, find, png, vertex_normals, y_up, z_up
from .pictures import Picture, textured
from .polygons import triangulate

# Our kind of picture -> MTL's statement and how to read it.
MAPS = {"texture": ("map_Kd", "RGB"), "roughness": ("map_Pr", "L"), "metallic": ("map_Pm", "L"),
        "normal": ("map_Bump", "RGB")}


def save(mesh: Mesh, path: Path, flat: bool) -> list[Path]:
    """The mesh with its own vertices; UVs and normals have indices of their own. Colours follow the positions."""
    library = path.with_suffix(".mtl")
    lines = [f"mtllib {library.name}", f"o {path.stem}"]
    places = y_up(mesh.positions)
    if mesh.colours is None:
        lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in places.tolist()]
    else:
        lines += [f"v {x:.9g} {y:.9g} {z:.9g} {r:.4f} {g:.4f} {b:.4f}" for (x, y, z), (r, g, b)
                  in zip(places.tolist(), (mesh.colours / 255).tolist())]
    corners = (mesh.faces + 1).astype(np.int64)
    textured = np.zeros_like(corners)
    if mesh.uvs is not None:
        uvs, index = np.unique(mesh.uvs.reshape(-1, 2), axis=0, return_inverse=True)
        lines += [f"vt {u:.9g} {v:.9g}" for u, v in uvs.tolist()]
        textured = index.reshape(-1, 3) + 1
    if not flat:
        lines += [f"vn {x:.6g} {y:.6g} {z:.6g}" for x, y, z in y_up(vertex_normals(mesh)).tolist()]
    lines.append("s off" if flat else "s 1")
    form = {(False, False): "{0}", (True, False): "{0}/{1}", (False, True): "{0}//{0}", (True, True): "{0}/{1}/{0}"}[
        mesh.uvs is not None, not flat]
    slots, current = mesh.face_slots, -1
    for slot, a, b in zip(slots.tolist(), corners.tolist(), textured.tolist()):
        if slot != current:
            lines.append(f"usemtl slot_{slot}")
            current = slot
        lines.append("f " + " ".join(form.format(v, t) for v, t in zip(a, b)))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    written, materials = [path, library], []
    for slot in np.unique(slots).tolist():
        materials += [f"newmtl slot_{slot}", "Kd 1 1 1", f"Pr {ROUGHNESS}", "Pm 0"]
        for kind, (statement, _) in MAPS.items():
            values = mesh.textures.get(f"{kind}.{slot}")
            if values is not None:
                image = path.with_name(f"{path.stem}_{kind}_{slot}.png")
                image.write_bytes(png(values))
                written.append(image)
                materials.append(f"{statement} {image.name}")
    library.write_text("\n".join(materials) + "\n", encoding="utf-8")
    return written


@dataclass
class _Shape:
    """The statements of an OBJ file, in their order."""

    places: list[list[float]] = field(default_factory=list)
    uvs: list[list[float]] = field(default_factory=list)
    corners: list[tuple[int, int]] = field(default_factory=list)    # (vertex, UV or -1), polygon after polygon
    counts: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)                   # the line of each polygon
    materials: list[int] = field(default_factory=list)              # of each polygon
    names: dict[str, int] = field(default_factory=dict)             # of materials, by their first polygon
    libraries: list[str] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)             # what has no place in a mesh


LEFT = {"p": "points", "l": "lines", "curv": "curves", "curv2": "curves", "surf": "curved surfaces",
        "call": "other files"}


def load(path: Path, say: Say) -> Mesh:
    """Positions, colours, UVs, materials as slots and their pictures; a slot for each UDIM tile of a picture."""
    shape = _read(path)
    for kind, count in shape.left.items():
        say(f"{path.name} has {kind} ({count:,}), which are left out: only faces have a surface.")
    if not shape.places or not shape.counts:
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    index, counts = np.array(shape.corners, np.int64), np.array(shape.counts)
    if (missing := np.flatnonzero(index[:, 0] >= len(shape.places))).size:
        polygon = int(np.searchsorted(np.cumsum(counts), missing[0], "right"))
        raise ValueError(f"{path.name} is damaged in line {shape.rows[polygon]}, whose face has a corner that is not "
                         "there: export it again.")
    places = np.array([place[:3] for place in shape.places])
    triangles, polygons = triangulate(places[index[:, 0]], counts, path.name, say)
    materials = np.array(shape.materials, np.int32)[polygons]
    uvs = _uvs(shape, index, path, say)
    uvs = None if uvs is None else uvs[triangles]
    slots, textures = _materials(shape, materials, uvs, path, say)
    return Mesh(z_up(places.astype(np.float32)), index[:, 0][triangles].astype(np.int32), _colours(shape, path, say),
                uvs, slots if slots.any() else None, textures=textures)


def _read(path: Path) -> _Shape:
    shape, current = _Shape(), ""
    for number, kind, rest in _statements(path.read_bytes()):
        values = rest.partition("#")[0].split()
        try:
            if kind == "v":
                shape.places.append([float(value) for value in values])
                if len(values) < 3:
                    raise ValueError(rest)
            elif kind == "vt":
                shape.uvs.append([*map(float, values[:2]), 0.0, 0.0][:2])
            elif kind in ("f", "fo"):
                shape.corners += [_corner(text, len(shape.places), len(shape.uvs)) for text in values]
                shape.counts.append(len(values))
                shape.rows.append(number)
                shape.materials.append(shape.names.setdefault(current, len(shape.names)))
            elif kind == "usemtl":
                current = rest.strip()
            elif kind == "mtllib":
                shape.libraries.append(rest.strip())
            elif kind in LEFT:
                shape.left[LEFT[kind]] += 1
        except ValueError:
            raise ValueError(f"{path.name} is damaged in line {number}: export it again.") from None
    return shape


def _statements(content: bytes) -> Iterator[tuple[int, str, str]]:
    """(its line, its first word, the rest) of each statement; a backslash at a line's end goes on in the next."""
    begun, text = 0, ""
    for number, line in enumerate([*re.split(r"\r\n|\r|\n", decoded(content)), ""], 1):
        line = line.strip()
        if not text and line.startswith("#"):       # with a path at its end, often
            continue
        begun = begun if text else number
        if line.endswith("\\"):
            text += line[:-1] + " "
            continue
        kind, *rest = (text + line).split(None, 1) or [""]
        text = ""
        if kind:
            yield begun, kind, rest[0] if rest else ""


def _corner(text: str, places: int, uvs: int) -> tuple[int, int]:
    """(vertex, UV or -1), from 0; negative numbers count from the end so far. Raises ValueError."""
    vertex, _, rest = text.partition("/")
    number, uv = int(vertex), rest.partition("/")[0]
    found = number - 1 if number > 0 else places + number
    if not number or found < 0:
        raise ValueError(text)
    number = int(uv) if uv else 0
    return found, max(number - 1 if number >= 0 else uvs + number, -1)


def _uvs(shape: _Shape, index: np.ndarray, path: Path, say: Say) -> np.ndarray | None:
    """(C, 2) float32 of each corner, not a number for those without; None if none has some."""
    named, there = index[:, 1] >= 0, (index[:, 1] >= 0) & (index[:, 1] < len(shape.uvs))
    if lost := int((named & ~there).sum()):
        say(f"{path.name} has corners with UVs that are not there ({lost:,}), which have none: export it again.")
    if not there.any():
        return None
    values = np.array([*shape.uvs, [np.nan, np.nan]], np.float32)
    return values[np.where(there, index[:, 1], -1)]


def _colours(shape: _Shape, path: Path, say: Say) -> np.ndarray | None:
    """(V, 3) uint8 of the numbers that follow the positions."""
    coloured = np.array([len(place) >= 6 for place in shape.places])
    if not coloured.any():
        return None
    if not coloured.all():
        say(f"{path.name} has vertices without a colour among others with one ({(~coloured).sum():,}): they are white.")
    values = np.array([place[3:6] if len(place) >= 6 else [1.0] * 3 for place in shape.places])
    if values.max() >= 2:                       # a little over 1 is rounding
        say(f"{path.name} has vertex colours up to {values.max():g}, which are taken as of 255.")
        values[coloured] /= 255
    return np.round(255 * np.nan_to_num(values).clip(0, 1)).astype(np.uint8)


def _materials(shape: _Shape, materials: np.ndarray, uvs: np.ndarray | None, path: Path,
               say: Say) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """((F,) slots, the textures) of the materials of the triangles."""
    library = _library(path, shape.libraries, say)
    names = list(shape.names)
    for i, name in enumerate(names):
        if name not in library and " #" in name:        # a comment
            names[i] = name.partition(" #")[0].rstrip()
    if library and (unknown := sorted({name for name in names if name} - set(library))):
        say(f"{path.name} has materials that are in none of its libraries, which are read without pictures: "
            f"{', '.join(map(repr, unknown))}.")
    # Slots go by the libraries' order, so that what `save` wrote comes back.
    order = [name for name in library if name in names]
    order += [name for name in dict.fromkeys(names) if name not in library]
    slots = np.array([order.index(name) for name in names], np.int32)[materials]
    return textured(slots, uvs, [library.get(name, {}) for name in order], path.name, say)


def _library(path: Path, libraries: list[str], say: Say) -> dict[str, dict[str, Picture]]:
    """Of each material, in the libraries' order: our kind of picture -> the picture that it names."""
    kinds = {statement.lower(): (kind, mode) for kind, (statement, mode) in MAPS.items()}
    kinds |= {"bump": kinds["map_bump"], "norm": kinds["map_bump"], "map_norm": kinds["map_bump"]}
    found: dict[str, dict[str, Picture]] = {}
    for library in _files(path, libraries, say):
        current, left = "", set[str]()
        for _, statement, rest in _statements(library.read_bytes()):
            kind = statement.lower()
            if kind == "newmtl":
                current = rest.strip()
                found.setdefault(current, {})
            elif current and kind in kinds:
                found[current][kinds[kind][0]] = Picture(_file_name(rest, library, path, say), library, kinds[kind][1],
                                                         (library.parent, path.parent), bump=kind.endswith("bump"))
            elif kind.startswith("map_") or kind in ("disp", "decal", "refl"):
                left.add(statement)
        if left:
            say(f"{library.name} has pictures of {', '.join(sorted(left))}, which are left out: base colour, "
                "roughness, metallic and normals are read.")
    return found


def _files(path: Path, libraries: list[str], say: Say) -> list[Path]:
    """The libraries that are there. A line may name several, and a name may have blanks."""
    found = list[Path]()
    for line in libraries:
        names = [line]
        if not find(line, path.parent):
            line = re.split(r"\s#", line)[0]
            names = re.split(r"(?<=\.mtl)\s+", line, flags=re.IGNORECASE)
            if len(names) == 1:
                names = [name for name in line.split() if find(name, path.parent)] or names
        for name in names:
            file = find(name, path.parent)
            if file is None:
                say(f"{path.name} names the library {name!r}, which is not there, and is read without its materials: "
                    "put it beside the mesh.")
            elif file not in found:
                found.append(file)
    return found


# How many values the options of a picture have.
OPTIONS = {"-blendu": 1, "-blendv": 1, "-bm": 1, "-boost": 1, "-cc": 1, "-clamp": 1, "-imfchan": 1, "-texres": 1,
           "-type": 1, "-mm": 2, "-o": 3, "-s": 3, "-t": 3}


def _file_name(rest: str, library: Path, path: Path, say: Say) -> str:
    """The name behind a map's options, such as in "-bm 1.0 -s 1 1 1 my wood.png"."""
    ignored = set[str]()
    while (words := rest.split(None, 1)) and len(words) == 2 and words[0].lower() in OPTIONS:
        option, rest = words[0].lower(), words[1]
        for _ in range(OPTIONS[option]):
            value, *more = rest.split(None, 1)
            if not more or OPTIONS[option] > 1 and not _number(value):
                break
            rest = more[0]
            if option == "-imfchan" or option in ("-o", "-s", "-t") and float(value) != (option == "-s"):
                ignored.add(option)
    if ignored:
        say(f"{library.name} has options of the picture {rest!r} that are not followed ({', '.join(sorted(ignored))}): "
            "change the picture or the UVs instead.")
    if not find(rest, library.parent, path.parent):      # options or a comment behind it
        shorter = re.split(r"\s+(?:#|-[a-z]+\s)", rest)[0]
        rest = shorter if find(shorter, library.parent, path.parent) else rest
    return rest.strip()


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
