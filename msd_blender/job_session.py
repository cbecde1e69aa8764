# SPDX-License-Identifier: GPL-3.0-or-later
"""One job on the server, followed without blocking. Needs no bpy.

bpy may be used on the main thread only. So a session's threads speak with the server and put their results into a
queue, and the main thread empties the queue in `JobSession.process_queue`, from a timer. Only the newest snapshot is
kept: a scene that is slower than the server skips updates instead of falling behind.

The threads:

    _follow_job      connects, submits the job and reads its events
    _read_snapshots  reads the stream of snapshots and prepares their textures
    _send_commands   sends pause, resume, cancel and edits, one after another

Where a lost connection is retried: `Client.events` reconnects its stream a few times with backoff. When that fails,
and the session was made with `wait_for_server`, `_follow_job` connects anew every `RETRY_SECONDS` until it is closed,
and `_send_commands` repeats its command at the same interval; `_read_snapshots` opens its stream again. A first
connection that fails is not retried, and a refusal of a server that does answer is final.
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

from .client import Client
from .errors import ClientError
from .pixels import PreparedSnapshot
from .protocol import CANCELLED, FAILED, PAUSED, RUNNING, Edit, Job, JobRequest, Log, Message, Progress, Snapshot
from .thumbnails import render_thumbnail

CONNECTING = "connecting"  # the state before the server knows the job; then it is one of protocol.STATES
THUMBNAIL_SECONDS = 2.0  # between two thumbnails of the running job
RETRY_SECONDS = 2.0  # between two attempts to reach a lost server

Apply = Callable[[Snapshot], bool]  # shows a snapshot; False: not possible now, offer the newest again later
Arrays = dict[str, np.ndarray]
Command = Callable[[Client], object]


class JobSession:
    """A job from its submission to its end, followed by threads.

    Args:
        request: its `client_key` makes a repeated submission harmless.
        connect: returns a client; called in a thread, because it may start a server first, which takes seconds.
        arrays: a mesh to upload before the submission, whose id then is the request's mesh.
        job_id: of a job that the server has already, which is followed instead of submitting the request.
        picture: the file of an image prompt, whose id the request has, to upload before the submission.
        wait_for_server: whether to retry when the server is lost; else the job fails.

    Public attributes change on the main thread only, most of them in `process_queue`:
        job, progress: the newest from the server, None before the first.
        snapshot: the newest that was applied, None before the first.
        thumbnail: (H, W, 3) uint8 of the asset, None before the first.
        log: lines for the user.
        error: one sentence once the job failed, else "".
        connection_error: why the server cannot be reached at the moment, "" while it can.
        edit_error: why the server did not take an edit, "" without such an edit.
        pending_action: "pause", "finish" or "stop" while the server has not carried that out yet, else "".
        wants_pause: whether it shall be paused, by the last request or, before one, as the server had it.
        update_milliseconds: main-thread time of each update of the scene.
    """

    def __init__(
        self,
        request: JobRequest,
        connect: Callable[[], Client],
        arrays: Arrays | None = None,
        job_id: str = "",
        wait_for_server: bool = False,
        picture: bytes | None = None,
    ) -> None:
        self.request = request
        self.client: Client | None = None
        self.job: Job | None = None
        self.progress: Progress | None = None
        self.snapshot: Snapshot | None = None
        self.thumbnail: np.ndarray | None = None
        self.log: list[str] = []
        self.error = self.connection_error = self.edit_error = self.pending_action = ""
        self.wants_pause = False
        self.update_milliseconds: list[float] = []
        self._connect, self._wait_for_server = connect, wait_for_server
        self._arrays, self._picture = arrays, picture
        self._results: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # run on the main thread
        self._commands: queue.SimpleQueue[tuple[Command, bool] | None] = queue.SimpleQueue()  # bool: it is an edit
        self._newest: deque[Snapshot] = deque(maxlen=1)
        self._unapplied: Snapshot | None = None
        self._arrival, self._cancel_requested = threading.Event(), threading.Event()
        self._events_ended, self._closed = threading.Event(), threading.Event()
        self._job_id, self._last_event = job_id, 0
        self._edits_pending = 0
        self._edits_acknowledged = 0  # snapshots that come before the last of these are not applied
        self._threads: list[threading.Thread] = []
        self._command_thread: threading.Thread | None = None
        self._start_thread(self._follow_job)

    @property
    def state(self) -> str:
        """`CONNECTING` or one of `protocol.STATES`."""
        if self.error:
            return FAILED
        return self.job.state if self.job else CONNECTING

    @property
    def id(self) -> str:
        """The job's id on the server, "" before the server gave it one."""
        return self.job.id if self.job else self._job_id

    @property
    def done(self) -> bool:
        """Whether the threads have ended and all their results were processed."""
        return not (
            any(thread.is_alive() for thread in self._threads)
            or self._newest
            or self._unapplied
            or not self._results.empty()
        )

    @property
    def edit_pending(self) -> bool:
        """Whether an edit was sent and is not answered yet; until then no snapshot is applied."""
        return self._edits_pending > 0

    def wait(self, seconds: float) -> None:
        """Sleep until something arrives, at most `seconds`."""
        self._arrival.wait(seconds)

    def process_queue(self, apply: Apply) -> bool:
        """Process the threads' results on the main thread and apply the newest snapshot; False once it is `done`."""
        self._arrival.clear()
        while not self._results.empty():
            self._results.get()()
        if self._newest:
            self._unapplied = self._newest.pop()
        if self._unapplied is not None and self._unapplied.edits < self._edits_acknowledged:
            self._unapplied = None  # from before the artist's last edit
        if self._unapplied is not None and not self.edit_pending and not self.edit_error:
            start = time.perf_counter()
            if apply(self._unapplied):
                self.update_milliseconds.append(1000 * (time.perf_counter() - start))
                self.snapshot, self._unapplied = self._unapplied, None
        return not self.done

    def repeat(self, apply: Apply) -> None:
        """Apply the newest snapshot once more, unless it comes from before the artist's last edit."""
        if self.snapshot is not None and self.snapshot.edits >= self._edits_acknowledged and not self.edit_pending:
            apply(self.snapshot)

    def cancel(self) -> None:
        """Ask the server to stop the job. Returns at once; the job's end arrives as a message."""
        self._cancel_requested.set()
        self.edit_error, self.pending_action = "", "stop"
        self._commands.put((lambda client: client.cancel(self._job_id), False))

    def pause(self) -> None:
        self.pending_action, self.wants_pause = "pause", True
        self._commands.put((lambda client: client.pause(self._job_id), False))

    def finish(self) -> None:
        """Ask the server to grow the job no more, and to make its result of what is there."""
        self.edit_error, self.pending_action, self.wants_pause = "", "finish", False
        self._commands.put((lambda client: client.finish(self._job_id), False))

    def resume(self) -> None:
        """Resume a paused job; an edit that was refused is given up."""
        self.edit_error, self.pending_action, self.wants_pause = "", "", False
        self._commands.put((lambda client: client.resume(self._job_id), False))

    def edit(self, edit: Edit, arrays: Arrays | None = None) -> None:
        """Send an artist's edit; `arrays` is its mesh, which is uploaded first. From now on only snapshots that
        come after the edit are applied. An edit that the server refuses pauses the job and sets `edit_error`."""
        self._edits_pending += 1

        def send(client: Client) -> None:
            with_mesh = edit if arrays is None else replace(edit, mesh=client.upload(arrays).id)
            job = client.edit(self._job_id, with_mesh)
            self._post(partial(self._handle_edit_acknowledged, job.edits))

        self._commands.put((send, True))

    def reject_edit(self, reason: str) -> None:
        """Pause the job because an artist's edit cannot be taken; no snapshot is applied until `resume`."""
        self.edit_error = reason
        self.pause()

    def close(self) -> None:
        """Disconnect and join the threads. A requested cancel is sent first."""
        self._commands.put(None)
        if self._cancel_requested.is_set() and self._command_thread is not None:
            self._command_thread.join(timeout=3)
        self._closed.set()
        if self.client is not None:
            self.client.close()
        for thread in self._threads:
            thread.join(timeout=10)

    # On the main thread: the results that the threads post.

    def _handle_message(self, message: Message) -> None:
        if isinstance(message, Progress):
            self.progress = message
        elif isinstance(message, Log):
            self.log.append(message.message)
        else:
            self.wants_pause |= self.job is None and message.state == PAUSED
            self.job = message
            self.error = message.error  # a failed job may have been resumed
            if message.state != RUNNING:
                self.pending_action = ""

    def _handle_thumbnail(self, image: np.ndarray) -> None:
        self.thumbnail = image

    def _handle_connection(self, error: str) -> None:
        self.connection_error = error

    def _handle_edit_acknowledged(self, edits: int) -> None:
        self._edits_pending -= 1
        self._edits_acknowledged = max(self._edits_acknowledged, edits)

    def _handle_refusal(self, is_edit: bool, reason: str) -> None:
        if is_edit:
            self._edits_pending -= 1
            self.reject_edit(reason)
        else:
            self.pending_action = ""
            self.log.append(reason)

    def _handle_failure(self, reason: str) -> None:
        if not (self.job and self.job.ended):  # a stream that breaks after the job's end does no harm
            self.error = self.error or reason

    # In the threads.

    def _post(self, result: Callable[[], None]) -> None:
        self._results.put(result)
        self._arrival.set()

    def _start_thread(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._run_thread, args=(target,), daemon=True, name="msd-session")
        self._threads.append(thread)
        thread.start()
        return thread

    def _run_thread(self, target: Callable[[], None]) -> None:
        try:
            target()
        except Exception as error:  # else the user would wait for a thread that is dead
            self._post(partial(self._handle_failure, _failure_reason(error)))
        finally:
            self._arrival.set()

    def _follow_job(self) -> None:
        """Connect, submit, read events; retry from the start while the server is lost."""
        was_connected = bool(self._job_id)
        try:
            while True:
                try:
                    self.client = self._connect()
                    was_connected = True
                    if not self._job_id and self._cancel_requested.is_set():
                        self._post(partial(self._handle_message, Job("", CANCELLED, self.request)))
                        return
                    self._submit_or_find(self.client)
                    for message in self.client.events(self._job_id, self._last_event):
                        self._last_event += 1  # events are numbered from 1 without a gap
                        self._post(partial(self._handle_message, message))
                    return
                except ClientError as error:
                    if self._closed.is_set() or not (self._wait_for_server and was_connected) or self._server_answers():
                        raise
                    self._post(partial(self._handle_connection, str(error)))
                    if self._closed.wait(RETRY_SECONDS):
                        return
        finally:
            self._events_ended.set()
            self._commands.put(None)

    def _submit_or_find(self, client: Client) -> None:
        """Make sure that the server has the job, and start the other threads the first time."""
        if self._job_id:
            job = client.job(self._job_id)
        else:
            if self._arrays is not None:
                self.request.mesh = client.upload(self._arrays).id
            if self._picture is not None:
                client.upload_picture(self._picture)
            job = client.submit(self.request)
            self._job_id = job.id  # before the flag is read: `cancel` sets it first and reads the id later
            if self._cancel_requested.is_set():
                client.cancel(job.id)
        self._arrays = self._picture = None
        self._post(partial(self._handle_connection, ""))
        self._post(partial(self._handle_message, job))
        if self._command_thread is None:
            self._edits_acknowledged = job.edits
            self._start_thread(self._read_snapshots)
            self._command_thread = self._start_thread(self._send_commands)

    def _server_answers(self) -> bool:
        """Whether the server can be reached, so that an error was its refusal."""
        try:
            assert self.client is not None
            self.client.health()
        except (ClientError, AssertionError):
            return False
        return True

    def _read_snapshots(self) -> None:
        last_pass, version, drawn_at = False, None, 0.0
        prepared: PreparedSnapshot | None = None
        while not self._closed.is_set():
            assert self.client is not None
            try:
                for snapshot in self.client.snapshots(self._job_id):
                    if snapshot.version != version:
                        version = snapshot.version
                        prepared = PreparedSnapshot.of(snapshot, prepared)
                        self._newest.append(prepared)
                        self._arrival.set()
                        if self._events_ended.is_set() or time.monotonic() - drawn_at > THUMBNAIL_SECONDS:
                            drawn_at = time.monotonic()
                            self._post_thumbnail(snapshot)
            except ClientError:  # `_follow_job` decides whether the server is lost
                if last_pass:
                    raise
            if last_pass:
                return
            last_pass = self._events_ended.wait(0.5)  # a server that stops ends the stream too

    def _post_thumbnail(self, snapshot: Snapshot) -> None:
        with suppress(IndexError, ValueError):  # arrays that do not fit each other: `apply` refuses them
            image = render_thumbnail(snapshot.arrays)
            self._post(partial(self._handle_thumbnail, image))

    def _send_commands(self) -> None:
        """Send the queued commands in their order; retry each while the server is lost."""
        while (queued := self._commands.get()) is not None:
            command, is_edit = queued
            while not self._closed.is_set():
                assert self.client is not None
                try:
                    command(self.client)
                    break
                except ClientError as error:
                    if not self._wait_for_server or self._server_answers():
                        self._post(partial(self._handle_refusal, is_edit, str(error)))
                        break
                    self._closed.wait(RETRY_SECONDS)


def _failure_reason(error: Exception) -> str:
    text = str(error).strip()
    return (
        text
        if isinstance(error, (ValueError, RuntimeError, OSError)) and text
        else f"The job stopped on an unforeseen {type(error).__name__}: {text}"
    )


def progress_fraction(progress: Progress) -> float:
    """The share of the job's iterations that is done, in [0, 1]."""
    return min(1.0, progress.iteration / max(1, progress.iterations))


def format_progress(progress: Progress) -> str:
    """The text beside a progress bar: ``surface 310/420, 0:48 left``, or ``unwrap 40%, 0/420``."""
    done = "" if progress.share is None else f" {progress.share:.0%},"
    text = f"{progress.phase}{done} {progress.iteration}/{progress.iterations}"
    if progress.eta is not None:
        text += f", {format_seconds(progress.eta)} left"
    return text


def format_seconds(seconds: float) -> str:
    """Minutes and seconds: 2:41."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
