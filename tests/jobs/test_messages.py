# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages over a pipe, and `run_job`, which needs no process."""

import multiprocessing
import threading

import numpy as np
import pytest

from msd_blender.protocol import FILES, JobRequest, Log, Progress, Snapshot, encode_snapshot
from server.checkpoint import deserialize
from server.jobs.messages import (
    Checkpoint,
    DeviceFailed,
    DeviceStatus,
    EditedMesh,
    Failed,
    Finished,
    JobInput,
    ModelMissing,
    OutOfMemory,
    Paused,
    Ready,
)
from server.jobs.pipe import Acknowledge, Cancel, Pause, receive_command, receive_message, send
from server.jobs.run_job import outcome_of, run_job
from tests.jobs.scripted import snapshot


def through_a_pipe(message, receive):
    here, there = multiprocessing.Pipe()
    sender = threading.Thread(target=send, args=(here, message))
    sender.start()
    try:
        return receive(there)
    finally:
        sender.join()


@pytest.mark.parametrize(
    "message",
    [
        Ready(DeviceStatus("a card", 1 << 40, 1 << 41)),
        DeviceStatus("a card", 1, 2),
        Progress("volume", 3, 10, 1.5, None, 24, 0.25),
        Log("Ünïcode\n", "warning"),
        Checkpoint(7, bytes(3 << 20)),
        Finished({"mesh.glb": b"glb", "texture.png": b"", "job.json": b"{}"}),
        Finished({}),
        Paused(),
        OutOfMemory(),
        Failed("It failed."),
        DeviceFailed("its device failed"),
        ModelMissing(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_workers_messages_arrive_as_they_were_sent(message):
    assert through_a_pipe(message, receive_message) == message


def test_a_snapshot_arrives_as_it_was_sent():
    got = through_a_pipe(snapshot(5), receive_message)
    assert isinstance(got, Snapshot) and (got.version, got.iteration) == (5, 5)
    for name, array in snapshot(5).arrays.items():
        np.testing.assert_array_equal(got.arrays[name], array)


@pytest.mark.parametrize(
    "command",
    [
        JobInput("x", JobRequest("a mug", seed=2**53 - 1, maps=["normal"], elevation=[0.0, 30.0])),
        JobInput(
            "x", JobRequest("a mug"), b"mesh", Checkpoint(0, b"checkpoint"), EditedMesh(0, b"edit"), 2, b"picture"
        ),
        JobInput("x", JobRequest("a mug"), edit=EditedMesh(3, b"edit"), attempt=4, models="abc", finish=True),
        JobInput("x", JobRequest("a mug"), picture=b"picture"),
        Cancel(),
        Pause(),
        Acknowledge(),
    ],
)
def test_commands_arrive_as_they_were_sent(command):
    assert through_a_pipe(command, receive_command) == command


@pytest.mark.parametrize(
    "error, outcome",
    [
        (MemoryError(), OutOfMemory()),
        (RuntimeError("CUDA error: unknown error\nmore"), DeviceFailed("its device failed: CUDA error: unknown error")),
        (ValueError("Choose another model."), Failed("Choose another model.")),
        (
            OSError(28, "No space left on device"),
            Failed(
                "The job's files cannot be written (No space left on device): make room or repair the disk, then "
                "resume it."
            ),
        ),
        (KeyError("source"), Failed("The job stopped on KeyError: 'source'")),
        (RuntimeError(), Failed("The job stopped on RuntimeError: no more is known")),
    ],
)
def test_each_error_has_its_outcome(error, outcome):
    assert outcome_of(error) == outcome


def run(job, monkeypatch, stop_at=None, workspace=None):
    """(outcome, reports) of a job that checkpoints each iteration, paused after `stop_at` of them."""
    monkeypatch.setattr("server.optimize.loop.CHECKPOINT_SECONDS", 0.0)
    reports = []

    def paused():
        return stop_at is not None and sum(isinstance(each, Progress) for each in reports) >= stop_at

    return run_job(job, reports.append, lambda: False, paused, workspace), reports


def test_a_job_goes_on_from_the_bytes_of_its_checkpoint_to_the_same_files(tiny, tmp_path, monkeypatch):
    job = JobInput("x", JobRequest("a red mushroom", **tiny))
    whole, reports = run(job, monkeypatch, workspace=tmp_path)
    assert set(whole.files) == set(FILES) and not list(tmp_path.iterdir())
    steps = [each.step for each in reports if isinstance(each, Checkpoint)]
    assert steps == [1, 2, 3, 4]
    outcome, reports = run(job, monkeypatch, stop_at=2)
    last = [each for each in reports if isinstance(each, Checkpoint)][-1]
    assert outcome == Paused() and last.step == 2 and deserialize(last.data)[1]["iteration"] == 2
    rest, reports = run(JobInput("x", job.request, checkpoint=last), monkeypatch)
    assert [each.iteration for each in reports if isinstance(each, Progress)][0] == 3
    for name in ("mesh.glb", "texture.png", "turntable.png"):
        assert rest.files[name] == whole.files[name]


def test_a_job_that_is_refused_says_so_and_leaves_nothing(tiny, tmp_path, monkeypatch):
    request = JobRequest("a red mushroom", mode="texture", mesh="0" * 64, **tiny)
    none, _ = run(JobInput("x", request), monkeypatch, workspace=tmp_path)
    damaged, _ = run(JobInput("x", request, encode_snapshot(snapshot())[:-1]), monkeypatch, workspace=tmp_path)
    assert isinstance(none, Failed) and isinstance(damaged, Failed) and "damaged" in damaged.error
    assert not list(tmp_path.iterdir())
