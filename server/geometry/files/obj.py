# SPDX-License-Identifier: GPL-3.0-or-later
"""Wavefront OBJ with its MTL: Y up and -Z forward, as its readers expect."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..mesh import Mesh
from ..normals import vertex_normals
from .common import MeshFileError, Warn, corner_normals, split_vertices, to_y_up, to_z_up, transform_normals
from .features import warn_unsupported
from .images import encode_png
from .lookup import decode_text, find_file
from .polygons import triangulate
from .simple_materials import SimpleMaterial, printable, slot_material, unique_names, with_materials
from .texture_files import TextureFile, load_textures

# A kind of map -> MTL's statement and the mode in which to read it.
MAPS = {
    "texture": ("map_Kd", "RGB"),
    "roughness": ("map_Pr", "L"),
    "metallic": ("map_Pm", "L"),
    "normal": ("map_Bump", "RGB"),
    "alpha": ("map_d", "A"),
    "emission": ("map_Ke", "RGB"),
}
UNSUPPORTED = (  # of `features.FEATURES`
    "further UV maps",
    "pictures on further UV maps",
    "the clamping or mirroring of pictures",
    "vertex colours over pictures",
    "where alpha is cut off",
    "occlusion",
    "which sides are shown",
    "extensions of materials",
    "extras",
)


def save(mesh: Mesh, path: Path, flat: bool, warn: Warn) -> list[Path]:
    """The mesh with its own vertices and an .mtl beside it. UVs and normals have indices of their own; vertex colours
    follow the positions in sRGB."""
    warn_unsupported(mesh, UNSUPPORTED, path, warn)
    library = path.with_suffix(".mtl")
    lines = [f"mtllib {library.name}", f"o {path.stem}"]
    places = to_y_up(mesh.positions)
    if mesh.colours is None:
        lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in places.tolist()]
    else:
        lines += [
            f"v {x:.9g} {y:.9g} {z:.9g} {r:.4f} {g:.4f} {b:.4f}"
            for (x, y, z), (r, g, b) in zip(places.tolist(), (mesh.colours / 255).tolist())
        ]
    index = np.zeros((len(mesh.faces), 3, 3), np.int64)  # vertex, UV, normal of each corner, from 1
    index[..., 0] = mesh.faces + 1
    if mesh.uvs is not None:
        uvs, number = np.unique(mesh.uvs.reshape(-1, 2), axis=0, return_inverse=True)
        lines += [f"vt {u:.9g} {v:.9g}" for u, v in uvs[np.isfinite(uvs).all(axis=1)].tolist()]  # others are last
        index[..., 1] = np.where(np.isfinite(mesh.uvs).all(axis=2), number.reshape(-1, 3) + 1, 0)
    if not flat:
        normals, index[..., 2] = _unique_normals(mesh)
        lines += [f"vn {x:.7g} {y:.7g} {z:.7g}" for x, y, z in to_y_up(normals).tolist()]
    lines.append("s off" if flat else "s 1")
    slots, current = mesh.face_slots, -1
    slot_materials = {slot: slot_material(mesh, slot) for slot in np.unique(slots).tolist()}
    given = {slot: found.name for slot, (found, _) in slot_materials.items()}
    names = unique_names(given, printable)
    if other := [f"{given[slot]!r} is {name!r}" for slot, name in names.items() if given[slot] != name]:
        warn(f"{path.name} has other names for materials, which there need one each on one line: {', '.join(other)}.")
    for slot, corners in zip(slots.tolist(), index.tolist()):
        if slot != current:
            lines.append(f"usemtl {names[slot]}")
            current = slot
        lines.append("f " + " ".join(f"{v}/{t or ''}/{n or ''}".rstrip("/") for v, t, n in corners))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    written, materials = [path, library], []
    for slot, (found, pictures) in slot_materials.items():
        materials += [
            f"newmtl {names[slot]}",
            "Kd {:.9g} {:.9g} {:.9g}".format(*found.base or (1, 1, 1)),
            f"d {found.alpha:.9g}",
            f"Pr {found.roughness:.9g}",
            f"Pm {found.metallic:.9g}",
        ]
        if any(found.emission):
            materials.append("Ke {:.9g} {:.9g} {:.9g}".format(*found.emission))
        for kind, values in pictures.items():
            image = path.with_name(f"{path.stem}_{kind}_{slot}.png")
            image.write_bytes(encode_png(values))
            written.append(image)
            materials.append(f"{MAPS[kind][0]} {image.name}" if kind in MAPS else "")
    library.write_text("\n".join(materials) + "\n", encoding="utf-8")
    return written


def _unique_normals(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """((N, 3) different normals, (F, 3) the number of each corner's, from 1)."""
    if mesh.normals is None:
        return vertex_normals(mesh.positions, mesh.faces), mesh.faces + 1
    normals, number = np.unique(corner_normals(mesh).reshape(-1, 3), axis=0, return_inverse=True)
    return normals, number.reshape(-1, 3) + 1


@dataclass
class _Shape:
    """The statements of an OBJ file, in their order."""

    places: list[list[float]] = field(default_factory=list)
    uvs: list[list[float]] = field(default_factory=list)
    normals: list[list[float]] = field(default_factory=list)
    corners: list[tuple[int, int, int]] = field(default_factory=list)  # (vertex, UV, normal), -1 for none
    counts: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # the line of each polygon
    groups: list[int] = field(default_factory=list)  # of smoothing: 0 flat, -1 not said
    materials: list[int] = field(default_factory=list)  # of each polygon
    smooth: dict[str, int] = field(default_factory=dict)  # the groups' names
    names: dict[str, int] = field(default_factory=dict)  # of materials, by their first polygon
    objects: set[tuple[str, str]] = field(default_factory=set)  # (object, group) of the polygons
    libraries: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)  # statements that have no place in a mesh


