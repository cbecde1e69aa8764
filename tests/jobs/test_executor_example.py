# SPDX-License-Identifier: GPL-3.0-or-later
"""An executor of one's own: `ThreadExecutor`, which runs jobs in a thread of the server, and a line that adds it.

A real one would be a file of `server/jobs` and a line of `server.jobs.EXECUTORS`; then `serve --executor thread`
runs jobs on it.
"""

import queue
import threading
import time
from functools import partial

import pytest

from msd_blender.protocol import FILES, FINISHED, PAUSED, JobRequest, Progress, decode_event
from server.jobs import EXECUTORS
from server.jobs.executor import ExecutorCrashed, ExecutorOptions
from server.jobs.messages import DeviceStatus, ExecutorMessage, JobInput, Ready
from server.jobs.queue import Queue
from server.jobs.run_job import run_job
from server.jobs.store import Store


class ThreadExecutor:
    """An `Executor` in the server's own process. A fault in the numerical work ends the server with it."""

    def __init__(self, device: str) -> None:
        self._messages: queue.SimpleQueue[ExecutorMessage | Exception] = queue.SimpleQueue()
        self._cancelled, self._paused = threading.Event(), threading.Event()
        self._messages.put(Ready(DeviceStatus(device)))

    def run(self, job: JobInput) -> None:
        self._cancelled.clear()
        self._paused.clear()
        threading.Thread(target=self._work, args=(job,), daemon=True).start()

    def _work(self, job: JobInput) -> None:
        try:
            self._messages.put(run_job(job, self._messages.put, self._cancelled.is_set, self._paused.is_set))
        except BaseException as error:  # `run_job` turns errors of the job into outcomes: this is another one
            self._messages.put(ExecutorCrashed(repr(error)))

    def cancel(self) -> None:
        self._cancelled.set()

    def pause(self) -> None:
        self._paused.set()

    def receive(self, timeout: float) -> ExecutorMessage | None:
        try:
            message = self._messages.get(timeout=timeout) if timeout else self._messages.get_nowait()
        except queue.Empty:
            return None
        if isinstance(message, Exception):
            raise message
        return message

    def kill(self) -> None:
        self._cancelled.set()  # a thread cannot be killed: it ends after its iteration


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(EXECUTORS, "thread", lambda options: [partial(ThreadExecutor, "a thread")])


def until(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_is_paused_and_goes_on_and_leaves_its_files(registered, tmp_path, tiny):
    store = Store(tmp_path)
    jobs = Queue(store, EXECUTORS["thread"](ExecutorOptions()))
    jobs.start()
    job = jobs.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 30})).id

    def iterations():
        events = [decode_event(data.decode().splitlines())[1] for _, data in store.events(job)]
        return [event.iteration for event in events if isinstance(event, Progress)]

    try:
        until(iterations)
        jobs.pause(job)
        until(lambda: store.get(job).state == PAUSED)
        before = iterations()
        assert store.checkpoints(job).step == before[-1] < 30
        jobs.resume(job)
        until(lambda: store.get(job).ended)
        assert store.get(job).state == FINISHED and store.get(job).files == list(FILES)
        assert iterations()[len(before)] == before[-1] + 1 and iterations()[-1] == 30
    finally:
        jobs.stop()
        store.close()
