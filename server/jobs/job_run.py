# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of a job on an executor: hands on what the job reports, and decides in which state the run leaves it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from msd_blender.protocol import CANCELLED, FAILED, FINISHED, PAUSED, QUEUED, WRITING, Job, Log, Progress, Snapshot

from ..checkpoint import NOT_WRITTEN
from .executor import Executor, ExecutorCrashed
from .job_source import JobSource, Stop
from .messages import (
    FILES_NOT_WRITTEN,
    REDUCED,
    TOO_LITTLE_MEMORY,
    Checkpoint,
    DeviceFailed,
    DeviceStatus,
    Failed,
    Finished,
    ModelMissing,
    Outcome,
    OutOfMemory,
    Paused,
    Ready,
)

MAX_CRASHES = 3  # of an executor while it starts, or at one checkpoint of a job: then a job has failed
POLL_SECONDS = 0.05  # between two looks at whether the job shall stop


@dataclass(frozen=True)
class Timing:
    """How long executors may take, in seconds, before they are killed.

    Args:
        cancel: from the request to cancel a job to its end or its writing phase.
        pause: from the request to pause a job to its end; while the server stops, `cancel` holds instead.
        write: for the writing phase of a cancelled job.
        iterations: a job always has this many times the length of its last iteration, to end after the present one.
        restart: until an executor that crashed while it started is started again; doubles each time.
        clock: the present time.
    """

    cancel: float = 1.8
    pause: float = 60.0
    write: float = 30.0
    iterations: float = 2.0
    restart: float = 1.0
    clock: Callable[[], float] = time.monotonic


