# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that crosses the wire between Blender and the server, defined once.

Standard library and numpy only: the extension imports this inside Blender, the server outside of it.

HTTP resources, all under ``/v1``:

======  =========================  =====================================================
GET     /health                    `Health`: also the version handshake
GET     /metrics                   counts, in Prometheus's text format
POST    /jobs                      `JobRequest` -> `Job`; the same `client_key` gives the same job
GET     /jobs, /jobs/{id}          `Job`
POST    /jobs/{id}/cancel          `Job`; the worker keeps the last state as the job's files
POST    /jobs/{id}/pause, …/resume `Job`; a paused one keeps its place, not the worker
GET     /jobs/{id}/events          server-sent events, each data a `Progress`, `Log` or `Job`
GET     /jobs/{id}/snapshots       chunked stream of length-prefixed `Snapshot` frames
GET     /jobs/{id}/files/{name}    a finished job's file, see `FILES`
======  =========================  =====================================================

An error answer is ``{"detail": "one sentence that says what to do"}`` with a 4xx or 5xx status.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

import numpy as np

PROTOCOL_VERSION = 2
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8732

MAX_PROMPT = 1000          # characters
MAX_ITERATIONS = 100_000
MAX_SEED = 2**53 - 1                       # what every reader of JSON keeps exact
MAX_PRIORITY = 100
MAX_FRAME = 1 << 30        # bytes

GUIDANCES = ("msd", "sds", "sdi", "vsd")
RASTERIZERS = ("auto", "nvdiffrast", "cpu")
DEVICES = ("auto", "cuda", "cpu")

# A job's states. Every job ends in one of FINAL_STATES.
QUEUED, RUNNING, PAUSED, FINISHED, FAILED, CANCELLED = (
    "queued", "running", "paused", "finished", "failed", "cancelled")
STATES = (QUEUED, RUNNING, PAUSED, FINISHED, FAILED, CANCELLED)
WRITING = "files"                           # the last phase of a job, in which it writes what it has reached
FINAL_STATES = (FINISHED, FAILED, CANCELLED)

# What a job leaves: the asset, its base colour, 8 views in one picture, the record of how it was made.
FILES = ("mesh.glb", "texture.png", "turntable.png", "job.json")


class ProtocolError(ValueError):
    """What was sent does not fit the protocol. The message is one sentence that says what to do."""


@dataclass
class JobRequest:
    """A wish for an asset: everything that decides the result.

    `iterations` None means the default of the pipeline; given, it scales its phases. `model` is a folder
    with a diffusers Stable Diffusion pipeline on the server's machine, "" the bundled prior.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    guidance: str = "msd"
    iterations: int | None = None
    guidance_scale: float | None = None
    model: str = ""
    rasterizer: str = "auto"
    device: str = "auto"
    client_key: str = ""
    priority: int = 0                       # of those that wait, the highest is next

    def validate(self) -> JobRequest:
        """Return self; raise `ProtocolError` with one sentence where a field is out of its range."""
        for name in ("prompt", "negative_prompt", "model", "client_key"):
            _text(name, getattr(self, name))
        if not self.prompt.strip():
            raise ProtocolError("The prompt is empty: say what to make, for example \"a red mushroom\".")
        for name in ("prompt", "negative_prompt"):
            length = len(getattr(self, name))
            if length > MAX_PROMPT:
                raise ProtocolError(f"The {name.replace('_', ' ')} has {length:,} characters; "
                                    f"shorten it to at most {MAX_PROMPT:,}.")
        _choice("guidance", self.guidance, GUIDANCES)
        _choice("rasterizer", self.rasterizer, RASTERIZERS)
        _choice("device", self.device, DEVICES)
        _whole("seed", self.seed, 0, MAX_SEED)
        _whole("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)
        if self.iterations is not None:
            _whole("iterations", self.iterations, 1, MAX_ITERATIONS)
        scale = self.guidance_scale
        if scale is not None and (isinstance(scale, bool) or not isinstance(scale, (int, float))
                                  or not 0 <= scale <= 1000):
            raise ProtocolError(f"guidance_scale must be a number from 0 to 1000, not {scale!r}.")
        return self


def _text(name: str, value: object) -> None:
    # Half a surrogate pair is legal in JSON but in no file, database or tokenizer; NUL ends a path.
    if not isinstance(value, str) or "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ProtocolError(f"{name} must be plain Unicode text.")


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ProtocolError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ProtocolError(f"{name} must be a whole number from {low} to {high}, not {value!r}.")


@dataclass
class Job:
    """A job as the server knows it. `error` is one sentence, set when the state is failed."""

    id: str
    state: str
    request: JobRequest
    created: float = 0.0                    # Unix seconds
    error: str = ""
    files: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES


@dataclass
class Progress:
    """How far a running job is. Counts run over the whole job; `eta` is seconds left, None unknown."""

    phase: str
    iteration: int
    iterations: int
    elapsed: float
    eta: float | None = None
    denoiser_calls: int = 0
    bandwidth: float | None = None


@dataclass
class Log:
    """One line for the user, such as a prompt that the bundled prior cannot know."""

    message: str
    level: str = "info"                     # info | warning


@dataclass
class Health:
    """The handshake: a client speaks only with a server of its own `protocol`."""

    protocol: int = PROTOCOL_VERSION
    version: str = ""
    pid: int = 0
    device: str = ""
    worker: str = ""                        # starting | idle | busy


Message = Progress | Log | Job
_KINDS: dict[str, type] = {"progress": Progress, "log": Log, "job": Job}


def to_dict(message: Any) -> dict[str, Any]:
    """A message as JSON-ready values."""
    return asdict(message)


def from_dict(kind: type, values: object) -> Any:
    """The message of this `kind`; fields of a newer server are ignored. Raises `ProtocolError`."""
    if not isinstance(values, dict):
        raise ProtocolError(f"A {kind.__name__} must be a JSON object.")
    known = {f.name: f for f in fields(kind)}
    given = {name: value for name, value in values.items() if name in known}
    for name, value in given.items():       # JSON has one kind of number
        if isinstance(value, float) and value.is_integer() and str(known[name].type).startswith("int"):
            given[name] = int(value)
    lacking = [name for name, f in known.items()
               if name not in given and f.default is MISSING and f.default_factory is MISSING]
    if lacking:
        raise ProtocolError(f"A {kind.__name__} lacks {', '.join(lacking)}.")
    if kind is Job and "request" in given:
        given["request"] = from_dict(JobRequest, given["request"])
    return kind(**given)


def encode_event(number: int, message: Message) -> bytes:
    """One server-sent event; `number` grows by one and is what `Last-Event-ID` names."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(message, cls))
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(to_dict(message))}\n\n".encode()


