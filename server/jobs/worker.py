# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker process of `LocalProcess`: takes jobs from the pipe, one after another, and sends what they report."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import signal
import threading
from pathlib import Path

from msd_blender.protocol import Progress

from .. import logs
from .messages import Checkpoint, JobInput, Ready, Report
from .pipe import Acknowledge, Cancel, Connection, Pause, receive_command, send

log = logging.getLogger(__name__)

# After so many seconds without a job, a worker gives its memory back: Blender renders on the same card.
IDLE_SECONDS = float(os.environ.get("MSD_IDLE_SECONDS", "60"))


def main(pipe: Connection, device: str, folder: str) -> None:
    """Run jobs until the server ends.

    Args:
        device: CUDA_VISIBLE_DEVICES, "" to leave it as it is.
        folder: an empty one, for the working files.
    """
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before torch is imported
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # an operation that Apple's lacks runs on the CPU
    logs.set_up()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the server's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    jobs: queue.SimpleQueue[JobInput] = queue.SimpleQueue()
    cancelled, paused, acknowledged = threading.Event(), threading.Event(), threading.Event()

    def listen() -> None:
        while True:
            try:
                command = receive_command(pipe)
            except (EOFError, OSError):  # the server is gone, even if it could not say so
                shutil.rmtree(folder, ignore_errors=True)
                os._exit(0)
            match command:
                case Cancel():
                    cancelled.set()
                case Pause():
                    paused.set()
                case Acknowledge():
                    acknowledged.set()
                case JobInput():
                    cancelled.clear()
                    paused.clear()
                    jobs.put(command)
            del command

    threading.Thread(target=listen, daemon=True).start()

    from .run_job import release, run_job, status, warm_up

    def report(message: Report) -> None:
        acknowledged.clear()
        send(pipe, message)
        if isinstance(message, Progress):
            send(pipe, status())
        elif isinstance(message, Checkpoint):
            acknowledged.wait()  # then the loop counts the writing among the cost of its checkpoints

    def next_job() -> JobInput:
        try:
            return jobs.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            release()
            log.info("No job for %g s: the model and its memory are given back until the next one", IDLE_SECONDS)
            send(pipe, status())
            return jobs.get()

    warm_up()
    send(pipe, Ready(status()))
    while True:
        send(pipe, run_job(next_job(), report, cancelled.is_set, paused.is_set, Path(folder)))
