# SPDX-License-Identifier: GPL-3.0-or-later
"""Start, update and end the running jobs: Blender's timer and handlers (save, load, undo), and the .blend's records."""

from __future__ import annotations

import traceback
import uuid
from collections.abc import Sequence
from typing import Any

import bpy
import numpy as np
from bpy.app.handlers import persistent
from mathutils import Vector

from . import connection, history, icons, undo
from .capture import CapturedMesh
from .connection import client_factory, server_location
from .errors import ClientError
from .history import MSD_PG_job
from .live_job import LiveJob, find_live_job, find_live_job_on, running_jobs
from .materials import encode_image
from .protocol import CANCELLED, FAILED, FINISHED, JobRequest, picture_id
from .thumbnails import encode_thumbnail, render_thumbnail

TICK_SECONDS = 0.05
NEW_SIZE = 2.0  # metres: an edge of the box that a new object is given room in
GAP = 0.5  # metres between a new object and what stands beside it
LARGE = 10 * NEW_SIZE  # metres: what is larger is the surroundings
TOUCHING = 0.05  # metres that boxes may share
_SOLID = {"MESH", "CURVE", "SURFACE", "META", "FONT", "VOLUME", "POINTCLOUD", "CURVES"}

_saved_keys: set[str] = set()  # of jobs that a saved file has a record of
_was_undone = False  # since the last `tick`
reports: list[tuple[str, str]] = []  # kind and line of each job that has ended, for `MSD_OT_report`
_report_timer: bpy.types.Timer | None = None
_drawn: list[tuple] = []  # what the panel shows of each running job


def start(
    request: JobRequest, objects: Sequence[bpy.types.Object] = (), lock: str = "", image: bpy.types.Image | None = None
) -> LiveJob:
    """Submit a job to the server of the preferences and record it in the scene. Raises ValueError and
    `ClientError`.

    objects: that it works on, as one mesh. image: of the image prompt.
    """
    for object in objects:
        if find_live_job_on(object):
            raise ValueError(f"A job works on the mesh of {object.name!r} already: stop it first.")
    request.client_key = uuid.uuid4().hex
    picture = None if image is None else encode_image(image)
    if picture is not None:
        request.image_prompt = picture_id(picture)
        request.validate(uploaded=False)
    connection.shared_server.allow_start()
    location = free_place(bpy.context.scene.cursor.location)
    live_job = LiveJob(request, client_factory(), objects, lock, location=location, lasting=True, picture=picture)
    live_job.server, live_job.image = server_location(), image.session_uid if image else 0
    undo.write_back(live_job)
    running_jobs.append(live_job)
    undo.mark(objects, request.client_key)
    undo.push(_step_name(request))
    return live_job


def free_place(wanted: Vector) -> Vector:
    """The first place from here along +X where a new object stands in no other, and in none that will be made.

    The floor, and what is much larger than a new object, such as a room, are not in the way.
    """
    boxes = []
    for object in bpy.context.view_layer.objects:
        if object.type in _SOLID and object.visible_get() and any(any(corner) for corner in object.bound_box):
            corners = [object.matrix_world @ Vector(corner) for corner in object.bound_box]
            low, high = (Vector(map(end, zip(*corners))) for end in (min, max))
            if max(high - low) < LARGE:
                boxes.append((low, high))
    half = Vector((NEW_SIZE / 2,) * 3)
    boxes += [
        (job.location - half, job.location + half)
        for job in running_jobs
        if job.request.mode == "generate" and job.object is None and job.location is not None
    ]
    place = wanted.copy()
    for low, high in sorted(boxes, key=lambda box: box[0].x):
        shared = [min(place[i] + half[i], high[i]) - max(place[i] - half[i], low[i]) for i in range(3)]
        if min(shared) > TOUCHING:
            place.x = high.x + half.x + GAP
    return place


