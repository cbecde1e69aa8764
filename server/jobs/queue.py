# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue: runs one job after another on the worker, and hands what it says to every reader."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator

from msd_blender.protocol import (CANCELLED, FAILED, FINAL_STATES, FINISHED, QUEUED, RUNNING, Job, JobRequest,
                                  Message, Snapshot, decode_event, decode_snapshot, encode_event, encode_snapshot)

from .store import Store
from .worker import Worker, WorkerDied

log = logging.getLogger(__name__)

GRACE = 1.8                                 # seconds that a cancelled job has to leave its last state
KEPT = 8                                    # jobs whose last snapshot stays in memory
KEEP_ALIVE = 15.0                           # seconds between comments on a silent event stream


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

    def leave(self, event: asyncio.Event) -> None:
        with self._lock:
            self._waiting = {pair for pair in self._waiting if pair[1] is not event}


class Queue:
    """Runs the jobs of a store. `start` before use, `stop` at the end."""

    def __init__(self, store: Store):
        self.store = store
        self._channels: OrderedDict[str, Channel] = OrderedDict()
        # A change of state and its event are one step: readers never see a job go backwards.
        self._lock = threading.RLock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._stopped = False
        self._cancel: set[str] = set()
        self._worker: Worker | None = None
        self._ready = self._busy = False
        self._thread = threading.Thread(target=self._run, name="msd-queue", daemon=True)

    def start(self) -> None:
        for job in self.store.fail_running():
            self._publish(job)
        self._thread.start()

    def stop(self) -> None:
        """End the running job, the worker and then every stream, now."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        if self._worker is not None:
            self._worker.kill()
            self._worker = None
        self._stopped = True
        with self._lock:
            channels = list(self._channels.values())
        for channel in channels:
            channel.notify()

    @property
    def state(self) -> str:
        """Of the worker: starting, idle or busy."""
        return "busy" if self._busy else "idle" if self._ready else "starting"

    def submit(self, request: JobRequest) -> Job:
        """The job of a request, queued; a `client_key` that is known gives the job it made before."""
        with self._lock:
            job, new = self.store.add(request)
            if new:
                self._publish(job)
        self._wake.set()
        return job

    def cancel(self, job: str) -> Job:
        """Stop a job. A queued one ends at once, a running one within two seconds."""
        with self._lock:
            current = self.store.get(job)
            assert current is not None
            if current.state == QUEUED:
                current = self._set_state(job, CANCELLED)
            elif current.state == RUNNING:
                self._cancel.add(job)
            return current

    async def events(self, job: str, after: int) -> AsyncIterator[bytes]:
        """The journal's events after a number, then new ones as they come, to the end of the job."""
        channel = self._channel(job)
        news = channel.subscribe()
        try:
            while True:
                news.clear()
                # Read in this order: what is published before `ended` is then never missed.
                ended = channel.ended or self._stopped
                for number, data in self.store.events(job, after):
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
                for old in [name for name, each in self._channels.items() if each.ended][:-KEPT]:
                    del self._channels[old]
            return channel

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
            self.store.add_event(job, number, encode_event(number, message))
            if isinstance(message, Job) and message.ended:
                channel.ended = True
        channel.notify()

    def _run(self) -> None:
        deaths = 0
        while not self._stopping.is_set():
            try:
                if self._worker is None:
                    self._worker, self._ready = Worker(), False
                if not self._ready:
                    said = self._worker.receive(0.1)
                    self._ready = said is not None
                elif job := self.store.next_queued():
                    deaths = 0
                    self._job(job, self._worker)
                else:
                    self._worker.receive(0)             # says nothing, but raises if it died
                    self._wake.wait(0.5)
                    self._wake.clear()
            except WorkerDied as death:
                log.error("The worker ended: %s", death)
                started, self._ready, self._worker = self._ready, False, None
                if not started:
                    self._refuse_next(death)
                    deaths += 1
                    self._wake.wait(min(2.0**deaths, 60))       # what cannot start is not tried without rest
                    self._wake.clear()
            except Exception:
                log.exception("The queue met an unforeseen error")
                self._stopping.wait(1)

    def _refuse_next(self, death: WorkerDied) -> None:
        """Fail the job that waits for a worker which cannot start."""
        with self._lock:
            job = self.store.next_queued()
            if job is not None:
                self._set_state(job.id, FAILED, f"The server's worker process cannot start ({death}): "
                                                "the server's log says why.")

    def _job(self, job: Job, worker: Worker) -> None:
        """Run one job to its end on the worker."""
        with self._lock:
            current = self.store.get(job.id)
            if current is None or current.state != QUEUED:
                return
            self._set_state(job.id, RUNNING)
            self._busy = True
        state, error = FAILED, "The job stopped on an unforeseen error of the server: its log says more."
        try:
            worker.run(job.request, self.store.open_folder(job.id))
            state, error = self._follow(job, worker)
            if state in (FINISHED, CANCELLED) and self._worker is not None:
                self.store.keep_folder(job.id)
        except WorkerDied as death:
            log.error("The worker ended during job %s: %s", job.id, death)
            self._worker, self._ready = None, False
            state, error = FAILED, (f"The worker process died ({death}): the server's log says more; "
                                    "submit the job again.")
            if job.id in self._cancel:
                state, error = CANCELLED, ""
        except OSError as problem:
            self._drop_worker()
            state, error = FAILED, f"The server cannot write its data folder: {problem.strerror}."
        except Exception:
            self._drop_worker()                         # it may still be at work on this job
            raise
        finally:
            self.store.discard_folder(job.id)
            self._busy = False
            self._set_state(job.id, state, error)
            self._cancel.discard(job.id)

    def _follow(self, job: Job, worker: Worker) -> tuple[str, str]:
        """Hand on what the worker says of a job; at its end the job's (state, error)."""
        channel, deadline = self._channel(job.id), 0.0
        while not self._stopping.is_set():
            if job.id in self._cancel and not deadline:
                worker.cancel()
                deadline = time.monotonic() + GRACE
            if deadline and time.monotonic() > deadline:
                self._drop_worker()
                return CANCELLED, ""
            said = worker.receive(0.05)
            if said is None:
                continue
            letter, body = said
            if letter == "S":
                channel.snapshot = decode_snapshot(body[8:])
                channel.notify()
            elif letter == "E":
                event = decode_event(body.decode().splitlines())
                assert event is not None
                self._publish(event[1], job.id)
            elif letter == "D":
                return (CANCELLED if deadline else FINISHED), ""
            else:
                return (CANCELLED, "") if deadline else (FAILED, body.decode())
        return FAILED, "The server was stopped while this job ran: submit it again."

    def _drop_worker(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker, self._ready = None, False
