# SPDX-License-Identifier: GPL-3.0-or-later
"""Meshes as files, in our axes: Z up, metres. A format is one module with `load` and `save`, and its line here."""

from __future__ import annotations

import logging
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..material import Material
from ..mesh import Mesh
from . import glb, obj, ply, usd
from .common import Say
from .pictures import with_tiles

_log = logging.getLogger(__name__)
FORMATS = {".glb": glb, ".gltf": glb, ".obj": obj, ".ply": ply, ".usda": usd, ".usdc": usd, ".usd": usd}


def save(mesh: Mesh, path: Path, flat: bool = False, say: Say = _log.warning) -> list[Path]:
    """Write a mesh in the format that the file's name ends in; return all files, pictures beside it too.

    Each slot is a material. GLB and OBJ are Y up, as their readers expect. PLY has no materials: vertices, faces,
    vertex colours and normals only. flat: flat normals instead of the mesh's own or smooth ones.
    say: takes one sentence with all that the mesh has and the format does not hold.

    Raises ValueError for a format that is not known or not installed.
    """
    return _format(path).save(mesh, path, flat, say)


def save_result(mesh: Mesh, folder: Path, flat: bool = False) -> None:
    """Write a job's mesh.glb, and texture.png, the first texture's base colour, where it has one."""
    save(mesh, folder / "mesh.glb", flat)
    if pictures := sorted(name for name in mesh.textures if name.startswith("texture.")):
        slot = int(pictures[0].partition(".")[2])
        base = glb.with_alpha(mesh.textures[pictures[0]], mesh.materials.get(slot, Material()))
        Image.fromarray(base[::-1].copy()).save(folder / "texture.png")


def load(path: Path, say: Say = _log.warning) -> Mesh:
    """The triangles of a file, with UVs, a slot for each material and its textures where it has some.

    Nothing outside the file's own folder is read, and no links out of it are followed. UVs stay as they are, outside
    of 0 to 1 too: each UDIM tile is a slot, unless one picture repeats in all of them.
    say: takes one sentence for each thing that the file has and the mesh does not, each sentence once.

    Raises ValueError with one sentence that says what to do.
    """
    said = set[str]()

    def say_once(note: str) -> None:
        if note not in said:
            said.add(note)
            say(note)

    try:
        mesh: Mesh = _format(path).load(path, say_once)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror or error}.") from None
    except KeyError as error:
        raise ValueError(f"{path.name} is damaged, it lacks {error}: export it again.") from None
    except (IndexError, TypeError, AttributeError, UnicodeDecodeError, struct.error, OverflowError) as error:
        raise ValueError(f"{path.name} is damaged ({error}): export it again.") from None
    if not len(mesh.faces):
        raise ValueError(f"{path.name} has no faces: export an object with a surface.")
    inside = 0 <= int(mesh.faces.min()) and int(mesh.faces.max()) < len(mesh.positions)
    if not inside or not np.isfinite(mesh.positions).all():
        raise ValueError(f"{path.name} has faces or vertices that are nowhere: export it again.")
    if mesh.uvs is None and mesh.textures:
        say_once(f"{path.name} has pictures but no UVs for them to lie by, so that it is read without them.")
        mesh = replace(mesh, textures={})
    return with_tiles(mesh, path.name, say_once)


def known(suffix: str) -> str:
    """A format's suffix with its dot, "obj" or ".OBJ" too. Raises ValueError for one that is not known."""
    suffix = f".{suffix.lower().lstrip('.')}"
    _format(Path(f"mesh{suffix}"))
    return suffix


def _format(path: Path):  # type: ignore[no-untyped-def]
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise ValueError(f"{path.name} is of no known format: name it {', '.join(FORMATS)}.") from None
