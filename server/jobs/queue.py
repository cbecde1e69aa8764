# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue: the states of jobs, and the requests that change them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from msd_blender.protocol import (
    CANCELLED,
    FAILED,
    PAUSED,
    QUEUED,
    RUNNING,
    Edit,
    Job,
    JobRequest,
    Log,
    Progress,
    Snapshot,
)

from .executor import Executors, Pool, StartExecutor
from .executor_thread import ExecutorThread
from .job_run import Timing
from .job_source import Stop, models_of
from .messages import DeviceStatus
from .store import Store
from .streams import Streams

LACKING_SECONDS = 120.0  # until a machine that did not have a model is asked again


class QueueError(ValueError):
    """A job's state does not allow a request. The message is one sentence."""


class Queue:
    """Schedules the jobs of a store, and runs them on executors, one job at a time on each.

    Safe to use from several threads. Call `start` before use and `stop` at the end.

    Args:
        executors: a function for each executor, which starts it, also again after a crash; or a pool of them.
        per_client: the most jobs of one client that run at once; 0 for any number.
    """

    def __init__(self, store: Store, executors: Executors, timing: Timing | None = None, per_client: int = 0):
        self.store = store
        self.streams = Streams(store)
        self.crashes = 0  # of executors, since the server started
        # A change of state and its event are one step: readers never see a job go backwards.
        self._lock = threading.RLock()
        self._work, self._stopping = threading.Event(), threading.Event()
        self._stops: dict[str, Stop] = {}  # of running jobs
        self._ending: set[str] = set()  # running jobs whose files are being written, too late for an edit
        self._timing, self._per_client = timing or Timing(), per_client
        self._pool: Pool | None = None
        self._fixed: Sequence[StartExecutor] = ()
        if isinstance(executors, Sequence):
            self._fixed = executors
        else:
            self._pool = executors
        self._executors: list[ExecutorThread] = []
        self._lacking: dict[tuple[str, tuple[str, ...]], float] = {}  # (machine, models) -> when it was found

    def start(self) -> None:
        """Queue the jobs that a server before left running, then start the executors."""
        interrupted = self.store.take_up_running()
        for job in interrupted:
            self.streams.publish(job.id, job)
        for start in self._fixed:
            self.add_executor(start)
        if self._pool is not None:
            self._pool.open(self.add_executor, bool(interrupted))

    def add_executor(self, start: StartExecutor, machine: str = "") -> ExecutorThread:
        """Run jobs on one executor more, until it is told to leave."""
        thread = ExecutorThread(self, start, self._timing, machine)
        with self._lock:
            self._executors.append(thread)
            if not self.stopping:
                thread.start()
        return thread

    @property
    def _threads(self) -> list[ExecutorThread]:
        with self._lock:
            self._executors = [thread for thread in self._executors if thread.is_alive()]
            return list(self._executors)

    def stop(self) -> None:
        """End the executors and then every stream, soon; running jobs wait at a checkpoint for the next server."""
        self._stopping.set()
        self._work.set()
        for thread in self._threads:
            thread.join()
        if self._pool is not None:
            self._pool.close()
        self.streams.close()

    # For the API.

    @property
    def state(self) -> str:
        """Idle when an executor is free, busy when all are at work, or starting."""
        states = self.executor_states
        return next((state for state in ("idle", "busy") if state in states), "starting")

    @property
    def executor_states(self) -> list[str]:
        return [thread.state for thread in self._threads]

    @property
    def problem(self) -> str:
        """Why no job can run at present, in one sentence that says what to do; "" where one can."""
        return self._pool.problem if self._pool is not None else ""

    def device(self) -> DeviceStatus:
        """The executors' devices together: their names, and the sum of their memory."""
        known = [thread.device for thread in self._threads if thread.device is not None]
        return DeviceStatus(
            "; ".join(each.device for each in known),
            sum(each.memory for each in known),
            sum(each.memory_total for each in known),
        )

    def submit(self, request: JobRequest, client: str = "") -> Job:
        """The job of a request of a client, queued; a known `client_key` gives the job that it made before."""
        with self._lock:
            job, new = self.store.add(request, client)
            if new:
                self.streams.publish(job.id, job)
        self._work.set()
        return job

    def cancel(self, job: str) -> Job:
        """Stop a job and keep its result. One that waits ends at once, a running one within two seconds."""
        with self._lock:
            current = self._job(job)
            if current.state in (QUEUED, PAUSED):
                self._keep_shown(current)
                current = self._set_state(job, CANCELLED)
            elif current.state == RUNNING:
                self._stops[job] = Stop.CANCEL
            return current

    def pause(self, job: str) -> Job:
        """Take a job off its executor at a checkpoint, from which `resume` goes on. Raises `QueueError`."""
        with self._lock:
            current = self._job(job)
            if current.state == QUEUED:
                current = self._set_state(job, PAUSED)
            elif current.state == RUNNING and self._stops.get(job) is not Stop.CANCEL:
                self._stops[job] = Stop.PAUSE
            elif current.state not in (RUNNING, PAUSED):
                raise QueueError(f"The job is {current.state}: only one that waits or runs can be paused.")
            return current

    def resume(self, job: str) -> Job:
        """Queue a paused job again, or a failed one that has a checkpoint. Raises `QueueError`."""
        with self._lock:
            current = self._job(job)
            if current.state == PAUSED or current.state == FAILED and self.store.checkpoints(job).step >= 0:
                self.streams.reopen(job)
                current = self._set_state(job, QUEUED)
            elif self._stops.get(job) is Stop.PAUSE:
                del self._stops[job]  # it has not stopped yet
                if current.finishing:
                    self._stops[job] = Stop.FINISH
            elif current.state not in (QUEUED, RUNNING):
                raise QueueError(f"The job is {current.state} and has no checkpoint to go on from: submit it again.")
        self._work.set()
        return current

    def finish(self, job: str) -> Job:
        """Let a job grow no more, and make its result of what is there; see `optimize.Optimization`.

        One that runs is taken off its executor at a checkpoint and goes on before all others. Raises `QueueError`.
        """
        with self._lock:
            current = self._job(job)
            if current.ended and current.state != FAILED:
                raise QueueError(f"The job is {current.state}: there is nothing to finish.")
            if current.state == RUNNING:
                asked = self._stops.get(job)
                if job in self._ending or asked is Stop.CANCEL or current.finishing and asked is None:
                    return current  # it ends anyway
                if asked is not Stop.EDIT:
                    self._stops[job] = Stop.FINISH
            elif self.store.checkpoints(job).step < 0:
                raise QueueError("The job has not begun: let it run for a while first, or cancel it.")
            current = self.store.finish(job)
            if current.state in (PAUSED, FAILED):
                self.streams.reopen(job)
                current = self._set_state(job, QUEUED)
            else:
                self.streams.publish(job, current)
        self._work.set()
        return current

    def with_places(self, jobs: list[Job]) -> list[Job]:
        """The jobs, with the places in the queue of those that wait and why they do."""
        if not any(job.state == QUEUED for job in jobs):
            return jobs
        with self._lock:
            waiting = self.store.waiting()
            places = {job: (place, client) for place, (job, client) in enumerate(waiting, 1)}
            free = [thread.machine for thread in self._threads if thread.state == "idle"]
            states = self.executor_states
            known = {client: self.store.running(client) for client in {client for _, client in waiting}}

            def reason(job: Job, place: int, client: str) -> str:
                if self.problem:
                    return self.problem
                if "idle" not in states and "busy" not in states:
                    return "The server is starting."
                if self._per_client and known[client] >= self._per_client:
                    jobs = "1 job" if self._per_client == 1 else f"{self._per_client} jobs"
                    return f"The server runs at most {jobs} of a client at once."
                if free and all(self._lacks(machine, job.request) for machine in free):
                    return "No free machine has its model."
                if place > 1:
                    return f"{place - 1} other{'s' if place > 2 else ''} before it."
                return "" if free else "Another job runs."

            return [
                replace(job, place=places[job.id][0], waits_for=reason(job, *places[job.id]))
                if job.id in places
                else job
                for job in jobs
            ]

    def edit(self, job: str, edit: Edit) -> Job:
        """Let a job go on from an artist's edit: at once, or when it is resumed.

        Raises `QueueError`, and `UploadNotFound` for an edited mesh that the server does not have.
        """
        with self._lock:
            current = self._job(job)
            if current.ended:
                raise QueueError(f"The job is {current.state}: start another one from its mesh instead.")
            if edit.mesh:
                self.store.meshes.find(edit.mesh)
            if job in self._ending:
                raise QueueError("The job has just ended: start another one from its mesh instead.")
            current = self.store.edit(job, edit)
            if current.state == RUNNING:
                self._stops.setdefault(job, Stop.EDIT)
            self.streams.publish(job, current)
            return current

    # For executor threads, as `JobSource`.

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def wait_for_stop(self, seconds: float) -> bool:
        """As `JobSource.wait_for_stop`."""
        return self._stopping.wait(seconds)

    def wait_for_work(self, seconds: float) -> None:
        """As `JobSource.wait_for_work`."""
        self._work.wait(seconds)
        self._work.clear()

    def claim(self, machine: str = "", loaded: tuple[str, ...] | None = None) -> Job | None:
        """As `JobSource.claim`."""
        with self._lock:
            left: Counter[tuple[str, ...]] = Counter()  # jobs by their models, each to an executor of its own

            def fits(request: JobRequest) -> bool:
                if self._lacks(machine, request):
                    return False
                needed = models_of(request)
                if needed != loaded:
                    # An executor that has loaded nothing drops no model for the job.
                    better = {needed} if loaded is None else {needed, None}
                    suited = (
                        thread
                        for thread in self._executors
                        if thread.loaded in better
                        and thread.state == "idle"
                        and not self._lacks(thread.machine, request)
                    )
                    if any(islice(suited, left[needed], None)):
                        left[needed] += 1
                        return False
                return True

            job = self.store.next_queued(self._per_client, fits)
            if job is not None:
                self.store.begin_attempt(job.id, machine)
                return self._set_state(job.id, RUNNING)
            return None

    def requested_stop(self, job: str) -> Stop | None:
        """As `JobSource.requested_stop`."""
        return self._stops.get(job)

    def publish(self, job: str, event: Progress | Log) -> None:
        self.streams.publish(job, event)

    def show(self, job: str, snapshot: Snapshot) -> None:
        self.streams.show(job, snapshot)

    def begin_ending(self, job: str) -> bool:
        """As `JobSource.begin_ending`."""
        with self._lock:
            if self._stops.get(job) is Stop.EDIT:
                return False
            self._ending.add(job)
            return True

    def keep_files(self, job: str, files: dict[str, bytes], seconds: float) -> None:
        """As `JobSource.keep_files`."""
        self.store.keep_files(job, files, self.streams.newest_snapshot(job))
        if self._stops.get(job) is not Stop.CANCEL:
            self.store.note_seconds(job, seconds)

    def end_run(self, job: Job, state: str, error: str = "") -> Job:
        """As `JobSource.end_run`."""
        if state == FAILED and self.store.checkpoints(job.id).step < 0:
            self.store.discard_folder(job.id)
        elif state == CANCELLED and not self.store.folder(job.id).exists():
            self._keep_shown(job)
        with self._lock:
            if state == QUEUED and self._stops.get(job.id) is Stop.CANCEL:
                state = CANCELLED
                self._keep_shown(job)
            ended = self._set_state(job.id, state, error)
            self._stops.pop(job.id, None)
            self._ending.discard(job.id)
            return ended

    def _lacks(self, machine: str, request: JobRequest) -> bool:
        noted = self._lacking.get((machine, models_of(request)))
        return noted is not None and time.monotonic() - noted < LACKING_SECONDS

    def note_missing_model(self, job: Job, machine: str) -> tuple[str, str]:
        """As `JobSource.note_missing_model`."""
        with self._lock:
            self._lacking[machine, models_of(job.request)] = time.monotonic()
            machines = sorted({thread.machine for thread in self._threads} | {machine})
            others = [other for other in machines if not self._lacks(other, job.request)]
        models = " and ".join(filter(None, models_of(job.request)))
        if not others:
            return FAILED, (
                f"No machine of the cluster has {models} as the server has it (looked on {', '.join(machines)}): copy "
                "it to the same place there, then submit the job again."
            )
        elsewhere = f"{machine} does not have {models}: the job goes to {' or '.join(others)}."
        self.publish(job.id, Log(elsewhere, "warning"))
        return QUEUED, ""

    def fail_next(self, error: str) -> None:
        """As `JobSource.fail_next`."""
        with self._lock:
            job = self.store.next_queued()
            if job is not None:
                self._set_state(job.id, FAILED, error)

    def count_crash(self) -> None:
        with self._lock:
            self.crashes += 1

    def _job(self, job: str) -> Job:
        found = self.store.get(job)
        if found is None:
            raise QueueError(f"There is no job {job!r} on this server.")
        return found

    def _keep_shown(self, job: Job) -> None:
        self.store.keep_shown(job, self.streams.newest_snapshot(job.id))

    def _set_state(self, job: str, state: str, error: str = "") -> Job:
        with self._lock:
            changed = self.store.set_state(job, state, error)
            self.streams.publish(job, changed)
            return changed
