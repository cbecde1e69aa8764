# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs on a real Ray cluster of raylets on this machine: what the local executor promises, and machines that go.

The jobs of `ray_work` count; those of a real model are compared with the local executor's byte for byte.
"""

import os
import signal
import time

import psutil
import pytest

from msd_blender.protocol import CANCELLED, FINISHED, PAUSED, RUNNING, Edit, JobRequest, encode_snapshot
from server.jobs.job_run import Timing
from server.jobs.queue import Queue
from server.jobs.ray_actor import join, split
from server.jobs.ray_pool import RayPool
from server.jobs.store import Store
from tests.jobs.ray_work import journal
from tests.jobs.scripted import snapshot

pytest.importorskip("ray", reason="the package ray is not installed (Linux only)")

pytestmark = [pytest.mark.slow, pytest.mark.process]
LEASE = 6.0


class Machines:
    """A Ray cluster: a head on which no job runs, and raylets that stand for machines."""

    def __init__(self, count):
        from ray.cluster_utils import Cluster

        small = {"object_store_memory": 80 << 20, "include_dashboard": False}
        self._small = small
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, **small})
        self.nodes = [self.add() for _ in range(count)]

    @property
    def address(self):
        return self.cluster.address

    def add(self):
        return self.cluster.add_node(wait=False, num_cpus=1, num_gpus=0, object_store_memory=80 << 20)

    def kill(self, node):
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def close(self):
        self.cluster.shutdown()


class Server:
    """A queue on a cluster, without HTTP."""

    def __init__(self, data, pool):
        self.store = Store(data)
        self.pool = pool
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("journal")
    os.environ["MSD_TEST_JOURNAL"] = str(made)  # before the raylets start, whose actors have their environment
    yield made
    del os.environ["MSD_TEST_JOURNAL"]


@pytest.fixture(scope="module")
def machines(folder):
    made = Machines(2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(machines, folder, tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("data"), RayPool(machines.address, 1, "tests.jobs.ray_work", LEASE))
    until(lambda: made.queue.executor_states.count("idle") == 2)
    yield made
    made.close()


def test_a_block_has_its_parts_again():
    for parts in ([], [b""], [b"a", b"", bytes(300)]):
        assert split(join(parts)) == parts


def test_jobs_run_on_every_machine_at_once_and_leave_their_files(server, folder):
    assert server.queue.problem == ""
    jobs = [server.submit(f"number {i}", 30) for i in range(3)]
    until(lambda: sum(server.job(job).state == RUNNING for job in jobs) == 2)
    assert all(server.job(job).machine for job in jobs if server.job(job).state == RUNNING)
    for i, job in enumerate(jobs):
        ended = server.until(job, FINISHED)
        assert ended.files == ["mesh.glb", "job.json"] and server.result(job) == f"number {i} 30"
        assert [what for *_, what in journal(folder, job)] == [*(f"step-{step}" for step in range(1, 31)), "end"]
    assert len({pid for job in jobs for _, pid, *_ in journal(folder, job)}) == 2
    assert server.queue.streams.newest_snapshot(jobs[0]).version == 30


def test_a_job_is_paused_resumed_and_cancelled_within_two_seconds(server, folder, two_seconds):
    job = server.submit("count", 100_000)
    until(lambda: started(folder, job, 3))
    begun = time.monotonic()
    server.queue.pause(job)
    server.until(job, PAUSED)
    assert time.monotonic() - begun < two_seconds
    step = server.store.checkpoints(job).step
    server.queue.resume(job)
    until(lambda: started(folder, job, step + 2))
    begun = time.monotonic()
    server.queue.cancel(job)
    assert server.until(job, CANCELLED).files == ["mesh.glb", "job.json"]
    assert time.monotonic() - begun < two_seconds
    steps = [what for *_, what in journal(folder, job)]
    assert steps[step : step + 2] == ["paused", f"step-{step + 1}"] and server.store.attempts(job) == 2
    assert in_turn(journal(folder, job))


def test_an_edit_reaches_the_running_job(server, folder):
    job = server.submit("before", 100)
    until(lambda: started(folder, job))

    async def blocks():
        yield encode_snapshot(snapshot())

    import asyncio

    mesh = asyncio.run(server.store.uploads.receive(blocks())).id
    server.queue.edit(job, Edit("after", mesh=mesh))
    server.until(job, FINISHED)
    assert server.result(job) == "after 100" and server.store.last_snapshot(job).edits == 1
    assert any(b'"edit 1"' in data for _, data in server.store.events(job)) and in_turn(journal(folder, job))


def test_large_checkpoints_travel_both_ways(server, folder):
    job = server.submit("large 30", 40)
    until(lambda: started(folder, job, 3))
    server.queue.pause(job)
    server.until(job, PAUSED)
    assert len(server.store.checkpoints(job).read()[1]) > 30 << 20
    server.queue.resume(job)
    until(lambda: server.store.attempts(job) == 2 and any(a == 2 for _, _, a, _ in journal(folder, job)))
    server.queue.cancel(job)
    server.until(job, CANCELLED)


def test_a_job_whose_actor_is_killed_goes_on_from_its_checkpoint(server, folder):
    job = server.submit("die 8", 12)
    assert server.until(job, FINISHED) and server.result(job) == "die 8 12"
    lines = journal(folder, job)
    assert [what for *_, what in lines] == [*(f"step-{i}" for i in (*range(1, 9), *range(8, 13))), "end"]
    assert in_turn(lines) and {attempt for _, _, attempt, _ in lines} == {1, 2}
    (warning,) = server.warnings(job)
    assert "its process was killed" in warning and "iteration 7" in warning


def test_an_actor_that_was_thought_dead_and_speaks_again_is_not_heard(server, folder):
    """Its process stands still for longer than its lease, as that of a machine which was cut off."""
    job = server.submit("count", 400)
    until(lambda: started(folder, job, 3))
    pid = journal(folder, job)[0][1]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: server.store.attempts(job) == 2, LEASE + 20)
    os.kill(pid, signal.SIGCONT)
    assert server.until(job, FINISHED) and server.result(job) == "count 400"
    assert in_turn(journal(folder, job)) and not psutil.pid_exists(pid)
    assert "has not answered" in server.warnings(job)[0]
    until(lambda: server.queue.executor_states.count("idle") == 2)


def test_a_machine_that_joins_is_used_and_one_that_dies_gives_its_job_back(server, machines, folder):
    joined = machines.add()
    machines.nodes.append(joined)
    until(lambda: server.queue.executor_states.count("idle") == 3)
    jobs = [server.submit("count", 300) for _ in range(3)]
    until(lambda: all(started(folder, job, 5) for job in jobs))
    machines.kill(joined)
    for job in jobs:
        assert server.until(job, FINISHED) and server.result(job) == "count 300" and in_turn(journal(folder, job))
    assert sorted(server.store.attempts(job) for job in jobs) == [1, 1, 2]
    until(lambda: len(server.queue.executor_states) == 2)
