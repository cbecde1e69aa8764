# SPDX-License-Identifier: GPL-3.0-or-later
"""The local executor: a process for each device, so that no fault in the numerical work ends the server."""

from __future__ import annotations

import multiprocessing
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from pathlib import Path

from . import pipe, worker
from .executor import ExecutorCrashed, ExecutorOptions, StartExecutor
from .messages import Checkpoint, ExecutorMessage, JobInput
from .pipe import Connection


def devices() -> list[str]:
    """A worker's CUDA_VISIBLE_DEVICES for each card that the driver lists and that this variable does not hide; one ""
    where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(i) for i in range(_cards())] or [""]
    # CUDA ends the list at the first name that is no device, and so do we.
    names = [name.strip() for name in visible.split(",")]
    return list(takewhile(lambda name: name and name != "-1", names)) or [""]


def _cards() -> int:
    """The number of NVIDIA cards, by the driver."""
    if known := list(Path("/proc/driver/nvidia/gpus").glob("*")):  # on Linux
        return len(known)
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def for_each_device(options: ExecutorOptions) -> list[StartExecutor]:
    """A `LocalProcess` for each of `devices`."""
    return [partial(LocalProcess, device) for device in devices()]


class LocalProcess:
    """An `Executor` that starts a worker process and speaks to it over a pipe.

    The process keeps its working files in a temporary folder, which is removed with it.

    Args:
        device: the process's CUDA_VISIBLE_DEVICES, "" for that of the server.
        main: what the process runs.
    """

    def __init__(self, device: str = "", main: Callable[[Connection, str, str], None] = worker.main) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="msd-worker-", ignore_cleanup_errors=True)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=main, args=(theirs, device, self._folder.name), name="msd-worker", daemon=True
        )
        self._process.start()
        theirs.close()
        self._unacknowledged = False
        # A full pipe blocks its writer: a thread sends, so that a worker that hangs does not hang its executor thread.
        self._commands: queue.SimpleQueue[pipe.Command | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_commands, name="msd-commands", daemon=True)
        self._sender.start()

    def run(self, job: JobInput) -> None:
        self._commands.put(job)

    def cancel(self) -> None:
        self._commands.put(pipe.Cancel())

    def pause(self) -> None:
        self._commands.put(pipe.Pause())

    def _send_commands(self) -> None:
        while (command := self._commands.get()) is not None:
            try:
                pipe.send(self._pipe, command)
            except OSError:  # the process has ended, as `receive` notices
                return
            del command  # a mesh or a checkpoint must not stay until the next one

    def receive(self, timeout: float) -> ExecutorMessage | None:
        if self._unacknowledged:
            self._unacknowledged = False
            self._commands.put(pipe.Acknowledge())
        try:
            if not self._pipe.poll(timeout):
                return None
            message = pipe.receive_message(self._pipe)
        except (EOFError, OSError):
            self._process.join(1)
            reason = f"exit code {self._process.exitcode}"
            self.kill()
            raise ExecutorCrashed(reason) from None
        self._unacknowledged = isinstance(message, Checkpoint)
        return message

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._commands.put(None)
        self._sender.join()
        self._pipe.close()
        self._folder.cleanup()
