# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker process that hangs, and one that cannot start."""

import os
import signal
import time

import psutil

from msd_blender.protocol import CANCELLED, FAILED, JobRequest, Progress
from server.geometry.files import load


def run_long(client, tiny):
    """(a job under way, its stream of events)."""
    job = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 100_000}))
    events = client.events(job.id)
    next(message for message in events if isinstance(message, Progress))
    return job, events


def test_a_worker_that_hangs_is_killed_when_its_job_is_cancelled_and_what_it_showed_is_kept(
    server, tiny, tmp_path, two_seconds
):
    client = server.client()
    job, events = run_long(client, tiny)
    next(client.snapshots(job.id))
    worker = psutil.Process(server.worker())
    os.kill(worker.pid, signal.SIGSTOP)
    asked = time.monotonic()
    client.cancel(job.id)
    last = list(events)[-1]
    assert time.monotonic() - asked < two_seconds
    assert (last.state, last.error, last.files) == (CANCELLED, "", ["mesh.glb"])
    worker.wait(two_seconds)
    client.download(job.id, "mesh.glb", tmp_path / "mesh.glb")
    shown = list(client.snapshots(job.id))[-1].arrays
    assert len(load(tmp_path / "mesh.glb").faces) == len(shown["faces"])


def test_a_worker_that_cannot_start_fails_the_job_in_a_sentence(start_server, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = start_server(tmp_path / "data")
    client = server.client()
    for _ in range(2):
        last = list(client.events(client.submit(JobRequest("a red mushroom")).id))[-1]
        assert last.state == FAILED and "cannot start" in last.error
    assert client.health().worker == "starting"
    assert server.stop() == 0
