# SPDX-License-Identifier: GPL-3.0-or-later
"""An artist's mesh, and an artist's edits, through a real server: what is locked comes back bit for bit."""

import time

import numpy as np
import pytest
import trimesh

from msd_blender.protocol import FINISHED, PAUSED, Edit, JobRequest, Progress


def ball():
    """A sphere of 162 vertices, its upper half locked."""
    mesh = trimesh.creation.icosphere(2, 0.7)
    positions = mesh.vertices.astype(np.float32)
    return {
        "positions": positions,
        "faces": mesh.faces.astype(np.int32),
        "locked": (positions[:, 2] > 0).astype(np.uint8),
    }


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


@pytest.mark.parametrize("mode", ["texture", "refine"])
def test_a_mesh_comes_back_as_the_mode_promises(server, tiny, mode):
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
def test_a_job_goes_on_from_what_the_artist_made_of_it(server, start_server, tiny, tmp_path, killed):
    server = start_server(tmp_path) if killed else server
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
        server.process.kill()
        server.process.wait()
        (tmp_path / "server.json").unlink()
        server = start_server(tmp_path)
        client = server.client()
    last = list(client.snapshots(job.id))[-1]
    assert client.job(job.id).state == FINISHED, client.job(job.id).error
    assert last.edits == 1
    np.testing.assert_array_equal(last.arrays["faces"], mesh["faces"])
    same = (last.arrays["positions"] == mesh["positions"]).all(axis=1)
    assert same[moved].all() and not same.all()
