# SPDX-License-Identifier: GPL-3.0-or-later
"""Stanford PLY. Written are vertices, faces, vertex colours and normals, in binary."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..colour import to_srgb_bytes
from ..mesh import Mesh
from ..normals import vertex_normals
from .common import MeshFileError, Warn, corner_normals, transform_normals
from .features import FEATURES, has_hard_edges, warn_unsupported
from .lookup import BYTE_ORDER_MARKS, decode_text
from .polygons import triangulate
from .simple_materials import SimpleMaterial, slot_material, with_materials
from .texture_files import TextureFile, load_textures

# The format's types, by their old and new names.
TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
    "float16": "f2",
    "int64": "i8",
    "uint64": "u8",
}
# The field of a row in NumPy's structured types.
_Field = tuple[str, str] | tuple[str, str, tuple[int, ...]]
KNOWN = ("vertex", "face", "tristrips")
CORNERS = ("vertex_indices", "vertex_index")
COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))


def save(mesh: Mesh, path: Path, flat: bool, warn: Warn) -> list[Path]:
    """Vertex colours are sRGB, as in other programs; where the mesh has none, the materials' base colours."""
    colours, whole = _with_alpha(mesh)
    warn_unsupported(mesh, set(FEATURES) - ({"transparency"} if whole else set()), path, warn)
    columns: list[_Field] = [("position", "<f4", (3,)), *([] if flat else [("normal", "<f4", (3,))])]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(mesh.positions)}",
        *(f"property float {name}" for name in ("x", "y", "z", *(() if flat else ("nx", "ny", "nz")))),
    ]
    if colours is not None:
        columns.append(("colour", "u1", colours.shape[1:]))
        header += [f"property uchar {name}" for name in ("red", "green", "blue", "alpha")[: colours.shape[1]]]
    vertices = np.zeros(len(mesh.positions), columns)
    vertices["position"] = mesh.positions
    if not flat:
        vertices["normal"] = vertex_normals(mesh.positions, mesh.faces)
        if mesh.normals is not None and not has_hard_edges(mesh):
            vertices["normal"][mesh.faces] = corner_normals(mesh)
    if colours is not None:
        vertices["colour"] = colours
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("corners", "<i4", (3,))])
    faces["count"], faces["corners"] = 3, mesh.faces
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    path.write_bytes("\n".join(header).encode() + vertices.tobytes() + faces.tobytes())
    return [path]


def _with_alpha(mesh: Mesh) -> tuple[np.ndarray | None, bool]:
    """((V, 3) or (V, 4) uint8, None for no colours; whether they hold the transparency: all slots have one alpha)."""
    slot_materials = [slot_material(mesh, slot) for slot in np.unique(mesh.face_slots).tolist()]
    alphas = {found.alpha if "alpha" not in pictures else None for found, pictures in slot_materials}
    alpha = alphas.pop() if len(alphas) == 1 else None
    colours = mesh.colours
    if colours is None and any(found.base not in (None, (1, 1, 1)) for found, _ in slot_materials):
        colours = np.full((len(mesh.positions), 3), 255, np.uint8)
        for slot, (found, _) in zip(np.unique(mesh.face_slots).tolist(), slot_materials):
            colours[mesh.faces[mesh.face_slots == slot]] = to_srgb_bytes(np.array(found.base or (1, 1, 1)))
    if alpha is None or alpha == 1:
        return colours, alpha is not None
    colours = np.full((len(mesh.positions), 3), 255, np.uint8) if colours is None else colours
    return np.insert(colours, 3, max(round(255 * alpha), 1), axis=1), True


@dataclass
class _Element:
    name: str
    count: int
    # (name, type, type of a list's length or "")
    properties: list[tuple[str, str, str]] = field(default_factory=list)


_Column = Any  # (N,) numbers, or of lists (lengths (N,), all their values)


