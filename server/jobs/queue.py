# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue: runs jobs on executors, one after another on each, and hands what they say to every reader."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from msd_blender.protocol import (
    CANCELLED,
    FAILED,
    FINAL_STATES,
    FINISHED,
    PAUSED,
    QUEUED,
    RUNNING,
    WRITING,
    Edit,
    Job,
    JobRequest,
    Log,
    Message,
    Progress,
    ProtocolError,
    Snapshot,
    decode_event,
    decode_snapshot,
    encode_event,
    encode_snapshot,
)

from ..logs import JOB
from .executor import HALVED, HALVINGS, TOO_LITTLE_MEMORY, Executor, ExecutorDied
from .store import Store
from .worker import Worker, devices

log = logging.getLogger(__name__)

GRACE = 1.8  # seconds in which a job must heed that it is asked to end, or
GRACE_ITERATIONS = 2.0  # so often the time from one iteration to the next, where that is longer
WRITING_SECONDS = 30.0  # in which it must then have written what it has reached
DEATHS = 3  # of an executor at its start, or at one checkpoint: then a job has failed
KEPT = 8  # jobs whose last snapshot stays in memory
# What a running job may be asked for beside PAUSED and CANCELLED: to go on from the checkpoint that it now writes,
# and that it writes its files and takes no edit any more.
EDITED, ENDING = "edited", "ending"
KEEP_ALIVE = 15.0  # seconds between comments on a silent event stream


class Channel:
    """What is new of one job, and the readers that wait for it."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.ended = False
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()

    def notify(self) -> None:
        with self._lock:
            for loop, event in self._waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    def subscribe(self) -> asyncio.Event:
        event = asyncio.Event()
        with self._lock:
            self._waiting.add((asyncio.get_running_loop(), event))
        return event

    @property
    def readers(self) -> int:
        return len(self._waiting)

    def leave(self, event: asyncio.Event) -> None:
        with self._lock:
            self._waiting = {pair for pair in self._waiting if pair[1] is not event}


class QueueError(ValueError):
    """What a job's state does not allow, in one sentence."""


