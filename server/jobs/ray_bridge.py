# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that speaks to Ray for the server: Ray's library ends its process when the cluster is gone, and must not
end the server with it.

It connects to the cluster, says which places for actors there are, and moves bytes between the server and the actors.
Over the pipe go JSON objects; one with ``"block": true`` is followed by a block of bytes.

To the server: ``{"says": "places", "places": {id: machine}}`` when they changed, ``"problem"`` with a sentence before
the process ends, and of an actor, by its number, ``"ready"`` with the fields of its hello, ``"batch"`` with a block of
`JobActor.receive`, ``"crashed"`` with a reason, ``"lost"`` with a reason that is no fault of its job.

From the server: ``{"do": "start", "actor": number, "place": id}``, ``"run"`` with a block, ``"stop"``, ``"receive"``,
``"kill"``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .. import logs
from .pipe import Connection
from .ray_actor import JobActor

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at the cluster's machines
SILENCE_SECONDS = 10.0  # without an answer of the cluster's head, after which it counts as gone
RENEW_SECONDS = 1.0  # between two renewals of an actor's lease
RECEIVE_SECONDS = 5.0  # that a call of `JobActor.receive` waits for news
MARGIN_SECONDS = 1.0  # after a lease, within which an actor notices its end


@dataclass(eq=False)
class Actor:
    """An actor as this process knows it. `stamp` came at the time `heard`, by this process's clock, and the stamp that
    the actor has got back last came at `returned`."""

    number: int
    handle: Any
    stamp: float = 0.0
    heard: float = field(default_factory=time.monotonic)
    returned: float = field(default_factory=time.monotonic)
    started: asyncio.Future[None] | None = None  # the call that starts its job
    gone: bool = False


