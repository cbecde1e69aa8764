# SPDX-License-Identifier: GPL-3.0-or-later
"""Wavefront OBJ with its MTL: Y up and -Z forward, as its readers expect."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..mesh import Mesh
from .common import ROUGHNESS, Say, beside, fans, picture, png, vertex_normals, y_up, z_up

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


def load(path: Path, say: Say) -> Mesh:
    """Positions, colours, UVs, materials as slots and their pictures, of polygons as fans."""
    places: list[list[float]] = []
    uvs: list[list[float]] = []
    corners: list[tuple[int, int]] = []         # (vertex, UV or -1), polygon after polygon
    counts: list[int] = []
    names: list[str] = []
    materials: list[int] = []                   # of each polygon
    libraries: list[str] = []
    current, loose = "", 0
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        kind, _, rest = line.strip().partition(" ")
        try:
            if kind == "v":
                places.append([float(value) for value in rest.split()])
            elif kind == "vt":
                uvs.append([float(value) for value in rest.split()[:2]])
            elif kind == "f":
                polygon = [_corner(text, len(places), len(uvs)) for text in rest.split()]
                if current not in names:
                    names.append(current)
                corners += polygon
                counts.append(len(polygon))
                materials.append(names.index(current))
            elif kind == "usemtl":
                current = rest.strip()
            elif kind == "mtllib":
                libraries.append(rest)
            elif kind in ("p", "l"):
                loose += 1
        except ValueError:
            raise ValueError(f"{path.name} is damaged in line {number}: export it again.") from None
    if loose:
        say(f"{path.name} has {loose:,} points or lines, which are left out: only faces have a surface.")
    if not places or not counts:
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    width = min(map(len, places))
    if width < 3:
        raise ValueError(f"{path.name} has vertices without three coordinates: export it again.")
    table = np.array([place[:6 if width >= 6 else 3] for place in places])
    colours = np.round(255 * table[:, 3:].clip(0, 1)).astype(np.uint8) if width >= 6 else None
    index = np.array(corners, np.int64)
    triangles = fans(np.array(counts))
    corner_uvs = None
    if uvs and (index[:, 1] >= 0).any():
        values = np.concatenate([np.array([uv + [0.0] * (2 - len(uv)) for uv in uvs], np.float32), [[np.nan] * 2]])
        corner_uvs = values[index[:, 1]][triangles].astype(np.float32)      # -1 is the last: none
    # Slots go by the libraries' order, so that what `save` wrote comes back.
    library = _library(path, libraries)
    order = [name for name in library if name in names] + [name for name in names if name not in library]
    slots = np.array([order.index(name) for name in names], np.int32)[materials]
    textures = {f"{kind}.{slot}": picture(beside(path, file), mode) for slot, name in enumerate(order)
                for kind, (file, mode) in library.get(name, {}).items()}
    return Mesh(z_up(table[:, :3].astype(np.float32)), index[:, 0][triangles].astype(np.int32), colours, corner_uvs,
                np.repeat(slots, np.maximum(np.array(counts) - 2, 0)) if len(names) > 1 else None, textures=textures)


def _corner(text: str, places: int, uvs: int) -> tuple[int, int]:
    """(vertex, UV or -1), from 0; negative numbers count from the end. Raises ValueError."""
    parts = text.split("/")

    def index(part: str, count: int) -> int:
        number = int(part)
        found = number - 1 if number > 0 else count + number
        if not number or not 0 <= found < count:
            raise ValueError(text)
        return found

    return index(parts[0], places), index(parts[1], uvs) if len(parts) > 1 and parts[1] else -1


def _library(path: Path, libraries: list[str]) -> dict[str, dict[str, tuple[str, str]]]:
    """Of each material, in the libraries' order: our kind of picture -> (file, mode)."""
    kinds = {statement.lower(): (kind, mode) for kind, (statement, mode) in MAPS.items()}
    kinds |= {"bump": kinds["map_bump"], "norm": kinds["map_bump"]}
    found: dict[str, dict[str, tuple[str, str]]] = {}
    current = ""
    for library in libraries:
        for line in beside(path, library).read_text(encoding="utf-8", errors="replace").splitlines():
            statement, _, rest = line.strip().partition(" ")
            if statement == "newmtl":
                current = rest.strip()
                found.setdefault(current, {})
            elif current and statement.lower() in kinds:
                kind, mode = kinds[statement.lower()]
                found[current][kind] = _file_name(rest), mode
    return found


def _file_name(rest: str) -> str:
    """What follows a map's options, such as "-bm 1.0 -s 1 1 1 wood.png"; names may have spaces."""
    words = rest.split()
    while words and words[0].startswith("-"):
        words.pop(0)
        while len(words) > 1 and (words[0] in ("on", "off") or words[0].replace(".", "", 1).lstrip("-").isdigit()):
            words.pop(0)
    return " ".join(words)