class JobRun:
    """A run of `job` on `executor`, which has been given it.

    `kill_executor` says after `follow` that the executor is of no more use.

    Args:
        leaving: whether the executor goes away, so that the job must go on elsewhere.
    """

    def __init__(
        self,
        queue: JobSource,
        executor: Executor,
        job: Job,
        timing: Timing,
        set_device: Callable[[DeviceStatus], None],
        leaving: Callable[[], bool],
        machine: str = "",
    ):
        self._queue, self._store, self._executor, self._job = queue, queue.store, executor, job
        self._timing, self._set_device, self._leaving, self._machine = timing, set_device, leaving, machine
        self.kill_executor = False
        self._sent: Stop | None = None  # the last request that the executor was sent
        self._deadline = math.inf
        self._iterated, self._iteration = timing.clock(), 0.0  # when the last iteration ended, and its length
        self._elapsed = 0.0  # seconds of the job's work
        self._unwritten: OSError | None = None  # why the last checkpoint could not be written
        self._warned = False

    def follow(self) -> tuple[str, str]:
        """Receive to the end of the run; the job's (state, error). Raises `ExecutorCrashed`."""
        while True:
            self._request_stop()
            if self._timing.clock() > self._deadline:
                self.kill_executor = True  # the job goes on from its last checkpoint, if at all
                return (CANCELLED if self._sent is Stop.CANCEL else self._state_at_checkpoint()), ""
            match message := self._executor.receive(POLL_SECONDS):
                case None:
                    pass
                case Snapshot():
                    self._queue.show(self._job.id, replace(message, edits=self._job.edits))
                case Progress():
                    self._progress(message)
                case Log():
                    self._queue.publish(self._job.id, message)
                case Checkpoint():
                    self._write(message)
                case DeviceStatus():
                    self._set_device(message)
                case Ready():
                    self._set_device(message.status)
                case _:
                    return self._end(message)

    def after_crash(self, reason: str) -> tuple[str, str]:
        """The (state, error) of the job when its executor has crashed."""
        if self._queue.requested_stop(self._job.id) is Stop.CANCEL:
            return CANCELLED, ""
        if self._store.add_crash(self._job.id) >= MAX_CRASHES:
            return FAILED, (
                f"The worker process died {MAX_CRASHES} times at the same place ({reason}): the server's log says more."
            )
        self._warn(f"The worker process died ({reason}): going on from {self._checkpoint()}.")
        return QUEUED, ""

    def after_loss(self, reason: str) -> tuple[str, str]:
        """The (state, error) of the job when its executor's machine is gone."""
        if self._queue.requested_stop(self._job.id) is Stop.CANCEL:
            return CANCELLED, ""
        self._warn(f"The job's machine was lost ({reason}): going on from {self._checkpoint()} as soon as one is free.")
        return self._state_at_checkpoint(), ""

    def _checkpoint(self) -> str:
        step = self._store.checkpoints(self._job.id).step
        return f"iteration {step}" if step >= 0 else "the start"

    def _request_stop(self) -> None:
        """Pass a new request to stop on to the executor, and set its deadline."""
        timing, stopping = self._timing, self._queue.stopping
        stop = self._queue.requested_stop(self._job.id) or (Stop.PAUSE if stopping or self._leaving() else None)
        if stop is Stop.CANCEL and self._sent is not Stop.CANCEL:
            self._executor.cancel()
            seconds = max(timing.cancel, timing.iterations * self._iteration)
        elif stop is not None and self._sent is None:
            self._executor.pause()
            seconds = timing.cancel if stopping else max(timing.pause, timing.iterations * self._iteration)
        else:
            return
        self._sent, self._deadline = stop, timing.clock() + seconds

    def _progress(self, progress: Progress) -> None:
        now, self._elapsed = self._timing.clock(), progress.elapsed
        if self._sent is Stop.CANCEL and progress.phase == WRITING:
            self._deadline = now + self._timing.write
        if progress.iteration > 1:  # the first one also loads the model
            self._iteration = now - self._iterated
        self._iterated = now
        if self._unwritten is not None and not self._warned:
            self._warned = True
            self._warn(NOT_WRITTEN.format(self._unwritten.strerror))
        self._queue.publish(self._job.id, progress)

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            self._store.checkpoints(self._job.id).write(checkpoint.step, checkpoint.data)
            self._unwritten = None
        except OSError as error:  # the older ones are still there
            self._unwritten = error

    def _end(self, outcome: Outcome) -> tuple[str, str]:
        """The (state, error) of the job after this outcome."""
        cancelled = self._sent is Stop.CANCEL
        match outcome:
            case Finished():
                if not self._queue.begin_ending(self._job.id):
                    return QUEUED, ""
                try:
                    self._queue.keep_files(self._job.id, outcome.files, self._elapsed)
                except OSError as error:
                    if not cancelled:
                        return FAILED, FILES_NOT_WRITTEN.format(error.strerror)
                return (CANCELLED if cancelled else FINISHED), ""
            case Paused():
                if self._unwritten is not None and not cancelled:
                    return FAILED, FILES_NOT_WRITTEN.format(self._unwritten.strerror)
                return self._state_at_checkpoint(), ""
            case OutOfMemory():
                return self._after_out_of_memory()
            case ModelMissing():
                return (CANCELLED, "") if cancelled else self._queue.note_missing_model(self._job, self._machine)
            case DeviceFailed():
                raise ExecutorCrashed(outcome.error)
            case Failed():
                return (CANCELLED, "") if cancelled else (FAILED, outcome.error)

    def _after_out_of_memory(self) -> tuple[str, str]:
        self.kill_executor = True  # with all the memory that it holds
        if (reductions := self._store.reductions(self._job.id)) >= len(REDUCED):
            return FAILED, TOO_LITTLE_MEMORY
        self._store.reduce(self._job.id)
        self._warn(REDUCED[reductions])
        return QUEUED, ""

    def _state_at_checkpoint(self) -> str:
        """Paused, unless the request to pause was taken back or was one to edit or to finish: then the job waits to go
        on."""
        return PAUSED if self._queue.requested_stop(self._job.id) is Stop.PAUSE else QUEUED

    def _warn(self, text: str) -> None:
        self._queue.publish(self._job.id, Log(text, "warning"))
