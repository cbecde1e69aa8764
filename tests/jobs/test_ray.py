# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs on a real Ray cluster of raylets on this machine: what the local executor promises, and machines that go.

The jobs of `ray_work` count; those of a real model are compared with the local executor's byte for byte.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import psutil
import pytest

from msd_blender.protocol import CANCELLED, FAILED, FINISHED, PAUSED, QUEUED, RUNNING, Edit, JobRequest, encode_snapshot
from server.jobs.executor import ExecutorOptions
from server.jobs.local_process import LocalProcess
from server.jobs.ray_actor import join, split
from server.jobs.ray_pool import NOT_INSTALLED, TOO_OLD, RayPool, of_cluster
from tests.jobs import ray_work
from tests.jobs.ray_machines import LEASE, ROOT, Head, Machines, Server, free_port, in_turn, started, until
from tests.jobs.ray_work import journal
from tests.jobs.scripted import snapshot

pytest.importorskip("ray", reason="the package ray is not installed (Linux only)")

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.long]


@pytest.fixture
def only_long(request):
    """What kills machines takes half a minute each."""
    if not request.config.getoption("--long"):
        pytest.skip("runs with make cluster")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("journal")
    # Before the raylets start, whose actors have their environment; checkpoints after every iteration.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSD_TEST_JOURNAL", str(made))
        patch.setenv("MSD_CHECKPOINT_SECONDS", "0")
        yield made


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


@pytest.fixture(scope="module", params=["local", "ray"])
def either(request, folder, tmp_path_factory):
    """A server with two executors of either kind."""
    if request.param == "ray":
        yield request.getfixturevalue("server")
        return
    made = Server(tmp_path_factory.mktemp("data"), [partial(LocalProcess, main=ray_work.local_main)] * 2)
    until(lambda: made.queue.executor_states.count("idle") == 2)
    yield made
    made.close()


def test_a_block_has_its_parts_again():
    for parts in ([], [b""], [b"a", b"", bytes(300)]):
        assert split(join(parts)) == parts


def test_jobs_run_on_every_machine_at_once_and_leave_their_files(either, folder):
    assert either.queue.problem == ""
    jobs = [either.submit(f"number {i}", 30) for i in range(3)]
    until(lambda: sum(either.job(job).state == RUNNING for job in jobs) == 2)
    named = either.pool is not None  # the machines of a cluster are
    assert all(
        either.job(job).machine.startswith("machine-") is named for job in jobs if either.job(job).state == RUNNING
    )
    for i, job in enumerate(jobs):
        ended = either.until(job, FINISHED)
        assert ended.files == ["mesh.glb", "job.json"] and either.result(job) == f"number {i} 30"
        assert [what for *_, what in journal(folder, job)] == [*(f"step-{step}" for step in range(1, 31)), "end"]
    assert len({pid for job in jobs for _, pid, *_ in journal(folder, job)}) == 2
    assert either.queue.streams.newest_snapshot(jobs[0]).version == 30


def test_a_job_is_paused_resumed_and_cancelled_within_two_seconds(either, folder, two_seconds):
    job = either.submit("count", 100_000)
    until(lambda: started(folder, job, 3))
    begun = time.monotonic()
    either.queue.pause(job)
    either.until(job, PAUSED)
    assert time.monotonic() - begun < two_seconds
    step = either.store.checkpoints(job).step
    either.queue.resume(job)
    until(lambda: started(folder, job, step + 2))
    begun = time.monotonic()
    either.queue.cancel(job)
    assert either.until(job, CANCELLED).files == ["mesh.glb", "job.json"]
    assert time.monotonic() - begun < two_seconds
    steps = [what for *_, what in journal(folder, job)]
    assert steps[step : step + 2] == ["paused", f"step-{step + 1}"] and either.store.attempts(job) == 2
    assert in_turn(journal(folder, job))


def test_an_edit_reaches_the_running_job(either, folder):
    job = either.submit("before", 100)
    until(lambda: started(folder, job))

    async def blocks():
        yield encode_snapshot(snapshot())

    mesh = asyncio.run(either.store.meshes.receive(blocks())).id
    either.queue.edit(job, Edit("after", mesh=mesh))
    either.until(job, FINISHED)
    assert either.result(job) == "after 100" and either.store.last_snapshot(job).edits == 1
    assert any(b'"edit 1"' in data for _, data in either.store.events(job)) and in_turn(journal(folder, job))


