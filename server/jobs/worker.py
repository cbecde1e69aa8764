# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker: one process that does the numerical work, so that no fault in it ends the server.

Both ends speak bytes over a pipe. To the worker, JSON: {"run": request, "folder": path}, {"cancel": true}.
From it, a letter and a body: R ready, E an event, S a snapshot frame, D done, F failed with a sentence.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from msd_blender.protocol import (JobRequest, Log, Progress, Snapshot, encode_event, encode_snapshot, from_dict,
                                  to_dict)

log = logging.getLogger(__name__)


class WorkerDied(Exception):
    """The worker process ended without being asked to."""


class Worker:
    """The server's end: starts the process, sends it work, receives what it says."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs,), name="msd-worker", daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def run(self, request: JobRequest, folder: Path) -> None:
        self._send({"run": to_dict(request), "folder": str(folder)})

    def cancel(self) -> None:
        self._send({"cancel": True})

    def _send(self, message: dict) -> None:
        try:
            self._pipe.send_bytes(json.dumps(message).encode())
        except (OSError, ValueError):
            pass                            # it died: `receive` tells

    def receive(self, timeout: float) -> tuple[str, bytes] | None:
        """The next (letter, body), None after `timeout` seconds without one. Raises `WorkerDied`."""
        try:
            if not self._pipe.poll(timeout):
                return None
            data = self._pipe.recv_bytes()
        except (EOFError, OSError):
            self._process.join(1)
            raise WorkerDied(f"exit code {self._process.exitcode}") from None
        return chr(data[0]), data[1:]

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _main(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C in a terminal is the server's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cancelled, wake = threading.Event(), threading.Event()
    work: list[dict] = []

    def listen() -> None:
        while True:
            try:
                message = json.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)                             # the server is gone, in whatever way
            if "cancel" in message:
                cancelled.set()
            else:
                cancelled.clear()
                work.append(message)
                wake.set()

    threading.Thread(target=listen, daemon=True).start()

    from ..optimize import generate, warm_up

    warm_up()
    pipe.send_bytes(b"R")

    def report(message: Progress | Log | Snapshot) -> None:
        if isinstance(message, Snapshot):
            pipe.send_bytes(b"S" + encode_snapshot(message))
        else:
            pipe.send_bytes(b"E" + encode_event(0, message))

    while True:
        wake.wait()
        wake.clear()
        job = work.pop(0)
        try:
            generate(from_dict(JobRequest, job["run"]), Path(job["folder"]), report, cancelled.is_set)
            pipe.send_bytes(b"D")
        except ValueError as error:
            log.warning("The job was refused", exc_info=True)
            pipe.send_bytes(b"F" + str(error).encode())
        except Exception as error:
            log.exception("The job failed")
            pipe.send_bytes(b"F" + f"The job stopped on {type(error).__name__}: "
                                   f"{str(error).splitlines()[0] if str(error) else 'no more is known'}".encode())
