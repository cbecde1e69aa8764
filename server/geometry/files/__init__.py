# SPDX-License-Identifier: GPL-3.0-or-later
"""Meshes as files, in this project's axes: Z up, metres.

To add a format: write a module with `load` and `save` as `FileFormat` has them, and add a line for each of its suffixes
to `FORMATS`.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ..material import Material
from ..mesh import Mesh, corners_exist
from . import gltf, obj, ply, usd
from .common import MeshFileError, Warn
from .images import encode_png
from .udim import split_untextured_tiles

__all__ = ["FORMATS", "FileFormat", "MeshFileError", "Warn", "load", "normalize_suffix", "save", "save_result"]

_log = logging.getLogger(__name__)


class FileFormat(Protocol):
    """A module that reads and writes a format."""

    def load(self, path: Path, warn: Warn) -> Mesh:
        """The mesh of a file. Raises `MeshFileError`; OSError, KeyError, IndexError and the like become one.

        warn: takes one sentence for each thing that is left out or guessed; the same one may come again.
        """
        ...

    def save(self, mesh: Mesh, path: Path, flat: bool, warn: Warn) -> list[Path]:
        """Write a mesh; return all files written, images beside it too.

        flat: write flat normals. warn: takes one sentence with all that the format has no place for.
        """
        ...


FORMATS: dict[str, FileFormat] = {
    ".glb": gltf,
    ".gltf": gltf,
    ".obj": obj,
    ".ply": ply,
    ".usda": usd,
    ".usdc": usd,
    ".usd": usd,
}


def save(mesh: Mesh, path: Path, flat: bool = False, warn: Warn = _log.warning) -> list[Path]:
    """Write a mesh in the format of the path's suffix; return all files written, images beside it too.

    Each slot is a material. GLB and OBJ are Y up, as their readers expect. PLY has no materials: vertices, faces,
    vertex colours and normals only.

    Args:
        flat: write flat normals instead of the mesh's own or smooth ones.
        warn: takes one sentence with all that the mesh has and the format has no place for.

    Raises ValueError for a format that is unknown or not installed.
    """
    return _format(path).save(mesh, path, flat, warn)


def save_result(mesh: Mesh, folder: Path, flat: bool = False) -> None:
    """Write a job's mesh.glb and, where it has textures, texture.png, the first slot's base colour."""
    save(mesh, folder / "mesh.glb", flat)
    if names := sorted(name for name in mesh.textures if name.startswith("texture.")):
        slot = int(names[0].partition(".")[2])
        base = gltf.with_alpha(mesh.textures[names[0]], mesh.materials.get(slot, Material()))
        (folder / "texture.png").write_bytes(encode_png(base))


def load(path: Path, warn: Warn = _log.warning) -> Mesh:
    """The triangles of a file with its UVs, a slot for each material, and its textures.

    Only files in the mesh's own folder are read, and links out of it are not followed. UVs stay as they are, outside
    of [0, 1], too: each UDIM tile is a slot, unless one texture repeats in all of them.

    Args:
        warn: takes one sentence for each thing that the file has and the mesh has not, each sentence once.

    Raises `MeshFileError` with one sentence that says what to do.
    """
    warned = set[str]()

    def warn_once(note: str) -> None:
        if note not in warned:
            warned.add(note)
            warn(note)

    try:
        mesh = _format(path).load(path, warn_once)
    except OSError as error:
        raise MeshFileError(f"{path.name} cannot be read: {error.strerror or error}.") from None
    except KeyError as error:
        raise MeshFileError(f"{path.name} is damaged, it lacks {error}: export it again.") from None
    except (IndexError, TypeError, AttributeError, UnicodeDecodeError, struct.error, OverflowError) as error:
        raise MeshFileError(f"{path.name} is damaged ({error}): export it again.") from None
    if not len(mesh.faces):
        raise MeshFileError(f"{path.name} has no faces: export an object with a surface.")
    if not corners_exist(mesh.faces, len(mesh.positions)) or not np.isfinite(mesh.positions).all():
        raise MeshFileError(f"{path.name} has faces or vertices that are nowhere: export it again.")
    if mesh.uvs is None and mesh.textures:
        warn_once(f"{path.name} has pictures but no UVs for them to lie by, so that it is read without them.")
        mesh = replace(mesh, textures={})
    return split_untextured_tiles(mesh, path.name, warn_once)


def normalize_suffix(suffix: str) -> str:
    """A format's suffix with its dot in lower case, of "obj" or ".OBJ" too. Raises ValueError for an unknown one."""
    suffix = f".{suffix.lower().lstrip('.')}"
    _format(Path(f"mesh{suffix}"))
    return suffix


def _format(path: Path) -> FileFormat:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise MeshFileError(f"{path.name} is of no known format: name it {', '.join(FORMATS)}.") from None
