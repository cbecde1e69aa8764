# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on a machine of a Ray cluster: an actor that runs one job after another and keeps its model loaded.

All that it takes and gives is bytes, which Ray moves as they are, large ones through its object store; nothing of ours
is pickled. Ray is not imported here: `ray_bridge` makes an actor of the class.

A job may run only as long as the server is known to be there. The actor stamps each answer of `renew` with its own
clock, the server sends the newest stamp back, and the actor ends itself `lease` seconds after the last stamp that came
back. The server had each stamp after it was made: `lease` seconds after the last answer that it got, the actor's job
has ended, whatever the network did meanwhile, and may be run elsewhere.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import psutil

from msd_blender import __version__
from msd_blender.protocol import Progress, Snapshot

from .. import logs
from .messages import Checkpoint, DeviceStatus, ExecutorMessage, JobInput, ModelMissing, Outcome, Report
from .pipe import from_parts, to_parts
from .worker import IDLE_SECONDS

log = logging.getLogger(__name__)

_FOLDER = "msd-actor-"  # and the pid


def join(parts: list[bytes]) -> bytes:
    """Parts as one block: their number and lengths, eight bytes each, and then the parts."""
    numbers = [len(parts), *map(len, parts)]
    return b"".join([b"".join(number.to_bytes(8, "little") for number in numbers), *parts])


def split(block: bytes) -> list[bytes]:
    """The parts of `join`."""
    count = int.from_bytes(block[:8], "little")
    lengths = [int.from_bytes(block[8 * i : 8 * i + 8], "little") for i in range(1, count + 1)]
    parts, start = [], 8 * (count + 1)
    for length in lengths:
        parts.append(block[start : start + length])
        start += length
    return parts


def read_batch(block: bytes) -> tuple[str, int, list[ExecutorMessage]]:
    """The (job, attempt, messages) of an answer of `JobActor.receive`."""
    header, *parts = split(block)
    about, rest = json.loads(header), iter(parts)
    messages = [from_parts(rest.__next__) for _ in range(about["messages"])]
    return about["job"], about["attempt"], messages  # type: ignore[return-value]


class _Run:
    """A job under way. `report` is called in the job's thread, the rest in the actor's."""

    def __init__(self, job: JobInput, news: Callable[[], object], status: Callable[[], DeviceStatus]) -> None:
        self.id, self.attempt = job.id, job.attempt
        self.cancelled, self.paused = threading.Event(), threading.Event()
        self.ended = False
        self._news, self._status = news, status
        self._lock = threading.Lock()
        self._waiting: deque[ExecutorMessage] = deque()
        self._handed_out = False  # a checkpoint
        self._acknowledged = threading.Event()

    def report(self, message: Report) -> None:
        """Hand a message on; returns from that of a checkpoint once the server has handled it."""
        self._acknowledged.clear()
        with self._lock:
            if isinstance(message, Snapshot):  # readers want the newest: a slow network must not pile up the others
                self._waiting = deque(each for each in self._waiting if not isinstance(each, Snapshot))
            self._waiting.append(message)
            if isinstance(message, Progress):
                self._waiting.append(self._status())
        self._news()
        if isinstance(message, Checkpoint):
            self._acknowledged.wait()

    def end(self, outcome: Outcome) -> None:
        with self._lock:
            self._waiting.append(outcome)
            self.ended = True
        self._news()

    @property
    def has_news(self) -> bool:
        return bool(self._waiting)

    def take(self) -> list[ExecutorMessage]:
        with self._lock:
            taken, self._waiting = list(self._waiting), deque()
        self._handed_out = any(isinstance(message, Checkpoint) for message in taken)
        return taken

    def acknowledge(self) -> None:
        """What was taken has been handled."""
        if self._handed_out:
            self._acknowledged.set()


