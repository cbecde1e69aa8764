# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding and decoding the files that a mesh file names. Nothing outside the mesh's own folder is opened."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from pathlib import Path

from .common import MeshFileError

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    # Before UTF-16's, with which they begin.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def sibling_file(path: Path, name: str) -> Path:
    """The file of this name in the folder of `path`. Raises `MeshFileError` for any other place, links included."""
    folder = path.parent.resolve()
    name = name.strip().replace("\\", "/")
    found = (folder / name).resolve() if name and "\0" not in name else folder
    if folder not in found.parents:
        raise MeshFileError(f"{path.name} names the file {name!r}, which is not in its folder: put it beside the mesh.")
    if not found.is_file():
        raise MeshFileError(f"{path.name} names the file {name!r}, which is not there: put it beside the mesh.")
    return found


def find_file(name: str, *folders: Path) -> Path | None:
    """The file in one of the folders that a name from another machine most likely means; None without one.

    The longest end of the name that exists below a folder counts. Slashes of either kind part folders, and letter case
    counts only where it tells two files apart. Links that lead out of the folder are not followed.
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
    """The entry of a folder by its name, also in another letter case; None where it leads out of `top`."""
    try:
        entries = os.listdir(folder)
        same = [name] if name in entries else sorted(entry for entry in entries if _folded(entry) == _folded(name))
        found = (folder / same[0]).resolve() if same else top
    except (OSError, RuntimeError):  # it is no folder, or its links form a ring
        return None
    return found if top in found.parents else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def decode_text(content: bytes) -> str:
    """A file's text by its byte order mark, else UTF-16 where zero bytes show it, else UTF-8, else Latin-1."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    if b"\0" in content[:2]:
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be", "replace")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
