# SPDX-License-Identifier: GPL-3.0-or-later
"""What the queue needs of whatever runs its jobs. Another kind of executor is another file beside `worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from msd_blender.protocol import JobRequest

# Of the views at once, until one is left: what is done where memory runs out.
HALVINGS = 2
HALVED = "The device ran out of memory: going on with half as many views at once."
TOO_LITTLE_MEMORY = (
    "The device has too little memory even for one view at a time: close other programs on it, or "
    "choose a smaller model or texture size."
)


class ExecutorDied(Exception):
    """An executor ended without being asked to."""


class Executor(Protocol):
    """Runs one job at a time. It says, as (letter, body):

    R ready for work, and M now and then: its device, as `Health` names it, in JSON; E an event (`encode_event`);
    S a snapshot frame (`encode_snapshot`); and of a job's end D done, P paused at a checkpoint, O out of memory,
    F failed with a sentence, X its device failed, with a sentence: it is of no more use.
    """

    def run(
        self,
        request: JobRequest,
        folder: Path,
        halvings: int = 0,
        mesh: Path | None = None,
        edit: tuple[int, Path] | None = None,
    ) -> None:
        """Start a job, or go on with it, in its folder.

        halvings: see `Settings.of`. mesh: the upload that the request names. edit: the newest one that takes the
        asset's place, and its number.
        """

    def cancel(self) -> None:
        """End the job soon, with what it has as its result."""

    def pause(self) -> None:
        """End the job soon, at a checkpoint."""

    def receive(self, timeout: float) -> tuple[str, bytes] | None:
        """What it says next, None after `timeout` seconds of silence. Raises `ExecutorDied`."""

    def kill(self) -> None:
        """End it now; it may have died before."""
