# SPDX-License-Identifier: GPL-3.0-or-later
"""Meshes and textures as binary frames: the snapshots of a job, and uploads."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .errors import ProtocolError

MAX_FRAME = 1 << 30  # bytes
MAX_UPLOAD = 256 << 20  # bytes of a mesh with its textures
MAX_FACES = 2_000_000  # triangles of an uploaded mesh
MAX_SLOTS = 64  # textures of one asset
MAX_TEXTURE_SIZE = 8192  # pixels along an edge

# Arrays of a snapshot or an upload: name -> (dtype, trailing shape).
ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "positions": ("float32", (3,)),  # (V, 3) metres, Z up
    "faces": ("int32", (3,)),  # (F, 3) counter-clockwise outward
    "colours": ("uint8", (3,)),  # (V, 3) base colour, sRGB
    "uvs": ("float32", (3, 2)),  # (F, 3, 2) per corner, origin bottom left
    "slots": ("int32", ()),  # (F,) index of each face's texture; without it all have the first
    "locked": ("uint8", ()),  # (V,) 1: this vertex must not change, nor the texels of faces between locked vertices
    "preview": ("uint8", (0, 3)),  # (H, W, 3) a picture of the asset, sRGB, bottom row first
}
# Arrays of each slot (a material's UV tile), with names such as "texture.0"; bottom row first. A 0 in a shape is any
# length.
SLOT_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "texture": ("uint8", (0, 3)),  # (H, W, 3) base colour, sRGB
    "roughness": ("uint8", (0,)),  # (H, W) 0..255 is 0..1, as the next
    "metallic": ("uint8", (0,)),  # (H, W)
    "normal": ("uint8", (0, 3)),  # (H, W, 3) tangent space, OpenGL's green up
    "frozen": ("uint8", (0,)),  # (H, W) 1: the artist painted this texel, which is protected from change
}
# A slot without these arrays: base colour as an sRGB gray, roughness, metallic.
BASE_COLOUR, ROUGHNESS, METALLIC = 0.8, 0.8, 0
UPLOADED = ("positions", "faces", "colours", "uvs", "slots", "locked", *SLOT_ARRAYS)


def array_kind(name: str) -> str:
    """The name without its slot: "texture" of "texture.0". Raises `ProtocolError` for one that is not known."""
    kind, dot, slot = name.partition(".")
    if name in ARRAYS or (
        kind in SLOT_ARRAYS
        and dot
        and slot.isdecimal()
        and slot.isascii()
        and slot == str(int(slot))
        and int(slot) < MAX_SLOTS
    ):
        return kind
    raise ProtocolError(f"A frame has an unknown array {name!r}.")


@dataclass
class Snapshot:
    """The asset at one iteration.

    A stream opens with all arrays, then sends only those that changed. After an edit, which may have removed some, it
    sends all again.

    Args:
        version: grows with each snapshot of a job.
        arrays: see `ARRAYS` and `SLOT_ARRAYS`.
        edits: number of edited meshes that the job had taken in. A snapshot with fewer than `Job.edits` is older than
            the artist's last change.
    """

    version: int
    iteration: int
    arrays: dict[str, np.ndarray]
    edits: int = 0

    def since(self, previous: Snapshot | None) -> Snapshot:
        """This snapshot without the arrays that `previous` already has."""
        if previous is None or previous.edits != self.edits:
            return self
        changed = {
            name: array
            for name, array in self.arrays.items()
            if name not in previous.arrays or not np.array_equal(array, previous.arrays[name])
        }
        return Snapshot(self.version, self.iteration, changed, self.edits)

    def over(self, previous: Snapshot | None) -> Snapshot:
        """The whole snapshot, where this one has only the arrays that changed since `previous`."""
        if previous is None or previous.edits != self.edits and {"positions", "faces"} <= self.arrays.keys():
            return self
        return Snapshot(self.version, self.iteration, {**previous.arrays, **self.arrays}, self.edits)


_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """One frame, little endian: the length of the rest in 8 bytes, an uncompressed ``.npz``, its CRC-32 in 4."""
    buffer = io.BytesIO()
    header = np.array([snapshot.version, snapshot.iteration, snapshot.edits], np.int64)
    np.savez(buffer, header=header, **snapshot.arrays)  # type: ignore[arg-type]
    data = buffer.getvalue()
    return b"".join((_LENGTH.pack(len(data) + _CHECKSUM.size), data, _CHECKSUM.pack(zlib.crc32(data))))


def decode_snapshot(data: bytes) -> Snapshot:
    """The snapshot of a frame's bytes, without its length. Raises `ProtocolError` on anything malformed."""
    content = memoryview(data)[: -_CHECKSUM.size]
    if len(data) < _CHECKSUM.size or data[-_CHECKSUM.size :] != _CHECKSUM.pack(zlib.crc32(content)):
        raise ProtocolError("A snapshot arrived damaged (its checksum is wrong).")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays = {info.filename.removesuffix(".npy"): _array(archive, info) for info in archive.infolist()}
        version, iteration, edits = (int(value) for value in arrays.pop("header"))
    except Exception as error:  # zipfile and numpy raise many kinds on damaged bytes
        raise ProtocolError(f"A snapshot arrived damaged ({error}).") from None
    for name, array in arrays.items():
        check_array(name, array)
    return Snapshot(version, iteration, arrays, edits)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array of a ``.npz``. (`np.load` would allocate the size that a damaged header claims.)"""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("it is compressed")
    file = io.BytesIO(archive.read(info))
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("its arrays are of another version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")


def check_array(name: str, array: np.ndarray) -> None:
    """Raise `ProtocolError` unless the array has the dtype and shape that `ARRAYS` gives this name."""
    kind = array_kind(name)
    dtype, tail = ARRAYS.get(kind) or SLOT_ARRAYS[kind]
    shape = array.shape[1:]
    if array.dtype != dtype or len(shape) != len(tail) or any(t and s != t for s, t in zip(shape, tail)):
        raise ProtocolError(
            f"A snapshot's {name} is {array.dtype}{list(array.shape)}, "
            f"expected {dtype}[n, {', '.join(str(t or 'm') for t in tail)}]."
        )


def check_mesh(arrays: dict[str, np.ndarray]) -> None:
    """Raise `ProtocolError` unless the arrays make a mesh: its readers trust indices and lengths."""
    if not {"positions", "faces"} <= arrays.keys():
        raise ProtocolError("A mesh needs positions and faces.")
    if stray := sorted(name for name in arrays if array_kind(name) not in UPLOADED):
        raise ProtocolError(f"A mesh has no {', '.join(stray)}.")
    positions, faces = arrays["positions"], arrays["faces"]
    if not len(positions) or not len(faces):
        raise ProtocolError("The mesh is empty: give it vertices and faces.")
    if len(faces) > MAX_FACES:
        raise ProtocolError(f"The mesh has {len(faces):,} triangles: decimate it to at most {MAX_FACES:,}.")
    if not 0 <= faces.min() <= faces.max() < len(positions):
        raise ProtocolError("The mesh has faces that name vertices which do not exist.")
    if not np.isfinite(positions).all():
        raise ProtocolError("The mesh has positions that are no finite numbers: repair it.")
    for name, length in (
        ("colours", len(positions)),
        ("locked", len(positions)),
        ("uvs", len(faces)),
        ("slots", len(faces)),
    ):
        if name in arrays and len(arrays[name]) != length:
            raise ProtocolError(f"The mesh has {len(arrays[name])} {name}, expected {length}.")
    if "slots" in arrays and not 0 <= arrays["slots"].min() <= arrays["slots"].max() < MAX_SLOTS:
        raise ProtocolError(f"The mesh has faces with a texture slot outside of 0 to {MAX_SLOTS - 1}.")
    for name, array in arrays.items():
        if array_kind(name) in SLOT_ARRAYS:
            height, width = array.shape[:2]
            if not (0 < height <= MAX_TEXTURE_SIZE and 0 < width <= MAX_TEXTURE_SIZE):
                raise ProtocolError(
                    f"The mesh's {name} is {width} x {height} pixels: use 1 to {MAX_TEXTURE_SIZE} along each edge."
                )


def read_snapshot(read: Callable[[int], bytes]) -> Snapshot | None:
    """The next snapshot of a stream, None at its end. `read(n)` returns at most n bytes."""
    head = _read_exactly(read, _LENGTH.size)
    if not head:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME:
        raise ProtocolError(f"A snapshot of {length:,} bytes is larger than {MAX_FRAME:,}.")
    return decode_snapshot(_read_exactly(read, length))


def _read_exactly(read: Callable[[int], bytes], length: int) -> bytes:
    parts, missing = [], length
    while missing:
        part = read(min(missing, 1 << 20))
        if not part:
            if missing == length:
                return b""
            raise ProtocolError("The stream of snapshots broke off in the middle of a frame.")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
