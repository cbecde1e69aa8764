# SPDX-License-Identifier: GPL-3.0-or-later
"""A running job and its objects in the scene: snapshots go into the object, the artist's edits go to the server.

Where an artist's edit is detected and sent: `LiveJob.update` calls `LiveJob.send_edits` every
`EDIT_CHECK_SECONDS`, and before each snapshot that would write over the artist's data. That asks
`SceneObject.has_edits`, reads the mesh with `SceneObject.capture_edits` and sends it with `JobSession.edit`. (Blender's
depsgraph handlers say that a mesh changed, not who changed it, and they do not report painted pixels.)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import bpy
import numpy as np
from mathutils import Vector

from .capture import CapturedMesh, lock_mask
from .client import Client
from .errors import InvalidMeshError, ObjectDeletedError
from .job_session import JobSession
from .joined_objects import JoinedObjects, capture_all, join
from .protocol import PAUSED, QUEUED, RUNNING, Edit, JobRequest, Snapshot
from .scene_object import SceneObject, object_name

EDIT_CHECK_SECONDS = 1.0


class LiveJob:
    """A job with an object of the scene. Call `update` on the main thread until it returns False.

    Args:
        request: with a `client_key`.
        connect: see `JobSession`.
        objects: the artist's mesh objects, for texture and refine, which become one mesh; none: the first snapshot
            makes a new object.
        lock: name of the vertex group that must not change.
        job_id: the server's id of a job to follow again, on its `objects`.
        sent: of that job, a mesh for each object, with `linear` and `offset` alone.
        location: (3,) of a new object.
        lasting: a job of the panel. It waits for a lost server; and where the artist deletes its object, paused, until
            undo brings that back, or `resume` makes it anew. Another job fails.
        picture: see `JobSession`.

    Raises `InvalidMeshError` where an object cannot be sent.
    """

    def __init__(
        self,
        request: JobRequest,
        connect: Callable[[], Client],
        objects: Sequence[bpy.types.Object] = (),
        lock: str = "",
        job_id: str = "",
        sent: Sequence[CapturedMesh] = (),
        location: Vector | None = None,
        lasting: bool = False,
        picture: bytes | None = None,
    ) -> None:
        self.request, self.location = request, location
        self.server = ""  # as the job's record names it
        self.image = 0  # session_uid of the image prompt's
        self.scene_object: SceneObject | JoinedObjects | None = None
        self.waits_for_object = False  # the artist deleted it
        self._resumes_with_object = False  # since it was that which paused the job
        self._lasting = lasting
        self._lock, self._lock_changed = lock, False
        self._edits_checked_at = 0.0
        arrays = None
        if request.mode != "generate":
            kinds = "texture", *request.maps
            captured = capture_all(objects, request.mode, lock, kinds, sent, request.texture_size)
            arrays = join(captured)
            one = len(objects) == 1
            self.scene_object = (
                SceneObject(request, objects[0], captured[0]) if one else JoinedObjects(request, objects, captured)
            )
        elif objects:
            self.scene_object = SceneObject(request, objects[0])
        self._sent_lock_mask = arrays.get("locked") if arrays else None
        self.session = JobSession(request, connect, None if job_id else arrays, job_id, lasting, picture)
        self._log_notes()

    def _log_notes(self) -> None:
        for captured in self.captured:
            self.session.log += [note for note in captured.notes if note not in self.session.log]

    @property
    def captured(self) -> list[CapturedMesh]:
        """The mesh of each object as it was sent last."""
        scene_object = self.scene_object
        if isinstance(scene_object, JoinedObjects):
            return scene_object.captured
        return [scene_object.captured] if scene_object else []

    @property
    def lock(self) -> str:
        """Name of the vertex group that must not change. A new one is sent with the next `update`."""
        return self._lock

    @lock.setter
    def lock(self, name: str) -> None:
        if name != self._lock:
            self._lock, self._lock_changed = name, True

    @property
    def objects(self) -> list[bpy.types.Object]:
        """The job's objects in Blender, none before the first snapshot and after the deletion of one."""
        try:
            return self.scene_object.objects if self.scene_object else []
        except ObjectDeletedError:
            return []

    @property
    def object(self) -> bpy.types.Object | None:
        """The first of the `objects`."""
        return next(iter(self.objects), None)

    def update(self) -> bool:
        """Send the artist's edits, show the newest snapshot; at the job's end complete the object and return False."""
        try:
            if self._lasting:
                self._follow_object()
            if self._lock_changed or time.monotonic() - self._edits_checked_at > EDIT_CHECK_SECONDS:
                self.send_edits()
            if self.session.process_queue(self._apply):
                return True
        except (ObjectDeletedError, ValueError) as error:
            self.session.error = str(error)
            self.session.cancel()
        if self.scene_object is not None:
            with suppress(ObjectDeletedError):
                self.scene_object.finalize(job=self.session.id, state=self.session.state)
        return False

    def _follow_object(self) -> None:
        """Pause the job when its object is deleted, and let it go on when undo has brought the object back."""
        missing = self.scene_object is not None and self.object is None
        if missing and not self.waits_for_object:
            self._resumes_with_object = not self.session.wants_pause  # the state may be from before the last request
            if self._resumes_with_object:
                self.session.pause()
        elif self.waits_for_object and not missing and self._resumes_with_object:
            self.session.resume()
        self.waits_for_object = missing

    def adopt(self, objects: Sequence[bpy.types.Object]) -> None:
        """Go on in these objects, which undo or redo has restored."""
        if self.scene_object is None:
            self.scene_object = SceneObject(self.request, objects[0])
        else:
            self.scene_object.adopt(objects)

    def show_again(self) -> None:
        """Show the last snapshot once more, after undo or redo: in a new object where the job's own is not there."""
        session = self.session
        if session.snapshot is None:
            if self.object is None and self.request.mode == "generate":
                self.scene_object = None  # the first snapshot makes one
            return
        is_new = self.object is None and self.request.mode == "generate"
        if is_new:
            self.scene_object = SceneObject(self.request, location=self.location)
        if (
            self.scene_object is not None
            and self.object is not None
            and (is_new or self.scene_object.shows_older_state)
        ):
            session.repeat(self.scene_object.apply)

    def send_edits(self, snapshot: Snapshot | None = None) -> bool:
        """Send the object as the artist changed it since the last snapshot; whether there was a change.

        snapshot: the next one to apply; then only the arrays that it would write over are checked, which is quick.
        Raises `ObjectDeletedError`.
        """
        if snapshot is None:
            self._edits_checked_at = time.monotonic()
        session, scene_object = self.session, self.scene_object
        if scene_object is None or self.waits_for_object or session.edit_pending or session.edit_error:
            return False
        if session.state not in (QUEUED, RUNNING, PAUSED):
            return False
        objects = scene_object.objects
        changed = scene_object.has_edits(snapshot) or (
            snapshot is None and not scene_object.is_being_edited and self._lock_mask_differs(objects)
        )
        if changed:
            self._lock_changed = False
            try:
                arrays = scene_object.capture_edits(self.lock)
                self._sent_lock_mask = arrays.get("locked")
                self._log_notes()
                session.edit(Edit(), arrays)
            except InvalidMeshError as error:
                session.reject_edit(str(error))
        return changed

    def _lock_mask_differs(self, objects: Sequence[bpy.types.Object]) -> bool:
        """Whether the locked vertices are others than the server knows. Python reads vertex groups one vertex at a
        time, so this is checked only after another group was chosen, and while the job is paused."""
        if self.session.state != PAUSED and not self._lock_changed:
            return False
        now = np.concatenate(
            [
                lock_mask(object, self.lock)
                if self.lock in object.vertex_groups
                else np.zeros(len(object.data.vertices), np.uint8)
                for object in objects
            ]
        )
        sent = self._sent_lock_mask
        if sent is None or len(sent) != len(now):
            sent = np.zeros_like(now)
        self._lock_changed = False
        return not np.array_equal(now, sent)

    def send_prompt(self, prompt: str) -> None:
        """Continue the job toward another prompt; an empty one, or the same one, changes nothing. An object that has
        the old prompt's name gets the new one's."""
        if object_name(prompt) in ("", object_name(self.request.prompt)):
            return
        old_name, self.request.prompt = object_name(self.request.prompt), prompt
        self.session.edit(Edit(prompt=prompt))
        for object in self.objects:
            object["msd_prompt"] = prompt
            if object.name == old_name[: len(object.name)] and self.request.mode == "generate":
                object.name = object.data.name = object_name(prompt)

    def resume(self) -> None:
        """Resume a paused job from the artist's last edit; an edit that was refused is given up. A deleted object is
        made anew. Raises ValueError where it was the artist's own."""
        if self.waits_for_object:
            if self.request.mode != "generate":
                raise ValueError("The job's object was deleted: undo that first, or discard the job.")
            self.scene_object, self.waits_for_object = None, False
            self.show_again()
        if self.session.edit_error and self.scene_object is not None:
            self.scene_object.discard_edits()
        else:
            self.send_edits()
        self.session.resume()

    def timing(self) -> dict[str, Any]:
        """Blender's version, the number of updates of the scene, and the main thread's milliseconds for one."""
        times = sorted(self.session.update_milliseconds)
        result: dict[str, Any] = {"version": bpy.app.version_string, "updates": len(times)}
        if times:
            result["main_thread_ms"] = {
                "median": round(statistics.median(times), 3),
                "p99": round(times[round(0.99 * (len(times) - 1))], 3),
                "max": round(times[-1], 3),
            }
        return result

    def _apply(self, snapshot: Snapshot) -> bool:
        if self.waits_for_object:
            return bool(self.session.job and self.session.job.ended)  # then nobody waits any more
        if self.scene_object is None:
            self.scene_object = SceneObject(self.request, location=self.location)
        elif self.send_edits(snapshot):
            return False  # only snapshots that come after the edit are to be shown
        return self.scene_object.apply(snapshot)


running_jobs: list[LiveJob] = []  # of this Blender, oldest first; `jobs` adds, updates and removes them


def find_live_job(key: str) -> LiveJob | None:
    """The running job with this `client_key`, None when it has ended."""
    return next((job for job in running_jobs if job.request.client_key == key), None)


def find_live_job_on(object: bpy.types.Object | None) -> LiveJob | None:
    """The running job on an object, or on another object with the same mesh."""
    if object is None:
        return None
    return next((job for job in running_jobs if any(each.data == object.data for each in job.objects)), None)
