# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface between the queue and whatever runs its jobs; `server.jobs.EXECUTORS` names those there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .messages import ExecutorMessage, JobInput


class ExecutorCrashed(Exception):
    """An executor ended without being asked to."""


class Executor(Protocol):
    """Runs one job at a time, on one device.

    It first sends `Ready`. Of each job it sends any number of `Report`s and then one `Outcome`; it may send a
    `DeviceStatus` at any time. The calls do not block, but for `receive`, and all come from one thread.
    """

    def run(self, job: JobInput) -> None:
        """Start a job, or go on with it from its checkpoint."""

    def cancel(self) -> None:
        """Ask the job to end soon, `Finished` with the asset as it is. Without a job this does nothing."""

    def pause(self) -> None:
        """Ask the job to send a checkpoint and end soon, `Paused`. Without a job this does nothing."""

    def receive(self, timeout: float) -> ExecutorMessage | None:
        """The next message; None after `timeout` seconds without one.

        The caller has handled a message when it asks for the next one: an executor may hold the job back until then,
        so that checkpoints come no faster than they are written. Raises `ExecutorCrashed`.
        """

    def kill(self) -> None:
        """End the executor now, and free all that it holds; it may have crashed before."""


StartExecutor = Callable[[], Executor]
