# SPDX-License-Identifier: GPL-3.0-or-later
"""One job from its input to its outcome, in the process that calls: an executor's numerical half."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .. import logs, optimize, pictures
from ..checkpoint import deserialize, serialize
from ..optimize import release, warm_up
from ..priors.fingerprint import fingerprint
from .messages import (
    FILES_NOT_WRITTEN,
    Checkpoint,
    DeviceFailed,
    DeviceStatus,
    Failed,
    Finished,
    JobInput,
    Outcome,
    OutOfMemory,
    Paused,
    Report,
)
from .uploads import decode_upload

if TYPE_CHECKING:
    from torch import Tensor

    from ..geometry.mesh import Mesh

__all__ = ["fingerprint", "outcome_of", "release", "run_job", "status", "warm_up"]

log = logging.getLogger(__name__)


class SentCheckpoints:
    """A `CheckpointStore` for a run whose files are kept elsewhere: the newest came with the job, new ones are sent."""

    def __init__(self, given: Checkpoint | None, report: Callable[[Checkpoint], None]):
        self.step = given.step if given else -1  # of the newest
        self._given, self._report = given, report

    def newest(self) -> tuple[dict[str, Tensor], dict[str, object]] | None:
        """The (tensors, state) that the run starts from, None for a fresh start. Raises ValueError if damaged."""
        return deserialize(self._given.data) if self._given else None

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, object]) -> None:
        """Send the checkpoint of a step."""
        self._given = None  # its bytes are of no more use
        self._report(Checkpoint(step, serialize(tensors, state)))
        self.step = step


def run_job(
    job: JobInput,
    report: Callable[[Report], None],
    cancelled: Callable[[], bool],
    paused: Callable[[], bool],
    workspace: Path | None = None,
) -> Outcome:
    """Run a job to its end, and say what that is; no exception of the job leaves this function.

    Args:
        report: hears of events, snapshots and checkpoints, each before the job goes on.
        cancelled: asked before each iteration; once true, the job ends `Finished` with the asset as it is.
        paused: asked before each iteration; once true, the job reports a checkpoint and ends `Paused`.
        workspace: where a temporary folder is made for the job's files; None is the system's place for such.
    """
    token = logs.JOB.set(job.id)
    try:
        request, settings = job.request, optimize.Settings.of(job.request, job.reductions)
        checkpoints = SentCheckpoints(job.checkpoint, report)
        mesh = _mesh(job.mesh) if job.mesh is not None else None
        edit = (str(job.edit.number), _mesh(job.edit.frame)) if job.edit is not None else None
        picture = pictures.decode(job.picture) if job.picture is not None else None
        finish = job.finish
        del job  # hundreds of megabytes that nobody needs any more
        with tempfile.TemporaryDirectory(prefix="msd-job-", dir=workspace) as name:
            folder = Path(name)
            optimize.generate(
                request, folder, report, cancelled, settings, checkpoints, paused, mesh, edit, picture, finish
            )
            return Finished({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    except optimize.Paused:
        return Paused()
    except Exception as error:
        refused = isinstance(error, ValueError)
        level = logging.WARNING if refused else logging.ERROR
        log.log(level, "The job %s", "was refused" if refused else "failed", exc_info=True)
        return outcome_of(error)
    finally:
        logs.JOB.reset(token)


def status() -> DeviceStatus:
    """The device of this process, at present."""
    found = optimize.device_in_use()
    return DeviceStatus(str(found["device"]), int(found["memory"]), int(found["memory_total"]))


def outcome_of(error: Exception) -> Outcome:
    """The outcome of a job that ended in this exception."""
    if optimize.is_out_of_memory(error):
        return OutOfMemory()
    if optimize.is_device_fault(error):
        return DeviceFailed(f"its device failed: {_first_line(error)}")
    if isinstance(error, ValueError):
        return Failed(str(error))
    if isinstance(error, OSError) and error.strerror:
        return Failed(FILES_NOT_WRITTEN.format(error.strerror))
    return Failed(f"The job stopped on {type(error).__name__}: {_first_line(error)}")


def _mesh(frame: bytes) -> Mesh:
    return optimize.checked(decode_upload(frame))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else "no more is known"
