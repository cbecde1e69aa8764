# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs outlive the server that took them."""

import pytest

from msd_blender.protocol import FAILED, FINISHED, QUEUED, RUNNING, JobRequest
from server.jobs.store import Store, StoreError


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path)
    yield opened
    opened.close()


def test_a_job_is_read_back_by_the_next_server(store, tmp_path):
    request = JobRequest("a red mushroom", seed=2**63 - 1, guidance_scale=7.5)
    job, new = store.add(request)
    store.close()
    again = Store(tmp_path)
    assert new and again.get(job.id) == job and job.request == request and job.state == QUEUED
    again.close()


def test_a_key_gives_the_same_job_and_no_key_a_new_one(store):
    keyed = JobRequest("a red mushroom", client_key="once")
    first, again = store.add(keyed), store.add(keyed)
    assert first[1] and not again[1] and again[0] == first[0]
    assert store.add(JobRequest("x"))[0].id != store.add(JobRequest("x"))[0].id


def test_the_oldest_queued_job_is_next(store):
    jobs = [store.add(JobRequest(prompt))[0] for prompt in "abc"]
    store.set_state(jobs[0].id, FINISHED)
    assert store.next_queued() == jobs[1]
    assert [job.request.prompt for job in store.all()] == ["c", "b", "a"]


def test_what_a_dead_server_left_running_has_failed_and_its_half_files_are_gone(store):
    running, queued = store.add(JobRequest("a"))[0], store.add(JobRequest("b"))[0]
    store.set_state(running.id, RUNNING)
    folder = store.open_folder(running.id)
    (folder / "mesh.glb").write_text("half")
    (failed,) = store.fail_running()
    assert failed.id == running.id and failed.state == FAILED and "submit it again" in failed.error
    assert failed.files == [] and not folder.exists()
    assert store.get(queued.id).state == QUEUED


def test_files_are_a_jobs_own_only_once_they_are_kept(store):
    job = store.add(JobRequest("a"))[0].id
    (store.open_folder(job) / "mesh.glb").write_text("whole")
    assert store.set_state(job, FINISHED).files == []
    store.keep_folder(job)
    assert store.get(job).files == ["mesh.glb"]
    store.discard_folder(job)               # of what is kept nothing is lost
    assert (store.folder(job) / "mesh.glb").read_text() == "whole"


def test_events_are_replayed_after_a_number(store):
    job = store.add(JobRequest("a"))[0].id
    assert store.last_event(job) == 0
    for number in (1, 2, 3):
        store.add_event(job, number, b"%d" % number)
    assert store.events(job, 1) == [(2, b"2"), (3, b"3")] and store.last_event(job) == 3


def test_a_damaged_store_is_one_sentence(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="move that file away"):
        Store(tmp_path)
