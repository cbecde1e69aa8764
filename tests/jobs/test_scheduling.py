# SPDX-License-Identifier: GPL-3.0-or-later
"""Which job runs next, and what becomes of each: priorities, pauses, edits, cancels.

The executors are scripted, so that nothing here waits for numerical work or for a clock.
"""

import asyncio
import random
import threading

import numpy as np
import pytest

from msd_blender.protocol import (
    CANCELLED,
    FAILED,
    FINISHED,
    PAUSED,
    QUEUED,
    RUNNING,
    Edit,
    JobRequest,
    Progress,
    encode_snapshot,
)
from server.jobs.messages import Checkpoint, DeviceStatus, Failed, Finished, OutOfMemory, Paused
from server.jobs.queue import QueueError
from tests.jobs.scripted import (
    FILES,
    checkpoint,
    crash,
    finish,
    hang,
    heed,
    iterations,
    progress,
    say,
    snapshot,
    states,
    until,
)


def upload(run):
    """The id of an uploaded mesh."""

    async def blocks():
        yield encode_snapshot(snapshot())

    return asyncio.run(run.store.meshes.receive(blocks())).id


class Gate:
    """A script that reports a checkpoint, notes the request to stop, and heeds it once it is let through."""

    def __init__(self, *rest):
        self.asked, self.opened, self.rest = threading.Event(), threading.Event(), rest

    def __call__(self, executor, job):
        executor.say(progress(1), snapshot())
        executor.asked.get()
        self.asked.set()
        self.opened.wait()
        executor.say(*(self.rest or (Checkpoint(3, checkpoint(3)), Paused())))


# Order


def test_a_job_leaves_its_files_and_its_last_snapshot(bench):
    run = bench()
    job = run.submit()
    assert run.ended(job).files == ["mesh.glb", "job.json"] and states(run, job) == [QUEUED, RUNNING, FINISHED]
    assert {name: (run.store.folder(job) / name).read_bytes() for name in FILES} == FILES
    np.testing.assert_array_equal(run.store.last_snapshot(job).arrays["faces"], snapshot().arrays["faces"])
    assert not list(run.store.data.glob("jobs/*.part"))
    assert run.queue.device() == DeviceStatus("a test", 1, 2)


def test_the_highest_priority_goes_first_and_then_who_came_first(bench):
    run = bench(heed, finish)
    first = run.submit("first")
    run.until(first, RUNNING)
    waiting = [run.submit(prompt, priority=priority) for prompt, priority in (("a", 0), ("b", 5), ("c", -1), ("d", 5))]
    run.queue.cancel(first)
    for job in waiting:
        run.ended(job)
    assert [job.request.prompt for job in run.runs] == ["first", "b", "d", "a", "c"]


