# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that crosses the wire between Blender and the server, defined once.

Standard library and numpy only: the extension imports this inside Blender, the server outside of it.

HTTP resources, all under ``/v1``:

======  =========================  =====================================================
GET     /health                    `Health`: also the version handshake
GET     /metrics                   counts, in Prometheus's text format
POST    /meshes                    a frame of `UPLOADED` arrays -> `Upload`; what `JobRequest.mesh` names
POST    /jobs                      `JobRequest` -> `Job`; the same `client_key` gives the same job
GET     /jobs, /jobs/{id}          `Job`
POST    /jobs/{id}/cancel          `Job`; the worker keeps the last state as the job's files
POST    /jobs/{id}/pause, …/resume `Job`; a paused one keeps its place, not the worker
POST    /jobs/{id}/edit            `Edit` -> `Job`; the artist's changes, from which the job goes on
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
from functools import cache
from typing import Any

import numpy as np

PROTOCOL_VERSION = 3
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8732

MAX_PROMPT = 1000  # characters
MAX_ITERATIONS = 100_000
MAX_SEED = 2**53 - 1  # what every reader of JSON keeps exact
MAX_PRIORITY = 100
MAX_FRAME = 1 << 30  # bytes
MAX_UPLOAD = 256 << 20  # bytes of a mesh with its textures
MAX_FACES = 2_000_000  # of an uploaded mesh, as triangles
MAX_SLOTS = 64  # textures of one asset

MODES = ("generate", "texture", "refine")
GUIDANCES = ("msd", "sds", "sdi", "vsd")
MAPS = ("roughness", "metallic", "normal")  # what a texture can have beside base colour
AXES = ("", "x", "y", "z")
BACKGROUNDS = ("random", "white", "gray", "black")
# The ranges of a request's numbers, where they are given.
COUNTS = {"iterations": (1, MAX_ITERATIONS), "target_faces": (100, MAX_FACES), "texture_size": (64, 8192)}
NUMBERS = {
    "guidance_scale": (0, 1e3),
    "diversity": (1e-3, 1e3),
    "sharpness": (1e-3, 1e3),
    "max_displacement": (0, 1e3),
    "regularization": (0, 1e3),
    "field_of_view": (5, 120),
}
RASTERIZERS = ("auto", "nvdiffrast", "cpu")
DEVICES = ("auto", "cuda", "cpu")

# A job's states. Every job ends in one of FINAL_STATES.
QUEUED, RUNNING, PAUSED, FINISHED, FAILED, CANCELLED = (
    "queued",
    "running",
    "paused",
    "finished",
    "failed",
    "cancelled",
)
STATES = (QUEUED, RUNNING, PAUSED, FINISHED, FAILED, CANCELLED)
WRITING = "files"  # the last phase of a job, in which it writes what it has reached
FINAL_STATES = (FINISHED, FAILED, CANCELLED)

# What a job leaves: the asset, its base colour, 8 views in one picture, the record of how it was made.
FILES = ("mesh.glb", "texture.png", "turntable.png", "job.json")


class ProtocolError(ValueError):
    """What was sent does not fit the protocol. The message is one sentence that says what to do."""


