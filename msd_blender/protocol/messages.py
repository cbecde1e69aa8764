# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON messages beside the request for a job, and the server-sent events that carry some of them."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from typing import Any

from .errors import ProtocolError
from .request import OPTIONS, JobRequest

PROTOCOL_VERSION = 3
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8732

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
WRITING = "files"  # the last phase of a job, in which it writes its result
FINAL_STATES = (FINISHED, FAILED, CANCELLED)

# A job's results: the asset, its base colour, 8 views in one picture, the record of how it was made.
FILES = ("mesh.glb", "texture.png", "turntable.png", "job.json")


def _described(description: str, default: Any = MISSING) -> Any:
    """A dataclass field with a description, which the API's schema shows."""
    return field(default=default, metadata={"description": description})


@dataclass
class Edit:
    """An artist's changes to a job while it runs or is paused."""

    prompt: str | None = _described("a new prompt; null keeps the old one", None)
    negative_prompt: str | None = _described("a new negative prompt; null keeps the old one", None)
    mesh: str = _described(
        "id of an upload that takes the asset's place: its vertices, locks and textures; empty keeps the asset", ""
    )

    def validate(self) -> Edit:
        """Return self; raise `ProtocolError` with one sentence where a field is out of its range."""
        OPTIONS["mesh"].check(self.mesh)
        if self.prompt is not None:
            OPTIONS["prompt"].check(self.prompt)
        if self.negative_prompt is not None:
            OPTIONS["negative_prompt"].check(self.negative_prompt)
        if self == Edit():
            raise ProtocolError("The edit changes nothing: give a prompt, a negative prompt or a mesh.")
        return self


@dataclass
class Upload:
    """A mesh that the server keeps."""

    id: str = _described("hash of the content: the same mesh has the same id")
    vertices: int = _described("number of vertices")
    faces: int = _described("number of triangles")


@dataclass
class Picture:
    """A picture that the server keeps."""

    id: str = _described("hash of the file: the same file has the same id")
    width: int = _described("pixels")
    height: int = _described("pixels")


@dataclass
class Job:
    """A job as the server knows it."""

    id: str = _described("the server's name of the job")
    state: str = _described(f"one of {', '.join(STATES)}")
    request: JobRequest = _described("the request that the job was submitted with")
    created: float = _described("time of the submission, Unix seconds", 0.0)
    error: str = _described("one sentence where the state is failed, else empty", "")
    files: list[str] = field(default_factory=list, metadata={"description": "names of the files that the job left"})
    edits: int = _described("number of meshes that edits put in the asset's place", 0)
    machine: str = _described("the machine of a cluster on which the job runs; empty: the server's, or none", "")
    position: int = _described("place in the queue, from 1; 0: the job does not wait, or this is an event", 0)
    waits: str = _described("one sentence on why a queued job waits; empty: it does not, or this is an event", "")

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES


@dataclass
class Progress:
    """The state of a running job, counted over the whole job."""

    phase: str = _described("name of the phase")
    iteration: int = _described("iterations that are done")
    iterations: int = _described("iterations of the whole job")
    elapsed: float = _described("seconds of work so far")
    eta: float | None = _described("seconds left; null: unknown", None)
    denoiser_calls: int = _described("evaluations of the denoiser so far", 0)
    bandwidth: float | None = _described("present bandwidth of the mean shift; null: it has none", None)
    share: float | None = _described("share of the phase that is done, 0 to 1, where it has no iterations", None)


@dataclass
class Log:
    """One line for the user, such as a prompt that the bundled prior cannot know."""

    message: str = _described("the line")
    level: str = _described("info or warning", "info")


@dataclass
class Health:
    """The server's state. A client speaks only with a server of its own protocol version."""

    protocol: int = _described("version of the protocol", PROTOCOL_VERSION)
    version: str = _described("version of msd_blender", "")
    pid: int = _described("the server's process id", 0)
    device: str = _described("device that jobs run on; empty until a worker has started", "")
    memory: int = _described("bytes of the device's memory that the workers hold, by their last report", 0)
    memory_total: int = _described("bytes of memory that the device has", 0)
    worker: str = _described("starting, idle or busy", "")
    problem: str = _described("one sentence on why no job can run and what to do; empty: one can", "")


@dataclass
class Model:
    """A model on the server's machine, or a file that is put on one."""

    place: str = _described("the name of it in a request: a path, or an id in the Hugging Face cache; empty: bundled")
    name: str = _described("a name for people")
    kind: str = _described("model, LoRA, ControlNet or IP-Adapter")
    family: str = _described("SD 1.x, SD 2.x, SDXL, SD3, Flux or another; empty: unknown", "")
    resolution: int | None = _described("edge of a model's pictures, pixels; null: unknown, or no model", None)
    size: int = _described("bytes of its files", 0)
    problem: str = _described("one sentence on why it cannot be used and what to do; empty: it can be", "")
    loras: list[str] = field(default_factory=list, metadata={"description": "places of the LoRAs that fit a model"})
    controlnets: list[str] = field(
        default_factory=list, metadata={"description": "places of the ControlNets that fit a model"}
    )
    ip_adapters: list[str] = field(
        default_factory=list, metadata={"description": "places of the IP-Adapters that fit a model"}
    )


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
    """The message of a dataclass; fields that it lacks, as of a newer server, are ignored. Raises `ProtocolError`."""
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
    """One server-sent event; `number` grows by one, and `Last-Event-ID` names it."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(message, cls))
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(to_dict(message))}\n\n".encode()


def decode_event(lines: list[str]) -> tuple[int, Message] | None:
    """The (number, message) of one event's lines, None for a comment (keep-alive) or an unknown kind.

    Raises `ProtocolError` where the data cannot be read.
    """
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
