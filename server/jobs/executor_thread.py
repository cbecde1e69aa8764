# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread that drives one executor: starts it, gives it jobs, and replaces it when it crashes."""

from __future__ import annotations

import logging
import sqlite3
import threading

from msd_blender.protocol import FAILED, Job, ProtocolError

from ..logs import JOB
from .executor import Executor, ExecutorCrashed, ExecutorLost, StartExecutor
from .job_run import MAX_CRASHES, JobRun, Timing
from .job_source import JobSource, models_of
from .messages import DeviceStatus, Ready

log = logging.getLogger(__name__)

UNFORESEEN = "The job stopped on an unforeseen error of the server: its log says more."


class ExecutorThread(threading.Thread):
    """Takes jobs from a queue to one executor, one after another, and replaces the executor when it crashes.

    Args:
        machine: its name where it is not the server's.
    """

    def __init__(self, queue: JobSource, start_executor: StartExecutor, timing: Timing, machine: str = ""):
        super().__init__(name="msd-executor", daemon=True)
        self._queue, self._store = queue, queue.store
        self._start_executor, self._timing = start_executor, timing
        self._executor: Executor | None = None
        self._ready = self._busy = False
        self._leaving = threading.Event()
        self.machine = machine
        self.loaded: tuple[str, ...] | None = None  # the models of its last job
        self.device: DeviceStatus | None = None  # as last reported

    @property
    def state(self) -> str:
        return "busy" if self._busy else "idle" if self._ready else "starting"

    def leave(self) -> None:
        """As `Place.leave`."""
        self._leaving.set()

    def run(self) -> None:
        failed_starts, queue = 0, self._queue
        while not (queue.stopping or self._leaving.is_set()):
            try:
                if self._executor is None:
                    self._executor, self._ready = self._start_executor(), False
                if not self._ready:
                    if isinstance(message := self._executor.receive(0.1), Ready):
                        self._ready, self.device = True, message.status
                elif job := queue.claim(self.machine, self.loaded):
                    failed_starts = 0
                    self._run_job(job, self._executor)
                else:
                    if isinstance(message := self._executor.receive(0), DeviceStatus):
                        self.device = message
                    queue.wait_for_work(0.5)
            except ExecutorCrashed as crash:
                was_ready = self._ready
                self._after_crash(crash)
                if not was_ready:
                    failed_starts += 1
                    if failed_starts >= MAX_CRASHES and not isinstance(
                        crash, ExecutorLost
                    ):  # fewer may be the kernel short of memory, or a kill
                        queue.fail_next(
                            f"The server's worker process cannot start ({crash}): the server's log says why."
                        )
                    queue.wait_for_work(min(self._timing.restart * 2.0 ** (failed_starts - 1), 60))
            except Exception:
                log.exception("The queue met an unforeseen error")
                queue.wait_for_stop(1)
        self._kill()

    def _run_job(self, job: Job, executor: Executor) -> None:
        """Run one job on the executor until it ends, is paused, or must be queued again."""
        JOB.set(job.id)
        self._busy, self.loaded = True, models_of(job.request)
        state, error = FAILED, UNFORESEEN
        run = JobRun(self._queue, executor, job, self._timing, self._set_device, self._leaving.is_set, self.machine)
        try:
            self._store.open_folder(job.id)
            executor.run(self._store.job_input(job))
            state, error = run.follow()
            if run.kill_executor:
                self._kill()
        except ExecutorCrashed as crash:
            self._after_crash(crash)
            state, error = (
                run.after_loss(str(crash)) if isinstance(crash, ExecutorLost) else run.after_crash(str(crash))
            )
        except OSError as problem:
            self._kill()
            state, error = FAILED, f"The server cannot write its data folder: {problem.strerror}."
        except ProtocolError as problem:  # an upload is gone
            state, error = FAILED, str(problem)
        except Exception:
            self._kill()  # it may still be at work on this job
            raise
        finally:
            self._busy = False
            self._end_run(job, state, error)
            JOB.set("")

    def _end_run(self, job: Job, state: str, error: str) -> None:
        """Set the job's state, which a full disk may refuse for a while if another job takes even the reserve."""
        while True:
            try:
                state = self._queue.end_run(job, state, error).state
                break
            except sqlite3.OperationalError as problem:
                log.error("The state of job %s cannot be written, trying again: %s", job.id, problem)
                self._store.release_spare()
                if self._queue.wait_for_stop(1):
                    return  # the next server finds the job running, and its files
        log.info("The job is %s%s", state, error and f": {error}")

    def _set_device(self, status: DeviceStatus) -> None:
        self.device = status

    def _after_crash(self, crash: ExecutorCrashed) -> None:
        log.error("The worker ended: %s", crash)
        self._queue.count_crash()
        self._kill()

    def _kill(self) -> None:
        if self._executor is not None:
            self._executor.kill()
            self._executor, self._ready, self.loaded = None, False, None