def decode_event(lines: list[str]) -> tuple[int, Message] | None:
    """The (number, message) of one event's lines; None for a comment (keep-alive) or an unknown kind."""
    values = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            values[name] = value.removeprefix(" ")
    kind = _KINDS.get(values.get("event", ""))
    if kind is None or "data" not in values:
        return None
    try:
        return int(values.get("id", "0")), from_dict(kind, json.loads(values["data"]))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"The server sent an event that cannot be read: {error}.") from None


# Arrays of a snapshot: name -> (dtype, trailing shape).
ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "positions": ("float32", (3,)),         # (V, 3) metres, Z up
    "faces": ("int32", (3,)),               # (F, 3) counter-clockwise outward
    "colours": ("uint8", (3,)),             # (V, 3) base colour, sRGB
    "uvs": ("float32", (3, 2)),             # (F, 3, 2) per corner, origin bottom left
    "texture": ("uint8", (0, 3)),           # (H, W, 3) base colour, sRGB, bottom row first; 0 = any
}


@dataclass
class Snapshot:
    """The asset at one iteration. A stream opens with all arrays, then sends only those that changed.

    Arrays: see `ARRAYS`. `version` grows with each snapshot of a job.
    """

    version: int
    iteration: int
    arrays: dict[str, np.ndarray]

    def since(self, previous: Snapshot | None) -> Snapshot:
        """This snapshot without the arrays that `previous` already has."""
        if previous is None:
            return self
        changed = {name: array for name, array in self.arrays.items()
                   if name not in previous.arrays or not np.array_equal(array, previous.arrays[name])}
        return Snapshot(self.version, self.iteration, changed)

    def over(self, previous: Snapshot | None) -> Snapshot:
        """The whole snapshot, where this one has only what changed since `previous`."""
        if previous is None:
            return self
        return Snapshot(self.version, self.iteration, {**previous.arrays, **self.arrays})


_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """One frame, little endian: the length of the rest in 8 bytes, an uncompressed ``.npz``, its CRC-32 in 4."""
    buffer = io.BytesIO()
    header = np.array([snapshot.version, snapshot.iteration], np.int64)
    np.savez(buffer, header=header, **snapshot.arrays)  # type: ignore[arg-type]
    data = buffer.getvalue()
    return b"".join((_LENGTH.pack(len(data) + _CHECKSUM.size), data, _CHECKSUM.pack(zlib.crc32(data))))


def decode_snapshot(data: bytes) -> Snapshot:
    """The snapshot of a frame's bytes, without its length. Raises `ProtocolError` on anything malformed."""
    content = memoryview(data)[:-_CHECKSUM.size]
    if len(data) < _CHECKSUM.size or data[-_CHECKSUM.size:] != _CHECKSUM.pack(zlib.crc32(content)):
        raise ProtocolError("A snapshot arrived damaged (its checksum is wrong).")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays = {info.filename.removesuffix(".npy"): _array(archive, info) for info in archive.infolist()}
        version, iteration = (int(value) for value in arrays.pop("header"))
    except Exception as error:              # zipfile and numpy raise many kinds on damaged bytes
        raise ProtocolError(f"A snapshot arrived damaged ({error}).") from None
    for name, array in arrays.items():
        check_array(name, array)
    return Snapshot(version, iteration, arrays)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array of a ``.npz``. `np.load` would first make room for whatever a few bytes claim to be."""
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
    if name not in ARRAYS:
        raise ProtocolError(f"A snapshot has an unknown array {name!r}.")
    dtype, tail = ARRAYS[name]
    shape = array.shape[1:]
    if array.dtype != dtype or len(shape) != len(tail) or any(t and s != t for s, t in zip(shape, tail)):
        raise ProtocolError(f"A snapshot's {name} is {array.dtype}{list(array.shape)}, "
                            f"expected {dtype}[n, {', '.join(str(t or 'm') for t in tail)}].")


def read_snapshot(read: Callable[[int], bytes]) -> Snapshot | None:
    """The next snapshot from `read(n) -> at most n bytes`; None at the end of the stream."""
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
