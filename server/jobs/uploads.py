# SPDX-License-Identifier: GPL-3.0-or-later
"""Uploaded meshes and pictures: each a file that is named by the hash of its content."""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from msd_blender.protocol import (
    MAX_PICTURE,
    MAX_UPLOAD,
    Picture,
    ProtocolError,
    Upload,
    check_mesh,
    decode_snapshot,
    read_snapshot,
)

from .. import pictures
from ..system import replace

MAX_UPLOADS_BYTES = 4 << 30  # of all files together


class UploadNotFound(ProtocolError):
    """The server has no upload of this id."""


Kind = TypeVar("Kind", Upload, Picture)


class _Files(ABC, Generic[Kind]):
    """The uploads of one kind in a data folder. Safe to use from several threads.

    Args:
        max_bytes: size of all files together, beyond which the oldest are deleted.
    """

    noun: str
    suffix: str
    largest: int  # bytes of one
    too_large: str

    def __init__(self, folder: Path, max_bytes: int = MAX_UPLOADS_BYTES):
        self.folder, self.max_bytes = folder, max_bytes
        self._lock = threading.Lock()  # also bounds the memory: one is decoded at a time

    @abstractmethod
    def _check(self, id: str, path: Path) -> Kind:
        """The answer to an upload. Raises `ProtocolError` with one sentence for a file that is none of the kind."""

    async def receive(self, blocks: AsyncIterator[bytes], kept: Collection[str] = ()) -> Kind:
        """Write a file to the disk as it comes, check it, and keep it. Raises `ProtocolError`, OSError.

        Args:
            kept: ids of older uploads that must not be deleted in favour of this one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{uuid.uuid4().hex}.part"
        digest, length = hashlib.sha256(), 0
        try:
            with open(part, "xb") as file:
                async for block in blocks:
                    length += len(block)
                    if length > self.largest:
                        raise ProtocolError(self.too_large)
                    digest.update(block)
                    file.write(block)
            return await asyncio.to_thread(self._keep, part, digest.hexdigest(), kept)
        finally:
            part.unlink(missing_ok=True)

    def _keep(self, part: Path, id: str, kept: Collection[str]) -> Kind:
        with self._lock:
            answer = self._check(id, part)
            replace(part, self._path(id))
            self._delete_oldest({id, *kept})
            return answer

    def _delete_oldest(self, kept: set[str]) -> None:
        used = 0
        for path in sorted(self.folder.glob(f"*{self.suffix}"), key=lambda path: path.stat().st_mtime, reverse=True):
            used += path.stat().st_size
            if used > self.max_bytes and path.stem not in kept:
                path.unlink()

    def _path(self, id: str) -> Path:
        return self.folder / f"{id}{self.suffix}"

    def find(self, id: str) -> Path:
        """The file of an upload. Raises `UploadNotFound`."""
        path = self._path(id)
        if not re.fullmatch("[0-9a-f]{64}", id) or not path.is_file():
            raise UploadNotFound(f"The server does not have this {self.noun} (any more): upload it first.")
        return path

    def read(self, id: str) -> bytes:
        """The bytes of an upload. Raises `UploadNotFound`, OSError."""
        return self.find(id).read_bytes()


class Meshes(_Files[Upload]):
    """Uploaded meshes, each a frame."""

    noun, suffix, largest = "mesh", ".frame", MAX_UPLOAD
    too_large = f"A mesh may have at most {MAX_UPLOAD >> 20} MB: use smaller textures."

    def _check(self, id: str, path: Path) -> Upload:
        with open(path, "rb") as file:
            frame = read_snapshot(file.read)
            if frame is None or file.read(1):
                raise ProtocolError("An upload must be one frame with a mesh, and nothing after it.")
        check_mesh(frame.arrays)
        return Upload(id, len(frame.arrays["positions"]), len(frame.arrays["faces"]))


class Pictures(_Files[Picture]):
    """Uploaded pictures, as the files that they came in."""

    noun, suffix, largest = "picture", ".picture", MAX_PICTURE
    too_large = f"A picture may have at most {MAX_PICTURE >> 20} MB: scale it down."

    def _check(self, id: str, path: Path) -> Picture:
        return Picture(id, *pictures.decode(path.read_bytes()).size)


def decode_upload(frame: bytes) -> dict[str, NDArray[np.generic]]:
    """The arrays of an upload's frame. Raises `ProtocolError` for a damaged one."""
    return decode_snapshot(frame[8:]).arrays  # behind its length