class Queue:
    """Runs the jobs of a store, on one executor for each of `executors`. `start` before use, `stop` at the end."""

    def __init__(self, store: Store, executors: Sequence[Callable[[], Executor]] = ()):
        self.store = store
        self._channels: OrderedDict[str, Channel] = OrderedDict()
        # A change of state and its event are one step: readers never see a job go backwards.
        self._lock = threading.RLock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._stopped = False
        self.counts = dict.fromkeys(("events", "snapshots", "deaths"), 0)
        self._asked: dict[str, str] = {}  # running job -> the state that it was asked to end in
        self._lanes = [_Lane(self, make) for make in executors or [partial(Worker, device) for device in devices()]]

    def start(self) -> None:
        """Take up what a server before left undone, and then the work."""
        for job in self.store.take_up_running():
            self._publish(job)
        for lane in self._lanes:
            lane.start()

    def stop(self) -> None:
        """End the executors and then every stream, soon; running jobs wait at a checkpoint for the next server."""
        self._stopping.set()
        self._wake.set()
        for lane in self._lanes:
            if lane.ident is not None:
                lane.join()
        self._stopped = True
        with self._lock:
            channels = list(self._channels.values())
        for channel in channels:
            channel.notify()

    @property
    def state(self) -> str:
        """Of the executors: idle when one is free, busy when all are at work, or starting."""
        states = self.worker_states
        return next((state for state in ("idle", "busy") if state in states), "starting")

    def device(self) -> dict[str, Any]:
        """The executors' devices, in the words of `Health`: names, and memory as a sum."""
        said = [lane.device for lane in self._lanes if lane.device]
        return {"device": "; ".join(str(each["device"]) for each in said)} | {
            name: sum(int(each[name]) for each in said) for name in ("memory", "memory_total")
        }

    @property
    def worker_states(self) -> list[str]:
        return [lane.state for lane in self._lanes]

    @property
    def readers(self) -> int:
        """How many streams are open."""
        with self._lock:
            return sum(channel.readers for channel in self._channels.values())

    def submit(self, request: JobRequest) -> Job:
        """The job of a request, queued; a `client_key` that is known gives the job it made before."""
        with self._lock:
            job, new = self.store.add(request)
            if new:
                self._publish(job)
        self._wake.set()
        return job

    def cancel(self, job: str) -> Job:
        """Stop a job, and keep what it has. One that waits ends at once, a running one within two seconds."""
        with self._lock:
            current = self._known(job)
            if current.state in (QUEUED, PAUSED):
                self._keep_shown(current)
                current = self._set_state(job, CANCELLED)
            elif current.state == RUNNING:
                self._asked[job] = CANCELLED
            return current

    def pause(self, job: str) -> Job:
        """Take a job off the executor at a checkpoint, from which `resume` goes on. Raises `QueueError`."""
        with self._lock:
            current = self._known(job)
            if current.state == QUEUED:
                current = self._set_state(job, PAUSED)
            elif current.state == RUNNING and self._asked.get(job) != CANCELLED:
                self._asked[job] = PAUSED
            elif current.state not in (RUNNING, PAUSED):
                raise QueueError(f"The job is {current.state}: only one that waits or runs can be paused.")
            return current

    def resume(self, job: str) -> Job:
        """Queue a paused job again, or a failed one that has a checkpoint. Raises `QueueError`."""
        with self._lock:
            current = self._known(job)
            whole = current.state == PAUSED or current.state == FAILED and self.store.checkpoints(job).step >= 0
            if whole:
                self._channel(job).ended = False
                current = self._set_state(job, QUEUED)
            elif self._asked.get(job) == PAUSED:
                del self._asked[job]  # it has not stopped yet
            elif current.state not in (QUEUED, RUNNING):
                raise QueueError(f"The job is {current.state} and has no checkpoint to go on from: submit it again.")
        self._wake.set()
        return current

    def edit(self, job: str, edit: Edit) -> Job:
        """Let a job go on from what an artist changed: at once, or when it is resumed. Raises `QueueError`."""
        with self._lock:
            current = self._known(job)
            if current.ended:
                raise QueueError(f"The job is {current.state}: start another one from its mesh instead.")
            if edit.mesh:
                self.store.meshes.find(edit.mesh)
            if self._asked.get(job) == ENDING:
                raise QueueError("The job has just ended: start another one from its mesh instead.")
            current = self.store.edit(job, edit)
            if current.state == RUNNING:
                self._asked.setdefault(job, EDITED)
            self._publish(current)
            return current

    def _known(self, job: str) -> Job:
        found = self.store.get(job)
        if found is None:
            raise QueueError(f"There is no job {job!r} on this server.")
        return found

    async def events(self, job: str, after: int) -> AsyncIterator[bytes]:
        """The journal's events after a number, then new ones as they come, to the end of the job."""
        channel = self._channel(job)
        news = channel.subscribe()
        try:
            while True:
                news.clear()
                # Read in this order: what is published before `ended` is then never missed.
                ended = channel.ended or self._stopped
                while page := self.store.events(job, after):
                    for number, data in page:
                        after = number
                        yield data
                if ended:
                    return
                try:
                    await asyncio.wait_for(news.wait(), KEEP_ALIVE)
                except TimeoutError:
                    yield b": still here\n\n"
        finally:
            channel.leave(news)

    async def snapshots(self, job: str) -> AsyncIterator[bytes]:
        """Frames: first the whole newest snapshot, then what changed. A slow reader skips to the newest."""
        channel = self._channel(job)
        news = channel.subscribe()
        sent: Snapshot | None = None
        try:
            while True:
                news.clear()
                ended, newest = channel.ended or self._stopped, channel.snapshot
                if newest is not None and newest is not sent:
                    yield encode_snapshot(newest.since(sent))
                    sent = newest
                elif ended:
                    return
                else:
                    await news.wait()
        finally:
            channel.leave(news)

    def _channel(self, job: str) -> Channel:
        with self._lock:
            channel = self._channels.get(job)
            if channel is None:
                channel = self._channels[job] = Channel()
                known = self.store.get(job)
                channel.ended = known is None or known.state in FINAL_STATES
                if channel.ended:
                    channel.snapshot = self.store.last_snapshot(job)
                for old in [name for name, each in self._channels.items() if each.ended][:-KEPT]:
                    del self._channels[old]
            return channel

    def _keep_shown(self, job: Job) -> None:
        self.store.keep_shown(job, self._channel(job.id).snapshot)

    def _set_state(self, job: str, state: str, error: str = "") -> Job:
        with self._lock:
            changed = self.store.set_state(job, state, error)
            self._publish(changed)
            return changed

    def _publish(self, message: Message, job: str = "") -> None:
        job = message.id if isinstance(message, Job) else job
        with self._lock:
            channel = self._channel(job)
            number = self.store.last_event(job) + 1
            self.counts["events"] += 1
            try:
                self.store.add_event(job, number, encode_event(number, message))
            except sqlite3.OperationalError as error:  # a full disk must not end the job that may make room
                log.error("An event of job %s was lost: %s", job, error)
            if isinstance(message, Job) and message.ended:
                channel.ended = True
        channel.notify()

    def _claim(self) -> Job | None:
        """The next job, now running; None where none waits."""
        with self._lock:
            job = self.store.next_queued()
            return job and self._set_state(job.id, RUNNING)


