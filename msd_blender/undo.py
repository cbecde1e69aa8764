# SPDX-License-Identifier: GPL-3.0-or-later
"""Undo and redo while jobs run: afterwards each job has one record and one object again.

Blender's undo restores the whole file as it was at a step, and what the timer wrote since the last step is in none. So
a step may have a running job's record without its object, an older object, or neither. The job itself runs on the
server and goes on; `restore` brings the file back in line with it, from what this Blender has in memory:

    record missing              written back
    object deleted in the step  the job waits, paused: `LiveJob.waits_for_object`
    object older, or not there  shown again, as the last snapshot has it
    prompt or lock as before    sent to the job: to undo a new prompt is to give the old one
    job ended since             its state is written into the record; the object stays as undo left it
"""

from __future__ import annotations

from contextlib import suppress

import bpy

from . import history
from .history import MSD_PG_job
from .live_job import LiveJob, find_live_job, running_jobs
from .materials import is_linked
from .scene_object import KEY_PROPERTY

STARTED_PROPERTY = "msd_started"  # on the data that a job will write, see `mark`

_ended: dict[str, dict[str, object]] = {}  # key -> properties of the record of a job that ended in this Blender
_preferences: list[bool] = []  # as they were before an undo or redo that is under way
_seen = (0, 0)  # number of objects and of scenes when copies were looked for


def push(message: str) -> None:
    """Make what was done since the last step a step of its own."""
    with suppress(RuntimeError):  # no undo without a window
        bpy.ops.ed.undo_push(message=message)


def mark(object: bpy.types.Object, key: str) -> None:
    """Let undo restore the object's materials to before its job: call it before `push` makes the job's start a step.

    Blender's undo leaves a data-block as it is in memory where two steps have the same one, although the timer has
    painted it since. A custom property, which `unmark` takes away, makes the steps differ.
    """
    for slot in object.material_slots:
        if slot.material is not None and not is_linked(slot.material):
            slot.material[STARTED_PROPERTY] = key


def unmark(key: str) -> None:
    for material in bpy.data.materials:
        if material.get(STARTED_PROPERTY) == key and not is_linked(material):
            del material[STARTED_PROPERTY]


def before_undo() -> None:
    """Let Blender read the whole step while jobs run. Call it in the handlers before undo and redo.

    Otherwise Blender keeps a data-block in memory where two steps have the same one, and frees what is in neither. The
    timer makes objects and images after a step, so a collection or a material that is kept would point at a freed one,
    and Blender would crash. The switch for it is an experimental preference that needs the developers' one.
    """
    chosen = bpy.context.preferences
    if running_jobs and not _preferences and hasattr(chosen.experimental, "use_undo_legacy"):
        _preferences.extend((chosen.view.show_developer_ui, chosen.experimental.use_undo_legacy))
        chosen.view.show_developer_ui = chosen.experimental.use_undo_legacy = True


def after_undo() -> None:
    """Set the preferences of `before_undo` back."""
    if _preferences:
        chosen = bpy.context.preferences
        chosen.view.show_developer_ui, chosen.experimental.use_undo_legacy = _preferences
        _preferences.clear()


def remember(live_job: LiveJob, record: MSD_PG_job, state: str) -> None:
    """Keep the state of a job that has ended, for records that undo brings back."""
    session = live_job.session
    values = {"state": state, "error": session.error, "job": session.id, "kept": record.kept}
    _ended[live_job.request.client_key] = values


def has_ended(key: str) -> bool:
    """Whether a job ended, or was discarded, in this Blender."""
    return key in _ended


def restore() -> None:
    """Bring records and objects back in line with the jobs. Call it after undo or redo, outside of the handler."""
    for scene in bpy.data.scenes:
        for record in scene.msd_jobs:
            for name, value in _ended.get(record.key, {}).items() if find_live_job(record.key) is None else ():
                if getattr(record, name) != value:
                    setattr(record, name, value)
    for live_job in running_jobs:
        record = history.find_record(live_job.request.client_key)
        if record is None:
            record = write_back(live_job)
        else:
            live_job.send_prompt(record.prompt)
            live_job.lock = record.lock
        if record.object is None:
            record.object = live_job.object
        elif record.object.users_scene:
            live_job.adopt(record.object)
        else:
            continue  # deleted in this step too
        live_job.show_again()
    remove_copies(always=True)


def write_back(live_job: LiveJob) -> MSD_PG_job:
    """Add the record of a running job anew, which undo took, or the deletion of a scene."""
    object, scene_object = live_job.object, live_job.scene_object
    record = history.add_record(
        bpy.context.scene,
        live_job.request,
        live_job.lock,
        scene_object.captured.linear if scene_object else None,
        object if live_job.request.mode != "generate" else None,
    )
    record.server = live_job.server
    record.image_prompt = next((each for each in bpy.data.images if each.session_uid == live_job.image), None)
    if live_job.location is not None:
        record.place = live_job.location
    return record


def remove_copies(always: bool = False) -> None:
    """Where a running job's object was duplicated, or the scene, take from the copy what makes it pass for the job's.

    always: also where the numbers of objects and scenes are as before.
    """
    global _seen
    now = len(bpy.data.objects), len(bpy.data.scenes)
    if now == _seen and not always:
        return
    _seen = now
    keys: set[str] = set()
    for scene in bpy.data.scenes:
        for index in reversed(range(len(scene.msd_jobs))):
            if scene.msd_jobs[index].key in keys:
                scene.msd_jobs.remove(index)
        keys.update(record.key for record in scene.msd_jobs)
    owners = {job.request.client_key: job.object for job in running_jobs if job.object is not None}
    for object in bpy.data.objects:
        owner = owners.get(object.get(KEY_PROPERTY))
        if owner is not None and object != owner and not is_linked(object):
            del object[KEY_PROPERTY]