@dataclass
class JobRequest:
    """A wish for an asset: everything that decides the result. None means the pipeline's default.

    Args:
        mode: "generate" makes an object from nothing; "texture" paints the uploaded mesh, whose vertices and UVs
            stay as they are; "refine" moves its vertices too.
        mesh: id of an upload, for texture and refine.
        iterations: given, it scales the phases.
        model: folder of a diffusers Stable Diffusion pipeline on the server's machine, "" the bundled prior.
        diversity, sharpness: the mean shift's bandwidth at the start and at the end, in latents of unit deviation;
            smaller is more diverse, and sharper.
        target_faces: triangles of the result of generate, and of refine with `remesh`.
        texture_size: edge of a texture in pixels, where the mesh brings none.
        maps: of `MAPS`, what is painted beside base colour.
        flat: flat instead of smooth normals.
        symmetry: axis whose plane through the origin the shape mirrors in.
        max_displacement: how far refine may move a vertex, metres.
        remesh: refine may change the topology; a texture becomes vertex colours.
        regularization: how strong smoothness weighs, 1 as the pipeline finds right.
        elevation: the two between which the cameras are, degrees.
        field_of_view: of the cameras, degrees.
        background: what is behind the object while it is optimized.
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
    priority: int = 0  # of those that wait, the highest is next
    mode: str = "generate"
    mesh: str = ""
    diversity: float | None = None
    sharpness: float | None = None
    target_faces: int | None = None
    texture_size: int | None = None
    maps: list[str] = field(default_factory=list)
    flat: bool = False
    symmetry: str = ""
    max_displacement: float | None = None
    remesh: bool = False
    regularization: float | None = None
    elevation: list[float] | None = None
    field_of_view: float | None = None
    background: str = "random"

    def validate(self) -> JobRequest:
        """Return self; raise `ProtocolError` with one sentence where a field is out of its range."""
        for name in ("prompt", "negative_prompt", "model", "client_key", "mesh"):
            _text(name, getattr(self, name))
        _prompt(self.prompt)
        _short("negative_prompt", self.negative_prompt)
        _choice("mode", self.mode, MODES)
        _choice("guidance", self.guidance, GUIDANCES)
        _choice("rasterizer", self.rasterizer, RASTERIZERS)
        _choice("device", self.device, DEVICES)
        _choice("symmetry", self.symmetry, AXES)
        _choice("background", self.background, BACKGROUNDS)
        _whole("seed", self.seed, 0, MAX_SEED)
        _whole("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)
        for name, (low, high) in COUNTS.items():
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), low, high)
        for name, (lowest, highest) in NUMBERS.items():
            if getattr(self, name) is not None:
                _number(name, getattr(self, name), lowest, highest)
        for name in ("flat", "remesh"):
            if not isinstance(getattr(self, name), bool):
                raise ProtocolError(f"{name} must be true or false, not {getattr(self, name)!r}.")
        if not isinstance(self.maps, list) or not all(isinstance(each, str) and each in MAPS for each in self.maps):
            raise ProtocolError(f"maps must be a list of {', '.join(MAPS)}, not {self.maps!r}.")
        if self.elevation is not None:
            if not isinstance(self.elevation, list) or len(self.elevation) != 2:
                raise ProtocolError(f"elevation must be two numbers, not {self.elevation!r}.")
            for each in self.elevation:
                _number("elevation", each, -90, 90)
        if (self.mode == "generate") != (not self.mesh):
            raise ProtocolError(
                "Mode generate starts from nothing: leave out the mesh."
                if self.mesh
                else f"Mode {self.mode} needs a mesh: upload it first."
            )
        return self


@dataclass
class Edit:
    """What an artist changed while a job ran or was paused; None and "" leave things as they are.

    mesh: id of an upload that takes the place of the asset as it is: its vertices, locks and textures.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    mesh: str = ""

    def validate(self) -> Edit:
        """Return self; raise `ProtocolError` with one sentence where a field is out of its range."""
        _text("mesh", self.mesh)
        for name in ("prompt", "negative_prompt"):
            if getattr(self, name) is not None:
                _text(name, getattr(self, name))
        if self.prompt is not None:
            _prompt(self.prompt)
        if self.negative_prompt is not None:
            _short("negative_prompt", self.negative_prompt)
        if self == Edit():
            raise ProtocolError("The edit changes nothing: give a prompt, a negative prompt or a mesh.")
        return self


@dataclass
class Upload:
    """A mesh that the server keeps. `id` is its content's hash: the same mesh has the same."""

    id: str
    vertices: int
    faces: int


def _text(name: str, value: object) -> None:
    # Half a surrogate pair is legal in JSON but in no file, database or tokenizer; NUL ends a path.
    if not isinstance(value, str) or "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ProtocolError(f"{name} must be plain Unicode text.")


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ProtocolError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")


def _prompt(value: str) -> None:
    if not value.replace("\ufeff", "").strip():
        raise ProtocolError('The prompt is empty: say what to make, for example "a red mushroom".')
    _short("prompt", value)


def _short(name: str, value: str) -> None:
    if len(value) > MAX_PROMPT:
        raise ProtocolError(
            f"The {name.replace('_', ' ')} has {len(value):,} characters; shorten it to at most {MAX_PROMPT:,}."
        )


def _number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ProtocolError(f"{name} must be a number from {low:g} to {high:g}, not {value!r}.")


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ProtocolError(f"{name} must be a whole number from {low} to {high}, not {value!r}.")


@dataclass
class Job:
    """A job as the server knows it. `error` is one sentence, set when the state is failed."""

    id: str
    state: str
    request: JobRequest
    created: float = 0.0  # Unix seconds
    error: str = ""
    files: list[str] = field(default_factory=list)
    edits: int = 0  # meshes that `Edit`s put in the asset's place

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
    level: str = "info"  # info | warning


