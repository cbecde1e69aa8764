# SPDX-License-Identifier: GPL-3.0-or-later
"""The local executor: a process per device that does the numerical work, so that no fault in it ends the server.

Both ends speak bytes over a pipe. To the worker, JSON: {"run": request, "folder": path, "halvings": n,
"mesh": path or null, "edit": [number, path] or null}, {"cancel": true}, {"pause": true}. From it the letters of
`executor`.
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

from .. import logs
from ..checkpoint import Checkpoints
from .executor import ExecutorDied
from .meshes import read

log = logging.getLogger(__name__)


def devices() -> list[str]:
    """A worker's CUDA_VISIBLE_DEVICES for each card that the driver lists; one "" where there is none."""
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*"))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",") if chosen else [str(i) for i in range(len(cards))] or [""]


class Worker:
    """An `Executor`: starts the process, sends it work, receives what it says."""

    def __init__(self, device: str = "") -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, device), name="msd-worker", daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def run(self, request: JobRequest, folder: Path, halvings: int = 0, mesh: Path | None = None,
            edit: tuple[int, Path] | None = None) -> None:
        self._send({"run": to_dict(request), "folder": str(folder), "halvings": halvings,
                    "mesh": mesh and str(mesh), "edit": edit and [edit[0], str(edit[1])]})

    def cancel(self) -> None:
        self._send({"cancel": True})

    def pause(self) -> None:
        self._send({"pause": True})

    def _send(self, message: dict) -> None:
        try:
            self._pipe.send_bytes(json.dumps(message).encode())
        except (OSError, ValueError):
            pass                            # it died: `receive` tells

    def receive(self, timeout: float) -> tuple[str, bytes] | None:
        """The next (letter, body), None after `timeout` seconds without one. Raises `ExecutorDied`."""
        try:
            if not self._pipe.poll(timeout):
                return None
            data = self._pipe.recv_bytes()
        except (EOFError, OSError):
            self._process.join(1)
            raise ExecutorDied(f"exit code {self._process.exitcode}") from None
        return chr(data[0]), data[1:]

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _main(pipe: Connection, device: str) -> None:
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device     # before torch is imported
    logs.set_up()
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C in a terminal is the server's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cancelled, paused, wake = threading.Event(), threading.Event(), threading.Event()
    work: list[dict] = []

    def listen() -> None:
        while True:
            try:
                message = json.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)                             # the server is gone, in whatever way
            if "cancel" in message:
                cancelled.set()
            elif "pause" in message:
                paused.set()
            else:
                cancelled.clear()
                paused.clear()
                work.append(message)
                wake.set()

    threading.Thread(target=listen, daemon=True).start()

    from ..optimize import Paused, Settings, checked, device_in_use, generate, is_out_of_memory, warm_up

    def tell(letter: bytes) -> None:
        pipe.send_bytes(letter + json.dumps(device_in_use()).encode())

    warm_up()
    tell(b"R")

    def report(message: Progress | Log | Snapshot) -> None:
        if isinstance(message, Snapshot):
            pipe.send_bytes(b"S" + encode_snapshot(message))
        else:
            pipe.send_bytes(b"E" + encode_event(0, message))
            if isinstance(message, Progress):
                tell(b"M")

    while True:
        wake.wait()
        wake.clear()
        job = work.pop(0)
        request, folder = from_dict(JobRequest, job["run"]), Path(job["folder"])
        logs.JOB.set(folder.stem)
        try:
            mesh = job["mesh"] and checked(read(Path(job["mesh"])))
            edit = job["edit"] and (str(job["edit"][0]), checked(read(Path(job["edit"][1]))))
            generate(request, folder, report, cancelled.is_set, Settings.of(request, job["halvings"]),
                     Checkpoints(folder / "checkpoints"), paused.is_set, mesh, edit)
            pipe.send_bytes(b"D")
        except Paused:
            pipe.send_bytes(b"P")
        except ValueError as error:
            log.warning("The job was refused", exc_info=True)
            pipe.send_bytes(b"F" + str(error).encode())
        except Exception as error:
            log.exception("The job failed")
            if is_out_of_memory(error):
                pipe.send_bytes(b"O")
            else:
                pipe.send_bytes(b"F" + _sentence(error).encode())


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"The job's files cannot be written ({error.strerror}): make room or repair the disk, then resume it."
    first = str(error).splitlines()[0] if str(error) else "no more is known"
    return f"The job stopped on {type(error).__name__}: {first}"
