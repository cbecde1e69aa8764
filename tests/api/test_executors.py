# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs through a real server, on each executor: what the local one does for its clients, a Ray cluster does, too.

On Ray only the half runs here that shows most; the rest runs with `make cluster`.
"""

import json
import os
import signal
import time

import numpy as np
import pytest
import trimesh

from msd_blender.client import ClientError
from msd_blender.protocol import (
    CANCELLED,
    FILES,
    FINISHED,
    PAUSED,
    QUEUED,
    RUNNING,
    Edit,
    Job,
    JobRequest,
    Log,
    Progress,
)
from server.geometry.files import load
from tests.jobs.ray_machines import LEASE, Head, free_port


class Running:
    """A server that can be killed and started again on its data."""

    def __init__(self, start, data, head=None):
        self._start, self.data, self.head = start, data, head
        self._on = ("--executor", "ray", "--ray-address", head.address, "--cpus-per-job", "1") if head else ()
        self._server = start(data, *self._on)
        self.client, self.stop = self._server.client, self._server.stop

    def kill(self):
        self._server.process.kill()
        self._server.process.wait()
        (self.data / "server.json").unlink()
        self.__init__(self._start, self.data, self.head)

    def worker(self):
        """The pid of the process that runs jobs."""
        return self.head.actor() if self.head else self._server.worker()


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.long)])
def server(request, start_lasting_server, tmp_path_factory):
    head = None
    if request.param == "ray":
        pytest.importorskip("ray", reason="the package ray is not installed (Linux only)")
        head = Head(free_port())
        head.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSD_LEASE_SECONDS", str(LEASE))
        running = Running(start_lasting_server, tmp_path_factory.mktemp(request.param), head)
        yield running
    running.stop()
    if head:
        head.kill()


@pytest.fixture
def long_on_ray(server, request):
    if server.head and not request.config.getoption("--long"):
        pytest.skip("runs with make cluster")


def follow(client, job):
    return list(client.events(job.id))


def reach(client, job, iteration):
    next(
        message for message in client.events(job.id) if isinstance(message, Progress) and message.iteration >= iteration
    )


def pause(client, job):
    client.pause(job.id)
    deadline = time.monotonic() + 300
    while client.job(job.id).state != PAUSED:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def shown(client, job):
    """The newest snapshot, whole."""
    return next(client.snapshots(job.id))


def ball():
    """A sphere of 162 vertices, its upper half locked."""
    mesh = trimesh.creation.icosphere(2, 0.7)
    positions = mesh.vertices.astype(np.float32)
    return {
        "positions": positions,
        "faces": mesh.faces.astype(np.int32),
        "locked": (positions[:, 2] > 0).astype(np.uint8),
    }


def test_a_job_from_its_submission_to_its_files(server, tiny, tmp_path):
    client = server.client()
    assert client.health().worker in ("starting", "idle", "busy")
    job = client.submit(JobRequest("a red mushroom", **tiny))
    snapshots = list(client.snapshots(job.id))
    messages = follow(client, job)
    states = [message.state for message in messages if isinstance(message, Job)]
    assert states == ["queued", "running", "finished"]
    health = client.health()
    assert health.device and 1e8 < health.memory < health.memory_total
    progress = [message for message in messages if isinstance(message, Progress)]
    assert progress[-1].iteration == progress[-1].iterations == 4 and progress[-1].denoiser_calls > 0
    assert set(snapshots[-1].arrays) == {"positions", "faces", "colours", "uvs", "texture.0", "preview"}
    assert messages[-1].files == list(FILES)
    for name in FILES:
        client.download(job.id, name, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 0
    # whoever comes late is told all the same
    assert follow(client, job) == messages
    late = list(client.snapshots(job.id))
    np.testing.assert_array_equal(late[-1].arrays["positions"], snapshots[-1].arrays["positions"])


def test_cancel_stops_a_running_job_within_two_seconds_and_keeps_its_state(server, tiny, two_seconds):
    client = server.client()
    job = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 100_000}))
    events = client.events(job.id)
    next(message for message in events if isinstance(message, Progress) and message.iteration >= 2)
    asked = time.monotonic()
    client.cancel(job.id)
    last = list(events)[-1]
    assert time.monotonic() - asked < two_seconds
    assert last.state == CANCELLED and last.error == ""
    # the worker lives on, or a new one does
    assert follow(client, client.submit(JobRequest("a blue chair", **tiny)))[-1].state == FINISHED


def test_a_queued_job_is_cancelled_at_once(server, tiny, long_on_ray):
    client = server.client()
    long = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 100_000}))
    waiting = client.submit(JobRequest("a blue chair", **tiny))
    assert client.cancel(waiting.id).state == CANCELLED
    client.cancel(long.id)
    assert follow(client, long)[-1].state == CANCELLED
    assert client.cancel(long.id).state == CANCELLED  # again changes nothing


def test_a_worker_that_dies_is_replaced_and_its_job_goes_on(server, tiny, long_on_ray):
    client = server.client()
    job = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 40}))
    events = client.events(job.id)
    next(message for message in events if isinstance(message, Progress))
    os.kill(server.worker(), signal.SIGKILL)
    rest = list(events)
    assert rest[-1].state == FINISHED and rest[-1].files == list(FILES)
    assert ["died" in message.message for message in rest if isinstance(message, Log)] == [True]


def test_a_paused_job_frees_the_worker_and_goes_on_where_it_was(server, tiny):
    client = server.client()
    job = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 60}))
    events = client.events(job.id)
    next(message for message in events if isinstance(message, Progress) and message.iteration > 2)
    client.pause(job.id)
    paused = next(message for message in events if isinstance(message, Job))
    assert paused.state == PAUSED and client.pause(job.id).state == PAUSED
    assert follow(client, client.submit(JobRequest("a blue chair", **tiny)))[-1].state == FINISHED
    assert client.resume(job.id).state in (QUEUED, RUNNING)
    rest = list(events)
    iterations = [message.iteration for message in rest if isinstance(message, Progress)]
    assert iterations[0] > 2 and iterations[-1] == 60 and rest[-1].state == FINISHED
    with pytest.raises(ClientError, match="finished"):
        client.pause(job.id)
    with pytest.raises(ClientError, match="no checkpoint"):
        client.resume(job.id)


def test_a_paused_job_that_is_cancelled_keeps_what_it_showed(server, tiny, tmp_path, long_on_ray):
    client = server.client()
    job = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 1000}))
    events = client.events(job.id)
    next(client.snapshots(job.id))
    client.pause(job.id)
    assert next(message for message in events if isinstance(message, Job) and message.state == PAUSED)
    shown = next(client.snapshots(job.id)).arrays["faces"]
    assert client.cancel(job.id).files == ["mesh.glb"] and list(events)[-1].state == CANCELLED
    client.download(job.id, "mesh.glb", tmp_path / "mesh.glb")
    assert len(load(tmp_path / "mesh.glb").faces) == len(shown)
    assert [path.name for path in (server.data / "jobs").glob(f"{job.id}*")] == [job.id]


def test_a_prompt_that_is_edited_takes_hold_in_a_running_job(server, tiny, tmp_path):
    client = server.client()
    job = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 60}))
    events = client.events(job.id)
    next(message for message in events if isinstance(message, Progress) and message.iteration >= 3)
    assert client.edit(job.id, Edit("a blue mushroom")).request.prompt == "a blue mushroom"
    seen = [message.iteration for message in events if isinstance(message, Progress)]
    assert sorted(seen) == seen  # it went on from where it was
    assert client.job(job.id).state == FINISHED
    client.download(job.id, "job.json", tmp_path / "job.json")
    assert json.loads((tmp_path / "job.json").read_text())["request"]["prompt"] == "a blue mushroom"
    with pytest.raises(ClientError, match="start another one"):
        client.edit(job.id, Edit("a green mushroom"))


def test_a_paused_job_is_edited_and_stays_paused(server, tiny, long_on_ray):
    client = server.client()
    job = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 100_000}))
    next(message for message in client.events(job.id) if isinstance(message, Progress))
    client.pause(job.id)
    while client.job(job.id).state != PAUSED:
        time.sleep(0.05)
    edited = client.edit(job.id, Edit(negative_prompt="blue"))
    assert (edited.state, edited.request.negative_prompt, edited.request.prompt) == (PAUSED, "blue", "a red mushroom")
    with pytest.raises(ClientError, match="upload it first"):
        client.edit(job.id, Edit(mesh="0" * 64))
    client.cancel(job.id)


@pytest.mark.parametrize("mode", ["texture", "refine"])
def test_a_mesh_comes_back_as_the_mode_promises(server, tiny, long_on_ray, mode):
    client, mesh = server.client(), ball()
    job = client.submit(JobRequest("a red apple", mode=mode, mesh=client.upload(mesh).id, texture_size=64, **tiny))
    last = list(client.snapshots(job.id))[-1].arrays
    assert client.job(job.id).state == FINISHED, client.job(job.id).error
    np.testing.assert_array_equal(last["faces"], mesh["faces"])
    same = (last["positions"] == mesh["positions"]).all(axis=1)
    if mode == "texture":
        assert same.all() and last["texture.0"].shape == (64, 64, 3)
    else:
        assert same[mesh["locked"] == 1].all() and not same[mesh["locked"] == 0].any()


@pytest.mark.parametrize("killed", [False, True])
def test_a_job_goes_on_from_what_the_artist_made_of_it(server, tiny, long_on_ray, killed):
    client = server.client()
    job = client.submit(JobRequest("a red apple", **{**tiny, "iterations": 20}))
    reach(client, job, 13)
    pause(client, job)
    before = shown(client, job)
    mesh = {name: before.arrays[name].copy() for name in ("positions", "faces", "colours")}
    moved = np.argsort(mesh["positions"][:, 2])[-len(mesh["positions"]) // 3 :]
    mesh["positions"][moved] += np.float32([0.3, 0, 0])
    mesh["locked"] = np.zeros(len(mesh["positions"]), np.uint8)
    mesh["locked"][moved] = 1
    edited = client.edit(job.id, Edit(mesh=client.upload(mesh).id))
    assert (edited.edits, edited.state, before.edits) == (1, PAUSED, 0)
    client.resume(job.id)
    if killed:
        server.kill()
        client = server.client()
    last = list(client.snapshots(job.id))[-1]
    assert client.job(job.id).state == FINISHED, client.job(job.id).error
    assert last.edits == 1
    np.testing.assert_array_equal(last.arrays["faces"], mesh["faces"])
    same = (last.arrays["positions"] == mesh["positions"]).all(axis=1)
    assert same[moved].all() and not same.all()