class _Lane(threading.Thread):
    """An executor and the jobs that it runs, one after another."""

    def __init__(self, queue: Queue, make: Callable[[], Executor]):
        super().__init__(name="msd-lane", daemon=True)
        self._queue, self._store, self._make = queue, queue.store, make
        self._executor: Executor | None = None
        self._ready = self._busy = False
        self.device: dict[str, str | int] = {}

    @property
    def state(self) -> str:
        return "busy" if self._busy else "idle" if self._ready else "starting"

    def run(self) -> None:
        deaths, queue = 0, self._queue
        while not queue._stopping.is_set():
            try:
                if self._executor is None:
                    self._executor, self._ready = self._make(), False
                if not self._ready:
                    if said := self._executor.receive(0.1):
                        self._ready, self.device = True, json.loads(said[1])
                elif job := queue._claim():
                    deaths = 0
                    self._job(job, self._executor)
                else:
                    if (said := self._executor.receive(0)) and said[0] == "M":  # raises if it died
                        self.device = json.loads(said[1])
                    queue._wake.wait(0.5)
                    queue._wake.clear()
            except ExecutorDied as death:
                log.error("The worker ended: %s", death)
                queue.counts["deaths"] += 1
                started, self._ready, self._executor = self._ready, False, None
                if not started:
                    deaths += 1
                    if deaths >= DEATHS:  # once may be the kernel short of memory, or a kill
                        self._refuse_next(death)
                    queue._wake.wait(min(2.0 ** (deaths - 1), 60))  # what cannot start is not tried without rest
                    queue._wake.clear()
            except Exception:
                log.exception("The queue met an unforeseen error")
                queue._stopping.wait(1)
        self._drop()

    def _refuse_next(self, death: ExecutorDied) -> None:
        """Fail the job that waits for an executor which cannot start."""
        with self._queue._lock:
            job = self._store.next_queued()
            if job is not None:
                self._queue._set_state(
                    job.id, FAILED, f"The server's worker process cannot start ({death}): the server's log says why."
                )

    def _job(self, job: Job, executor: Executor) -> None:
        """Run one job on the executor until it ends, is paused, or must be queued again."""
        store = self._store
        JOB.set(job.id)
        self._busy = True
        state, error = FAILED, "The job stopped on an unforeseen error of the server: its log says more."
        try:
            mesh, edited = job.request.mesh, store.edited(job.id)
            executor.run(
                job.request,
                store.open_folder(job.id),
                store.halvings(job.id),
                store.meshes.find(mesh) if mesh else None,
                (job.edits, store.meshes.find(edited)) if edited else None,
            )
            state, error = self._follow(job, executor)
            if state in (FINISHED, CANCELLED) and self._executor is not None:
                if (last := self._queue._channel(job.id).snapshot) is not None:
                    store.keep_snapshot(job.id, last)
                store.keep_folder(job.id)
        except ExecutorDied as death:
            log.error("The worker ended: %s", death)
            self._queue.counts["deaths"] += 1
            self._executor, self._ready = None, False
            state, error = self._after_death(job, death)
        except OSError as problem:
            self._drop()
            state, error = FAILED, f"The server cannot write its data folder: {problem.strerror}."
        except ProtocolError as problem:  # its mesh is gone
            state, error = FAILED, str(problem)
        except Exception:
            self._drop()  # it may still be at work on this job
            raise
        finally:
            if state == FAILED and store.checkpoints(job.id).step < 0:
                store.discard_folder(job.id)
            elif state == CANCELLED and not store.folder(job.id).exists():
                self._queue._keep_shown(job)
            self._busy = False
            self._settle(job, state, error)
            log.info("The job is %s%s", state, error and f": {error}")
            JOB.set("")

    def _settle(self, job: Job, state: str, error: str) -> None:
        """Set the state, which a full disk may refuse for a while when another job takes even what is spare."""
        while True:
            try:
                with self._queue._lock:
                    asked = self._queue._asked.pop(job.id, "")
                    if state == QUEUED and asked == CANCELLED:
                        state = CANCELLED
                        self._queue._keep_shown(job)
                    self._queue._set_state(job.id, state, error)
                return
            except sqlite3.OperationalError as problem:
                log.error("The state of job %s cannot be written, trying again: %s", job.id, problem)
                self._store.use_spare()
                if self._queue._stopping.wait(1):
                    return  # the next server finds it running, and its files

    def _after_death(self, job: Job, death: ExecutorDied) -> tuple[str, str]:
        """What becomes of a job whose executor died."""
        if self._queue._asked.get(job.id) == CANCELLED:
            return CANCELLED, ""
        if self._store.add_death(job.id) >= DEATHS:
            return FAILED, (
                f"The worker process died {DEATHS} times at the same place ({death}): the server's log says more."
            )
        step = self._store.checkpoints(job.id).step
        self._say(
            job,
            f"The worker process died ({death}): going on from {f'iteration {step}' if step >= 0 else 'the start'}.",
        )
        return QUEUED, ""

    def _after_memory(self, job: Job) -> tuple[str, str]:
        """What becomes of a job that needs more memory than there is."""
        self._drop()  # with all that it holds
        if self._store.halvings(job.id) >= HALVINGS:
            return FAILED, TOO_LITTLE_MEMORY
        self._store.halve(job.id)
        self._say(job, HALVED)
        return QUEUED, ""

    def _say(self, job: Job, text: str) -> None:
        self._queue._publish(Log(text, "warning"), job.id)

    def _follow(self, job: Job, executor: Executor) -> tuple[str, str]:
        """Hand on what the executor says of a job; at its end the job's (state, error)."""
        queue, told, deadline = self._queue, "", 0.0
        iterated, iteration = time.monotonic(), 0.0  # when one ended last, and how long it took
        channel = queue._channel(job.id)
        while True:
            asked = queue._asked.get(job.id, "") or (PAUSED if queue._stopping.is_set() else "")
            if asked == CANCELLED and told != CANCELLED:
                executor.cancel()
                told, deadline = asked, time.monotonic() + max(GRACE, GRACE_ITERATIONS * iteration)
            elif asked in (PAUSED, EDITED) and not told:
                executor.pause()
                patience = GRACE if queue._stopping.is_set() else max(60, GRACE_ITERATIONS * iteration)
                told, deadline = asked, time.monotonic() + patience
            if deadline and time.monotonic() > deadline:
                self._drop()  # its last checkpoint is what there is
                return CANCELLED if told == CANCELLED else self._ended(job), ""
            said = executor.receive(0.05)
            if said is None:
                continue
            letter, body = said
            if letter == "S":
                channel.snapshot = replace(decode_snapshot(body[8:]), edits=job.edits)
                queue.counts["snapshots"] += 1
                channel.notify()
            elif letter == "E":
                event = decode_event(body.decode().splitlines())
                assert event is not None
                if isinstance(event[1], Progress):
                    if told == CANCELLED and event[1].phase == WRITING:
                        deadline = time.monotonic() + WRITING_SECONDS
                    if event[1].iteration > 1:  # the first one also loads the model
                        iteration = time.monotonic() - iterated
                    iterated = time.monotonic()
                queue._publish(event[1], job.id)
            elif letter == "M":
                self.device = json.loads(body)
            elif letter == "D":
                with queue._lock:
                    if told != CANCELLED and queue._asked.get(job.id) == EDITED:
                        return QUEUED, ""
                    queue._asked.setdefault(job.id, ENDING)
                return (CANCELLED if told == CANCELLED else FINISHED), ""
            elif letter == "P":
                return self._ended(job), ""
            elif letter == "O":
                return self._after_memory(job)
            elif letter == "X":
                executor.kill()
                raise ExecutorDied(body.decode())
            else:
                return (CANCELLED, "") if told == CANCELLED else (FAILED, body.decode())

    def _ended(self, job: Job) -> str:
        """The state of a job that stopped at a checkpoint: it waits, unless it is still to be paused."""
        return PAUSED if self._queue._asked.get(job.id) == PAUSED else QUEUED

    def _drop(self) -> None:
        if self._executor is not None:
            self._executor.kill()
            self._executor, self._ready = None, False