def test_large_checkpoints_travel_both_ways(either, folder):
    job = either.submit("large 30", 40)
    until(lambda: started(folder, job, 3))
    either.queue.pause(job)
    either.until(job, PAUSED)
    assert len(either.store.checkpoints(job).read()[1]) > 30 << 20
    either.queue.resume(job)
    until(lambda: either.store.attempts(job) == 2 and any(a == 2 for _, _, a, _ in journal(folder, job)))
    either.queue.cancel(job)
    either.until(job, CANCELLED)


def test_a_job_whose_actor_is_killed_goes_on_from_its_checkpoint(either, folder):
    job = either.submit("die 8", 12)
    assert either.until(job, FINISHED) and either.result(job) == "die 8 12"
    lines = journal(folder, job)
    assert [what for *_, what in lines] == [*(f"step-{i}" for i in (*range(1, 9), *range(8, 13))), "end"]
    assert in_turn(lines) and {attempt for _, _, attempt, _ in lines} == {1, 2}
    (warning,) = either.warnings(job)
    assert "worker process died" in warning and "iteration 7" in warning


def test_an_actor_that_was_thought_dead_and_speaks_again_is_not_heard(server, folder):
    """Its process stands still for longer than its lease, as that of a machine which was cut off."""
    job = server.submit("count", 200)
    until(lambda: started(folder, job, 3))
    pid = journal(folder, job)[0][1]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: server.store.attempts(job) == 2, LEASE + 60)
    os.kill(pid, signal.SIGCONT)
    assert server.until(job, FINISHED) and server.result(job) == "count 200"
    assert in_turn(journal(folder, job)) and not psutil.pid_exists(pid)
    assert "has not answered" in server.warnings(job)[0]
    until(lambda: server.queue.executor_states.count("idle") == 2)


def test_a_machine_that_joins_is_used_and_one_that_dies_gives_its_job_back(server, machines, folder, only_long):
    joined = machines.add()
    machines.nodes.append(joined)
    until(lambda: server.queue.executor_states.count("idle") == 3)
    jobs = [server.submit("count", 150) for _ in range(3)]
    until(lambda: all(started(folder, job, 5) for job in jobs))
    machines.kill(joined)
    for job in jobs:
        assert server.until(job, FINISHED) and server.result(job) == "count 150" and in_turn(journal(folder, job))
    assert sorted(server.store.attempts(job) for job in jobs) == [1, 1, 2]
    until(lambda: len(server.queue.executor_states) == 2)


RESULTS = ("mesh.glb", "texture.png", "turntable.png")


def test_a_machine_that_is_drained_gives_its_job_back_at_a_checkpoint(server, machines, folder, only_long):
    from ray._raylet import GcsClient

    drained = machines.add()
    until(lambda: server.queue.executor_states.count("idle") == 3)
    jobs = [server.submit("count", 300) for _ in range(3)]
    until(lambda: all(started(folder, job, 5) for job in jobs))
    leaving = next(job for job in jobs if server.job(job).machine == f"machine-{machines.count}")
    client, preempted = GcsClient(address=machines.address), 2
    accepted, _ = client.drain_node(drained.node_id, preempted, "a test", int(1000 * (time.time() + 120)))
    assert accepted
    for job in jobs:
        assert server.until(job, FINISHED) and server.result(job) == "count 300" and in_turn(journal(folder, job))
    lines = journal(folder, leaving)
    assert any(what == "paused" for *_, what in lines) and server.warnings(leaving) == []
    steps = [what for *_, what in lines if what.startswith("step-")]
    assert steps == [f"step-{i}" for i in range(1, 301)]  # none is done twice
    machines.cluster.remove_node(drained, allow_graceful=False)


@pytest.fixture(scope="module")
def real(request, tmp_path_factory):
    """A request with a real model, and the files of the local executor; None without `--long`."""
    if not request.config.getoption("--long"):
        return None
    tiny = request.getfixturevalue("tiny")
    wish = JobRequest("real mushroom", **{**tiny, "iterations": 8, "seed": 4})
    local = Server(tmp_path_factory.mktemp("local"), [LocalProcess])
    try:
        job = local.queue.submit(wish).id
        local.until(job, FINISHED, seconds=200)
        return wish, files_of(local, job)
    finally:
        local.close()


def files_of(server, job):
    return [(server.store.folder(job) / name).read_bytes() for name in RESULTS]


