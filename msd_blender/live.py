# SPDX-License-Identifier: GPL-3.0-or-later
"""One live job: threads that speak with the server, a queue, and a pump for the main thread. No bpy here.

bpy may only be touched on the main thread, so the threads only talk; `Live.pump` hands what arrived to
the caller. Only the newest snapshot is kept: a scene that is slower than the server skips, never lags.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np

from .client import Client, ClientError
from .pictures import Prepared, picture
from .protocol import CANCELLED, FAILED, RUNNING, Edit, Job, JobRequest, Log, Message, Progress, Snapshot

CONNECTING = "connecting"  # before the server knows the job; then one of protocol.STATES
PICTURE = 2.0  # seconds from one picture of the asset to the next
RETRY = 2.0  # seconds from a lost server to the next try
Apply = Callable[[Snapshot], bool]  # False: not now, offer the newest again later
Arrays = dict[str, np.ndarray]
Command = Callable[[Client], object]


class Live:
    """A job from its submission to its end, followed without blocking.

    Args:
        request: its `client_key` makes a second submission harmless.
        connect: runs in a thread and returns the client (it may start a server first, which takes seconds).
        arrays: a mesh to upload first, which then is the request's.
        job: id of a job that the server has already, which is then followed instead.
        patient: whether a server that is lost is waited for.

    The public attributes change only on the main thread, most in `pump`. state: `CONNECTING` or one of
    `protocol.STATES`; job, progress: the newest, None before the first; snapshot: the newest that was applied;
    picture: (H, W, 3) uint8 of the asset, None before there is one; log: lines for the user; error: one sentence
    once something failed; lost: why the server is out of reach just now; refused: why it did not take an edit;
    wish: what was asked for and has not come yet, "pause" or "stop"; milliseconds: main-thread time of each update
    of the scene.
    """

    def __init__(
        self,
        request: JobRequest,
        connect: Callable[[], Client],
        arrays: Arrays | None = None,
        job: str = "",
        patient: bool = False,
    ) -> None:
        self.request = request
        self.client: Client | None = None
        self.job: Job | None = None
        self.progress: Progress | None = None
        self.snapshot: Snapshot | None = None
        self.picture: np.ndarray | None = None
        self.log: list[str] = []
        self.error = self.lost = self.refused = self.wish = ""
        self.milliseconds: list[float] = []
        self._connect, self._arrays, self._patient = connect, arrays, patient
        self._messages: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._commands: queue.SimpleQueue[tuple[Command, bool] | None] = queue.SimpleQueue()
        self._newest: deque[Snapshot] = deque(maxlen=1)
        self._held: Snapshot | None = None
        self._arrived, self._cancelled = threading.Event(), threading.Event()
        self._ended, self._closed = threading.Event(), threading.Event()
        self._job_id, self._after = job, 0
        self._unanswered = self._edits = 0  # edits that are under way; that snapshots must come after
        self._threads: list[threading.Thread] = []
        self._commander: threading.Thread | None = None
        self._spawn(self._run)

    @property
    def state(self) -> str:
        if self.error:
            return FAILED
        return self.job.state if self.job else CONNECTING

    @property
    def id(self) -> str:
        """The job's, "" before the server gave it one."""
        return self.job.id if self.job else self._job_id

    @property
    def done(self) -> bool:
        """Whether nothing more will come: the job ended, or the server was lost, and all was applied."""
        return not (
            any(thread.is_alive() for thread in self._threads)
            or self._newest
            or self._held
            or not self._messages.empty()
        )

    @property
    def editing(self) -> bool:
        """Whether an edit is under way, which the next snapshot to be applied comes after."""
        return self._unanswered > 0

    def wait(self, seconds: float) -> None:
        """Sleep until something arrives, at most `seconds`."""
        self._arrived.wait(seconds)

    def pump(self, apply: Apply) -> bool:
        """Take in all that arrived, on the main thread; False once nothing more will come."""
        self._arrived.clear()
        while not self._messages.empty():
            self._messages.get()()
        if self._newest:
            self._held = self._newest.pop()
        if self._held is not None and self._held.edits < self._edits:
            self._held = None  # it shows what the artist has changed since
        if self._held is not None and not self._unanswered and not self.refused:
            start = time.perf_counter()
            if apply(self._held):
                self.milliseconds.append(1000 * (time.perf_counter() - start))
                self.snapshot, self._held = self._held, None
        return not self.done

    def cancel(self) -> None:
        """Ask the server to stop the job; returns at once, the job's end arrives as a message."""
        self._cancelled.set()
        self.refused, self.wish = "", "stop"
        self._commands.put((lambda client: client.cancel(self._job_id), False))

    def pause(self) -> None:
        self.wish = "pause"
        self._commands.put((lambda client: client.pause(self._job_id), False))

    def resume(self) -> None:
        """Go on; what the server refused to take over of an artist's edit is given up."""
        self.refused = self.wish = ""
        self._commands.put((lambda client: client.resume(self._job_id), False))

    def edit(self, edit: Edit, arrays: Arrays | None = None) -> None:
        """Send an artist's change, with a mesh where there are arrays. From now on no snapshot is applied that
        does not come after it. What the server refuses pauses the job, and `refused` says why."""
        self._unanswered += 1

        def send(client: Client) -> None:
            named = edit if arrays is None else replace(edit, mesh=client.upload(arrays).id)
            job = client.edit(self._job_id, named)
            self._tell(lambda: self._answered(job.edits))

        self._commands.put((send, True))

    def refuse(self, sentence: str) -> None:
        """An artist's change cannot be taken over: pause, and apply nothing until `resume` gives it up."""
        self.refused = sentence
        self.pause()

    def close(self) -> None:
        """Leave the server and join the threads; a wish to cancel is delivered first."""
        self._commands.put(None)
        if self._cancelled.is_set() and self._commander is not None:
            self._commander.join(timeout=3)
        self._closed.set()
        if self.client is not None:
            self.client.close()
        for thread in self._threads:
            thread.join(timeout=10)

    # On the main thread, in `pump`: what arrived.

    def _take(self, message: Message) -> None:
        if isinstance(message, Progress):
            self.progress = message
        elif isinstance(message, Log):
            self.log.append(message.message)
        else:
            self.job = message
            self.error = message.error  # a failed job may have been resumed
            if message.state != RUNNING:
                self.wish = ""

    def _answered(self, edits: int) -> None:
        self._unanswered -= 1
        self._edits = max(self._edits, edits)

    def _refuse(self, edit: bool, sentence: str) -> None:
        if edit:
            self._unanswered -= 1
            self.refuse(sentence)
        else:
            self.wish = ""
            self.log.append(sentence)

    def _fail(self, sentence: str) -> None:
        if not (self.job and self.job.ended):  # a stream cut after the job's end costs nothing
            self.error = self.error or sentence

    # In threads.

    def _tell(self, news: Callable[[], None]) -> None:
        self._messages.put(news)
        self._arrived.set()

    def _spawn(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._guard, args=(target,), daemon=True, name="msd-live")
        self._threads.append(thread)
        thread.start()
        return thread

    def _guard(self, target: Callable[[], None]) -> None:
        try:
            target()
        except Exception as error:  # whatever went wrong, the user hears of it
            sentence = _sentence(error)
            self._tell(lambda: self._fail(sentence))
        finally:
            self._arrived.set()

    def _run(self) -> None:
        """Connect, submit, read events; where the server is lost, and it may be waited for, once more."""
        begun = bool(self._job_id)
        try:
            while True:
                try:
                    self.client = self._connect()
                    begun = True
                    if not self._job_id and self._cancelled.is_set():
                        self._tell(lambda: self._take(Job("", CANCELLED, self.request)))
                        return
                    self._begin(self.client)
                    for message in self.client.events(self._job_id, self._after):
                        self._after += 1  # events are numbered from 1 without a gap
                        self._tell(partial(self._take, message))
                    return
                except ClientError as error:
                    if self._closed.is_set() or not (self._patient and begun) or self._reachable():
                        raise
                    self._tell(partial(setattr, self, "lost", str(error)))
                    if self._closed.wait(RETRY):
                        return
        finally:
            self._ended.set()
            self._commands.put(None)

    def _begin(self, client: Client) -> None:
        """Make sure that the server has the job, and that it is followed."""
        if self._job_id:
            job = client.job(self._job_id)
        else:
            if self._arrays is not None:
                self.request.mesh = client.upload(self._arrays).id
            job = client.submit(self.request)
            self._job_id = job.id  # before the flag is read: see `cancel`
            if self._cancelled.is_set():
                client.cancel(job.id)
        self._arrays = None
        self._tell(partial(setattr, self, "lost", ""))
        self._tell(partial(self._take, job))
        if self._commander is None:
            self._edits = job.edits
            self._spawn(self._read_snapshots)
            self._commander = self._spawn(self._obey)

    def _reachable(self) -> bool:
        """Whether the server answers, so that its refusals are to be believed."""
        try:
            assert self.client is not None
            self.client.health()
        except (ClientError, AssertionError):
            return False
        return True

    def _read_snapshots(self) -> None:
        last, version, drawn = False, None, 0.0
        before: Prepared | None = None
        while not self._closed.is_set():
            assert self.client is not None
            try:
                for snapshot in self.client.snapshots(self._job_id):
                    if snapshot.version != version:
                        version = snapshot.version
                        before = Prepared.of(snapshot, before)
                        self._newest.append(before)
                        self._arrived.set()
                        if self._ended.is_set() or time.monotonic() - drawn > PICTURE:
                            drawn = time.monotonic()
                            self._draw(snapshot)
            except ClientError:  # the stream of events decides whether the server is lost
                if last:
                    raise
            if last:
                return
            last = self._ended.wait(0.5)  # a server that stops ends the stream too

    def _draw(self, snapshot: Snapshot) -> None:
        with suppress(IndexError, ValueError):  # what does not fit each other: `apply` refuses it
            self._tell(partial(setattr, self, "picture", picture(snapshot.arrays)))

    def _obey(self) -> None:
        """Carry out the user's wishes, one after another."""
        while (wish := self._commands.get()) is not None:
            command, is_edit = wish
            while not self._closed.is_set():
                assert self.client is not None
                try:
                    command(self.client)
                    break
                except ClientError as error:
                    if not self._patient or self._reachable():
                        self._tell(partial(self._refuse, is_edit, str(error)))
                        break
                    self._closed.wait(RETRY)


def _sentence(error: Exception) -> str:
    text = str(error).strip()
    return (
        text
        if isinstance(error, (ValueError, RuntimeError, OSError)) and text
        else f"The job stopped on an unforeseen {type(error).__name__}: {text}"
    )


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