class JobActor:
    """Runs one job at a time, and ends itself when the server is gone.

    Args:
        work: the module whose `run_job`, `status`, `fingerprint`, `warm_up` and `release` are called, as
            `server.jobs.run_job` has them.
        lease: seconds after the last stamp that came back until the actor ends itself, while a job runs.
    """

    def __init__(self, work: str, lease: float) -> None:
        logs.set_up()
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
        self._module = importlib.import_module(work)
        self._lease, self._expiry = lease, time.monotonic() + lease
        self._run: _Run | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._folder = _working_folder()
        self._module.warm_up()
        threading.Thread(target=self._watch_lease, name="msd-lease", daemon=True).start()

    async def hello(self) -> bytes:
        """JSON: the versions that run here, and `status`, the fields of a `DeviceStatus`."""
        versions = {"version": __version__, "python": platform.python_version()}
        return json.dumps({**versions, "status": asdict(self._module.status())}).encode()

    async def renew(self, stamp: float) -> float:
        """Take an earlier answer of this method back, and give the present time of this machine's clock."""
        self._expiry = max(self._expiry, stamp + self._lease)
        return time.monotonic()

    async def run(self, block: bytes, stamp: float) -> None:
        """Start the job of a `JobInput`'s parts; one that comes too late is not started."""
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        await self.renew(stamp)
        if (self._run is not None and not self._run.ended) or time.monotonic() > self._expiry:
            self._leave("A job came while another ran, or after its time")
        job = from_parts(iter(split(block)).__next__)
        assert isinstance(job, JobInput)
        if self._idle is not None:
            self._idle.cancel()
        loop, news = self._loop, self._news
        self._run = run = _Run(job, lambda: loop.call_soon_threadsafe(news.set), self._module.status)
        threading.Thread(target=self._work, args=(job, run), name="msd-job", daemon=True).start()

    def _work(self, job: JobInput, run: _Run) -> None:
        try:
            work: Callable[..., Outcome] = self._module.run_job
            if job.models and not self._has(job):
                run.end(ModelMissing())
            else:
                run.end(work(job, run.report, run.cancelled.is_set, run.paused.is_set, self._folder))
        except BaseException:  # `run_job` turns errors of the job into outcomes: this is another one
            log.exception("The actor met an unforeseen error")
            self._leave("It cannot go on")
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._rest)

    def _has(self, job: JobInput) -> bool:
        """Whether the models of a job are here as the server has them."""
        try:
            return bool(self._module.fingerprint(job.request) == job.models)
        except (OSError, ValueError):
            return False

    def _rest(self) -> None:
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._release)

    def _release(self) -> None:
        if self._run is None or self._run.ended:
            self._module.release()

    async def stop(self, attempt: int, how: str) -> None:
        """Ask the job of this attempt to `cancel` or to `pause`."""
        if self._run is not None and self._run.attempt == attempt:
            (self._run.cancelled if how == "cancel" else self._run.paused).set()

    async def receive(self, attempt: int, seconds: float) -> bytes:
        """What the job of this attempt has reported, for `read_batch`; waits so many seconds for the first message.

        The caller has handled the answer before.
        """
        run = self._run
        if run is None or run.attempt != attempt:
            raise ValueError(f"This actor does not run attempt {attempt}.")
        run.acknowledge()
        assert self._news is not None
        self._news.clear()
        if not run.has_news:
            try:
                await asyncio.wait_for(self._news.wait(), seconds)
            except TimeoutError:
                pass
        messages = run.take()
        header = {"job": run.id, "attempt": run.attempt, "messages": len(messages)}
        return join([json.dumps(header).encode(), *chain.from_iterable(map(to_parts, messages))])

    def _watch_lease(self) -> None:
        while True:
            time.sleep(min(0.25, self._lease / 8))
            if self._run is not None and not self._run.ended and time.monotonic() > self._expiry:
                self._leave(f"The server has not been heard of for {self._lease:g} s")

    def _leave(self, reason: str) -> Any:
        log.warning("%s: this actor ends", reason)
        sys.stderr.flush()
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(1)


def _working_folder() -> Path:
    """A new folder for this process; those of processes that were killed are removed."""
    for old in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        pid = old.name.removeprefix(_FOLDER).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))