def attach(record: MSD_PG_job) -> LiveJob:
    """Follow a job that the file has a record of and that does not run in this Blender yet. An ended one shows its
    result once more. Raises ValueError and `ClientError`."""
    if record.server != server_location():
        raise ValueError(f"The job runs on {record.server}: set that server in the extension's preferences.")
    request = record.request
    objects = history.objects_of(record)
    if len(objects) < len(record.parts) and request.mode != "generate":
        raise ValueError("The job's object was deleted.")
    live_job = LiveJob(
        request,
        client_factory(),
        objects,
        record.lock,
        record.job,
        [CapturedMesh(linear=np.reshape(each.linear, (3, 3)), offset=np.array(each.offset)) for each in record.parts],
        record.place[:],
        lasting=True,
    )
    live_job.server = record.server
    running_jobs.append(live_job)
    return live_job


def attach_all() -> None:
    """Follow all jobs of the file that have not ended. One that was saved before the server knew it is submitted: its
    key makes that harmless."""
    for scene in bpy.data.scenes:
        for record in scene.msd_jobs:
            if not record.ended and find_live_job(record.key) is None:
                try:
                    attach(record)
                except (ValueError, ClientError) as error:
                    record.error = str(error)
    start_timer()


def detach_all() -> None:
    """Stop following all jobs. The server continues those of a saved file; the others are cancelled."""
    for live_job in running_jobs:
        if live_job.request.client_key not in _saved_keys:
            live_job.session.cancel()
        live_job.session.close()
    running_jobs.clear()


def discard(record: MSD_PG_job) -> None:
    """Stop a job if it runs, undo its effect on the scene and remove its record."""
    live_job = find_live_job(record.key)
    if live_job is not None:
        running_jobs.remove(live_job)
        live_job.session.cancel()
        live_job.session.close()
        undo.remember(live_job, record, CANCELLED)
    object = history.object_of(record)
    if record.before is not None:
        parts = [part for part in record.parts if part.object is not None and part.object.users_scene]
        history.restore_versions([(part.object, part.before) for part in parts])
    elif object is not None:
        mesh = object.data
        bpy.data.objects.remove(object)
        if not mesh.users:
            history.remove_mesh(mesh)
    history.remove_record(record)


# The timer.


def start_timer() -> None:
    """Let Blender's timer call `tick`. (Timers do not run in background mode: call `tick` there.)"""
    if running_jobs and not bpy.app.timers.is_registered(tick):
        bpy.app.timers.register(tick, persistent=True)


def tick() -> float | None:
    """Update every running job; the seconds to the next call, None to end the timer when no job runs."""
    global _drawn, _was_undone
    if _was_undone:
        _was_undone = False
        undo.restore()
    undo.remove_copies()
    for live_job in list(running_jobs):
        try:
            continues = live_job.update()
        except Exception as error:  # else Blender would end the timer, and the other jobs with it
            traceback.print_exc()
            live_job.session.error = f"The update stopped on an unforeseen {type(error).__name__}: {error}"
            continues = False
        _update_record(live_job)
        if not continues:
            running_jobs.remove(live_job)
            _end(live_job)
    drawn = [
        (s.state, s.progress, s.thumbnail, s.connection_error, s.edit_error, s.pending_action, len(s.log))
        for s in (live_job.session for live_job in running_jobs)
    ]
    if len(drawn) != len(_drawn) or any(a is not b for old, new in zip(_drawn, drawn) for a, b in zip(old, new)):
        _drawn = drawn  # a redraw at every tick would disturb clicks on the panel's buttons
        redraw()
    return TICK_SECONDS if running_jobs else None


def redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in ("VIEW_3D", "PREFERENCES"):
                area.tag_redraw()


