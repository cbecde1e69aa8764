# SPDX-License-Identifier: GPL-3.0-or-later
"""Which job runs next, and what becomes of each: priorities, pauses, edits, cancels, crashes, full disks.

The executors are scripted, so that nothing here waits for numerical work or for a clock.
"""

import asyncio
import errno
import shutil
import sqlite3
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
    Job,
    Progress,
    encode_snapshot,
)
from server.jobs.messages import Checkpoint, DeviceFailed, DeviceStatus, Failed, Finished, OutOfMemory, Paused, Ready
from server.jobs.queue import QueueError
from tests.jobs.scripted import FILES, Bench, checkpoint, crash, finish, hang, heed, progress, say, snapshot, until

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def bench(tmp_path):
    """Make a `Bench` with a script; it is closed at the end."""
    made = []

    def make(*script, **settings):
        made.append(Bench(tmp_path, *script, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def states(run, job):
    return [message.state for message in run.messages(job, Job)]


def iterations(run, job):
    return [message.iteration for message in run.messages(job, Progress)]


def upload(run):
    """The id of an uploaded mesh."""

    async def blocks():
        yield encode_snapshot(snapshot())

    return asyncio.run(run.store.uploads.receive(blocks())).id


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
    run.until(run.submit(), RUNNING)
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


def test_a_job_whose_executor_crashes_goes_on_from_its_checkpoint(bench):
    run = bench(say(progress(1), Checkpoint(7, checkpoint(7)), crash("exit code -9")), finish)
    job = run.submit()
    assert run.ended(job).state == FINISHED
    assert run.warnings(job) == ["The worker process died (exit code -9): going on from iteration 7."]
    assert [len(executor.jobs) for executor in run.executors] == [1, 1] and run.executors[0].killed
    assert run.runs[1].checkpoint == Checkpoint(7, checkpoint(7)) and run.queue.crashes == 1


def test_a_job_that_crashes_three_times_at_one_place_has_failed_and_no_other(bench):
    die = say(progress(1), crash())
    run = bench(die, die, die, finish)
    job = run.submit()
    assert run.ended(job).state == FAILED and "3 times" in run.job(job).error
    assert all("going on from the start" in text for text in run.warnings(job)) and len(run.warnings(job)) == 2
    assert run.ended(run.submit()).state == FINISHED


def test_crashes_count_anew_from_each_new_checkpoint(bench):
    def step_and_die(executor, job):
        step = job.checkpoint.step + 1 if job.checkpoint else 1
        executor.say(Checkpoint(step, checkpoint(step)), crash())

    run = bench(*[step_and_die] * 6, finish)
    job = run.submit()
    assert run.ended(job).state == FINISHED and len(run.warnings(job)) == 6
    assert run.runs[-1].checkpoint.step == 6


def test_a_damaged_checkpoint_is_passed_over(bench):
    run = bench(say(Checkpoint(1, checkpoint(1)), Checkpoint(2, checkpoint(2)[:-1]), crash()), finish)
    assert run.ended(run.submit()).state == FINISHED
    assert run.runs[1].checkpoint == Checkpoint(1, checkpoint(1))


def test_too_little_memory_halves_the_views_twice_and_then_fails(bench):
    run = bench(say(OutOfMemory()), say(OutOfMemory()), say(OutOfMemory()), finish)
    job = run.submit()
    assert run.ended(job).state == FAILED and "too little memory" in run.job(job).error
    assert [each.halvings for each in run.runs] == [0, 1, 2] and len(run.warnings(job)) == 2
    assert all(executor.killed for executor in run.executors[:3])
    assert run.ended(run.submit()).state == FINISHED and run.runs[-1].halvings == 0


def test_an_executor_whose_device_failed_is_replaced_and_its_job_goes_on(bench):
    run = bench(say(DeviceFailed("its device failed: CUDA error")), finish)
    job = run.submit()
    assert run.ended(job).state == FINISHED and run.executors[0].killed and len(run.executors) == 2
    assert run.warnings(job) == ["The worker process died (its device failed: CUDA error): going on from the start."]


def test_a_job_that_fails_leaves_the_executor_alone(bench):
    run = bench(say(Failed("It failed.")), finish)
    job = run.submit()
    assert run.ended(job).state == FAILED and run.job(job).error == "It failed."
    assert run.ended(run.submit()).state == FINISHED and len(run.executors) == 1
    assert not list(run.store.data.glob("jobs/*.part"))


def test_a_failed_job_with_a_checkpoint_is_resumed(bench):
    run = bench(say(Checkpoint(4, checkpoint(4)), Failed("It failed.")), finish)
    job = run.submit()
    assert run.ended(job).state == FAILED
    run.queue.resume(job)
    until(lambda: run.job(job).state == FINISHED)
    assert run.runs[1].checkpoint.step == 4


def test_an_executor_that_cannot_start_fails_the_jobs_that_wait(bench):
    run = bench(ready=False)
    job = run.submit()
    for count in (1, 2, 3):
        until(lambda: len(run.executors) == count)
        run.executors[-1].say(crash("exit code 1"))
    assert run.ended(job).state == FAILED and "cannot start (exit code 1)" in run.job(job).error
    assert run.queue.state == "starting" and run.runs == []


def test_an_executor_that_crashes_while_it_starts_is_started_again(bench):
    run = bench(ready=False)
    until(lambda: run.executors)
    run.executors[0].say(crash())
    job = run.submit()
    until(lambda: len(run.executors) == 2)
    run.executors[1].say(Ready(DeviceStatus()))
    assert run.ended(job).state == FINISHED


def test_an_executor_that_crashes_without_a_job_loses_none(bench):
    run = bench()
    until(lambda: run.queue.state == "idle")
    run.executors[0].say(crash())
    assert run.ended(run.submit()).state == FINISHED


def test_an_unforeseen_error_of_the_server_fails_the_job_and_no_other(bench):
    run = bench(say(Finished({"../mesh.glb": b""})), finish)
    assert run.ended(job := run.submit()).state == FAILED and "unforeseen" in run.job(job).error
    assert run.ended(run.submit()).state == FINISHED
    assert not list(run.store.data.glob("*.glb")) and not list(run.store.data.glob("jobs/*.glb"))


# Disks


def test_a_checkpoint_that_cannot_be_written_is_one_warning_and_the_job_goes_on(bench, monkeypatch):
    writes = []

    def full(path, data):
        writes.append(path)
        raise FULL

    monkeypatch.setattr("server.checkpoint.write", full)
    steps = [each for i in range(1, 4) for each in (Checkpoint(i, b""), progress(i + 1))]
    run = bench(say(*steps, Finished(FILES)))
    job = run.submit()
    assert run.ended(job).state == FINISHED and len(writes) == 3
    (text,) = run.warnings(job)
    assert text.startswith("A checkpoint could not be written (No space left on device)")


def test_a_pause_whose_checkpoint_cannot_be_written_fails_the_job_and_the_older_one_stays(bench, monkeypatch):
    def pauses_on_a_full_disk(executor, job):
        executor.say(progress(1), Checkpoint(1, checkpoint(1)), progress(2))
        executor.asked.get()
        executor.say(Checkpoint(2, checkpoint(2)), Paused())

    run = bench(pauses_on_a_full_disk, finish)
    job = run.submit()
    until(lambda: iterations(run, job) == [1, 2])
    with monkeypatch.context() as patch:
        patch.setattr("server.checkpoint.write", full_disk)
        run.queue.pause(job)
        assert run.ended(job).state == FAILED and "No space left" in run.job(job).error
    assert "resume" in run.job(job).error and run.warnings(job) == []
    run.queue.resume(job)
    until(lambda: run.job(job).state == FINISHED)
    assert run.runs[1].checkpoint.step == 1


def full_disk(*_):
    raise FULL


def test_files_are_kept_all_or_none(bench, monkeypatch):
    run = bench(say(Checkpoint(9, checkpoint(9)), Finished(FILES)))
    write = type(run.store.data).write_bytes

    def fills_up(path, data):
        return full_disk() if path.name == "job.json" else write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(type(run.store.data), "write_bytes", fills_up)
        job = run.submit()
        assert run.ended(job).state == FAILED and run.job(job).files == []
    assert run.job(job).error.startswith("The job's files cannot be written (No space left on device)")
    assert [path.name for path in (run.store.data / "jobs" / f"{job}.part").iterdir()] == ["checkpoints"]
    run.queue.resume(job)
    until(lambda: run.job(job).state == FINISHED)
    assert run.job(job).files == ["mesh.glb", "job.json"]


def test_a_state_that_cannot_be_written_is_tried_again(bench, monkeypatch):
    run = bench()
    write, failures = run.store.set_state, iter([1])

    def fails_once(job, state, error=""):
        if state == FINISHED and next(failures, None):
            raise sqlite3.OperationalError("database or disk is full")
        return write(job, state, error)

    monkeypatch.setattr(run.store, "set_state", fails_once)
    assert run.ended(run.submit()).state == FINISHED and not (run.store.data / "spare").exists()


def test_a_folder_that_is_gone_fails_the_job_and_no_other(bench):
    def lose(executor, job):
        shutil.rmtree(run.store.data / "jobs" / f"{job.id}.part")
        executor.say(Finished(FILES))

    run = bench(lose, finish)
    assert run.ended(job := run.submit()).state == FAILED and run.job(job).files == []
    assert "cannot be written" in run.job(job).error
    assert run.ended(run.submit()).state == FINISHED and not list(run.store.data.glob("jobs/*.part"))


# From one server to the next


@pytest.mark.parametrize("script, step", [(heed, 1), (say(progress(1), Checkpoint(6, checkpoint(6))), 6)])
def test_a_server_that_stops_leaves_its_jobs_to_the_next_one(bench, tmp_path, script, step):
    run = bench(script)
    job = run.submit()
    until(lambda: iterations(run, job))
    until(lambda: script is heed or run.store.checkpoints(job).step == step)
    run.stop()
    assert run.job(job).state == QUEUED and run.executors[0].killed
    again = bench(finish)
    assert again.ended(job).state == FINISHED and again.runs[0].checkpoint.step == step


def test_a_job_of_a_server_that_died_goes_on_in_the_next_one(bench):
    run = bench(hang)
    run.stop()
    left = [run.submit() for _ in range(2)]
    for job in left:
        run.store.set_state(job, RUNNING)
        run.store.open_folder(job)
    run.store.checkpoints(left[0]).write(8, checkpoint(8))
    run.store.keep_files(left[1], FILES, None)
    again = bench(finish)
    assert [again.ended(job).state for job in left] == [FINISHED, FINISHED]
    assert [each.checkpoint.step for each in again.runs] == [8]