def goes_on(server, folder, job):
    """Whether the present run of a job has done more than one step."""
    if not started(folder, job):
        return False
    return [attempt for *_, attempt, _ in journal(folder, job)].count(server.store.attempts(job)) > 1


def test_jobs_survive_deaths_at_random_with_the_local_executors_bytes(server, machines, folder, real, request):
    """Six jobs and two deaths of actors here; with `make cluster` 60 jobs, five of them of a real model, while every
    few seconds an actor or a whole machine dies and a new one joins. No job's actors are killed more than twice: three
    deaths at one place end a job."""
    long = request.config.getoption("--long")
    rng = random.Random(7)
    jobs, true = [], []
    for i in range(60 if long else 6):
        if real is not None and i % 12 == 0:
            true.append(server.queue.submit(real[0]).id)
        else:
            jobs.append(server.submit(f"number {i}", rng.randrange(20, 120) if long else 200))
    if long:
        machines.nodes.append(machines.add())
    died, killed = {"actor": 0, "machine": 0}, Counter()
    deadline = time.monotonic() + (900 if long else 200)
    while not all(server.job(job).ended for job in jobs + true):
        assert time.monotonic() < deadline
        time.sleep(rng.uniform(2, 6) if long else 1)
        running = [job for job in jobs + true if server.job(job).state == RUNNING and goes_on(server, folder, job)]
        running = [job for job in running if killed[job] < 2]
        if long and died["machine"] < 20 and rng.random() < 0.35:  # or a slow machine never comes to load a model
            machines.kill(rng.choice(machines.nodes))
            machines.nodes.append(machines.add())
            died["machine"] += 1
        elif running and (long or died["actor"] < 2):
            job = rng.choice(running)
            killed[job] += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(journal(folder, job)[-1][1], signal.SIGKILL)
                died["actor"] += 1
    print(died, "attempts", sum(server.store.attempts(job) for job in jobs + true))
    for job in jobs:
        done = server.job(job)
        assert done.state == FINISHED and in_turn(journal(folder, job)), done
        assert server.result(job) == f"{done.request.prompt} {done.request.iterations}"
    for job in true:
        assert server.job(job).state == FINISHED, server.job(job)
        assert files_of(server, job) == real[1] and in_turn(journal(folder, job))
    assert died["actor"] >= 1


def test_a_job_goes_where_its_model_is_and_fails_in_a_sentence_where_none_has_it(server, machines, tmp_path):
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"weights")
    wish = {"model": str(model)}
    until(lambda: server.queue.executor_states == ["idle"] * len(machines.nodes))  # none is dead and not known to be
    ids = [node.node_id for node in machines.nodes]
    for id in ids:
        job = server.submit(f"only {id}", 3, **wish)
        assert server.until(job, FINISHED) and server.result(job) == f"only {id} 3"
        server.queue._lacking.clear()
    job = server.submit("only nowhere", 3, **wish)
    error = server.until(job, FAILED).error
    assert "No machine of the cluster has" in error and "copy it" in error and str(model) in error
    names = {said.split(" does not have")[0].rpartition('"')[2] for said in server.warnings(job)}
    assert len(names) == len(ids) - 1 and all("machine-" in name for name in names)


@pytest.fixture(scope="module")
def head(folder):
    """A cluster for tests that need one to themselves: a server takes every place of its cluster."""
    made = Head(free_port())
    yield made
    made.kill()


def test_a_cluster_may_come_later_and_go_and_come_back(head, folder, tmp_path, only_long):
    head.kill()
    own = Server(tmp_path, RayPool(head.address, 1, "tests.jobs.ray_work", LEASE))
    try:
        job = own.submit("count", 150)
        until(lambda: "There is no Ray cluster at 127.0.0.1" in own.queue.problem)
        assert own.job(job).state == QUEUED
        head.start()
        until(lambda: started(folder, job, 10), 90)
        assert own.queue.problem == "" and own.job(job).machine
        head.kill()
        own.until(job, QUEUED)
        until(lambda: "jobs wait" in own.queue.problem.lower())
        (warning,) = own.warnings(job)
        assert "machine was lost" in warning
        head.start()
        assert own.until(job, FINISHED, seconds=120) and own.result(job) == "count 150"
        assert in_turn(journal(folder, job)) and own.store.attempts(job) == 2 and own.queue.problem == ""
    finally:
        own.close()