def _update_record(live_job: LiveJob) -> None:
    """Write the job's state into its record."""
    session = live_job.session
    record = history.find_record(live_job.request.client_key) or undo.write_back(live_job)
    if session.thumbnail is not None:
        icons.set_icon(record.key, session.thumbnail)
    if record.state != session.state or record.error != session.error or record.job != session.id:
        record.state, record.error, record.job = session.state, session.error, session.id
        connection.health_monitor.expire()  # the worker has become busy or idle
    for part, object in zip(record.parts, live_job.objects):
        if part.object != object:
            if part.object is None and live_job.request.mode == "generate":
                history.select(object)
            part.object = object
            object["msd_server"] = record.server


def _end(live_job: LiveJob) -> None:
    """Disconnect an ended job, keep its result as a version, and make it one step of undo."""
    session, record = live_job.session, history.find_record(live_job.request.client_key)
    session.close()
    objects = live_job.objects
    if record is not None and objects and session.state in (FINISHED, CANCELLED):
        if session.snapshot is not None:
            image = render_thumbnail(session.snapshot.arrays)
            icons.set_icon(record.key, image)
            record.picture = encode_thumbnail(image)
            for object in objects:
                icons.set_object_preview(object, image)
        for part, version in zip(record.parts, history.copy_versions(objects)):
            if part.result is not None:
                history.remove_mesh(part.result)
            part.result = version
        record.faces = sum(len(object.data.polygons) for object in objects)
    if record is not None:
        record.seconds = session.progress.elapsed if session.progress else 0
        tell(record)
    undo.remember(live_job, record, session.state)
    undo.unmark(live_job.request.client_key)
    if objects:
        undo.push(_step_name(live_job.request))


def tell(record: MSD_PG_job) -> None:
    """Report a job's end in one line, by `MSD_OT_report`."""
    global _report_timer
    kind, text = "INFO", f"{'Kept' if record.kept else record.state.capitalize()}: {record.name}"
    if record.state == FAILED:
        kind, text = "WARNING", f"{text}: {record.error}"
    elif details := history.details(record):
        text += f" ({details})"
    manager = bpy.context.window_manager
    if manager.windows and not bpy.app.background:
        reports.append((kind, text))
        if _report_timer is None:
            _report_timer = manager.event_timer_add(0.1, window=manager.windows[0])


def end_report_timer() -> None:
    global _report_timer
    if _report_timer is not None:
        bpy.context.window_manager.event_timer_remove(_report_timer)
        _report_timer = None


def _step_name(request: JobRequest) -> str:
    return f"{request.mode.capitalize()}: {request.prompt[:40]}"


# The handlers.


@persistent
def _on_save(*_: Any) -> None:
    _saved_keys.update(record.key for scene in bpy.data.scenes for record in scene.msd_jobs)


@persistent
def _before_load(*_: Any) -> None:
    detach_all()
    end_report_timer()  # it does not outlive the file's window manager


@persistent
def _after_load(*_: Any) -> None:
    _on_save()
    attach_all()


@persistent
def _before_undo(*_: Any) -> None:
    undo.before_undo()


@persistent
def _on_undo(*_: Any) -> None:
    global _was_undone
    undo.after_undo()
    _was_undone = True
    if not running_jobs:  # then no timer calls `tick`
        tick()


_HANDLERS = (
    (bpy.app.handlers.save_post, _on_save),
    (bpy.app.handlers.load_pre, _before_load),
    (bpy.app.handlers.load_post, _after_load),
    (bpy.app.handlers.undo_pre, _before_undo),
    (bpy.app.handlers.redo_pre, _before_undo),
    (bpy.app.handlers.undo_post, _on_undo),
    (bpy.app.handlers.redo_post, _on_undo),
)


def register() -> None:
    for handlers, handler in _HANDLERS:
        handlers.append(handler)


def unregister() -> None:
    end_report_timer()
    reports.clear()
    if bpy.app.timers.is_registered(tick):
        bpy.app.timers.unregister(tick)
    detach_all()
    for handlers, handler in _HANDLERS:
        handlers.remove(handler)
