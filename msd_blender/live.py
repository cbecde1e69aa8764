# SPDX-License-Identifier: GPL-3.0-or-later
"""One live generation: threads that read the server, a queue, and a pump for the main thread. No bpy here.

bpy may only be touched on the main thread, so the threads only read; `Live.pump` hands what arrived to
the caller. Only the newest snapshot is kept: a scene that is slower than the server skips, never lags.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from .client import Client, ClientError
from .protocol import CANCELLED, FAILED, Job, JobRequest, Log, Message, Progress, Snapshot

CONNECTING = "connecting"                   # before the server knows the job; then one of protocol.STATES
Apply = Callable[[Snapshot], bool]          # False: not now, offer the newest again later


class Live:
    """A job from its submission to its end, followed without blocking.

    `connect` runs in a thread and returns the client (it may start a server first, which takes seconds).
    The public attributes change only inside `pump`, so the main thread may read them freely.

    state: `CONNECTING` or one of `protocol.STATES`; job, progress: the newest, None before the first;
    log: lines for the user; error: one sentence once something failed; milliseconds: main-thread time of
    each update that reached the scene.
    """

    def __init__(self, request: JobRequest, connect: Callable[[], Client]) -> None:
        self.request = request
        self.client: Client | None = None
        self.job: Job | None = None
        self.progress: Progress | None = None
        self.log: list[str] = []
        self.error = ""
        self.milliseconds: list[float] = []
        self._connect = connect
        self._messages: queue.SimpleQueue[Message | Exception] = queue.SimpleQueue()
        self._newest: deque[Snapshot] = deque(maxlen=1)
        self._held: Snapshot | None = None
        self._arrived = threading.Event()
        self._cancelled = threading.Event()
        self._ended = threading.Event()
        self._job_id = ""
        self._canceller: threading.Thread | None = None
        self._threads: list[threading.Thread] = []
        self._spawn(self._run)

    @property
    def state(self) -> str:
        if self.error:
            return FAILED
        return self.job.state if self.job else CONNECTING

    @property
    def done(self) -> bool:
        """Whether nothing more will come: the job ended, or the server was lost, and all was applied."""
        return not (any(thread.is_alive() for thread in self._threads)
                    or self._newest or self._held or not self._messages.empty())

    def wait(self, seconds: float) -> None:
        """Sleep until something arrives, at most `seconds`."""
        self._arrived.wait(seconds)

    def pump(self, apply: Apply) -> bool:
        """Take in all that arrived, on the main thread; False once nothing more will come."""
        self._arrived.clear()
        while not self._messages.empty():
            self._take(self._messages.get())
        if self._newest:
            self._held = self._newest.pop()
        if self._held is not None:
            start = time.perf_counter()
            if apply(self._held):
                self.milliseconds.append(1000 * (time.perf_counter() - start))
                self._held = None
        return not self.done

    def cancel(self) -> None:
        """Ask the server to stop the job; returns at once, the job's end arrives as a message."""
        self._cancelled.set()
        if self._job_id:
            self._canceller = self._spawn(self._cancel)

    def close(self) -> None:
        """Leave the server and join the threads; a wish to cancel is delivered first."""
        if self._canceller is not None:
            self._canceller.join(timeout=3)
        if self.client is not None:
            self.client.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _spawn(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._guard, args=(target,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _guard(self, target: Callable[[], None]) -> None:
        try:
            target()
        except Exception as error:          # whatever went wrong, the user hears of it
            self._messages.put(error)
        finally:
            self._arrived.set()

    def _run(self) -> None:
        try:
            client = self.client = self._connect()
            if self._cancelled.is_set():
                self._messages.put(Job("", CANCELLED, self.request))
                return
            job = client.submit(self.request)
            self._messages.put(job)
            self._job_id = job.id           # before the flag is read: see `cancel`
            if self._cancelled.is_set():
                client.cancel(job.id)
            self._spawn(lambda: self._read_snapshots(client))
            for message in client.events(job.id):
                self._messages.put(message)
                self._arrived.set()
        finally:
            self._ended.set()

    def _read_snapshots(self, client: Client) -> None:
        last = False
        while True:
            try:
                for snapshot in client.snapshots(self._job_id):
                    self._newest.append(snapshot)
                    self._arrived.set()
                return
            except ClientError:             # the stream of events decides whether the server is lost
                if last:
                    raise
                last = self._ended.wait(1)

    def _cancel(self) -> None:
        if self.client is not None:
            self.client.cancel(self._job_id)

    def _take(self, message: Message | Exception) -> None:
        if isinstance(message, Progress):
            self.progress = message
        elif isinstance(message, Log):
            self.log.append(message.message)
        elif isinstance(message, Job):
            self.job = message
            self.error = self.error or message.error
        elif not (self.job and self.job.ended):     # a stream cut after the job's end costs nothing
            self.error = self.error or _sentence(message)


def _sentence(error: Exception) -> str:
    text = str(error).strip()
    return text if isinstance(error, (ValueError, RuntimeError, OSError)) and text else \
        f"The generation stopped on an unforeseen {type(error).__name__}: {text}"


def fraction(progress: Progress) -> float:
    """How much is done, in [0, 1]."""
    return min(1.0, progress.iteration / max(1, progress.iterations))


def describe(progress: Progress) -> str:
    """For a progress bar: ``surface 310/420, 0:48 left``."""
    text = f"{progress.phase} {progress.iteration}/{progress.iterations}"
    if progress.eta is not None:
        minutes, seconds = divmod(round(progress.eta), 60)
        text += f", {minutes}:{seconds:02d} left"
    return text
