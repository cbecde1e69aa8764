# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs for Ray's actors that take no numerical work: they count steps, heed requests, and keep a journal.

The journal, in the folder `MSD_TEST_JOURNAL`, has a line for each thing that a job does: its time by the clock that all
processes of a machine share, the pid, the attempt, and what it was.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from msd_blender.protocol import Log, Progress
from server.jobs import worker
from server.jobs.messages import Checkpoint, DeviceStatus, Finished, Paused
from server.priors.fingerprint import fingerprint as models
from tests.jobs.scripted import snapshot

STEP_SECONDS = 0.02


def warm_up():
    pass


def release():
    pass


def fingerprint(request):
    """As the real one, but that a job ``only NODE`` finds its model on that node alone."""
    if request.prompt.startswith("only "):
        import ray

        if ray.get_runtime_context().get_node_id() != request.prompt.split()[1]:
            return "another"
    return models(request)


def status():
    return DeviceStatus("a test", 1, 2)


def local_main(*given):
    """The main function of a local worker process that runs these jobs."""
    sys.modules["server.jobs.run_job"] = sys.modules[__name__]
    worker.main(*given)


def note(job, attempt, what):
    with open(Path(os.environ["MSD_TEST_JOURNAL"]) / f"{job}.txt", "a") as file:
        file.write(f"{time.monotonic():.6f} {os.getpid()} {attempt} {what}\n")


def journal(folder, job):
    """The (time, pid, attempt, what) of a job's lines."""
    lines = [line.split() for line in (Path(folder) / f"{job}.txt").read_text().splitlines()]
    return [(float(when), int(pid), int(attempt), what) for when, pid, attempt, what in lines]


def run_job(job, report, cancelled, paused, workspace=None):
    """Count to the request's iterations from the checkpoint, a checkpoint and a snapshot each step; the result says
    how far, and with which prompt. A prompt of ``die N`` kills the process at step N of the first run, one of
    ``large N`` makes checkpoints of N MB, and one of ``every N`` makes one each N steps; one of ``events`` sends as
    many events as iterations, and takes no time. One that begins with ``real`` is a real job."""
    if job.request.prompt.startswith("real"):
        from server.jobs.run_job import run_job as run  # ten seconds of imports

        def noted(message):
            if isinstance(message, Progress):
                note(job.id, job.attempt, f"step-{message.iteration}")
            report(message)

        return run(job, noted, cancelled, paused, workspace)
    if job.request.prompt == "events":
        for step in range(1, job.request.iterations + 1):
            report(Progress("volume", step, job.request.iterations, 0.0))
        return Finished({"mesh.glb": b"glb", "job.json": b"{}"})
    start = job.checkpoint.step if job.checkpoint else 0
    words = job.request.prompt.split()
    size = int(words[1]) << 20 if words[0] == "large" else 8
    every = int(words[1]) if words[0] == "every" else 1
    for step in range(start + 1, job.request.iterations + 1):
        note(job.id, job.attempt, f"step-{step}")
        time.sleep(STEP_SECONDS)
        if words[0] == "die" and step == int(words[1]) and job.attempt == 1:
            os.kill(os.getpid(), 9)
        report(Progress("volume", step, job.request.iterations, 0.1 * step))
        report(snapshot(step))
        stopping = paused() and not cancelled()
        if stopping or step % every == 0:
            report(Checkpoint(step, save({"a": np.full(size, step % 256, np.uint8)}, {"state": "{}"})))
        if stopping:
            note(job.id, job.attempt, "paused")
            return Paused()
        if cancelled():
            break
    report(Log(f"edit {job.edit.number if job.edit else 0}"))
    note(job.id, job.attempt, "end")
    return Finished({"mesh.glb": f"{job.request.prompt} {step}".encode(), "job.json": b"{}"})
