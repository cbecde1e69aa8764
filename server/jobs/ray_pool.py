# SPDX-License-Identifier: GPL-3.0-or-later
"""The Ray executor: an actor for each GPU of a cluster, or for each few of its CPUs, on machines that come and go.

Ray itself runs in a process of its own, `ray_bridge`, and the jobs in `ray_actor`s. Nothing of a job is left to Ray:
an actor is neither restarted nor called again by it, and a job whose actor is gone is queued again by the queue.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from msd_blender import __version__

from ..priors.fingerprint import fingerprint
from . import pipe
from .executor import ExecutorCrashed, ExecutorLost, ExecutorOptions, Place, StartExecutor
from .messages import DeviceStatus, ExecutorMessage, Failed, JobInput, Outcome, Ready
from .ray_actor import join, read_batch

log = logging.getLogger(__name__)

NOT_INSTALLED = "The executor ray needs the package ray (Linux only): pip install 'msd_blender[ray]', or leave it out."
TOO_OLD = (
    "The executor ray needs Ray 2.60 or newer, and here is {}: pip install --upgrade 'msd_blender[ray]' on every "
    "machine of the cluster."
)
BAD_ADDRESS = "A Ray cluster's address is auto or HOST:PORT, as ray start prints it, not {!r}."
NO_GPU = "No machine of the Ray cluster has a GPU ({}): add one, or run jobs on CPUs with --cpus-per-job. Jobs wait."
NO_CPUS = "No machine of the Ray cluster has {} CPUs ({}): add one that has, or give --cpus-per-job fewer. Jobs wait."
OTHER_VERSION = "{} has msd_blender {} and the server has {}: install the same version on both. No job runs there."
# Seconds after the last sign of the server when an actor ends itself, so that its job can go on elsewhere.
LEASE_SECONDS = float(os.environ.get("MSD_LEASE_SECONDS", "15"))
RETRY_SECONDS = (1, 2, 5)  # between tries to reach the cluster


def of_cluster(options: ExecutorOptions) -> RayPool:
    """The `RayPool` of a cluster, which need not be there yet. Raises ValueError for what cannot be."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError(NOT_INSTALLED)
    installed = importlib.metadata.version("ray")
    if [int(part) for part in installed.split(".")[:2]] < [2, 60]:
        raise ValueError(TOO_OLD.format(installed))
    host, _, port = options.ray_address.rpartition(":")
    if options.ray_address != "auto" and not (host and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(BAD_ADDRESS.format(options.ray_address))
    if options.cpus_per_job < 0:
        raise ValueError(f"--cpus-per-job is a number of CPUs, or 0 for a GPU each, not {options.cpus_per_job}.")
    return RayPool(options.ray_address, options.cpus_per_job)


class RayPool:
    """A `Pool` of the actors of a cluster.

    Args:
        address, cpus: see `ExecutorOptions`.
        work, lease: as `JobActor` has them.
    """

    def __init__(
        self, address: str, cpus: int, work: str = "server.jobs.run_job", lease: float = LEASE_SECONDS
    ) -> None:
        self._address, self._cpus, self._work, self._lease = address, cpus, work, lease
        self._problem = f"The server connects to the Ray cluster at {address}: jobs wait."
        self._unfit: dict[str, str] = {}  # place -> why no actor starts there
        self._closing = threading.Event()
        self._link: Link | None = None
        self._places: dict[str, Place] = {}
        self._thread: threading.Thread | None = None

    @property
    def problem(self) -> str:
        if self._problem:
            return self._problem
        unfit = [self._unfit.get(place, "") for place in list(self._places)]
        return unfit[0] if unfit and all(unfit) else ""

    def open(self, add: Callable[[StartExecutor, str], Place], interrupted: bool) -> None:
        self._thread = threading.Thread(target=self._supervise, args=(add, interrupted), name="msd-ray", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._link is not None:
            self._link.close()
        if self._thread is not None:
            self._thread.join()

    def _supervise(self, add: Callable[[StartExecutor, str], Place], hold: bool) -> None:
        """Keep a bridge to the cluster, and a place in the queue for each of its places."""
        failures = 0
        while not self._closing.is_set():
            self._link = link = Link(self._address, self._cpus, self._work, self._lease, hold, self._unfit)
            if self._closing.is_set():
                link.close()
            problem = f"The Ray cluster at {self._address} is gone: jobs wait for it."
            while (message := link.next()) is not None:
                if message["says"] == "problem":
                    problem = message["text"]
                else:
                    failures, hold = 0, True
                    self._take_places(message["places"], message["machines"], link, add)
            link.close()
            self._take_places({}, [], link, add)
            if not self._closing.is_set():
                self._set_problem(problem)
            self._closing.wait(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            failures += 1

    def _take_places(
        self, found: dict[str, str], machines: list[str], link: Link, add: Callable[[StartExecutor, str], Place]
    ) -> None:
        for place in [place for place in self._places if place not in found]:
            self._places.pop(place).leave()
            self._unfit.pop(place, None)
        for place, machine in found.items():
            if place not in self._places:
                log.info("A place for jobs on %s", machine)
                self._places[place] = add(partial(RayExecutor, link, place, machine), machine)
        if machines:
            names = ", ".join(machines)
            lacking = NO_CPUS.format(self._cpus, names) if self._cpus else NO_GPU.format(names)
            self._set_problem("" if found else lacking)

    def _set_problem(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem


class Link:
    """A bridge process, and the threads that write to it and read from it.

    Args:
        unfit: gets place -> sentence while no actor can start there.
    """

    def __init__(self, address: str, cpus: int, work: str, lease: float, hold: bool, unfit: dict[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_bridge, args=(theirs, address, cpus, work, lease, hold), name="msd-ray-bridge", daemon=True
        )
        self._process.start()
        theirs.close()
        self.unfit = unfit
        self._numbers = count(1)
        self._actors: dict[int, queue.SimpleQueue[Any]] = {}
        self._lock = threading.Lock()
        self._gone = False
        self._commands: queue.SimpleQueue[tuple[dict[str, Any], bytes | None] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send, name="msd-ray-commands", daemon=True)
        self._sender.start()

    def next(self) -> dict[str, Any] | None:
        """The bridge's next word on the cluster, None at its end; what it says of actors goes to them meanwhile."""
        while True:
            try:
                message = json.loads(self._pipe.recv_bytes())
                block = self._pipe.recv_bytes() if message.get("block") else None
            except (EOFError, OSError):
                with self._lock:
                    self._gone = True
                    for inbox in self._actors.values():
                        inbox.put(("lost", "the Ray cluster is gone"))
                return None
            if "actor" not in message:
                return dict(message)
            with self._lock:
                waiting = self._actors.get(message["actor"])
            if waiting is None:  # nobody waits for this actor any more
                continue
            waiting.put((message["says"], block if block is not None else message))

    def start_actor(self, place: str, inbox: queue.SimpleQueue[Any]) -> int:
        """Start an actor, whose messages go to the inbox; its number."""
        with self._lock:
            number = next(self._numbers)
            self._actors[number] = inbox
            if self._gone:
                inbox.put(("lost", "the Ray cluster is gone"))
        self.send({"do": "start", "actor": number, "place": place})
        return number

    def end_actor(self, number: int) -> None:
        with self._lock:
            self._actors.pop(number, None)
        self.send({"do": "kill", "actor": number})

    def send(self, command: dict[str, Any], block: bytes | None = None) -> None:
        self._commands.put(({**command, "block": block is not None}, block))

    def _send(self) -> None:
        while (item := self._commands.get()) is not None:
            command, block = item
            del item
            try:
                self._pipe.send_bytes(json.dumps(command).encode())
                if block is not None:
                    self._pipe.send_bytes(block)
            except OSError:  # as `next` notices
                return
            del block

    def close(self) -> None:
        """End the bridge, and with it its actors. May be called again, and from another thread."""
        self._process.kill()
        self._process.join()
        self._commands.put(None)


def _bridge(theirs: pipe.Connection, *given: Any) -> None:
    from .ray_bridge import main

    main(theirs, *given)


class RayExecutor:
    """An `Executor` that is an actor on a place of a cluster.

    Only messages of its present job's present attempt are taken: whatever else still speaks is not listened to.
    """

    def __init__(self, link: Link, place: str, machine: str) -> None:
        self._link, self._place, self._machine = link, place, machine
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._messages: list[ExecutorMessage] = []
        self._job: tuple[str, int] | None = None  # (id, attempt)
        self._asked = False  # for messages of the job
        self._ready = False
        self._number = link.start_actor(place, self._inbox)

    def run(self, job: JobInput) -> None:
        self._job, self._asked = (job.id, job.attempt), False
        try:
            job = replace(job, models=fingerprint(job.request))
        except (OSError, ValueError) as error:
            self._messages.append(Failed(str(error)))
            return
        self._link.send({"do": "run", "actor": self._number}, join(pipe.to_parts(job)))

    def cancel(self) -> None:
        self._stop("cancel")

    def pause(self) -> None:
        self._stop("pause")

    def _stop(self, how: str) -> None:
        if self._job is not None:
            self._link.send({"do": "stop", "actor": self._number, "attempt": self._job[1], "how": how})

    def receive(self, timeout: float) -> ExecutorMessage | None:
        if not self._messages:
            if self._job is not None and not self._asked:  # which also says that what came before was handled
                self._asked = True
                self._link.send({"do": "receive", "actor": self._number, "attempt": self._job[1]})
            try:
                says, content = self._inbox.get(timeout=timeout) if timeout else self._inbox.get_nowait()
            except queue.Empty:
                return None
            self._take(says, content)
        if not self._messages:
            return None
        message = self._messages.pop(0)
        if isinstance(message, Outcome):
            self._job = None
        return message

    def _take(self, says: str, content: Any) -> None:
        match says:
            case "batch":
                job, attempt, messages = read_batch(content)
                if (job, attempt) == self._job:
                    self._asked = False
                    self._messages.extend(messages)
            case "ready":
                if content["version"] != __version__:
                    self._refuse(OTHER_VERSION.format(self._machine, content["version"], __version__))
                self._link.unfit.pop(self._place, None)
                self._ready = True
                status = DeviceStatus(**content["status"])
                self._messages.append(Ready(status))
            case "crashed" if self._ready:
                raise ExecutorCrashed(f"on {self._machine}, {content['reason']}")
            case _:
                reason = content if isinstance(content, str) else content["reason"]
                if reason.startswith("no actor"):
                    self._refuse(f"On {self._machine} {reason}. Install msd_blender[server,ray] there.")
                raise ExecutorLost(f"on {self._machine}, {reason}")

    def _refuse(self, sentence: str) -> None:
        self._link.unfit[self._place] = sentence
        raise ExecutorLost(sentence)

    def kill(self) -> None:
        self._link.end_actor(self._number)