# Statements that are not read -> their name in a warning.
IGNORED = {
    "p": "points",
    "l": "lines",
    "curv": "curves",
    "curv2": "curves",
    "surf": "curved surfaces",
    "call": "other files",
}


def load(path: Path, warn: Warn) -> Mesh:
    """Positions, colours, UVs, normals, and a slot for each material and each UDIM tile of its textures."""
    shape = _read(path)
    for kind, count in shape.ignored.items():
        warn(f"{path.name} has {kind} ({count:,}), which are left out: only faces have a surface.")
    if not shape.places or not shape.counts:
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    index, counts = np.array(shape.corners, np.int64), np.array(shape.counts)
    if (missing := np.flatnonzero(index[:, 0] >= len(shape.places))).size:
        polygon = int(np.searchsorted(np.cumsum(counts), missing[0], "right"))
        raise MeshFileError(
            f"{path.name} is damaged in line {shape.rows[polygon]}, whose face has a corner that is not "
            "there: export it again."
        )
    places = np.array([place[:3] for place in shape.places])
    triangles, polygons = triangulate(places[index[:, 0]], counts, path.name, warn)
    materials = np.array(shape.materials, np.int32)[polygons]
    if len(shape.objects) > 1:
        warn(f"{path.name}: its {len(shape.objects):,} objects and groups become one mesh.")
    uvs = _listed(shape.uvs, 2, index[:, 1], "UVs", path, warn)
    uvs = None if uvs is None else uvs[triangles]
    slots, textures, slot_materials = _materials(shape, materials, uvs, path, warn)
    mesh = Mesh(
        to_z_up(places.astype(np.float32)),
        index[:, 0][triangles].astype(np.int32),
        _colours(shape, path, warn),
        uvs,
        slots if slots.any() else None,
        textures=textures,
    )
    mesh = replace(mesh, normals=_normals(shape, mesh, index, triangles, np.array(shape.groups)[polygons], path, warn))
    bare = np.array([len(place) < 6 for place in shape.places])
    over = [slot for slot in slot_materials if bare[mesh.faces[slots == slot]].all()]
    return with_materials(mesh, slot_materials, over, path.name, warn)


def _read(path: Path) -> _Shape:
    shape, current, group, part = _Shape(), "", -1, ("", "")
    for number, kind, rest in _statements(path.read_bytes()):
        values = rest.partition("#")[0].split()
        try:
            if kind == "v":
                shape.places.append([float(value) for value in values])
                if len(values) < 3:
                    raise ValueError(rest)
            elif kind == "vt":
                shape.uvs.append([*map(float, values[:2]), 0.0, 0.0][:2])
            elif kind == "vn":
                shape.normals.append([*map(float, values[:3]), 0.0, 0.0, 0.0][:3])
            elif kind == "s":
                group = 0 if rest.strip() in ("off", "0") else shape.smooth.setdefault(rest, len(shape.smooth) + 1)
            elif kind in ("f", "fo"):
                shape.corners += [
                    _corner(text, len(shape.places), len(shape.uvs), len(shape.normals)) for text in values
                ]
                shape.groups.append(group)
                shape.counts.append(len(values))
                shape.rows.append(number)
                shape.materials.append(shape.names.setdefault(current, len(shape.names)))
                shape.objects.add(part)
            elif kind == "usemtl":
                current = rest.strip()
            elif kind in ("o", "g"):
                part = (rest.strip(), part[1]) if kind == "o" else (part[0], rest.strip())
            elif kind == "mtllib":
                shape.libraries.append(rest.strip())
            elif kind in IGNORED:
                shape.ignored[IGNORED[kind]] += 1
        except ValueError:
            raise MeshFileError(f"{path.name} is damaged in line {number}: export it again.") from None
    return shape