def load(path: Path, warn: Warn) -> Mesh:
    """Positions, faces and strips, colours and normals of vertices, UVs of corners or vertices, a slot for each
    picture."""
    content = path.read_bytes()
    content = decode_text(content).encode() if content.startswith(tuple(BYTE_ORDER_MARKS)) else content
    try:
        form, elements, pictures, start = _header(content)
        read = _ascii if form == "ascii" else _binary
        tables = read(content[start:], elements, ">" if form == "binary_big_endian" else "<")
    except ValueError:
        raise MeshFileError(f"{path.name} is damaged, or no PLY file: export it again.") from None
    if others := [element.name for element in elements if element.count and element.name not in KNOWN]:
        warn(f"{path.name} has {', '.join(others)}, which are left out: only faces have a surface.")
    vertices, faces, strips = (tables.get(name, {}) for name in KNOWN)
    if lacking := [name for name in "xyz" if not isinstance(vertices.get(name), np.ndarray)]:
        raise MeshFileError(f"{path.name} has vertices without {', '.join(lacking)}: export it again.")
    positions = np.stack([vertices[name] for name in "xyz"], axis=1)
    counts, corners = _list(faces, *CORNERS)
    faces = faces if len(counts) else {}
    more = _unrolled(_list(strips, *CORNERS)[1]).reshape(-1)
    counts, corners = np.concatenate([counts, np.full(len(more) // 3, 3)]), np.concatenate([corners, more])
    if corners.dtype.kind not in "iu" or ((corners < 0) | (corners >= len(positions))).any():
        raise MeshFileError(f"{path.name} has faces with corners that are not there: export it again.")
    triangles, polygons = triangulate(positions[corners], counts, path.name, warn)
    uvs = _uvs(vertices, faces, counts, corners, path, warn)
    uvs = None if uvs is None else uvs[triangles]
    slots, textures, _ = load_textures(
        _slots(faces, len(counts), len(pictures))[polygons],
        uvs,
        [{"texture": TextureFile(name, path, "RGB")} for name in pictures] + [{}],
        path.name,
        warn,
    )
    colours, alpha = _colours(vertices, faces, path, warn)
    mesh = Mesh(
        positions.astype(np.float32),
        corners[triangles].astype(np.int32),
        colours,
        uvs,
        slots if slots.any() else None,
        textures=textures,
        normals=_normals(vertices, corners[triangles]),
    )
    slot_materials = {slot: SimpleMaterial(alpha=alpha) for slot in np.unique(slots).tolist()} if alpha < 1 else {}
    return with_materials(mesh, slot_materials, (), path.name, warn)


def _normals(vertices: dict[str, _Column], corners: np.ndarray) -> np.ndarray | None:
    """(F, 3, 3) float32 normals of the corners (F, 3); None where no vertex has one."""
    if not all(isinstance(vertices.get(name), np.ndarray) for name in ("nx", "ny", "nz")):
        return None
    normals = transform_normals(
        np.stack([vertices[name] for name in ("nx", "ny", "nz")], axis=1).astype(float), np.eye(4)
    )
    return normals[corners].astype(np.float32) if np.isfinite(normals).any() else None


def _list(table: dict[str, _Column], *names: str) -> tuple[np.ndarray, np.ndarray]:
    """(lengths, values) of the first of these lists; empty arrays where there is none."""
    return next(
        (table[name] for name in names if isinstance(table.get(name), tuple)),
        (np.zeros(0, np.int64), np.zeros(0, np.int64)),
    )


def _unrolled(strip: np.ndarray) -> np.ndarray:
    """(T, 3) triangles of strips, which -1 parts; every second triangle of a strip has the opposite winding."""
    numbers = np.arange(len(strip))
    begun = np.maximum.accumulate(np.where(np.append(-1, strip[:-1]) == -1, numbers, 0)) if len(strip) else numbers
    triangles = np.stack([strip[:-2], strip[1:-1], strip[2:]], axis=1) if len(strip) > 2 else np.zeros((0, 3), int)
    odd = ((numbers - begun)[: len(triangles)] % 2 == 1)[:, None]
    return np.where(odd, triangles[:, [1, 0, 2]], triangles)[(triangles != -1).all(axis=1)]


def _uvs(
    vertices: dict[str, _Column],
    faces: dict[str, _Column],
    counts: np.ndarray,
    corners: np.ndarray,
    path: Path,
    warn: Warn,
) -> np.ndarray | None:
    """(C, 2) float32 UVs of the corners, NaN for those without; None if no corner has some."""
    lengths, values = _list(faces, "texcoord")
    if len(values):
        lengths = np.append(lengths, np.zeros(len(counts) - len(lengths), int))
        fitting = lengths == 2 * counts
        if bad := int((~fitting & (lengths > 0)).sum()):
            warn(f"{path.name} has faces with UVs for some of their corners only ({bad:,}), which have none.")
        uvs = np.full((len(corners), 2), np.nan, np.float32)
        uvs[np.repeat(fitting, counts)] = values[np.repeat(fitting, lengths)].reshape(-1, 2)
        return uvs
    for u, v in (("s", "t"), ("u", "v"), ("texture_u", "texture_v")):
        if u in vertices and v in vertices:
            return np.stack([vertices[u], vertices[v]], axis=1).astype(np.float32)[corners]
    return None


def _slots(faces: dict[str, _Column], count: int, pictures: int) -> np.ndarray:
    """(P,) int32 slot of each polygon: the number of its texture, or `pictures` for none."""
    slots = np.zeros(count, np.int32)
    if pictures and isinstance(numbers := faces.get("texnumber"), np.ndarray):
        slots[: len(numbers)] = np.where((numbers >= 0) & (numbers < pictures), numbers, pictures)
    return slots


def _colours(
    vertices: dict[str, _Column], faces: dict[str, _Column], path: Path, warn: Warn
) -> tuple[np.ndarray | None, float]:
    """((V, 3) uint8 sRGB or None, the alpha that all vertices share, else 1)."""
    if "red" in faces:
        warn(f"{path.name} has colours of faces, which are left out: colours of vertices are read.")
    names = next((names for names in COLOURS if set(names) <= set(vertices)), None)
    if names is None:
        return None, 1.0
    alpha = vertices.get("alpha")
    values = _bytes(np.stack([vertices[name] for name in (*names, *(["alpha"] if alpha is not None else []))], axis=1))
    if alpha is None or not len(alpha) or (values[:, 3] == 255).all():
        return values[:, :3], 1.0
    if (values[:, 3] != values[0, 3]).any() or not values[0, 3]:
        warn(f"{path.name} has transparent vertices, which become opaque.")
        return values[:, :3], 1.0
    return values[:, :3], float(values[0, 3]) / 255


def _bytes(values: np.ndarray) -> np.ndarray:
    """Colours as uint8. Their maximum is the least of 1, 255, 65535 and 4294967295 that holds them, because programs
    choose their types freely."""
    fraction = values.dtype.kind == "f"
    values = np.nan_to_num(values.astype(np.float64))
    largest = values.max(initial=0)
    whole = next((whole for whole in (255, 65535) if largest <= whole), 4294967295)
    return np.round(255 * values / (1 if fraction and largest < 2 else whole)).clip(0, 255).astype(np.uint8)


def _header(content: bytes) -> tuple[str, list[_Element], list[str], int]:
    """(format, elements, names of MeshLab's texture files, the offset of the data). Raises ValueError."""
    # Behind a lone carriage return, a line feed is data.
    first = re.match(rb"ply[ \t]*(\r\n|\r|\n)", content)
    end = first and re.search(rb"[\r\n]end_header[ \t]*" + (rb"\r" if first[1] == b"\r" else rb"\r?\n"), content)
    if not end:
        raise ValueError("ply")
    form, elements, pictures = "", list[_Element](), list[str]()
    for line in re.split(r"[\r\n]+", decode_text(content[: end.start()])):
        match line.split():
            case ["format", form, *_]:
                pass
            case ["comment", kind, _, *_] if kind.lower() == "texturefile":
                pictures.append(line.split(None, 2)[2].strip())
            case ["element", name, count]:
                elements.append(_Element(name, int(count)))
            case ["property", "list", length, kind, name] if elements and {length, kind} <= set(TYPES):
                elements[-1].properties.append((name, kind, length))
            case ["property", kind, name] if elements and kind in TYPES:
                elements[-1].properties.append((name, kind, ""))
            case ["property" | "element", *_]:
                raise ValueError(line)
    if form not in ("ascii", "binary_little_endian", "binary_big_endian") or any(each.count < 0 for each in elements):
        raise ValueError(form)
    return form, elements, pictures, end.end()


def _ascii(content: bytes, elements: list[_Element], order: str) -> dict[str, dict[str, _Column]]:
    lines = (line.split() for line in decode_text(content).splitlines() if line.strip())
    tables: dict[str, dict[str, _Column]] = {}
    for element in elements:
        rows = list(islice(lines, element.count))
        if len(rows) < element.count:
            raise ValueError(element.name)
        values = np.array([word for row in rows for word in row], np.float64)
        ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
        places = np.append(0, ends)[:-1].astype(np.int64)
        table = tables[element.name] = dict[str, _Column]()

        def taken(kind: str, index: np.ndarray, values: np.ndarray = values) -> np.ndarray:
            """The numbers of a column, as integers where its type and all of them are."""
            found = values[index]
            integers = np.dtype(TYPES[kind]).kind != "f" and (found == np.round(found)).all()
            return found.astype(np.int64) if integers and (np.abs(found) < 2**53).all() else found

        for name, kind, length in element.properties:
            if (places >= ends).any():
                raise ValueError(name)
            if not length:
                table[name] = taken(kind, places)
                places = places + 1
                continue
            lengths = taken(length, places)
            places = places + 1
            if lengths.dtype.kind != "i" or (lengths < 0).any() or (lengths > ends - places).any():
                raise ValueError(name)
            inner = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            table[name] = lengths, taken(kind, np.repeat(places, lengths) + inner)
            places = places + lengths
    return tables


def _binary(content: bytes, elements: list[_Element], order: str) -> dict[str, dict[str, _Column]]:
    tables: dict[str, dict[str, _Column]] = {}
    place = 0

    def one(kind: str, at: int, size: int = 1) -> np.ndarray:
        if size < 0:
            raise ValueError(kind)
        return np.frombuffer(content, order + TYPES[kind], size, at)

    for element in elements:
        # If all lists are as long as in the first row, rows have one layout; else they are read one by one.
        columns, at = list[_Field](), place
        for name, kind, length in element.properties:
            size = int(one(length, at)[0]) if length and element.count else int(not length)
            if length:
                columns.append((name + "#", order + TYPES[length]))
                at += np.dtype(TYPES[length]).itemsize
            number = order + TYPES[kind]
            columns.append((name, number, (size,)) if length else (name, number))
            at += size * np.dtype(TYPES[kind]).itemsize
        row = np.dtype(columns)
        if place + element.count * row.itemsize <= len(content):
            rows = np.frombuffer(content, row, element.count, place)
            lists = [name for name, _, length in element.properties if length]
            if all((rows[name + "#"] == rows[name].shape[1]).all() for name in lists):
                tables[element.name] = {name: rows[name] for name, _, _ in element.properties} | {
                    name: (rows[name + "#"].astype(np.int64), rows[name].reshape(-1)) for name in lists
                }
                place += element.count * row.itemsize
                continue
        found: dict[str, list[np.ndarray]] = {name: [] for name, _, _ in element.properties}
        for _ in range(element.count):
            for name, kind, length in element.properties:
                size = int(one(length, place)[0]) if length else 1
                place += np.dtype(TYPES[length]).itemsize if length else 0
                found[name].append(one(kind, place, size))
                place += found[name][-1].nbytes
        tables[element.name] = {
            name: (np.array(list(map(len, found[name]))), np.concatenate(found[name]))
            if length
            else np.concatenate(found[name])
            for name, _, length in element.properties
        }
    return tables
