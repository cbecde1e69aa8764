# SPDX-License-Identifier: GPL-3.0-or-later
"""All jobs that the server has under way, also those of other files and of other people: the panel lists them."""

from __future__ import annotations

import time

import bpy

from . import history, jobs, undo
from .connection import Monitor
from .protocol import PAUSED, RUNNING, Job

monitor: Monitor[list[Job]] = Monitor(lambda client: client.jobs(active=True), max_age=2)

_SHOWN_SECONDS = 10.0  # after the panel was drawn last, within which the list is kept up to date
_drawn_at = 0.0
_shown: list[Job] = []


def refresh() -> None:
    """Ask the server anew if the last answer is old. On the main thread, from a panel's `draw`."""
    global _drawn_at
    _drawn_at = time.monotonic()
    if monitor.refresh() and not bpy.app.timers.is_registered(_take_answer):
        bpy.app.timers.register(_take_answer, first_interval=0.1)


def _take_answer() -> float | None:
    """A timer that shows the answer, and asks on while the panel is seen and a job is under way."""
    global _shown
    if monitor.is_requesting:
        return 0.1
    if _shown != (monitor.answer or []):
        _shown = monitor.answer or []
        jobs.redraw()
    if not _shown or time.monotonic() - _drawn_at > _SHOWN_SECONDS:
        return None
    monitor.refresh()
    return 0.5


def find(id: str) -> Job | None:
    """A job as the server knew it last, with its place in the queue."""
    return next((job for job in _shown if job.id == id), None)


def others() -> list[Job]:
    """The jobs that are not of this file, those that run first and then by their places."""
    keys = {job.id: job.request.client_key for job in _shown}
    rest = [job for job in _shown if not (history.find_record(keys[job.id]) or undo.has_ended(keys[job.id]))]
    return sorted(rest, key=lambda job: (job.state != RUNNING, job.state == PAUSED, job.place))


def unregister() -> None:
    global _shown
    if bpy.app.timers.is_registered(_take_answer):
        bpy.app.timers.unregister(_take_answer)
    monitor.close()
    _shown = []


def register() -> None:
    monitor.expire()
