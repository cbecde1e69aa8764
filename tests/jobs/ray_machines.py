# SPDX-License-Identifier: GPL-3.0-or-later
"""A Ray cluster of raylets on this machine, and a queue on it.

``python -m tests.jobs.ray_machines DATA ADDRESS`` runs such a queue until it is killed, with one long job.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from msd_blender.protocol import JobRequest
from server.jobs.job_run import Timing
from server.jobs.queue import Queue
from server.jobs.ray_pool import RayPool
from server.jobs.store import Store
from tests.jobs.ray_work import journal

LEASE = 6.0
ROOT = Path(__file__).parents[2]


class Machines:
    """A Ray cluster: a head on which no job runs, and raylets that stand for machines."""

    def __init__(self, count):
        from ray.cluster_utils import Cluster

        small = {"object_store_memory": 80 << 20, "include_dashboard": False}
        self.count = 0
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, **small})
        self.nodes = [self.add() for _ in range(count)]

    @property
    def address(self):
        return self.cluster.address

    def add(self, cpus=1):
        """A machine with a name of its own."""
        self.count += 1
        return self.cluster.add_node(
            wait=False, node_name=f"machine-{self.count}", num_cpus=cpus, num_gpus=0, object_store_memory=80 << 20
        )

    def kill(self, node):
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def close(self):
        self.cluster.shutdown()


class Server:
    """A queue on a cluster, without HTTP."""

    def __init__(self, data, pool):
        self.store = Store(data)
        self.pool = pool if isinstance(pool, RayPool) else None
        self.queue = Queue(self.store, pool, Timing())
        self.queue.start()

    def submit(self, prompt="count", iterations=5, **more):
        return self.queue.submit(JobRequest(prompt, iterations=iterations, **more)).id

    def job(self, id):
        return self.store.get(id)

    def until(self, id, *states, seconds=60):
        until(lambda: self.job(id).state in states, seconds)
        return self.job(id)

    def result(self, id):
        return (self.store.folder(id) / "mesh.glb").read_text()

    def warnings(self, id):
        events = [data.decode() for _, data in self.store.events(id)]
        return [data for data in events if '"warning"' in data]

    def close(self):
        self.queue.stop()
        self.store.close()


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def started(folder, job, step=1):
    """Whether a job has come to a step."""
    return (folder / f"{job}.txt").exists() and any(what == f"step-{step}" for *_, what in journal(folder, job))


def in_turn(lines):
    """Whether a job's attempts follow each other: each number greater, and none at work once the next one is."""
    attempts = [attempt for _, _, attempt, _ in lines]
    return attempts == sorted(attempts)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Head:
    """A cluster of one machine at a fixed port, as `ray start --head` makes it; it can die and come back."""

    def __init__(self, port):
        self.address, self._port = f"127.0.0.1:{port}", port
        self._process = None

    def start(self):
        """Start it, if it does not run."""
        if self._process is not None:
            return
        ray = Path(sys.executable).with_name("ray")
        options = ["--num-cpus=1", "--num-gpus=0", "--include-dashboard=false", "--object-store-memory=80000000"]
        self._process = subprocess.Popen(
            [ray, "start", "--head", f"--port={self._port}", "--node-ip-address=127.0.0.1", "--block", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def actor(self):
        """The pid of its actor."""
        while True:
            for process in psutil.Process(self._process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if process.status() != psutil.STATUS_ZOMBIE and "JobActor" in " ".join(process.cmdline()):
                        return process.pid
            time.sleep(0.05)

    def kill(self):
        """End it at once, with its raylet and its actors' parents, as a power cut does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def serve(data, address):
    server = Server(Path(data), RayPool(address, 1, "tests.jobs.ray_work", LEASE))
    print(server.submit("count", 150), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    serve(*sys.argv[1:])
