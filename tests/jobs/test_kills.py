# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL at random moments: no job is lost, and the result has the bytes of an undisturbed run.

A few kills here, 200 with `make long`.
"""

import os
import random
import signal
import time

import pytest

from msd_blender.client import ClientError
from msd_blender.protocol import FINISHED, JobRequest
from server.checkpoint import load

pytestmark = pytest.mark.long

RESULTS = ("mesh.glb", "texture.png", "turntable.png")


def files_of(server, job):
    return [(server.data / "jobs" / job / name).read_bytes() for name in RESULTS]


def finished(client, job, limit=300):
    """Whether the job ends as it should while nobody disturbs it."""
    deadline = time.monotonic() + limit
    while not client.job(job).ended and time.monotonic() < deadline:
        time.sleep(0.05)
    return client.job(job).state == FINISHED


@pytest.mark.parametrize("who", ["worker", "server", "both"])
def test_no_job_is_lost_and_every_result_is_the_same(start_server, tiny, tmp_path, monkeypatch, request, who):
    monkeypatch.setenv("MSD_CHECKPOINT_SECONDS", "0")  # after every iteration: many kills hit a write
    kills = 67 if request.config.getoption("--long") else 1
    wish = {**tiny, "iterations": 12, "seed": 4}
    rng = random.Random(who)
    server = start_server(tmp_path)
    client = server.client()
    whole = client.submit(JobRequest("a red mushroom", **wish))
    assert finished(client, whole.id)
    expected = files_of(server, whole.id)
    for i in range(kills):
        job = client.submit(JobRequest("a red mushroom", **wish, client_key=f"{who} {i}"))
        time.sleep(rng.uniform(0, 4.0))
        if who != "server":
            os.kill(server.worker(), signal.SIGKILL)
        if who != "worker":
            server.process.kill()
            server.process.wait()
            (tmp_path / "server.json").unlink(missing_ok=True)
            for path in tmp_path.glob("jobs/*.part/checkpoints/*.safetensors"):
                load(path)  # raises for a half-written one
            server = start_server(tmp_path)
            client = server.client()
            assert client.submit(JobRequest("a red mushroom", **wish, client_key=f"{who} {i}")).id == job.id
        assert finished(client, job.id), (i, client.job(job.id))
        assert files_of(server, job.id) == expected, i
    assert len(client.jobs()) == kills + 1
    assert not list(tmp_path.glob("jobs/*.part"))
    server.stop()
    with pytest.raises(ClientError):
        client.health()
