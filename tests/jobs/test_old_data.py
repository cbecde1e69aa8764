# SPDX-License-Identifier: GPL-3.0-or-later
"""A data folder that an earlier version's server left is served, and its paused jobs go on."""

import tarfile
from pathlib import Path

from msd_blender.protocol import CANCELLED, FINISHED, PAUSED, Progress

OLD = Path(__file__).parents[1] / "data" / "old_files" / "data.tar.xz"


def test_its_jobs_are_there_and_go_on(start_server, tmp_path):
    with tarfile.open(OLD) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
        archive.extractall(tmp_path)
    client = start_server(tmp_path / "data").client()
    jobs = {job.request.prompt: job for job in client.jobs()}
    assert {prompt: job.state for prompt, job in jobs.items()} == {
        "a red mushroom": FINISHED,
        "a blue chair": PAUSED,
        "a wooden ball": PAUSED,
        "a white cube": PAUSED,
    }
    done = jobs["a red mushroom"]
    assert done.files == ["mesh.glb", "texture.png", "turntable.png", "job.json"]
    assert [event for event in client.events(done.id)][-1].state == FINISHED
    assert {"positions", "faces"} <= next(iter(client.snapshots(done.id))).arrays.keys()
    for prompt in ("a blue chair", "a wooden ball"):
        id = jobs[prompt].id
        seen = max(event.iteration for event in progress_until_paused(client, id))
        client.resume(id)
        later = (event for event in client.events(id) if isinstance(event, Progress) and event.iteration > seen)
        assert next(later).iteration == seen + 1
        client.cancel(id)
        last = list(client.events(id))[-1]
        assert last.state == CANCELLED and "mesh.glb" in last.files, last.error


def progress_until_paused(client, id):
    """The progress of a paused job, whose stream stays open."""
    for event in client.events(id):
        if isinstance(event, Progress):
            yield event
        elif getattr(event, "state", "") == PAUSED:
            return
