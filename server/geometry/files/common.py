# SPDX-License-Identifier: GPL-3.0-or-later
"""What the formats share: pictures, the turn to Y up, corners as vertices."""

from __future__ import annotations

import codecs
import io
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ..mesh import Mesh, linear_to_srgb

Say = Callable[[str], None]  # takes a note about what a reader left out or guessed: one sentence
ROUGHNESS = 0.8  # of a material without a map; its metallic is 0


def y_up(vectors: np.ndarray) -> np.ndarray:
    """(N, 3) from Z up to Y up, exactly."""
    return np.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], axis=1)


def z_up(vectors: np.ndarray) -> np.ndarray:
    """(N, 3) from Y up to Z up, exactly."""
    return np.stack([vectors[:, 0], -vectors[:, 2], vectors[:, 1]], axis=1)


def vertex_normals(mesh: Mesh) -> np.ndarray:
    """(V, 3) float32 unit normals, weighted by area; up where a vertex has no face."""
    normals = np.zeros((len(mesh.positions), 3))
    for i in range(3):
        np.add.at(normals, mesh.faces[:, i], _crosses(mesh))
    return _unit(normals)


def face_normals(mesh: Mesh) -> np.ndarray:
    """(F, 3) float32 unit normals; up where a face has no area."""
    return _unit(_crosses(mesh))


def _crosses(mesh: Mesh) -> np.ndarray:
    a, b, c = (mesh.positions[mesh.faces[:, i]].astype(np.float64) for i in range(3))
    return np.cross(b - a, c - a)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > 0, vectors / np.where(length > 0, length, 1), (0, 0, 1)).astype(np.float32)


def corner_normals(mesh: Mesh) -> np.ndarray:
    """(F, 3, 3) float32 unit normals of the faces' corners: the mesh's own, or smooth ones where it has none."""
    if mesh.normals is None:
        return vertex_normals(mesh)[mesh.faces]
    return np.where(np.isfinite(mesh.normals), mesh.normals, face_normals(mesh)[:, None]).astype(np.float32)


def turned(normals: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals of a surface that (4, 4) or (V, 4, 4) takes elsewhere; not numbers where there is none."""
    if matrix.ndim == 2 and np.array_equal(matrix[:3, :3], np.eye(3)):
        made = normals
    else:
        a, b, c = np.moveaxis(np.broadcast_to(matrix[..., :3, :3], (len(normals), 3, 3)), 2, 0)
        made = normals[:, :1] * np.cross(b, c) + normals[:, 1:2] * np.cross(c, a) + normals[:, 2:] * np.cross(a, b)
        made *= np.sign((a * np.cross(b, c)).sum(axis=1, keepdims=True))
    length = np.linalg.norm(made, axis=1, keepdims=True)
    unit = np.where(np.abs(length - 1) < 1e-6, made, made / np.where(length > 0, length, np.nan))
    return np.where(np.isfinite(unit).all(axis=1, keepdims=True), unit, np.nan)


def split_corners(faces: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A vertex for each vertex and values (F, 3, C) of a corner, such as UVs: (source vertex (N,), values (N, C),
    faces (F, 3)), in the vertices' order."""
    flat = values.reshape(3 * len(faces), -1)
    corner = np.concatenate([faces.reshape(-1, 1).astype(np.float64), flat], axis=1)
    _, first, inverse = np.unique(corner, axis=0, return_index=True, return_inverse=True)
    return faces.reshape(-1)[first], flat[first], inverse.reshape(-1, 3)


@dataclass
class Part:
    """One object of a file, placed in its scene."""

    positions: np.ndarray  # (V, 3)
    faces: np.ndarray  # (F, 3)
    uvs: np.ndarray | None  # (F, 3, 2)
    colours: np.ndarray | None  # (V, 3) linear, in [0, 1]
    slots: np.ndarray  # (F,)
    normals: np.ndarray | None = None  # (F, 3, 3)
    more_uvs: tuple[np.ndarray, ...] = ()  # each (F, 3, 2)


def join(parts: list[Part]) -> Mesh:
    """One mesh of all parts: white where others have colours; UVs and normals that are not numbers where others have
    some."""
    if not parts:
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    for part in parts:
        if len(part.faces) and not 0 <= part.faces.min() <= part.faces.max() < len(part.positions):
            raise IndexError("a face has a corner that is nowhere")
    starts = np.cumsum([0, *(len(part.positions) for part in parts)])

    def corners(values: list[np.ndarray | None], width: int) -> np.ndarray | None:
        if all(each is None for each in values):
            return None
        return np.concatenate(
            [
                np.full((len(part.faces), 3, width), np.nan) if each is None else each
                for part, each in zip(parts, values)
            ]
        ).astype(np.float32)

    more = [
        corners([part.more_uvs[i] if i < len(part.more_uvs) else None for part in parts], 2)
        for i in range(max(len(part.more_uvs) for part in parts))
    ]
    colours = None
    if any(part.colours is not None for part in parts):
        linear = np.concatenate(
            [np.ones((len(part.positions), 3)) if part.colours is None else part.colours for part in parts]
        )
        colours = np.round(255 * linear_to_srgb(linear.clip(0, 1))).astype(np.uint8)
    slots = np.concatenate([part.slots for part in parts]).astype(np.int32)
    return Mesh(
        np.concatenate([part.positions for part in parts]).astype(np.float32),
        np.concatenate([part.faces + start for part, start in zip(parts, starts)]).astype(np.int32),
        colours,
        corners([part.uvs for part in parts], 2),
        slots if slots.any() else None,
        normals=corners([part.normals for part in parts], 3),
        more_uvs=tuple(each for each in more if each is not None),
    )


def weld(mesh: Mesh) -> Mesh:
    """The mesh with vertices of one place and colour made one, in the order in which they first come."""
    key = mesh.positions.astype(np.float64)
    if mesh.colours is not None:
        key = np.concatenate([key, mesh.colours], axis=1)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    kept = first[order]
    return replace(
        mesh,
        positions=mesh.positions[kept],
        faces=number[inverse.reshape(-1)][mesh.faces].astype(np.int32),
        colours=None if mesh.colours is None else mesh.colours[kept],
    )


def png(picture: np.ndarray) -> bytes:
    """A (H, W), (H, W, 3) or (H, W, 4) uint8 picture, bottom row first, as a PNG file."""
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture[::-1])).save(data, "PNG")
    return data.getvalue()


