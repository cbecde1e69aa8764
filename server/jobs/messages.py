# SPDX-License-Identifier: GPL-3.0-or-later
"""The values that an executor is given and that it sends back.

They hold all that a job needs and leaves, so that an executor may be on another machine: no path is among them. Events
and snapshots are the protocol's own `Progress`, `Log` and `Snapshot`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msd_blender.protocol import JobRequest, Log, Progress, Snapshot

REDUCED = (  # what a job does after memory ran out once, twice, …; see `Settings.with_less_memory`
    "The device ran out of memory: going on with the views one by one.",
    "The device ran out of memory again: going on with half as many views.",
    "The device ran out of memory again: going on with one view.",
)
TOO_LITTLE_MEMORY = (
    "The device has too little memory even for one view at a time: close other programs on it, or "
    "choose a smaller model or texture size."
)
FILES_NOT_WRITTEN = "The job's files cannot be written ({}): make room or repair the disk, then resume it."


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a job's next iterations depend on. `data`: the bytes of `server.checkpoint.serialize`."""

    step: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class EditedMesh:
    """A mesh that takes the place of the job's asset. `number` counts the edits of a job; `frame` as in `JobInput`."""

    number: int
    frame: bytes = field(repr=False)


@dataclass(frozen=True)
class JobInput:
    """A job to run, from its start or from a checkpoint.

    Args:
        id: the job's name in logs.
        mesh: the upload that the request names, as one frame of `protocol.encode_snapshot`.
        edit: the newest edit, which the job goes on from unless its checkpoint comes after it.
        reductions: see `Settings.of`.
        picture: the file that the request's image prompt names.
        finish: whether to grow no more; see `optimize.Optimization`.
        models: the `fingerprint` of the files that it needs, which an executor elsewhere must have; "" for any.
        attempt: counts the runs of the job, so that an executor which was thought dead is known by its number.
    """

    id: str
    request: JobRequest
    mesh: bytes | None = field(default=None, repr=False)
    checkpoint: Checkpoint | None = None
    edit: EditedMesh | None = None
    reductions: int = 0
    picture: bytes | None = field(default=None, repr=False)
    attempt: int = 0
    models: str = ""
    finish: bool = False


@dataclass(frozen=True)
class DeviceStatus:
    """The device that an executor computes on, in the words of `protocol.Health`. Memory is in bytes."""

    device: str = ""
    memory: int = 0
    memory_total: int = 0


@dataclass(frozen=True)
class Ready:
    """The executor takes its first job. It sends nothing before."""

    status: DeviceStatus


@dataclass(frozen=True)
class Finished:
    """The job has ended, by itself or because it was cancelled. `files`: name -> content, of `protocol.FILES`."""

    files: dict[str, bytes] = field(repr=False)


@dataclass(frozen=True)
class Paused:
    """The job has ended because it was paused; its last checkpoint was sent before."""


@dataclass(frozen=True)
class OutOfMemory:
    """The job has ended because the device has too little memory for it."""


@dataclass(frozen=True)
class Failed:
    """The job has ended in an error. `error`: one sentence for the user."""

    error: str


@dataclass(frozen=True)
class DeviceFailed:
    """The device refuses all further work of this executor, which must be replaced; the job can go on elsewhere."""

    error: str


@dataclass(frozen=True)
class ModelMissing:
    """The executor's machine does not have the models of the job as the server has them; another may."""


Outcome = Finished | Paused | OutOfMemory | Failed | DeviceFailed | ModelMissing
Report = Progress | Log | Snapshot | Checkpoint  # of a job under way
ExecutorMessage = Ready | DeviceStatus | Report | Outcome
