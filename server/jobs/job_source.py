# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue as its executor threads see it."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from msd_blender.protocol import Job, JobRequest, Log, Progress, Snapshot

from .store import Store


class Stop(Enum):
    """Why a running job is asked to end early."""

    CANCEL = "cancel"  # and keep its result
    PAUSE = "pause"  # at a checkpoint, until it is resumed
    EDIT = "edit"  # at a checkpoint, to go on at once with an edit
    FINISH = "finish"  # at a checkpoint, to go on at once with what comes after growth


def models_of(request: JobRequest) -> tuple[str, ...]:
    """The places of the models that a request names."""
    return (request.model, *request.loras, request.control_model if request.control else "")


class JobSource(Protocol):
    """Gives jobs to executor threads and takes their results, thread-safe; `queue.Queue` is one."""

    store: Store

    @property
    def stopping(self) -> bool:
        """Whether the server ends."""
        ...

    def wait_for_stop(self, seconds: float) -> bool:
        """Wait until the server ends, at most for some seconds; whether it does."""
        ...

    def wait_for_work(self, seconds: float) -> None:
        """Wait until a job is queued or the server ends, at most for some seconds."""
        ...

    def claim(self, machine: str = "", loaded: tuple[str, ...] | None = None) -> Job | None:
        """The next job, now running on this machine; None where none waits, or where an executor that is free suits it
        better: it has loaded the job's models, or none while this one would have to drop its own.

        Args:
            loaded: the models of the executor's last job.
        """
        ...

    def requested_stop(self, job: str) -> Stop | None:
        """Why a running job shall end, None where it shall go on."""
        ...

    def publish(self, job: str, event: Progress | Log) -> None:
        """Hand an event to the job's readers and its journal."""
        ...

    def show(self, job: str, snapshot: Snapshot) -> None:
        """Hand a snapshot to the job's readers."""
        ...

    def begin_ending(self, job: str) -> bool:
        """Refuse edits of a running job from now on; False where one came before, which the job must go on from."""
        ...

    def keep_files(self, job: str, files: dict[str, bytes], seconds: float) -> None:
        """Make the files of a job and its newest snapshot its result. Raises OSError; then it has none.

        seconds: of work, by the job's last report.
        """
        ...

    def end_run(self, job: Job, state: str, error: str = "") -> Job:
        """Set the state in which a running job leaves its executor.

        A failed job loses its folder unless it has a checkpoint; a cancelled one without files gets those of its last
        snapshot. Raises sqlite3.OperationalError where the disk is full: call it again.
        """
        ...

    def note_missing_model(self, job: Job, machine: str) -> tuple[str, str]:
        """Keep a job's model off a machine that lacks it for a while; the (state, error) in which the job leaves it."""
        ...

    def fail_next(self, error: str) -> None:
        """Fail the job that waits for an executor which cannot start."""
        ...

    def count_crash(self) -> None:
        """Count a crash of an executor."""
        ...
