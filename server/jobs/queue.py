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
        self._lock, self._journal = threading.Lock(), threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._cancel: set[str] = set()
        self._worker: Worker | None = None
        self._ready = self._busy = False
        self._thread = threading.Thread(target=self._run, name="msd-queue", daemon=True)

    def start(self) -> None:
        for job in self.store.fail_running():
            self._publish(job)
        self._thread.start()

    def stop(self) -> None:
        """End the worker and every stream, now."""
        self._stopping.set()
        self._wake.set()
        with self._lock:
            channels = list(self._channels.values())
        for channel in channels:
            channel.ended = True
            channel.notify()
        self._thread.join()
        if self._worker is not None:
            self._worker.kill()

    @property
    def state(self) -> str:
        """Of the worker: starting, idle or busy."""
        return "busy" if self._busy else "idle" if self._ready else "starting"

    def submit(self, request: JobRequest) -> Job:
        job, new = self.store.add(request)
        if new:
            self._publish(job)
            self._wake.set()
        return job

    def cancel(self, job: Job) -> Job:
        """Stop a job. A queued one ends at once, a running one within two seconds."""
        with self._lock:
            current = self.store.get(job.id) or job
            if current.state == QUEUED:
                current = self.store.set_state(job.id, CANCELLED)
            elif current.state == RUNNING:
                self._cancel.add(job.id)
                return current
            else:
                return current
        self._publish(current)
        return current

    async def events(self, job: str, after: int) -> AsyncIterator[bytes]:
        """The journal's events after a number, then new ones as they come, to the end of the job."""
        channel = self._channel(job)
        news = channel.subscribe()
        try:
            while True:
                news.clear()
                # Read in this order: what is published before `ended` is then never missed.
                ended = channel.ended
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
                ended, newest = channel.ended, channel.snapshot
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

    def _publish(self, message: Message, job: str = "") -> None:
        job = message.id if isinstance(message, Job) else job
        channel = self._channel(job)
        with self._journal:                 # a number is given once, whichever thread publishes
            number = self.store.last_event(job) + 1
            self.store.add_event(job, number, encode_event(number, message))
        if isinstance(message, Job) and message.ended:
            channel.ended = True
        channel.notify()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._worker is None:
                self._worker, self._ready = Worker(), False
            try:
                job = self.store.next_queued()
                if job is None:
                    said = self._worker.receive(0)
                    self._ready |= said is not None
                    self._wake.wait(0.2)
                    self._wake.clear()
                else:
                    self._busy = True
                    self._job(job)
            except WorkerDied as error:
                log.error("The worker ended: %s", error)
                self._worker = None
                time.sleep(0.5)             # a worker that cannot even start must not spin
            except Exception:
                log.exception("The queue met an unforeseen error")
                time.sleep(0.5)
            finally:
                self._busy = False

    def _job(self, job: Job) -> None:
        """Run one job to its end on the worker."""
        assert self._worker is not None
        folder = self.store.folder(job.id)
        with self._lock:
            current = self.store.get(job.id)
            if current is None or current.state != QUEUED:
                return
            job = self.store.set_state(job.id, RUNNING)
        self._publish(job)
        channel = self._channel(job.id)
        state, error, deadline = FAILED, "", 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._worker.run(job.request, folder)
            while not self._stopping.is_set():
                if job.id in self._cancel and not deadline:
                    self._worker.cancel()
                    deadline = time.monotonic() + GRACE
                if deadline and time.monotonic() > deadline:
                    self._worker.kill()
                    self._worker, state = None, CANCELLED
                    break
                said = self._worker.receive(0.05)
                if said is None:
                    continue
                letter, body = said
                if letter == "S":
                    channel.snapshot = decode_snapshot(body[8:]).over(None)
                    channel.notify()
                elif letter == "E":
                    event = decode_event(body.decode().splitlines())
                    assert event is not None
                    self._publish(event[1], job.id)
                elif letter == "R":
                    self._ready = True
                else:
                    state = CANCELLED if deadline else FINISHED if letter == "D" else FAILED
                    error = body.decode() if letter == "F" and state == FAILED else ""
                    break
            else:
                error = "The server was stopped while this job ran: submit it again."
        except WorkerDied as death:
            state, error = (CANCELLED, "") if deadline else (FAILED, f"The worker process died ({death}): the "
                                                             "server's log says more; submit the job again.")
            self._worker = None
        except OSError as problem:
            error = f"The server cannot write its data folder: {problem.strerror}."
        finally:
            self._cancel.discard(job.id)
            self._publish(self.store.set_state(job.id, state, error))
