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
from itertools import takewhile
from multiprocessing.connection import Connection
from pathlib import Path

from msd_blender.protocol import JobRequest, Log, Progress, Snapshot, encode_event, encode_snapshot, from_dict, to_dict

from .. import logs
from ..checkpoint import Checkpoints
from .executor import ExecutorDied
from .meshes import read

log = logging.getLogger(__name__)


# Without work for so long, a worker gives its memory back: Blender renders on the same card.
IDLE_SECONDS = float(os.environ.get("MSD_IDLE_SECONDS", "60"))


def devices() -> list[str]:
    """A worker's CUDA_VISIBLE_DEVICES for each card that the driver lists and that this variable does not hide; one ""
    where there is none."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        cards = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
        return [str(i) for i in range(cards)] or [""]
    # As CUDA reads it: the first name that is none ends the list.
    names = [name.strip() for name in chosen.split(",")]
    return list(takewhile(lambda name: name and name != "-1", names)) or [""]


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

    def run(
        self,
        request: JobRequest,
        folder: Path,
        halvings: int = 0,
        mesh: Path | None = None,
        edit: tuple[int, Path] | None = None,
    ) -> None:
        self._send(
            {
                "run": to_dict(request),
                "folder": str(folder),
                "halvings": halvings,
                "mesh": mesh and str(mesh),
                "edit": edit and [edit[0], str(edit[1])],
            }
        )

    def cancel(self) -> None:
        self._send({"cancel": True})

    def pause(self) -> None:
        self._send({"pause": True})

    def _send(self, message: dict) -> None:
        try:
            self._pipe.send_bytes(json.dumps(message).encode())
        except (OSError, ValueError):
            pass  # it died: `receive` tells

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
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before torch is imported
    logs.set_up()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the server's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cancelled, paused, wake = threading.Event(), threading.Event(), threading.Event()
    work: list[dict] = []

    def listen() -> None:
        while True:
            try:
                message = json.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)  # the server is gone, in whatever way
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

    from ..optimize import (
        Paused,
        Settings,
        checked,
        device_in_use,
        generate,
        is_device_fault,
        is_out_of_memory,
        release,
        warm_up,
    )

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
        if not wake.wait(IDLE_SECONDS):
            release()
            log.info("No job for %g s: the model and its memory are given back until the next one", IDLE_SECONDS)
            tell(b"M")
            wake.wait()
        wake.clear()
        job = work.pop(0)
        request, folder = from_dict(JobRequest, job["run"]), Path(job["folder"])
        logs.JOB.set(folder.stem)
        try:
            mesh = job["mesh"] and checked(read(Path(job["mesh"])))
            edit = job["edit"] and (str(job["edit"][0]), checked(read(Path(job["edit"][1]))))
            generate(
                request,
                folder,
                report,
                cancelled.is_set,
                Settings.of(request, job["halvings"]),
                Checkpoints(folder / "checkpoints"),
                paused.is_set,
                mesh,
                edit,
            )
            pipe.send_bytes(b"D")
        except Paused:
            pipe.send_bytes(b"P")
        except Exception as error:
            refused = isinstance(error, ValueError)
            log.log(
                logging.WARNING if refused else logging.ERROR,
                "The job %s",
                "was refused" if refused else "failed",
                exc_info=True,
            )
            if is_out_of_memory(error):
                pipe.send_bytes(b"O")
            elif is_device_fault(error):
                pipe.send_bytes(b"X" + f"its device failed: {_first_line(error)}".encode())
            else:
                pipe.send_bytes(b"F" + _sentence(error).encode())


def _sentence(error: Exception) -> str:
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"The job's files cannot be written ({error.strerror}): make room or repair the disk, then resume it."
    return f"The job stopped on {type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else "no more is known"
