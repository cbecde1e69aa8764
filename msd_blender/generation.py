# SPDX-License-Identifier: GPL-3.0-or-later
"""A job and the object that it works on, both ways: snapshots go into the scene, the artist's edits to the server."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import bpy
import numpy as np

from .capture import Source, Unfit, capture, locked
from .client import Client
from .live import Live
from .protocol import PAUSED, QUEUED, RUNNING, Edit, JobRequest, Snapshot
from .scene import Asset, Gone

LOOK = 1.0  # seconds between two looks at what the artist did


class Generation:
    """A job on an object of the scene. Call `step` on the main thread until it is False.

    Args:
        request: with a `client_key`. connect, patient: see `Live`.
        object: the artist's own, for texture and refine; None: a new one is made at the first snapshot.
        lock: name of the vertex group that must not move.
        job: the server's id of a job that is taken up again, on its `object` and with its `linear`.
        place: (3,) where a new object goes.

    Raises `Unfit` where the object cannot be sent.
    """

    def __init__(
        self,
        request: JobRequest,
        connect: Callable[[], Client],
        object: Any = None,
        lock: str = "",
        job: str = "",
        linear: np.ndarray | None = None,
        place: Any = None,
        patient: bool = False,
    ) -> None:
        self.request, self.place = request, place
        self._lock, self._lock_chosen = lock, False
        self.asset: Asset | None = None
        self.undone = False  # since the last snapshot; what then is gone was not deleted by intent
        self._looked = 0.0
        source = None
        if request.mode != "generate":
            base = None if linear is None else Source(linear=linear)
            source = capture(object, request.mode, lock, ("texture", *request.maps), base, request.texture_size)
        if object is not None:
            self.asset = Asset(request, object, source)
        self._locked = source.arrays.get("locked") if source else None
        self.live = Live(request, connect, source.arrays if source and not job else None, job, patient)
        self._note()

    def _note(self) -> None:
        """Say in the job's log what is not kept as it is."""
        notes = self.asset.source.notes if self.asset else []
        self.live.log += [note for note in notes if note not in self.live.log]

    @property
    def lock(self) -> str:
        """Name of the vertex group that must not move; another one reaches the server with the next `look`."""
        return self._lock

    @lock.setter
    def lock(self, name: str) -> None:
        self._lock, self._lock_chosen = name, True

    def step(self) -> bool:
        """Take in what arrived; at the end, complete the object. False once there is nothing more to do."""
        try:
            if self._lock_chosen or time.monotonic() - self._looked > LOOK:
                self.look()
            if self.live.pump(self._apply):
                return True
        except (Gone, ValueError) as error:
            self.live.error = str(error)
            self.live.cancel()
        if self.asset is not None:
            with suppress(Gone):
                self.asset.finish(job=self.live.id, state=self.live.state)
        return False

    def look(self, snapshot: Snapshot | None = None) -> bool:
        """Send what the artist changed; whether there was something. With the next snapshot, only what that would
        write over is looked at. Raises `Gone`."""
        if snapshot is None:
            self._looked = time.monotonic()
        live, asset = self.live, self.asset
        if asset is None or live.editing or live.refused or live.state not in (QUEUED, RUNNING, PAUSED):
            return False
        try:
            object = asset.object
            changed = asset.edited(snapshot) or snapshot is None and not asset.busy and self._locks_differ(object)
        except Gone:
            if self.undone and self.request.mode == "generate":
                return False
            raise
        if changed:
            self._lock_chosen = False
            try:
                arrays = asset.edit(self.lock)
                self._locked = arrays.get("locked")
                self._note()
                live.edit(Edit(), arrays)
            except Unfit as error:
                live.refuse(str(error))
        return changed

    def _locks_differ(self, object: Any) -> bool:
        """Whether the lock's members are others than before. Python reads vertex groups one by one: they are looked
        at when another lock was chosen, and of a paused job, for which the main thread has time."""
        if self.live.state != PAUSED and not self._lock_chosen:
            return False
        now = (
            locked(object, self.lock)
            if self.lock in object.vertex_groups
            else np.zeros(len(object.data.vertices), np.uint8)
        )
        before = np.zeros_like(now) if self._locked is None or len(self._locked) != len(now) else self._locked
        self._lock_chosen = False
        return not np.array_equal(now, before)

    def resume(self) -> None:
        """Go on with a paused job, from the artist's last change; one that was refused is given up."""
        if self.live.refused and self.asset is not None:
            self.asset.overwrite()
        else:
            self.look()
        self.live.resume()

    @property
    def object(self) -> Any:
        """The bpy object, None before the first snapshot or after its deletion."""
        try:
            return self.asset.object if self.asset else None
        except Gone:
            return None

    def timing(self) -> dict[str, Any]:
        """Updates that reached the scene, and the main thread's milliseconds for each."""
        times = sorted(self.live.milliseconds)
        result: dict[str, Any] = {"version": bpy.app.version_string, "updates": len(times)}
        if times:
            at = min(len(times) - 1, round(0.99 * (len(times) - 1)))
            result["main_thread_ms"] = {
                "median": round(statistics.median(times), 3),
                "p99": round(times[at], 3),
                "max": round(times[-1], 3),
            }
        return result

    def _apply(self, snapshot: Snapshot) -> bool:
        if self.asset is not None and self.undone and self.object is None and self.request.mode == "generate":
            self.asset = None  # undo took the object away, together with what it was to undo
        self.undone = False
        if self.asset is None:
            self.asset = Asset(self.request, place=self.place)
        elif self.look(snapshot):
            return False  # what comes after that is newer
        return self.asset.apply(snapshot)
