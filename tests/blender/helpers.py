# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that run in a test: started, updated until something happens, and answers of a server that is not there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import bpy
import numpy as np

from msd_blender import jobs
from msd_blender.capture import CapturedMesh, read_positions
from msd_blender.live_job import LiveJob, running_jobs
from msd_blender.protocol import JobRequest, Snapshot


def start_job(tiny: dict[str, Any], prompt: str = "a red mushroom", **settings: Any) -> LiveJob:
    return jobs.start(JobRequest(prompt, **{**tiny, **settings}))


def update_until(condition: Callable[[], object], seconds: float = 200) -> None:
    """Call the timer's function, which Blender does not call in background mode, until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        jobs.tick()
        assert time.monotonic() < deadline, [(job.session.state, job.session.error) for job in running_jobs]
        time.sleep(0.02)


def finish_jobs() -> None:
    update_until(lambda: not running_jobs)


def request(mode: str, **settings: object) -> JobRequest:
    return JobRequest("a crate", mode=mode, mesh="m", client_key="key", **settings)  # type: ignore[arg-type]


def answer(captured: CapturedMesh, **arrays: np.ndarray) -> Snapshot:
    """A server's snapshot of the mesh that it was sent, with some arrays replaced or added."""
    sent = {name: captured.arrays[name] for name in ("positions", "faces", "uvs", "slots")}
    return Snapshot(1, 1, {**sent, **arrays})


def artist_state(object: bpy.types.Object) -> tuple:
    """All of an object that mode texture must not change. The object has a custom property "mine"."""
    mesh = object.data
    uvs = np.empty(2 * len(mesh.loops), np.float32)
    mesh.uv_layers.active.uv.foreach_get("vector", uvs)
    return (
        read_positions(mesh).tobytes(),
        uvs.tobytes(),
        [tuple(p.vertices) for p in mesh.polygons],
        [m.name for m in object.modifiers],
        [g.name for g in object.vertex_groups],
        object["mine"],
        [slot.material.name for slot in object.material_slots],
    )
