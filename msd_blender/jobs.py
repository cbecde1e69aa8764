# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs of this Blender: those that are live, their timer, and what ties them to the file's record of them."""

from __future__ import annotations

import traceback
import uuid
from contextlib import suppress
from typing import Any

import bpy
import numpy as np
from bpy.app.handlers import persistent

from . import connection, history, thumbnails
from .client import ClientError
from .connection import connector, where
from .generation import Generation
from .history import MSD_PG_job
from .pictures import picture, to_text
from .protocol import CANCELLED, FINISHED, Edit, JobRequest

INTERVAL = 0.05  # seconds between two looks at what arrived

generations: list[Generation] = []  # live ones, oldest first
_drawn: list[tuple] = []  # what the panel shows of them


def of(item: MSD_PG_job) -> Generation | None:
    """The live job of a record; None when it has ended."""
    return next((each for each in generations if each.request.client_key == item.key), None)


def on(object: Any) -> Generation | None:
    """The live job on an object, or on another that has the same mesh."""
    return next(
        (
            each
            for each in generations
            if object is not None and each.object is not None and each.object.data == object.data
        ),
        None,
    )


def start(request: JobRequest, object: Any = None, lock: str = "") -> Generation:
    """Submit a job, on the server of the preferences; the scene keeps a record of it. Raises ValueError and
    `ClientError`."""
    if on(object):
        raise ValueError(f"A job works on the mesh of {object.name!r} already: stop it first.")
    request.client_key = uuid.uuid4().hex
    scene = bpy.context.scene
    generation = Generation(request, connector(), object, lock, place=scene.cursor.location.copy(), patient=True)
    linear = generation.asset.source.linear if generation.asset else np.eye(3)
    history.add(scene, request, lock, linear, object).server = where()
    generations.append(generation)
    return generation


def attach(item: MSD_PG_job) -> Generation:
    """Take up a job that the file knows and this Blender does not follow yet. Raises ValueError, `ClientError`."""
    if item.server != where():
        raise ValueError(f"The job runs on {item.server}: set that server in the extension's preferences.")
    request = item.request
    object = history.object_of(item)
    if object is None and request.mode != "generate":
        raise ValueError("The job's object was deleted.")
    generation = Generation(
        request,
        connector(),
        object,
        item.lock,
        item.job,
        np.array(item.linear).reshape(3, 3),
        item.place[:],
        patient=True,
    )
    generations.append(generation)
    return generation


def edit_prompt(item: MSD_PG_job) -> None:
    """Send the record's prompt to its running job."""
    generation = of(item)
    if generation and item.prompt.strip() and item.prompt != generation.request.prompt:
        generation.request.prompt = item.prompt
        generation.live.edit(Edit(prompt=item.prompt))
        if (object := generation.object) is not None:
            object["msd_prompt"] = item.prompt


def watch() -> None:
    """Let the timer follow the live jobs. (In the background there are no timers: call `tick` then.)"""
    if generations and not bpy.app.timers.is_registered(tick):
        bpy.app.timers.register(tick, persistent=True)


def tick() -> float | None:
    """Take every live job on; None, which ends the timer, when there is none."""
    global _drawn
    for generation in list(generations):
        try:
            more = generation.step()
        except Exception as error:  # else Blender would end the timer, and the other jobs with it
            traceback.print_exc()
            generation.live.error, more = f"The update stopped on an unforeseen {type(error).__name__}: {error}", False
        _record(generation)
        if not more:
            generations.remove(generation)
            _end(generation)
    drawn = [
        (live.state, live.progress, live.picture, live.lost, live.refused, live.wish, len(live.log))
        for live in (each.live for each in generations)
    ]
    if len(drawn) != len(_drawn) or any(a is not b for old, new in zip(_drawn, drawn) for a, b in zip(old, new)):
        _drawn = drawn  # drawing all the time would take the buttons from under the mouse
        redraw()
    return INTERVAL if generations else None


def redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()