class Bridge:
    """Between the server's pipe and the actors of a cluster to which `ray.init` has connected.

    Args:
        cpus: for each actor; 0 gives each a GPU.
        work, lease: as `JobActor`.
        not_before: monotonic time before which no actor is said to be ready.
    """

    def __init__(self, pipe: Connection, address: str, cpus: int, work: str, lease: float, not_before: float) -> None:
        self._pipe, self._address, self._cpus, self._work, self._lease = pipe, address, cpus, work, lease
        self._not_before = not_before
        self._actors: dict[int, Actor] = {}
        self._places: dict[str, str] = {}
        self._tasks: set[asyncio.Future[None]] = set()
        self._calls = ThreadPoolExecutor(4, "ray-calls")  # for what blocks while the head is gone
        self._make_actor = ray.remote(JobActor).options

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()

        def listen() -> None:
            while True:
                try:
                    command = json.loads(self._pipe.recv_bytes())
                    block = self._pipe.recv_bytes() if command.get("block") else b""
                except (EOFError, OSError):  # the server is gone, and the actors end with this process
                    os._exit(0)
                loop.call_soon_threadsafe(self._handle, command, block)

        threading.Thread(target=listen, daemon=True).start()
        await self._look()

    def _say(self, says: str, block: bytes | None = None, **rest: object) -> None:
        try:
            self._pipe.send_bytes(json.dumps({"says": says, "block": block is not None, **rest}).encode())
            if block is not None:
                self._pipe.send_bytes(block)
        except OSError:
            os._exit(0)

    def _in_task(self, work: Awaitable[None]) -> asyncio.Future[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Machines

    async def _look(self) -> None:
        """Say which places there are, now and whenever they change; returns when the cluster is gone."""
        loop, said = asyncio.get_running_loop(), None
        while True:
            try:
                nodes, draining = await asyncio.wait_for(
                    loop.run_in_executor(self._calls, _nodes_and_draining), SILENCE_SECONDS
                )
            except (TimeoutError, RayError, RuntimeError, OSError) as error:
                log.warning("The cluster does not answer: %s", error)
                self._say("problem", text=f"The Ray cluster at {self._address} does not answer: jobs wait for it.")
                return
            self._places = self._places_of([node for node in nodes if node["NodeID"] not in draining])
            machines = sorted({_name(node) for node in nodes})
            if (self._places, machines) != said:
                said = self._places, machines
                self._say("places", places=self._places, machines=machines)
            await asyncio.sleep(LOOK_SECONDS)

    def _places_of(self, nodes: list[dict[str, Any]]) -> dict[str, str]:
        """Id -> machine, of each place for an actor."""
        places = {}
        for node in nodes:
            has = node["Resources"]
            count = has.get("CPU", 0) // self._cpus if self._cpus else has.get("GPU", 0)
            places.update({f"{node['NodeID']}/{i}": _name(node) for i in range(int(count))})
        return places

    # Actors

    def _handle(self, command: dict[str, Any], block: bytes) -> None:
        number = command["actor"]
        if command["do"] == "start":
            self._start(number, command["place"])
            return
        actor = self._actors.get(number)
        if actor is None:
            return
        match command["do"]:
            case "run":
                actor.started = self._in_task(self._run(actor, block))
            case "stop":
                self._in_task(self._stop(actor, command["attempt"], command["how"]))
            case "receive":
                self._in_task(self._receive(actor, command["attempt"]))
            case "kill":
                self._drop(actor)

    def _start(self, number: int, place: str) -> None:
        node = place.partition("/")[0]
        handle = self._make_actor(
            num_cpus=self._cpus,
            num_gpus=0 if self._cpus else 1,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote(self._work, self._lease)
        self._actors[number] = actor = Actor(number, handle)
        self._in_task(self._keep(actor))

    async def _keep(self, actor: Actor) -> None:
        """Wait until an actor has started, and renew its lease from then on."""
        try:
            hello = json.loads(await actor.handle.hello.remote())
            actor.stamp, actor.heard = await actor.handle.renew.remote(0.0), time.monotonic()
        except (RayError, ValueError) as error:
            text = str(error)
            gone = "never ran" in text or "not schedulable" in text or "node has died" in text
            why = "its machine is gone" if gone else f"no actor can start: {_last_line(error).rstrip('.')}"
            self._end(actor, "lost", why)
            return
        await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
        self._say("ready", actor=actor.number, **hello)
        while not actor.gone:
            renewal = asyncio.ensure_future(self._renew(actor))
            await asyncio.wait([renewal], timeout=actor.heard + self._lease + MARGIN_SECONDS - time.monotonic())
            if not renewal.done():
                renewal.cancel()
                self._end(actor, "lost", f"its machine has not answered for {self._lease:g} s")
            await asyncio.sleep(RENEW_SECONDS)

    async def _renew(self, actor: Actor) -> None:
        try:
            returned = actor.heard
            actor.stamp, actor.heard = await actor.handle.renew.remote(actor.stamp), time.monotonic()
            actor.returned = returned
        except RayError as error:
            await self._after_error(actor, error)

    async def _run(self, actor: Actor, block: bytes) -> None:
        actor.returned = actor.heard
        try:
            await actor.handle.run.remote(block, actor.stamp)
        except RayError as error:
            await self._after_error(actor, error)

    async def _stop(self, actor: Actor, attempt: int, how: str) -> None:
        await self._until_started(actor)
        try:
            await actor.handle.stop.remote(attempt, how)
        except RayError as error:
            await self._after_error(actor, error)

    async def _until_started(self, actor: Actor) -> None:
        """Calls of an actor whose arguments take their time are overtaken by later ones: wait for the start."""
        if actor.started is not None:
            await asyncio.shield(actor.started)

    async def _receive(self, actor: Actor, attempt: int) -> None:
        await self._until_started(actor)
        if actor.gone:
            return
        try:
            block = await actor.handle.receive.remote(attempt, RECEIVE_SECONDS)
        except RayError as error:
            await self._after_error(actor, error)
            return
        if not actor.gone:
            self._say("batch", block, actor=actor.number)

    async def _after_error(self, actor: Actor, error: RayError) -> None:
        """End an actor after a call that failed: at once if its process is known to be dead, else after its lease."""
        if actor.gone:
            return
        actor.gone = True
        log.warning("Actor %d: %s: %s", actor.number, type(error).__name__, " ".join(str(error).split())[:2000])
        died = "its worker process has died" in str(error)  # as its machine says, which lives
        if not died and actor.started is not None:
            await asyncio.sleep(max(0.0, actor.heard + self._lease + MARGIN_SECONDS - time.monotonic()))
        if died and time.monotonic() - actor.returned > 0.8 * self._lease:
            self._end(actor, "lost", "it was not reached in time and ended itself")
        elif died:
            self._end(actor, "crashed", "its process was killed")
        elif isinstance(error, RayTaskError):
            self._end(actor, "crashed", _last_line(error))
        elif isinstance(error, ActorUnavailableError):
            self._end(actor, "lost", "the connection to its machine broke")
        else:
            self._end(actor, "lost", "its machine is gone")

    def _end(self, actor: Actor, says: str, reason: str) -> None:
        if actor.number in self._actors:
            self._say(says, actor=actor.number, reason=reason)
        self._drop(actor)

    def _drop(self, actor: Actor) -> None:
        actor.gone = True
        if self._actors.pop(actor.number, None) is not None:
            self._calls.submit(_kill, actor.handle)


def _kill(handle: Any) -> None:
    try:
        ray.kill(handle)
    except Exception as error:  # it is gone already, or the cluster is
        log.info("An actor could not be ended: %s", error)


def _nodes_and_draining() -> tuple[list[dict[str, Any]], set[str]]:
    """The machines that are alive, as `ray.nodes` has them, and the ids of those that are being drained."""
    worker, nodes = cast(Any, ray._private.worker.global_worker), cast(Any, ray.nodes)()
    draining = worker.gcs_client.get_draining_nodes()
    return [node for node in nodes if node["Alive"]], {
        each if isinstance(each, str) else each.hex() for each in draining
    }


def _name(node: dict[str, Any]) -> str:
    """A machine's name: what `ray start --node-name` says, else its host name."""
    name = node.get("NodeName", "")
    return str(name if name and name != node["NodeManagerAddress"] else node["NodeManagerHostname"])


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _connect(address: str) -> str:
    """Connect to a cluster; a sentence where that cannot be done, "" where it was."""
    place = f"at {address}" if address != "auto" else "on this machine"
    none = (
        f"There is no Ray cluster {place}: start one with ray start --head, or name another --ray-address. Jobs wait "
        "for it."
    )
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError:
            return none
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, RuntimeError, OSError, TimeoutError, AssertionError, ValueError) as error:
        text = " ".join(str(error).split())
        log.warning("Ray: %s", text)
        if "ersion mismatch" in text:
            here = f"Ray {ray.__version__} and Python {sys.version.split()[0]}"
            named = re.search(r"Ray: (\S+) Python: (\S+)", text)  # the cluster's come first
            there = f"Ray {named[1]} and Python {named[2]}" if named else "other versions"
            return f"The Ray cluster {place} has {there}, the server {here}: install the same on all machines."
        if "node" in text.lower() and "ip" in text.lower():
            return (
                f"This machine is no node of the Ray cluster {place}: join it with "
                f"ray start --address={address} --num-cpus=0 --num-gpus=0."
            )
        return none
    return ""


def main(pipe: Connection, address: str, cpus: int, work: str, lease: float, hold: bool) -> None:
    """Serve the server at the other end of the pipe until it, or the cluster, is gone.

    Args:
        hold: let a lease pass first, as actors of a server before may still be at work.
    """
    logs.set_up()
    not_before = time.monotonic() + (lease + MARGIN_SECONDS if hold else 0.0)
    leave: Callable[[int], None] = os._exit  # Ray's own exit can wait for a cluster that is gone
    if problem := _connect(address):
        pipe.send_bytes(json.dumps({"says": "problem", "text": problem}).encode())
        leave(1)
    try:
        asyncio.run(Bridge(pipe, address, cpus, work, lease, not_before).serve())
    except BaseException:
        log.exception("The bridge to Ray met an unforeseen error")
    leave(1)
