# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server says of a job before it starts: words that the model does not know, and the time it will take."""

from __future__ import annotations

import json
from typing import Any

import bpy

from . import jobs
from .client import Client
from .connection import Monitor
from .live_job import running_jobs
from .protocol import Forecast, JobRequest, to_dict

_Answer = tuple[str, Forecast]  # of a request, as text
_asked = ""
_request: JobRequest | None = None
_running = 0  # jobs when it was asked: when one has ended, more is known


def _ask(client: Client) -> _Answer:
    key, request = _asked, _request
    assert request is not None
    return key, client.forecast(request)


monitor: Monitor[_Answer] = Monitor(_ask, max_age=20)


def forecast(settings: Any) -> Forecast | None:
    """The server's answer for the panel's settings; before it has come the last one, as far as it still holds, so that
    the panel does not jump while a prompt is typed. None where nothing is known. Call it again from the next `draw`."""
    global _asked, _request, _running
    try:
        request = settings.request()
    except ValueError:  # as for an empty prompt
        return None
    if settings.image_prompt:  # whose picture is uploaded with the job
        request.image_prompt = "picture"
    key = json.dumps(to_dict(request))
    if (key != _asked or len(running_jobs) < _running) and not monitor.is_requesting:
        _asked, _request, _running = key, request, len(running_jobs)
        monitor.expire()
    _running = max(_running, len(running_jobs))
    if monitor.refresh() and not bpy.app.timers.is_registered(_take_answer):
        bpy.app.timers.register(_take_answer, first_interval=0.05)
    if monitor.answer is None:
        return None
    answered, answer = monitor.answer
    if answered != key:
        prompts = " ".join(request.prompts()).lower()
        return Forecast([word for word in answer.unknown if word in prompts])
    return answer


def _take_answer() -> float | None:
    """A timer that shows the answer once it is there. (The monitor's thread must not call Blender.)"""
    if monitor.is_requesting:
        return 0.05
    jobs.redraw()
    return None


def unregister() -> None:
    global _asked
    if bpy.app.timers.is_registered(_take_answer):
        bpy.app.timers.unregister(_take_answer)
    monitor.close()
    _asked = ""


def register() -> None:
    monitor.expire()
