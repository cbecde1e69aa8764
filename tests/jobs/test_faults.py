# SPDX-License-Identifier: GPL-3.0-or-later
"""A full disk, a read-only one, too little memory: each is said in a sentence, and nothing that was good is lost."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from msd_blender.client import ClientError
from msd_blender.protocol import FAILED, FINISHED, JobRequest, Log
from server.checkpoint import load
from server.jobs.messages import REDUCED

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with 64 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(path):
    """Write until the disk is full to the last byte."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def checkpoints(disk):
    return sorted(disk.glob("data/jobs/*.part/checkpoints/*.safetensors"))


def until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_full_disk_costs_neither_the_job_nor_its_last_checkpoint(start_server, small_disk, tiny, monkeypatch):
    monkeypatch.setenv("MSD_CHECKPOINT_SECONDS", "0")
    server = start_server(small_disk / "data")
    client = server.client()
    wish = JobRequest("a red mushroom", **{**tiny, "iterations": 30})
    whole = client.submit(wish)
    assert list(client.events(whole.id))[-1].state == FINISHED
    texture = (small_disk / "data" / "jobs" / whole.id / "texture.png").read_bytes()

    job = client.submit(wish)
    until(lambda: checkpoints(small_disk))
    fill(small_disk / "filler")
    until(lambda: client.job(job.id).ended)  # it goes on as far as it can: its files are what fails
    failed = client.job(job.id)
    assert failed.state == FAILED and "No space left" in failed.error and "resume" in failed.error
    for path in checkpoints(small_disk):
        load(path)  # raises for a half-written one
    with pytest.raises(ClientError, match="make room"):
        client.submit(wish)
    assert client.health().worker == "idle"

    (small_disk / "filler").unlink()
    client.resume(job.id)
    assert list(client.events(job.id))[-1].state == FINISHED
    assert (small_disk / "data" / "jobs" / job.id / "texture.png").read_bytes() == texture


def test_a_read_only_data_folder_is_one_sentence(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    ended = subprocess.run(
        [sys.executable, "-m", "server", "serve", "--port", "0", "--data", small_disk],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert ended.returncode == 1 and "cannot be written" in ended.stderr and ended.stderr.count("\n") == 1


def test_too_little_memory_takes_views_one_by_one_then_fewer_and_then_fails_in_a_sentence(
    server, tiny, save_pipeline, tmp_path
):
    folder = save_pipeline(tmp_path / "model")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": 1 << 21}))  # 200 TB a picture
    client = server.client()
    said = list(client.events(client.submit(JobRequest("a red mushroom", model=str(folder))).id))
    assert said[-1].state == FAILED and "too little memory" in said[-1].error
    warnings = [message.message for message in said if isinstance(message, Log) and message.level == "warning"]
    assert warnings == list(REDUCED)
    assert list(client.events(client.submit(JobRequest("a blue chair", **tiny)).id))[-1].state == FINISHED