def test_a_server_that_is_killed_leaves_its_job_to_the_next_one(head, folder, tmp_path, only_long):
    head.start()
    dying = subprocess.Popen(
        [sys.executable, "-m", "tests.jobs.ray_machines", tmp_path, head.address],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    job = dying.stdout.readline().strip()
    until(lambda: started(folder, job, 20))
    dying.kill()
    dying.wait()
    again = Server(tmp_path, RayPool(head.address, 1, "tests.jobs.ray_work", LEASE))
    try:
        assert again.until(job, FINISHED) and again.result(job) == "count 150"
        lines = journal(folder, job)
        first = next(int(what.removeprefix("step-")) for *_, attempt, what in lines if attempt == 2)
        assert in_turn(lines) and again.store.attempts(job) >= 2 and first >= 20  # a busy machine may end a lease, too
    finally:
        again.close()


# Bad input


def problem_of(address, cpus, words, tmp_path):
    """What a pool says of a cluster, once it has these words."""
    own = Server(tmp_path, RayPool(address, cpus, "tests.jobs.ray_work", LEASE))
    try:
        until(lambda: words in own.queue.problem)
        return own.queue.problem
    finally:
        own.close()


def test_a_cluster_without_gpus_or_with_too_few_cpus_is_one_sentence(machines, tmp_path):
    assert "--cpus-per-job" in problem_of(machines.address, 0, "has a GPU", tmp_path)
    assert "fewer" in problem_of(machines.address, 64, "has 64 CPUs", tmp_path)


def test_a_cluster_of_another_version_is_one_sentence(machines, tmp_path):
    from ray._raylet import GcsClient

    store, name = GcsClient(address=machines.address), b"CLUSTER_METADATA"
    known = store.internal_kv_get(name, b"cluster")
    other = {**json.loads(known), "ray_version": "2.9.3", "python_version": "3.10.2"}
    store.internal_kv_put(name, json.dumps(other).encode(), True, b"cluster")
    try:
        said = problem_of(machines.address, 1, "install the same", tmp_path)
        assert f"{machines.address} has Ray 2.9.3 and Python 3.10.2, the server Ray" in said and "\n" not in said
        # Ray itself keeps a machine of another version out, which says so there.
        join = [Path(sys.executable).with_name("ray"), "start", f"--address={machines.address}"]
        refused = subprocess.run(join, capture_output=True, text=True)
        assert refused.returncode and "Version mismatch: The cluster was started with" in refused.stderr
    finally:
        store.internal_kv_put(name, known, True, b"cluster")


@pytest.mark.parametrize("address", ["nowhere", "host:", ":80", "host:99999", "ray://host:10001/x"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ValueError, match="auto or HOST:PORT"):
        of_cluster(ExecutorOptions(address, 1))


def test_a_server_without_its_cluster_is_up_and_says_so(start_server, tmp_path):
    client = start_server(tmp_path, "--executor", "ray", "--ray-address", "127.0.0.1:1").client()
    job = client.submit(JobRequest("a red mushroom"))
    until(lambda: "There is no Ray cluster at 127.0.0.1:1" in client.health().problem)
    assert client.health().worker == "starting" and client.job(job.id).state == QUEUED
    assert client.cancel(job.id).state == CANCELLED


def test_without_ray_or_with_an_old_one_the_server_says_so_and_the_local_executor_is_as_it_was(tmp_path):
    without = "import sys; sys.modules['ray'] = None; from server.__main__ import main; sys.exit(main(sys.argv[1:]))"
    ended = subprocess.run(
        [sys.executable, "-c", without, "serve", "--executor", "ray", "--port", "0", "--data", tmp_path],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert ended.returncode == 1 and ended.stderr == f"Error: {NOT_INSTALLED}\n"
    old = tmp_path / "ray-2.55.1.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.55.1\n")
    ended = subprocess.run(
        [sys.executable, "-m", "server", "serve", "--executor", "ray", "--port", "0", "--data", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        text=True,
        capture_output=True,
    )
    assert ended.returncode == 1 and ended.stderr == f"Error: {TOO_OLD.format('2.55.1')}\n"
    check = "import sys; sys.modules['ray'] = None; import server.jobs as jobs, server.jobs.executor as executor\n"
    listed = "print(len(jobs.EXECUTORS['local'](executor.ExecutorOptions())))"
    assert int(subprocess.run([sys.executable, "-c", check + listed], cwd=ROOT, capture_output=True).stdout) >= 1