def _record(generation: Generation) -> None:
    """Write what changed into the file's record."""
    live = generation.live
    item = history.of_key(generation.request.client_key)
    if item is None:  # undone, or a new file: the job needs no record to go on
        return
    if live.picture is not None:
        thumbnails.show(item.key, live.picture)
    if item.state != live.state or item.error != live.error or item.job != live.id:
        item.state, item.error, item.job = live.state, live.error, live.id
        connection.watch.again()  # it has begun to work, or has ended
    if item.object is None and generation.object is not None:
        item.object = generation.object
        item.object["msd_server"] = item.server


def _end(generation: Generation) -> None:
    live, item = generation.live, history.of_key(generation.request.client_key)
    live.close()
    object = generation.object
    if item is not None and object is not None and live.state in (FINISHED, CANCELLED):
        if live.snapshot is not None:
            image = picture(live.snapshot.arrays)
            thumbnails.show(item.key, image)
            thumbnails.preview_of(object, image)
            item.picture = to_text(image)
        if item.result is not None:
            history.drop(item.result)
        item.result = history.keep(object)
    if object is not None:
        name = {"texture": "Texture", "refine": "Refine"}.get(generation.request.mode, "Generate")
        with suppress(RuntimeError):  # no undo without a window
            bpy.ops.ed.undo_push(message=f"{name}: {generation.request.prompt[:40]}")


def discard(item: MSD_PG_job) -> None:
    """Stop a job if it runs, and take back what it did."""
    generation = of(item)
    if generation is not None:
        generations.remove(generation)
        generation.live.cancel()
        generation.live.close()
    object = history.object_of(item)
    if item.before is not None and object is not None:
        history.restore(object, item.before)
    elif object is not None:
        mesh = object.data
        bpy.data.objects.remove(object)
        if not mesh.users:
            history.drop(mesh)
    forget(item)


def forget(item: MSD_PG_job) -> None:
    """Remove a record and the versions that it keeps."""
    for mesh in (item.before, item.result):
        if mesh is not None:
            history.drop(mesh)
    for scene in bpy.data.scenes:
        for index, each in enumerate(scene.msd_jobs):
            if each.key == item.key:
                scene.msd_jobs.remove(index)
                scene.msd_job = max(0, min(scene.msd_job, len(scene.msd_jobs) - 1))
                return


def attach_all() -> None:
    """Take up the jobs of the file that have not ended."""
    for scene in bpy.data.scenes:
        for item in scene.msd_jobs:
            if not item.ended and of(item) is None and item.job:
                try:
                    attach(item)
                except (ValueError, ClientError) as error:
                    item.error = str(error)
    watch()


def leave() -> None:
    """Let go of all live jobs. Those that a saved file knows go on on the server; the others are cancelled."""
    for generation in generations:
        if generation.request.client_key not in _saved:
            generation.live.cancel()
        generation.live.close()
    generations.clear()


_saved: set[str] = set()  # keys of jobs whose id a file has


@persistent
def _after_save(*_: Any) -> None:
    _saved.update(item.key for scene in bpy.data.scenes for item in scene.msd_jobs if item.job)


@persistent
def _before_load(*_: Any) -> None:
    leave()


@persistent
def _after_load(*_: Any) -> None:
    _after_save()
    attach_all()


@persistent
def _after_undo(*_: Any) -> None:
    for generation in generations:
        generation.undone = True


_HANDLERS = (
    ("save_post", _after_save),
    ("load_pre", _before_load),
    ("load_post", _after_load),
    ("undo_post", _after_undo),
    ("redo_post", _after_undo),
)


def register() -> None:
    for name, handler in _HANDLERS:
        getattr(bpy.app.handlers, name).append(handler)


def unregister() -> None:
    if bpy.app.timers.is_registered(tick):
        bpy.app.timers.unregister(tick)
    leave()
    for name, handler in _HANDLERS:
        getattr(bpy.app.handlers, name).remove(handler)