def _statements(content: bytes) -> Iterator[tuple[int, str, str]]:
    """(the line number, the first word, the rest) of each statement; a backslash at a line's end continues it."""
    begun, text = 0, ""
    for number, line in enumerate([*re.split(r"\r\n|\r|\n", decode_text(content)), ""], 1):
        line = line.strip()
        if not text and line.startswith("#"):  # it may end with a backslash, of a path
            continue
        begun = begun if text else number
        if line.endswith("\\"):
            text += line[:-1] + " "
            continue
        kind, *rest = (text + line).split(None, 1) or [""]
        text = ""
        if kind:
            yield begun, kind, rest[0] if rest else ""


def _corner(text: str, places: int, uvs: int, normals: int) -> tuple[int, int, int]:
    """(vertex, UV or -1, normal or -1) from 0. Negative numbers count back from the latest. Raises ValueError."""
    vertex, _, rest = text.partition("/")
    uv, _, normal = rest.partition("/")
    number = int(vertex)
    found = number - 1 if number > 0 else places + number
    if not number or found < 0:
        raise ValueError(text)
    return found, _number_of(uv, uvs), _number_of(normal, normals)


def _number_of(text: str, count: int) -> int:
    number = int(text) if text else 0
    return max(number - 1 if number >= 0 else count + number, -1)


def _listed(
    values: list[list[float]], width: int, index: np.ndarray, name: str, path: Path, warn: Warn
) -> np.ndarray | None:
    """(C, width) float32 value of each corner, NaN for those without one; None if no corner has one."""
    there = (index >= 0) & (index < len(values))
    if lost := int(((index >= 0) & ~there).sum()):
        warn(f"{path.name} has corners with {name} that are not there ({lost:,}), which have none: export it again.")
    if not there.any():
        return None
    return np.array([*values, [np.nan] * width], np.float32)[np.where(there, index, -1)]


def _normals(
    shape: _Shape, mesh: Mesh, index: np.ndarray, triangles: np.ndarray, groups: np.ndarray, path: Path, warn: Warn
) -> np.ndarray | None:
    """(F, 3, 3) float32 normals by corner; for corners without one, those that the smoothing groups make."""
    given = _listed(shape.normals, 3, index[:, 2], "normals", path, warn)
    if given is None and (groups == groups[0]).all() and groups[0]:
        return None
    source, _, split = split_vertices(mesh.faces, groups[:, None, None].repeat(3, axis=1))
    smooth = vertex_normals(mesh.positions[source], split)[split]
    smooth[groups == 0] = np.nan
    if given is None:
        return smooth
    own = transform_normals(to_z_up(given.astype(float)), np.eye(4))[triangles]
    return np.where(np.isfinite(own), own, smooth).astype(np.float32)


def _colours(shape: _Shape, path: Path, warn: Warn) -> np.ndarray | None:
    """(V, 3) uint8 sRGB, of the numbers that follow the positions; None where no vertex has some."""
    coloured = np.array([len(place) >= 6 for place in shape.places])
    if not coloured.any():
        return None
    if not coloured.all():
        warn(
            f"{path.name} has vertices without a colour among others with one ({(~coloured).sum():,}): they are white."
        )
    values = np.array([place[3:6] if len(place) >= 6 else [1.0] * 3 for place in shape.places])
    if values.max() >= 2:  # a little over 1 is rounding
        warn(f"{path.name} has vertex colours up to {values.max():g}, which are taken as of 255.")
        values[coloured] /= 255
    return np.round(255 * np.nan_to_num(values).clip(0, 1)).astype(np.uint8)


def _materials(
    shape: _Shape, materials: np.ndarray, uvs: np.ndarray | None, path: Path, warn: Warn
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[int, SimpleMaterial]]:
    """((F,) slots, the textures, the material of each slot) of the materials (F,) of the triangles."""
    library = _library(path, shape.libraries, warn)
    names = list(shape.names)
    for i, name in enumerate(names):
        if name not in library and " #" in name:  # a comment
            names[i] = name.partition(" #")[0].rstrip()
    if library and (unknown := sorted({name for name in names if name} - set(library))):
        warn(
            f"{path.name} has materials that are in none of its libraries, which are read without pictures: "
            f"{', '.join(map(repr, unknown))}."
        )
    # Slots follow the libraries' order, so that a saved mesh is read with its own slots.
    order = [name for name in library if name in names]
    order += [name for name in dict.fromkeys(names) if name not in library]
    slots = np.array([order.index(name) for name in names], np.int32)[materials]
    known = [library.get(name, _Statements(SimpleMaterial(name))) for name in order]
    slots, textures, owners = load_textures(slots, uvs, [each.pictures for each in known], path.name, warn)
    return slots, textures, {slot: known[owner].material for slot, owner in enumerate(owners) if order[owner]}