def test_clients_take_turns_within_a_priority(bench):
    run = bench(heed, finish)
    first = run.submit("first")
    run.until(first, RUNNING)
    wishes = [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")]
    waiting = [run.queue.submit(JobRequest(prompt), client).id for prompt, client in wishes]
    waiting.append(run.queue.submit(JobRequest("urgent", priority=1), "a").id)
    run.queue.cancel(first)
    for job in waiting:
        run.ended(job)
    assert [job.request.prompt for job in run.runs[1:]] == ["urgent", "b1", "c1", "a1", "b2", "a2", "a3"]


def test_the_place_in_the_queue_is_the_order_of_the_runs(bench):
    run, rng = bench(heed, finish), random.Random(0)
    run.until(first := run.submit("first"), RUNNING)
    wishes = [(str(i), rng.choice("abcd"), rng.randrange(3)) for i in range(60)]
    jobs = [run.queue.submit(JobRequest(prompt, priority=level), client).id for prompt, client, level in wishes]
    run.queue.pause(jobs.pop())
    told = sorted((job.place, job.request.prompt) for job in run.queue.with_places(run.queue.store.all()) if job.place)
    run.queue.cancel(first)
    for job in jobs:
        run.ended(job)
    assert told == list(enumerate((job.request.prompt for job in run.runs[1:]), 1))
    assert {job.place for job in run.queue.with_places(run.queue.store.all())} == {0}


def test_a_job_goes_to_the_executor_that_has_its_model(bench):
    run = bench(finish, count=2)
    until(lambda: run.queue.executor_states == ["idle", "idle"])
    for _ in range(5):
        for model in ("a", "b", "a"):
            run.ended(run.submit(model=model))
            until(lambda: run.queue.executor_states == ["idle", "idle"])
    ran = [{job.request.model for job in executor.jobs} for executor in run.executors]
    assert ran in ([{"a"}, {"b"}], [{"b"}, {"a"}])
    run.ended(run.submit(model="c"))


def test_a_client_has_no_more_jobs_at_once_than_it_may(bench):
    run = bench(heed, count=3, per_client=2)
    mine = [run.queue.submit(JobRequest(f"a{i}"), "a").id for i in range(3)]
    until(lambda: [run.job(job).state for job in mine] == [RUNNING, RUNNING, QUEUED])
    other = run.queue.submit(JobRequest("b"), "b").id
    run.until(other, RUNNING)
    assert run.job(mine[2]).state == QUEUED
    run.queue.cancel(mine[0])
    run.until(mine[2], RUNNING)


def test_as_many_jobs_run_at_once_as_there_are_executors(bench):
    run = bench(heed, count=2)
    jobs = [run.submit(str(i)) for i in range(3)]
    until(lambda: [run.job(job).state for job in jobs] == [RUNNING, RUNNING, QUEUED])
    until(lambda: run.queue.state == "busy")
    assert run.queue.device() == DeviceStatus("a test; a test", 2, 4)
    run.queue.cancel(jobs[1])
    run.until(jobs[2], RUNNING)
    assert run.job(jobs[0]).state == RUNNING


def test_jobs_that_wait_are_paused_and_cancelled_at_once(bench):
    run = bench(heed)
    run.submit()
    until(lambda: len(run.runs) == 1)
    job = run.submit()
    assert run.queue.pause(job).state == PAUSED and run.queue.resume(job).state == QUEUED
    assert run.queue.cancel(job).state == CANCELLED == run.queue.cancel(job).state
    assert len(run.runs) == 1


# Pauses and edits


def test_a_paused_job_frees_the_executor_and_goes_on_from_its_checkpoint(bench):
    run = bench(heed, finish)
    job = run.submit()
    run.until(job, RUNNING)
    run.queue.pause(job)
    assert run.until(job, PAUSED) and run.queue.pause(job).state == PAUSED
    assert run.ended(run.submit("another")).state == FINISHED
    run.queue.resume(job)
    assert run.ended(job).state == FINISHED
    assert [each.checkpoint for each in run.runs] == [None, None, Checkpoint(1, checkpoint(1))]
    with pytest.raises(QueueError, match="finished"):
        run.queue.pause(job)
    with pytest.raises(QueueError, match="no checkpoint"):
        run.queue.resume(job)


def test_a_pause_that_is_taken_back_before_it_takes_hold_lets_the_job_go_on(bench):
    gate = Gate()
    run = bench(gate, finish)
    job = run.submit()
    run.until(job, RUNNING)
    run.queue.pause(job)
    gate.asked.wait()
    assert run.queue.resume(job).state == RUNNING
    gate.opened.set()
    assert run.ended(job).state == FINISHED and PAUSED not in states(run, job)
    assert run.runs[1].checkpoint.step == 3


def test_a_job_that_does_not_pause_is_stopped_and_keeps_its_last_checkpoint(bench):
    run = bench(say(progress(1), Checkpoint(5, checkpoint(5))), finish)
    job = run.submit()
    until(lambda: run.store.checkpoints(job).step == 5)
    run.queue.pause(job)
    until(lambda: not run.executors[0].asked.empty())
    run.clock.now += 61
    run.until(job, PAUSED)
    assert run.executors[0].killed
    run.queue.resume(job)
    assert run.ended(job).state == FINISHED and run.runs[1].checkpoint.step == 5


def test_an_edited_prompt_takes_hold_in_a_running_job(bench):
    run = bench(heed, finish)
    job = run.submit()
    until(lambda: iterations(run, job))
    assert run.queue.edit(job, Edit("a blue mushroom")).state == RUNNING
    assert run.ended(job).state == FINISHED and PAUSED not in states(run, job)
    assert [each.request.prompt for each in run.runs] == ["a red mushroom", "a blue mushroom"]
    assert run.runs[1].checkpoint.step == 1 and run.runs[1].edit is None
    with pytest.raises(QueueError, match="start another one"):
        run.queue.edit(job, Edit("a green mushroom"))


def test_an_edited_mesh_reaches_the_next_run_with_its_number(bench):
    run = bench(heed, finish)
    job = run.submit()
    until(lambda: iterations(run, job))
    assert run.queue.edit(job, Edit(mesh=upload(run))).edits == 1
    assert run.ended(job).state == FINISHED
    edit = run.runs[1].edit
    assert edit.number == 1 and edit.frame == encode_snapshot(snapshot())
    assert run.store.last_snapshot(job).edits == 1


def test_an_edit_of_a_paused_job_waits_for_it_to_be_resumed(bench):
    run = bench(heed, finish)
    job = run.submit()
    run.until(job, RUNNING)
    run.queue.pause(job)
    run.until(job, PAUSED)
    assert run.queue.edit(job, Edit(negative_prompt="blue")).state == PAUSED
    run.queue.resume(job)
    run.ended(job)
    assert run.runs[1].request.negative_prompt == "blue"


def test_an_edit_that_comes_while_the_job_finishes_makes_it_go_on(bench):
    gate = Gate(Finished(FILES))
    run = bench(gate, finish)
    job = run.submit()
    until(lambda: iterations(run, job))
    run.queue.edit(job, Edit("a blue mushroom"))
    gate.asked.wait()
    gate.opened.set()
    assert run.ended(job).state == FINISHED and states(run, job).count(RUNNING) == 3  # the edit's own event is one
    assert run.runs[1].request.prompt == "a blue mushroom"


def test_an_edit_that_comes_while_files_are_written_is_refused(bench, monkeypatch):
    run = bench(finish)
    writing, written = threading.Event(), threading.Event()
    keep = run.store.keep_files

    def slow(*given):
        writing.set()
        written.wait()
        keep(*given)

    monkeypatch.setattr(run.store, "keep_files", slow)
    job = run.submit()
    writing.wait()
    with pytest.raises(QueueError, match="just ended"):
        run.queue.edit(job, Edit("a blue mushroom"))
    written.set()
    assert run.ended(job).state == FINISHED and run.job(job).request.prompt == "a red mushroom"


def test_a_mesh_that_is_gone_fails_the_job_in_a_sentence(bench):
    run = bench(finish)
    job = run.submit(mode="texture", mesh="0" * 64)
    assert run.ended(job).state == FAILED and "upload it first" in run.job(job).error
    assert run.ended(run.submit()).state == FINISHED


# Cancels


def test_a_cancelled_job_keeps_its_files(bench):
    run = bench(heed)
    job = run.submit()
    until(lambda: iterations(run, job))
    run.queue.cancel(job)
    assert run.ended(job).state == CANCELLED and run.job(job).files == ["mesh.glb", "job.json"]
    assert not run.executors[0].killed


def test_a_job_that_does_not_end_when_cancelled_is_stopped_and_keeps_what_it_showed(bench):
    run = bench(hang)
    job = run.submit()
    until(lambda: run.queue.streams.newest_snapshot(job))
    run.queue.cancel(job)
    until(lambda: not run.executors[0].asked.empty())
    run.clock.advance(1.7)
    assert run.job(job).state == RUNNING
    run.clock.now += 0.2
    assert run.ended(job).state == CANCELLED and run.job(job).files == ["mesh.glb"]
    assert run.executors[0].killed


@pytest.mark.parametrize("seconds, phase, spared", [(5, "volume", 9), (0, "files", 29)])
def test_slow_iterations_and_files_under_way_are_waited_for(bench, seconds, phase, spared):
    def slow(executor, job):
        executor.say(progress(1))
        ticks.wait()
        executor.say(progress(2))
        executor.asked.get()
        executor.say(progress(3, phase))

    ticks = threading.Event()
    run = bench(slow)
    job = run.submit()
    until(lambda: iterations(run, job) == [1])
    run.clock.now += seconds
    ticks.set()
    until(lambda: iterations(run, job) == [1, 2])
    run.queue.cancel(job)
    until(lambda: iterations(run, job) == [1, 2, 3])
    run.clock.advance(spared)
    assert run.job(job).state == RUNNING
    run.clock.now += 2
    assert run.ended(job).state == CANCELLED


def test_a_job_that_crashes_after_it_was_cancelled_is_cancelled(bench):
    run = bench(Gate(crash()))
    gate = run.script[0]
    job = run.submit()
    until(lambda: run.queue.streams.newest_snapshot(job))
    run.queue.cancel(job)
    gate.asked.wait()
    gate.opened.set()
    assert run.ended(job).state == CANCELLED and run.job(job).files == ["mesh.glb"]
    assert run.warnings(job) == [] and run.queue.crashes == 1


@pytest.mark.parametrize("outcome", [Paused(), OutOfMemory(), Failed("It failed."), Finished({})])
def test_however_a_cancelled_job_ends_it_is_cancelled(bench, outcome):
    gate = Gate(outcome)
    run = bench(gate)
    job = run.submit()
    until(lambda: run.queue.streams.newest_snapshot(job))
    run.queue.cancel(job)
    gate.asked.wait()
    gate.opened.set()
    assert run.ended(job).state == CANCELLED and run.job(job).error == "" and len(run.runs) == 1
    with pytest.raises(QueueError, match="cancelled"):
        run.queue.pause(job)


# Crashes, memory, devices


# To finish


def test_a_job_that_is_to_finish_goes_on_at_once_before_all_others(bench):
    run = bench(heed, finish)
    job = run.submit()
    until(lambda: run.runs and run.job(job).state == RUNNING)
    urgent = run.submit(priority=5)
    assert run.queue.finish(job).finishing
    assert run.ended(job).state == FINISHED and run.ended(urgent).state == FINISHED
    assert [(each.id, each.finish) for each in run.runs] == [(job, False), (job, True), (urgent, False)]
    assert run.runs[1].checkpoint.step == 1
    with pytest.raises(QueueError, match="is finished"):
        run.queue.finish(job)


def test_to_pause_and_resume_a_job_that_is_to_finish_does_not_make_it_grow(bench):
    gate = Gate()
    run = bench(gate, finish)
    job = run.submit()
    until(lambda: run.runs)
    run.queue.pause(job)
    gate.asked.wait()
    run.queue.finish(job)
    run.queue.pause(job)
    run.queue.resume(job)
    gate.opened.set()
    assert run.ended(job).state == FINISHED and [each.finish for each in run.runs] == [False, True]


def test_a_cancel_is_not_taken_back_by_finishing(bench):
    gate = Gate(Finished(FILES))
    run = bench(gate)
    job = run.submit()
    until(lambda: run.runs)
    run.queue.cancel(job)
    gate.asked.wait()
    assert not run.queue.finish(job).finishing
    gate.opened.set()
    assert run.ended(job).state == CANCELLED


# Places


def test_places_are_in_the_order_in_which_jobs_run(bench):
    gate = Gate(Finished(FILES))
    run = bench(gate, finish)
    first = run.submit()
    until(lambda: run.runs)
    mine = [run.queue.submit(JobRequest("a chair"), "me").id for _ in range(3)]
    hers = [run.queue.submit(JobRequest("a chair"), "her").id for _ in range(2)]
    urgent = run.queue.submit(JobRequest("a chair", priority=1), "me").id
    jobs = run.queue.with_places(run.store.not_ended())
    places = {job.id: job.place for job in jobs}
    assert places.pop(first) == 0
    told = sorted(places, key=lambda job: places[job])
    assert told == [job for job, _ in run.store.waiting()] and set(told) == {*mine, *hers, urgent}
    assert [job.waits_for for job in sorted(jobs, key=lambda job: job.place)[:4]] == [
        "",
        "Another job runs.",
        "1 other before it.",
        "2 others before it.",
    ]
    gate.opened.set()
    gate.asked.wait(0)
    run.queue.cancel(first)
    for job in told:
        run.ended(job)
    assert [each.id for each in run.runs[1:]] == told


def test_a_client_that_has_all_its_turns_is_told_so(bench):
    gate = Gate(Finished(FILES))
    run = bench(gate, finish, count=2, per_client=1)
    first = run.queue.submit(JobRequest("a chair"), "me").id
    until(lambda: run.runs)
    second = run.queue.submit(JobRequest("a chair"), "me").id
    (waiting,) = run.queue.with_places([run.job(second)])
    assert waiting.waits_for == "The server runs at most 1 job of a client at once."
    gate.opened.set()
    run.queue.cancel(first)
    run.ended(second)


# Seconds


def test_the_seconds_of_jobs_with_the_same_settings_are_expected_again(bench):
    def taking(seconds):
        return say(Progress("files", 9, 9, seconds), Finished(FILES))

    run = bench(taking(10.0), taking(30.0), taking(14.0), taking(99.0), say(Failed("no")))
    request = JobRequest("a chair", iterations=9, seed=4)
    assert run.store.expected_seconds(request) is None
    for prompt in ("a table", "a cup", "a house"):
        run.ended(run.submit(prompt, iterations=9))
    assert run.store.expected_seconds(request) == 14
    run.ended(run.submit("a table", iterations=9, guidance="sds"))
    run.ended(run.submit("a table", iterations=9))
    assert run.store.expected_seconds(request) == 14
    assert run.store.expected_seconds(JobRequest("a chair", iterations=8)) is None
