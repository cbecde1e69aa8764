# SPDX-License-Identifier: GPL-3.0-or-later
"""Uploaded meshes: each a frame in a file that is named by its content's hash."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import threading
import uuid
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import numpy as np

from msd_blender.protocol import MAX_UPLOAD, ProtocolError, Upload, check_mesh, decode_snapshot, read_snapshot

ROOM = 4 << 30  # bytes that all of them may take together


class NoMesh(ProtocolError):
    """An upload that is not there."""


class Meshes:
    """The uploads of a data folder. Safe to use from several threads."""

    def __init__(self, folder: Path, room: int = ROOM):
        self.folder, self.room = folder, room
        self._lock = threading.Lock()  # also bounds the memory: one is decoded at a time

    async def receive(self, blocks: AsyncIterator[bytes], kept: Collection[str] = ()) -> Upload:
        """Write a frame to the disk as it comes, look into it, and keep it. Raises `ProtocolError`, OSError.

        kept: ids that must stay when older uploads make room for this one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{uuid.uuid4().hex}.part"
        digest, length = hashlib.sha256(), 0
        try:
            with open(part, "xb") as file:
                async for block in blocks:
                    length += len(block)
                    if length > MAX_UPLOAD:
                        raise ProtocolError(f"A mesh may have at most {MAX_UPLOAD >> 20} MB: use smaller textures.")
                    digest.update(block)
                    file.write(block)
            return await asyncio.to_thread(self._keep, part, digest.hexdigest(), kept)
        finally:
            part.unlink(missing_ok=True)

    def _keep(self, part: Path, id: str, kept: Collection[str]) -> Upload:
        with self._lock:
            with open(part, "rb") as file:
                frame = read_snapshot(file.read)
                if frame is None or file.read(1):
                    raise ProtocolError("An upload must be one frame with a mesh, and nothing after it.")
            check_mesh(frame.arrays)
            os.replace(part, self._path(id))
            self._make_room({id, *kept})
            return Upload(id, len(frame.arrays["positions"]), len(frame.arrays["faces"]))

    def _make_room(self, kept: set[str]) -> None:
        used = 0
        for path in sorted(self.folder.glob("*.frame"), key=lambda path: path.stat().st_mtime, reverse=True):
            used += path.stat().st_size
            if used > self.room and path.stem not in kept:
                path.unlink()

    def _path(self, id: str) -> Path:
        return self.folder / f"{id}.frame"

    def find(self, id: str) -> Path:
        """Where an upload lies. Raises `NoMesh`."""
        path = self._path(id)
        if not re.fullmatch("[0-9a-f]{64}", id) or not path.is_file():
            raise NoMesh("The server does not have this mesh (any more): upload it first.")
        return path


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an upload. Raises `ProtocolError` for a damaged file, OSError."""
    return decode_snapshot(path.read_bytes()[8:]).arrays
