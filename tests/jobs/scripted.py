# SPDX-License-Identifier: GPL-3.0-or-later
"""An executor in this process that does what a test says, and a queue on such executors: scheduling in milliseconds."""

import queue
import threading
import time
from collections import deque

import numpy as np

from msd_blender.protocol import Job, JobRequest, Log, Progress, Snapshot, decode_event
from server.jobs.executor import ExecutorCrashed
from server.jobs.job_run import Timing
from server.jobs.messages import Checkpoint, DeviceStatus, Finished, Paused, Ready
from server.jobs.queue import Queue
from server.jobs.store import Store

FILES = {"mesh.glb": b"glb", "job.json": b"{}"}


class ScriptedExecutor:
    """Each job is run by the next function of `script`, called as `play(executor, job)`; the last one stays."""

    def __init__(self, script, ready=True):
        self.jobs, self.killed = [], False
        self.asked = queue.Queue()  # "cancel" and "pause", as they come
        self._script, self._messages = script, queue.Queue()
        if ready:
            self.say(Ready(DeviceStatus("a test", 1, 2)))

    def say(self, *messages):
        for message in messages:
            self._messages.put(message)

    def run(self, job):
        self.jobs.append(job)
        play = self._script.popleft() if len(self._script) > 1 else self._script[0]
        threading.Thread(target=play, args=(self, job), daemon=True).start()

    def cancel(self):
        self.asked.put("cancel")

    def pause(self):
        self.asked.put("pause")

    def receive(self, timeout):
        try:
            message = self._messages.get(timeout=timeout) if timeout else self._messages.get_nowait()
        except queue.Empty:
            return None
        if isinstance(message, Exception):
            raise message
        return message

    def kill(self):
        self.killed = True


def progress(iteration, phase="volume"):
    return Progress(phase, iteration, 100, 1.0)


def snapshot(version=1):
    return Snapshot(
        version,
        version,
        {
            "positions": np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32),
            "faces": np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], np.int32),
            "colours": np.zeros((4, 3), np.uint8),
        },
    )


def finish(executor, job):
    executor.say(progress(1), snapshot(), Finished(FILES))


def hang(executor, job):
    executor.say(progress(1), snapshot())


def heed(executor, job):
    """Run until the job is asked to stop, as a real one does."""
    executor.say(progress(1), snapshot())
    step = job.checkpoint.step if job.checkpoint else 0
    if executor.asked.get() == "pause":
        executor.say(Checkpoint(step + 1, checkpoint(step + 1)), Paused())
    else:
        executor.say(progress(2, "files"), Finished(FILES))


def say(*messages):
    """Play these messages."""
    return lambda executor, job: executor.say(*messages)


def crash(reason="exit code -9"):
    return ExecutorCrashed(reason)


def checkpoint(step):
    """The bytes of a checkpoint that can be read."""
    import torch

    from server.checkpoint import serialize

    return serialize({"a": torch.full((2,), float(step))}, {"iteration": step})


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self):
        self.now, self.looks = 0.0, 0

    def __call__(self):
        self.looks += 1
        return self.now

    def advance(self, seconds):
        """Move on, and wait until a job under way has taken note."""
        self.now += seconds
        looks = self.looks
        until(lambda: self.looks > looks + 2)


class Bench:
    """A queue on scripted executors, in a data folder, with a clock of its own."""

    def __init__(self, data, *script, count=1, ready=True, per_client=0):
        self.executors, self.clock = [], Clock()
        self.script = deque(script or [finish])

        def start():
            self.executors.append(ScriptedExecutor(self.script, ready))
            return self.executors[-1]

        self.store = Store(data)
        self.queue = Queue(self.store, [start] * count, Timing(restart=0.001, clock=self.clock), per_client)
        self.queue.start()

    def stop(self):
        """Stop the queue; time flies until executors that hang are killed."""
        stopping = threading.Thread(target=self.queue.stop)
        stopping.start()
        while stopping.is_alive():
            self.clock.now += 100
            stopping.join(0.005)

    def close(self):
        self.stop()
        self.store.close()

    def submit(self, prompt="a red mushroom", **changes):
        return self.queue.submit(JobRequest(prompt, **changes)).id

    def job(self, id):
        return self.store.get(id)

    def until(self, id, *states):
        """The job, once it is in one of these states."""
        until(lambda: self.job(id).state in states)
        return self.job(id)

    def ended(self, id):
        """The job, once its end is in the store and, a moment later, among its events."""
        until(lambda: self.job(id).ended and any(message.ended for message in self.messages(id, Job)))
        return self.job(id)

    def messages(self, id, kind):
        events = [decode_event(data.decode().splitlines())[1] for _, data in self.store.events(id)]
        return [event for event in events if isinstance(event, kind)]

    def warnings(self, id):
        return [event.message for event in self.messages(id, Log)]

    @property
    def runs(self):
        """Inputs of all runs, in order of their executors."""
        return [job for executor in self.executors for job in executor.jobs]


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def states(run, job):
    return [message.state for message in run.messages(job, Job)]


def iterations(run, job):
    return [message.iteration for message in run.messages(job, Progress)]
