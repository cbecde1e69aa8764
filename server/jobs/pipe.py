# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages between the server and its worker process, as bytes on a pipe and without pickle.

Each is one JSON object, ``{"kind": …, "parts": n, …}``, and then n binary parts. A part travels by itself: a
checkpoint has 100 MB, and joining it to its header would copy it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, get_args

from msd_blender.protocol import JobRequest, Log, Progress, Snapshot, encode_snapshot, from_dict, read_snapshot, to_dict

from .messages import (
    Checkpoint,
    DeviceFailed,
    DeviceStatus,
    EditedMesh,
    ExecutorMessage,
    Failed,
    Finished,
    JobInput,
    ModelMissing,
    OutOfMemory,
    Paused,
    Ready,
)

if sys.platform == "win32":
    from multiprocessing.connection import PipeConnection

    Connection = PipeConnection[Any, Any]
else:
    import multiprocessing.connection

    Connection = multiprocessing.connection.Connection


@dataclass(frozen=True)
class Cancel:
    """To the worker: see `Executor.cancel`."""


@dataclass(frozen=True)
class Pause:
    """To the worker: see `Executor.pause`."""


@dataclass(frozen=True)
class Acknowledge:
    """To the worker: its last checkpoint has been handled."""


Command = JobInput | Cancel | Pause | Acknowledge
# Messages whose fields are all JSON.
Flat = (
    Cancel
    | Pause
    | Acknowledge
    | DeviceStatus
    | Progress
    | Log
    | Paused
    | OutOfMemory
    | Failed
    | DeviceFailed
    | ModelMissing
)
_FLAT: dict[str, type[Flat]] = {kind.__name__: kind for kind in get_args(Flat)}


def send(pipe: Connection, message: Command | ExecutorMessage) -> None:
    """Write one message; returns when the pipe has taken all of it. Raises OSError where the other end is gone."""
    for part in to_parts(message):
        pipe.send_bytes(part)


def to_parts(message: Command | ExecutorMessage) -> list[bytes]:
    """A message as its JSON object and then its binary parts."""
    header, parts = _encode(message)
    return [json.dumps({"kind": type(message).__name__, "parts": len(parts), **header}).encode(), *parts]


def receive_command(pipe: Connection) -> Command:
    """The next message of the server. Raises EOFError or OSError where it is gone."""
    message = from_parts(pipe.recv_bytes)
    assert isinstance(message, Command)
    return message


def receive_message(pipe: Connection) -> ExecutorMessage:
    """The next message of the worker. Raises EOFError or OSError where it is gone."""
    message = from_parts(pipe.recv_bytes)
    assert isinstance(message, ExecutorMessage)
    return message


def _encode(message: Command | ExecutorMessage) -> tuple[dict[str, object], list[bytes]]:
    """The JSON fields and the binary parts of a message."""
    match message:
        case JobInput():
            checkpoint, edit = message.checkpoint, message.edit
            frames = [
                message.mesh,
                checkpoint.data if checkpoint else None,
                edit.frame if edit else None,
                message.picture,
            ]
            header = {
                "id": message.id,
                "request": to_dict(message.request),
                "reductions": message.reductions,
                "attempt": message.attempt,
                "models": message.models,
                "finish": message.finish,
                "mesh": message.mesh is not None,
                "checkpoint": checkpoint.step if checkpoint else None,
                "edit": edit.number if edit else None,
                "picture": message.picture is not None,
            }
            return header, [frame for frame in frames if frame is not None]
        case Ready():
            return {"status": asdict(message.status)}, []
        case Snapshot():
            return {}, [encode_snapshot(message)]
        case Checkpoint():
            return {"step": message.step}, [message.data]
        case Finished():
            return {"files": list(message.files)}, list(message.files.values())
        case _:
            return {"fields": asdict(message)}, []


def from_parts(next_part: Callable[[], bytes]) -> Command | ExecutorMessage:
    """The message whose `to_parts` are the next ones."""
    header = json.loads(next_part())
    parts = [next_part() for _ in range(header["parts"])]
    match header["kind"]:
        case "JobInput":
            rest = iter(parts)
            return JobInput(
                header["id"],
                from_dict(JobRequest, header["request"]),
                next(rest) if header["mesh"] else None,
                None if header["checkpoint"] is None else Checkpoint(header["checkpoint"], next(rest)),
                None if header["edit"] is None else EditedMesh(header["edit"], next(rest)),
                header["reductions"],
                next(rest) if header["picture"] else None,
                header["attempt"],
                header["models"],
                header["finish"],
            )
        case "Ready":
            return Ready(DeviceStatus(**header["status"]))
        case "Snapshot":
            snapshot = read_snapshot(BytesIO(parts[0]).read)
            assert snapshot is not None
            return snapshot
        case "Checkpoint":
            return Checkpoint(header["step"], parts[0])
        case "Finished":
            return Finished(dict(zip(header["files"], parts)))
        case kind:
            return _FLAT[kind](**header["fields"])
