# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs survive crashes, too little memory, full disks and the end of a server.

The executors are scripted, so that nothing here waits for numerical work or for a clock.
"""

import errno
import shutil
import sqlite3

import pytest

from msd_blender.protocol import FAILED, FINISHED, QUEUED, RUNNING
from server.jobs.messages import (
    REDUCED,
    Checkpoint,
    DeviceFailed,
    DeviceStatus,
    Failed,
    Finished,
    OutOfMemory,
    Paused,
    Ready,
)
from tests.jobs.scripted import FILES, checkpoint, crash, finish, hang, heed, iterations, progress, say, until

FULL = OSError(errno.ENOSPC, "No space left on device")


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


def test_too_little_memory_is_answered_three_times_and_then_the_job_fails(bench):
    run = bench(*[say(OutOfMemory())] * 4, finish)
    job = run.submit()
    assert run.ended(job).state == FAILED and "too little memory" in run.job(job).error
    assert [each.reductions for each in run.runs] == [0, 1, 2, 3]
    assert run.warnings(job) == list(REDUCED)
    assert all(executor.killed for executor in run.executors[:4])
    assert run.ended(run.submit()).state == FINISHED and run.runs[-1].reductions == 0


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
