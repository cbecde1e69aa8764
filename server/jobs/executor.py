# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface between the queue and whatever runs its jobs; `server.jobs.EXECUTORS` names those there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .messages import ExecutorMessage, JobInput


class ExecutorCrashed(Exception):
    """An executor ended without being asked to."""


class ExecutorLost(ExecutorCrashed):
    """An executor's machine is gone, or cannot start one: no fault of the job, which waits for another executor."""


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


@dataclass(frozen=True)
class ExecutorOptions:
    """What `serve` says of executors.

    Args:
        ray_address: of the Ray cluster: HOST:PORT, or auto for that of this machine.
        cpus_per_job: CPUs of the cluster for each job; 0 gives each job a GPU.
    """

    ray_address: str = "auto"
    cpus_per_job: int = 0


class Place(Protocol):
    """A place for one executor, as the queue gives it to a `Pool`."""

    def leave(self) -> None:
        """Give the job that runs here back to the queue, from a checkpoint if it can make one, and take no other."""


class Pool(Protocol):
    """Executors that come and go, as the machines of a cluster do."""

    @property
    def problem(self) -> str:
        """Why no job can run at present: one sentence that says what to do; "" where one can."""

    def open(self, add: Callable[[StartExecutor, str], Place], interrupted: bool) -> None:
        """Look for executors from now on, in the pool's own thread.

        Args:
            add: takes an executor's start and the name of its machine.
            interrupted: whether a server that died has left jobs running, perhaps still on their executors.
        """

    def close(self) -> None:
        """End what `open` began; every executor has been killed before."""


Executors = Sequence[StartExecutor] | Pool
