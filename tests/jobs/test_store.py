# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs outlive the server that took them."""

import sqlite3
import time

import pytest
import torch

from msd_blender.protocol import FINISHED, QUEUED, RUNNING, JobRequest
from server.checkpoint import deserialize
from server.jobs.messages import JobInput
from server.jobs.store import PAGE, Store, StoreError


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


def test_the_highest_priority_is_next(store):
    jobs = [store.add(JobRequest(str(priority), priority=priority))[0] for priority in (0, 5, -1, 5)]
    order = []
    while (job := store.next_queued()) is not None:
        order.append(job.id)
        store.set_state(job.id, FINISHED)
    assert order == [jobs[i].id for i in (1, 3, 0, 2)]


def test_a_clock_that_jumps_changes_no_order(store, monkeypatch):
    first = store.add(JobRequest("a"))[0]
    monkeypatch.setattr(time, "time", lambda: 0.0)
    second = store.add(JobRequest("b"))[0]
    assert store.next_queued() == first and [job.id for job in store.all()] == [second.id, first.id]


def test_what_a_dead_server_left_running_waits_again_with_its_checkpoints(store):
    running, queued, whole = (store.add(JobRequest(name))[0] for name in "abc")
    for job in (running, whole):
        store.set_state(job.id, RUNNING)
        store.open_folder(job.id)
    store.checkpoints(running.id).save(7, {"a": torch.zeros(1)}, {})
    store.keep_files(whole.id, {}, None)
    taken = {job.id: job.state for job in store.take_up_running()}
    assert taken == {running.id: QUEUED, whole.id: FINISHED} and store.next_queued().id == running.id
    assert store.checkpoints(running.id).step == 7 and store.get(queued.id).state == QUEUED


def test_crashes_count_from_the_last_new_checkpoint(store):
    job = store.add(JobRequest("a"))[0].id
    assert [store.add_crash(job), store.add_crash(job)] == [1, 2]
    store.open_folder(job)
    store.checkpoints(job).save(7, {"a": torch.zeros(1)}, {})
    assert [store.add_crash(job), store.add_crash(job)] == [1, 2]
    assert store.reductions(job) == 0 and store.reduce(job) == 1 == store.reductions(job)


def test_a_store_of_the_first_version_is_taken_over(tmp_path):
    old = sqlite3.connect(tmp_path / "jobs.sqlite")
    old.executescript(
        "CREATE TABLE jobs (id TEXT PRIMARY KEY, client_key TEXT UNIQUE, state TEXT NOT NULL, "
        "request TEXT NOT NULL, created REAL NOT NULL, error TEXT NOT NULL DEFAULT '');"
        "INSERT INTO jobs VALUES ('x', NULL, 'queued', '{\"prompt\": \"a mug\"}', 1.0, '');"
    )
    old.close()
    for _ in range(2):
        store = Store(tmp_path)
        assert store.next_queued().request.prompt == "a mug" and store.reductions("x") == 0
        store.close()


def test_a_long_journal_is_read_in_pages(store):
    job = store.add(JobRequest("a"))[0].id
    for number in range(1, PAGE + 3):
        store.add_event(job, number, b"x")
    assert len(store.events(job)) == PAGE and len(store.events(job, PAGE)) == 2


def test_files_are_a_jobs_own_only_once_they_are_kept(store):
    job = store.add(JobRequest("a"))[0].id
    store.open_folder(job)
    assert store.set_state(job, FINISHED).files == []
    store.keep_files(job, {"mesh.glb": b"whole"}, None)
    assert store.get(job).files == ["mesh.glb"]
    store.discard_folder(job)  # which has no say in what is kept
    assert (store.folder(job) / "mesh.glb").read_text() == "whole"


def test_a_job_leaves_known_files_only(store):
    job = store.add(JobRequest("a"))[0].id
    store.open_folder(job)
    with pytest.raises(ValueError, match="../evil"):
        store.keep_files(job, {"../evil": b""}, None)


def test_a_job_is_given_its_newest_checkpoint_that_can_be_read(store):
    job = store.add(JobRequest("a", seed=3))[0]
    assert store.job_input(job) == JobInput(job.id, job.request)
    store.open_folder(job.id)
    store.checkpoints(job.id).save(7, {"a": torch.ones(3)}, {"iteration": 7})
    store.checkpoints(job.id).write(8, b"damaged")
    store.reduce(job.id)
    given = store.job_input(job)
    assert given.checkpoint.step == 7 and given.reductions == 1
    tensors, state = deserialize(given.checkpoint.data)
    assert torch.equal(tensors["a"], torch.ones(3)) and state == {"iteration": 7}


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