@dataclass
class Health:
    """The handshake: a client speaks only with a server of its own `protocol`.

    device: what jobs run on, "" until a worker has started. memory: bytes of it that the workers hold, as they said
    last; memory_total: bytes that it has.
    """

    protocol: int = PROTOCOL_VERSION
    version: str = ""
    pid: int = 0
    device: str = ""
    memory: int = 0
    memory_total: int = 0
    worker: str = ""  # starting | idle | busy


Message = Progress | Log | Job
_KINDS: dict[str, type] = {"progress": Progress, "log": Log, "job": Job}


def to_dict(message: Any) -> dict[str, Any]:
    """A message as JSON-ready values."""
    return asdict(message)


@cache
def _fields(kind: type) -> tuple[frozenset[str], frozenset[str], list[str]]:
    """Names of all fields, of the integers, and of those without a default, in order."""
    every = fields(kind)
    return (
        frozenset(f.name for f in every),
        frozenset(f.name for f in every if str(f.type).startswith("int")),
        [f.name for f in every if f.default is MISSING and f.default_factory is MISSING],
    )


def from_dict(kind: type, values: object) -> Any:
    """The message of this `kind`; fields of a newer server are ignored. Raises `ProtocolError`."""
    if not isinstance(values, dict):
        raise ProtocolError(f"A {kind.__name__} must be a JSON object.")
    known, integers, required = _fields(kind)
    given = {name: values[name] for name in known & values.keys()}
    for name in integers & given.keys():  # JSON has one kind of number
        if isinstance(given[name], float) and given[name].is_integer():
            given[name] = int(given[name])
    if lacking := [name for name in required if name not in given]:
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


# Arrays of a snapshot or an upload: name -> (dtype, trailing shape).
ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "positions": ("float32", (3,)),  # (V, 3) metres, Z up
    "faces": ("int32", (3,)),  # (F, 3) counter-clockwise outward
    "colours": ("uint8", (3,)),  # (V, 3) base colour, sRGB
    "uvs": ("float32", (3, 2)),  # (F, 3, 2) per corner, origin bottom left
    "slots": ("int32", ()),  # (F,) the texture that each face has; without it all have the first
    "locked": ("uint8", ()),  # (V,) 1: this vertex and the texels of faces between such must not change
    "preview": ("uint8", (0, 3)),  # (H, W, 3) a picture of the asset, sRGB, bottom row first
}
# Arrays of each slot, a material's UV tile, named such as "texture.0"; bottom row first, 0 = any.
SLOT_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "texture": ("uint8", (0, 3)),  # (H, W, 3) base colour, sRGB
    "roughness": ("uint8", (0,)),  # (H, W) 0..255 is 0..1, as the next
    "metallic": ("uint8", (0,)),  # (H, W)
    "normal": ("uint8", (0, 3)),  # (H, W, 3) tangent space, OpenGL's green up
    "frozen": ("uint8", (0,)),  # (H, W) 1: this texel must not change
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
    """The asset at one iteration. A stream opens with all arrays, then sends only those that changed; after an edit,
    which may have taken some away, all again.

    Arrays: see `ARRAYS`. `version` grows with each snapshot of a job. `edits`: how many of the job's edited meshes
    it comes after; one with fewer than `Job.edits` shows what the artist has changed since.
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
        """The whole snapshot, where this one has only what changed since `previous`."""
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
    kind = array_kind(name)
    dtype, tail = ARRAYS.get(kind) or SLOT_ARRAYS[kind]
    shape = array.shape[1:]
    if array.dtype != dtype or len(shape) != len(tail) or any(t and s != t for s, t in zip(shape, tail)):
        raise ProtocolError(
            f"A snapshot's {name} is {array.dtype}{list(array.shape)}, "
            f"expected {dtype}[n, {', '.join(str(t or 'm') for t in tail)}]."
        )


def check_mesh(arrays: dict[str, np.ndarray]) -> None:
    """Raise `ProtocolError` unless arrays of the right kinds make a mesh together: whoever reads trusts indices."""
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
        if array_kind(name) in SLOT_ARRAYS and not (0 < len(array) <= 8192 and 0 < array.shape[1] <= 8192):
            raise ProtocolError(
                f"The mesh's {name} is {array.shape[1]} x {len(array)} pixels: use 1 to 8192 along each edge."
            )


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