def picture(file: BinaryIO | Path, mode: str) -> np.ndarray:
    """A file's pixels, bottom row first: mode "L" (H, W), "RGB" (H, W, 3), "RGBA" (H, W, 4) uint8. Raises
    ValueError."""
    try:
        with Image.open(file) as image:
            return np.ascontiguousarray(np.asarray(eight_bits(image).convert(mode))[::-1])
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"A picture of the mesh cannot be read ({error}): save it again as PNG.") from None


def eight_bits(image: Image.Image) -> Image.Image:
    """A gray picture of 16 bits or of floats scaled to 8, where Pillow's own conversion cuts off; others as they
    are."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64) * (255 if image.mode == "F" else 1 / 257)
    return Image.fromarray(np.round(values.clip(0, 255)).astype(np.uint8))


def beside(path: Path, name: str) -> Path:
    """The file of this name in the folder of `path`. Raises ValueError for any other place, links included."""
    folder = path.parent.resolve()
    name = name.strip().replace("\\", "/")
    found = (folder / name).resolve() if name and "\0" not in name else folder
    if folder not in found.parents:
        raise ValueError(f"{path.name} names the file {name!r}, which is not in its folder: put it beside the mesh.")
    if not found.is_file():
        raise ValueError(f"{path.name} names the file {name!r}, which is not there: put it beside the mesh.")
    return found


def find(name: str, *folders: Path) -> Path | None:
    """The file that another machine's name stands for: below one of our folders, by the longest end of the name.

    Slashes of either kind part folders, and letter case counts only where it tells two files apart. Nothing is
    found through a link that leads out of the folder.
    """
    parts = list[str]()
    for part in re.split(r"[/\\]+", name.strip().strip('"')):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    for start in range(len(parts)):
        for folder in folders:
            place: Path | None = folder.resolve()
            for part in parts[start:]:
                place = place and _entry(place, part, folder.resolve())
            if place and place.is_file():
                return place
    return None


def _entry(folder: Path, name: str, top: Path) -> Path | None:
    try:
        entries = os.listdir(folder)
        same = [name] if name in entries else sorted(entry for entry in entries if _folded(entry) == _folded(name))
        found = (folder / same[0]).resolve() if same else top
    except (OSError, RuntimeError):  # no folder, or links in a ring
        return None
    return found if top in found.parents else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # UTF-32's first, which begin as UTF-16's


def decoded(content: bytes) -> str:
    """A file's text: as its byte order mark says, else UTF-16 where zeros show it, else UTF-8, else Latin-1."""
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    if b"\0" in content[:2]:
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be", "replace")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
