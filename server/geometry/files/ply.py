# SPDX-License-Identifier: GPL-3.0-or-later
"""Stanford PLY, binary: vertices, faces, vertex colours and normals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..mesh import Mesh
from .common import Say, fans, vertex_normals

# The names of the format's numbers, old and new.
TYPES = {"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
         "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
         "double": "f8", "float64": "f8"}


def save(mesh: Mesh, path: Path, flat: bool) -> list[Path]:
    """Colours are sRGB, as other programs write and read them."""
    columns = [("position", "<f4", (3,)), *([] if flat else [("normal", "<f4", (3,))])]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(mesh.positions)}",
              *(f"property float {name}" for name in ("x", "y", "z", *(() if flat else ("nx", "ny", "nz"))))]
    if mesh.colours is not None:
        columns.append(("colour", "u1", (3,)))
        header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    vertices = np.zeros(len(mesh.positions), columns)
    vertices["position"] = mesh.positions
    if not flat:
        vertices["normal"] = vertex_normals(mesh)
    if mesh.colours is not None:
        vertices["colour"] = mesh.colours
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("corners", "<i4", (3,))])
    faces["count"], faces["corners"] = 3, mesh.faces
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    path.write_bytes("\n".join(header).encode() + vertices.tobytes() + faces.tobytes())
    return [path]


def load(path: Path, say: Say) -> Mesh:
    """Positions, faces, colours and UVs by vertex, of ASCII and binary files; polygons as fans."""
    content = path.read_bytes()
    try:
        form, elements, start = _header(content)
        read = _ascii if form == "ascii" else _binary
        tables = read(content[start:], elements, ">" if form == "binary_big_endian" else "<")
    except (ValueError, StopIteration):
        raise ValueError(f"{path.name} is damaged, or no PLY file: export it again.") from None
    vertices, faces = tables["vertex"], tables.get("face", {})
    positions = np.stack([vertices[name] for name in "xyz"], axis=1).astype(np.float32)
    counts, corners = next((faces[name] for name in ("vertex_indices", "vertex_index") if name in faces),
                           (np.zeros(0, int), np.zeros(0, int)))
    index = corners.astype(np.int64)[fans(counts)]
    colours = uvs = None
    if "red" in vertices:
        colours = np.stack([vertices[name] for name in ("red", "green", "blue")], axis=1)
        if colours.dtype.kind == "f":
            colours = np.round(255 * colours.clip(0, 1))
        colours = colours.clip(0, 255).astype(np.uint8)
    for u, v in (("s", "t"), ("u", "v"), ("texture_u", "texture_v")):
        if u in vertices and v in vertices and (not len(index) or 0 <= index.min() <= index.max() < len(positions)):
            uvs = np.stack([vertices[u], vertices[v]], axis=1).astype(np.float32)[index]
    return Mesh(positions, index.astype(np.int32), colours, uvs)


def _header(content: bytes) -> tuple[str, list[tuple[str, int, list[list[str]]]], int]:
    """(format, (name, count, its properties' words) of each element, where the data starts). Raises ValueError."""
    end = content.index(b"end_header")
    start = content.index(b"\n", end) + 1
    lines = [line.split() for line in content[:end].decode("ascii").splitlines()]
    if lines[:1] != [["ply"]]:
        raise ValueError("ply")
    form, elements = "", list[tuple[str, int, list[list[str]]]]()
    for words in lines[1:]:
        if words[:1] == ["format"]:
            form = words[1]
        elif words[:1] == ["element"]:
            elements.append((words[1], int(words[2]), []))
        elif words[:1] == ["property"]:
            elements[-1][2].append(words[1:])
    if form not in ("ascii", "binary_little_endian", "binary_big_endian") or any(count < 0 for _, count, _ in elements):
        raise ValueError(form)
    return form, elements, start


def _ascii(content: bytes, elements: list[tuple[str, int, list[list[str]]]], order: str) -> dict[str, dict[str, Any]]:
    lines = (line.split() for line in content.decode("ascii").splitlines() if line.strip())
    tables: dict[str, dict[str, Any]] = {}
    for name, count, properties in elements:
        rows: dict[str, list[Any]] = {words[-1]: [] for words in properties}
        for _ in range(count):
            values = iter(next(lines))
            for words in properties:
                read = float if words[-2] in ("float", "float32", "double", "float64") else int
                rows[words[-1]].append([read(next(values)) for _ in range(int(next(values)))] if words[0] == "list"
                                       else read(next(values)))
        tables[name] = {words[-1]: _lists(rows[words[-1]]) if words[0] == "list" else np.array(rows[words[-1]])
                        for words in properties}
    return tables


def _lists(rows: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(length of each list, all their values)."""
    return np.array([len(row) for row in rows], int), np.array([value for row in rows for value in row])


def _binary(content: bytes, elements: list[tuple[str, int, list[list[str]]]], order: str) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {}
    place = 0
    for name, count, properties in elements:
        # Lists as long as those of the first row make rows that are all alike; if they are not, row by row.
        lengths, at = {}, place
        for words in properties:
            if words[0] == "list":
                length = int(np.frombuffer(content, order + TYPES[words[1]], 1, at)[0]) if count else 0
                lengths[words[-1]] = length
                at += np.dtype(TYPES[words[1]]).itemsize + length * np.dtype(TYPES[words[2]]).itemsize
            else:
                at += np.dtype(TYPES[words[0]]).itemsize
        row = np.dtype([field for words in properties for field in (
            [(words[-1] + "#", order + TYPES[words[1]]), (words[-1], order + TYPES[words[2]], (lengths[words[-1]],))]
            if words[0] == "list" else [(words[-1], order + TYPES[words[0]])])])
        if place + count * row.itemsize <= len(content):
            table = np.frombuffer(content, row, count, place)
            if all((table[key + "#"] == length).all() for key, length in lengths.items()):
                tables[name] = {words[-1]: (np.full(count, lengths[words[-1]]), table[words[-1]].reshape(-1))
                                if words[0] == "list" else table[words[-1]] for words in properties}
                place += count * row.itemsize
                continue
        rows: dict[str, list[Any]] = {words[-1]: [] for words in properties}
        for _ in range(count):
            for words in properties:
                length = 1
                if words[0] == "list":
                    length = int(np.frombuffer(content, order + TYPES[words[1]], 1, place)[0])
                    place += np.dtype(TYPES[words[1]]).itemsize
                values = np.frombuffer(content, order + TYPES[words[-2]], length, place)
                place += values.nbytes
                rows[words[-1]].append(values if words[0] == "list" else values[0])
        tables[name] = {words[-1]: _lists(rows[words[-1]]) if words[0] == "list" else np.array(rows[words[-1]])
                        for words in properties}
    return tables