@dataclass
class _Statements:
    """A material of a library."""

    material: SimpleMaterial
    pictures: dict[str, TextureFile] = field(default_factory=dict)


# Statements with numbers -> how many, and what they set. Later ones win, so Pr over Ns, which all exporters write.
_NUMBERS: dict[str, tuple[int, Callable[[SimpleMaterial, list[float]], SimpleMaterial]]] = {
    "ns": (1, lambda material, found: replace(material, roughness=1 - min(max(found[0], 0), 1000) ** 0.5 / 1000**0.5)),
    "tr": (1, lambda material, found: replace(material, alpha=1 - found[0])),
    "kd": (3, lambda material, found: replace(material, base=tuple(found))),
    "ke": (3, lambda material, found: replace(material, emission=tuple(found))),
    "d": (1, lambda material, found: replace(material, alpha=found[0])),
    "pr": (1, lambda material, found: replace(material, roughness=found[0])),
    "pm": (1, lambda material, found: replace(material, metallic=found[0])),
}


def _library(path: Path, libraries: list[str], warn: Warn) -> dict[str, _Statements]:
    """The materials by their names, in the libraries' order."""
    kinds = {statement.lower(): (kind, mode) for kind, (statement, mode) in MAPS.items()}
    kinds |= {"bump": kinds["map_bump"], "norm": kinds["map_bump"], "map_norm": kinds["map_bump"]}
    found: dict[str, _Statements] = {}
    for library in _files(path, libraries, warn):
        current, left, numbers = "", set[str](), dict[tuple[str, str], list[float]]()
        for _, statement, rest in _statements(library.read_bytes()):
            kind = statement.lower()
            if kind == "newmtl":
                current = rest.strip()
                found.setdefault(current, _Statements(SimpleMaterial(current)))
            elif current and kind in kinds:
                found[current].pictures[kinds[kind][0]] = TextureFile(
                    _file_name(rest, library, path, warn),
                    library,
                    kinds[kind][1],
                    (library.parent, path.parent),
                    bump=kind.endswith("bump"),
                )
            elif current and kind in _NUMBERS:
                values = rest.partition("#")[0].split()
                if values and all(map(_number, values)):
                    numbers[current, kind] = [float(value) for value in values]
                else:
                    warn(f"{library.name} has {statement} {rest!r}, which is no number and left out.")
            elif kind.startswith("map_") or kind in ("disp", "decal", "refl"):
                left.add(statement)
        for (current, kind), each in sorted(numbers.items(), key=lambda item: [*_NUMBERS].index(item[0][1])):
            count, change = _NUMBERS[kind]
            found[current].material = change(found[current].material, (each * count)[:count])  # one number is a gray
        if left:
            warn(
                f"{library.name} has pictures of {', '.join(sorted(left))}, which are left out: base colour, "
                "alpha, roughness, metallic, emission and normals are read."
            )
    return found


def _files(path: Path, libraries: list[str], warn: Warn) -> list[Path]:
    """The libraries that exist. A line may name several, and a name may have blanks."""
    found = list[Path]()
    for line in libraries:
        names = [line]
        if not find_file(line, path.parent):
            line = re.split(r"\s#", line)[0]
            names = re.split(r"(?<=\.mtl)\s+", line, flags=re.IGNORECASE)
            if len(names) == 1:
                names = [name for name in line.split() if find_file(name, path.parent)] or names
        for name in names:
            file = find_file(name, path.parent)
            if file is None:
                warn(
                    f"{path.name} names the library {name!r}, which is not there, and is read without its materials: "
                    "put it beside the mesh."
                )
            elif file not in found:
                found.append(file)
    return found


# Options of a texture -> the number of their values.
OPTIONS = {
    "-blendu": 1,
    "-blendv": 1,
    "-bm": 1,
    "-boost": 1,
    "-cc": 1,
    "-clamp": 1,
    "-imfchan": 1,
    "-texres": 1,
    "-type": 1,
    "-mm": 2,
    "-o": 3,
    "-s": 3,
    "-t": 3,
}


def _file_name(rest: str, library: Path, path: Path, warn: Warn) -> str:
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
        warn(
            f"{library.name} has options of the picture {rest!r} that are not followed ({', '.join(sorted(ignored))}): "
            "change the picture or the UVs instead."
        )
    if not find_file(rest, library.parent, path.parent):  # options or a comment behind it
        shorter = re.split(r"\s+(?:#|-[a-z]+\s)", rest)[0]
        rest = shorter if find_file(shorter, library.parent, path.parent) else rest
    return rest.strip()


def _number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
