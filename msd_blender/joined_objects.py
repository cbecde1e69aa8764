# SPDX-License-Identifier: GPL-3.0-or-later
"""Several objects of the artist's that one job works on: the server gets them as one mesh, as they stand.

Their meshes are sent one after another, each with texture slots of its own, and what comes back is taken apart again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import bpy
import numpy as np

from .capture import CapturedMesh, capture
from .errors import InvalidMeshError
from .pixels import PreparedSnapshot
from .protocol import MAX_SLOTS, SLOT_ARRAYS, JobRequest, ProtocolError, Snapshot, check_mesh
from .scene_object import SceneObject


def capture_all(
    objects: Sequence[bpy.types.Object],
    mode: str,
    lock: str = "",
    kinds: Collection[str] = ("texture",),
    previous: Sequence[CapturedMesh] = (),
    size: int | None = None,
) -> list[CapturedMesh]:
    """Each object's mesh as `capture.capture` has it, with its offset from the first object.

    lock: name of a vertex group, which not all of several objects need to have. previous: of each object; none: their
    offsets are those of now. Raises `InvalidMeshError`.
    """
    several = len(objects) > 1
    if lock and several and not any(lock in object.vertex_groups for object in objects):
        raise InvalidMeshError(f"No selected object has a vertex group {lock!r}: choose another as the lock.")
    captured = []
    for number, object in enumerate(objects):
        own_lock = lock if not several or lock in object.vertex_groups else ""
        before = previous[number] if previous else None
        each = capture(object, mode, own_lock, kinds, before, size)
        if before is None:
            each.offset = np.array(object.matrix_world.translation - objects[0].matrix_world.translation)
        captured.append(each)
    return captured


def join(captured: Sequence[CapturedMesh]) -> dict[str, np.ndarray]:
    """The arrays of several meshes as those of one. Raises `InvalidMeshError` where together they are too much.

    Textures are left out unless all have them, and so are colours.
    """
    if len(captured) == 1:
        return captured[0].arrays
    slots = sum(len(each.slots) for each in captured)
    if slots > MAX_SLOTS:
        raise InvalidMeshError(
            f"The selected objects have {slots} textures together: select fewer, so that they have at most {MAX_SLOTS}."
        )
    every = [each.arrays for each in captured]
    joined = {"positions": np.concatenate([_placed(each) for each in captured])}
    vertex = face = slot = 0
    faces, locked = [], []
    has_textures = all("uvs" in arrays for arrays in every)
    textures: dict[str, np.ndarray] = {}
    texture_slots = []
    for each, arrays in zip(captured, every):
        faces.append(arrays["faces"] + np.int32(vertex))
        locked.append(arrays.get("locked", np.zeros(len(arrays["positions"]), np.uint8)))
        if has_textures:
            texture_slots.append(arrays["slots"] + np.int32(slot))
            textures |= {_renumbered(name, slot): array for name, array in arrays.items() if _is_texture(name)}
        vertex, face, slot = vertex + len(arrays["positions"]), face + len(arrays["faces"]), slot + len(each.slots)
    joined["faces"] = np.concatenate(faces)
    if any("locked" in arrays for arrays in every):
        joined["locked"] = np.concatenate(locked)
    if all("colours" in arrays for arrays in every):
        joined["colours"] = np.concatenate([arrays["colours"] for arrays in every])
    if has_textures:
        joined["uvs"] = np.concatenate([arrays["uvs"] for arrays in every])
        joined["slots"] = np.concatenate(texture_slots)
        joined |= textures
    try:
        check_mesh(joined)
    except ProtocolError as error:
        raise InvalidMeshError(f"The selected objects cannot be sent as one: {error}") from None
    return joined


def split(arrays: dict[str, np.ndarray], captured: Sequence[CapturedMesh]) -> list[dict[str, np.ndarray]]:
    """The arrays of each of the joined meshes: the inverse of `join`. Raises `ProtocolError` for another topology."""
    vertices, faces = (sum(len(each.arrays[name]) for each in captured) for name in ("positions", "faces"))
    if len(arrays.get("positions", ())) != vertices or len(arrays.get("faces", ())) != faces:
        raise ProtocolError("The server sent another topology than that of the objects.")
    for name, length in (("colours", vertices), ("uvs", faces), ("slots", faces)):
        if name in arrays and len(arrays[name]) != length:
            raise ProtocolError(f"The server sent {len(arrays[name])} {name}, expected {length}.")
    parts = []
    vertex = face = slot = 0
    for each in captured:
        own = each.arrays
        of_vertices = slice(vertex, vertex + len(own["positions"]))
        of_faces = slice(face, face + len(own["faces"]))
        part: dict[str, np.ndarray] = {}
        for name in ("positions", "colours"):
            if name in arrays:
                part[name] = arrays[name][of_vertices]
        unmoved = (part["positions"] == _placed(each)).all(1, keepdims=True)  # these keep their bits
        part["positions"] = np.where(unmoved, own["positions"], part["positions"] - np.float32(each.offset))
        part["faces"] = arrays["faces"][of_faces] - np.int32(vertex)
        if "uvs" in arrays:
            part["uvs"] = arrays["uvs"][of_faces]
            part["slots"] = arrays["slots"][of_faces] - np.int32(slot) if "slots" in arrays else own["slots"]
            part |= {
                _renumbered(name, -slot): array
                for name, array in arrays.items()
                if _is_texture(name) and slot <= int(name.partition(".")[2]) < slot + len(each.slots)
            }
        parts.append(part)
        vertex, face, slot = of_vertices.stop, of_faces.stop, slot + len(each.slots)
    return parts


def _placed(captured: CapturedMesh) -> np.ndarray:
    """(V, 3) float32 positions from the first object's origin."""
    return captured.arrays["positions"] + np.float32(captured.offset)


def _is_texture(name: str) -> bool:
    return name.partition(".")[0] in SLOT_ARRAYS


def _renumbered(name: str, by: int) -> str:
    """The name of a texture whose slot's number is larger by so much."""
    kind, _, slot = name.partition(".")
    return f"{kind}.{int(slot) + by}"


class JoinedObjects:
    """`SceneObject` for several objects of one job, with the same methods.

    Args:
        objects: the artist's mesh objects.
        captured: the mesh of each as it was sent.
    """

    def __init__(
        self, request: JobRequest, objects: Sequence[bpy.types.Object], captured: Sequence[CapturedMesh]
    ) -> None:
        self.parts = [SceneObject(request, object, each) for object, each in zip(objects, captured, strict=True)]
        self._split: tuple[Snapshot, list[Snapshot]] | None = None  # the last one that was taken apart

    @property
    def captured(self) -> list[CapturedMesh]:
        return [part.captured for part in self.parts]

    @property
    def objects(self) -> list[bpy.types.Object]:
        """Raises `ObjectDeletedError` where one of them was deleted."""
        return [part.object for part in self.parts]

    def adopt(self, objects: Sequence[bpy.types.Object]) -> None:
        """Go on in these objects of the same job."""
        for part, object in zip(self.parts, objects):
            part.adopt([object])

    @property
    def shows_older_state(self) -> bool:
        return any([part.shows_older_state for part in self.parts])

    @property
    def is_being_edited(self) -> bool:
        return any([part.is_being_edited for part in self.parts])

    def set_properties(self, **values: Any) -> None:
        for part in self.parts:
            part.set_properties(**values)

    def apply(self, snapshot: Snapshot) -> bool:
        """As `SceneObject.apply`; False, with nothing done, while one of the objects is being edited."""
        if self.is_being_edited:
            return False
        return all([part.apply(own) for part, own in zip(self.parts, self._parts_of(snapshot))])

    def _parts_of(self, snapshot: Snapshot) -> list[Snapshot]:
        """What a snapshot has for each object. An array that the stream did not send again stays the same object."""
        if self._split is not None and self._split[0] is snapshot:
            return self._split[1]
        pixels = snapshot.pixels if isinstance(snapshot, PreparedSnapshot) else {}
        parts: list[Snapshot] = []
        slot = 0
        for arrays, each in zip(split(snapshot.arrays, self.captured), self.captured):
            names = {name: _renumbered(name, slot) for name in arrays if _is_texture(name)}
            own = {name: pixels[sent] for name, sent in names.items() if sent in pixels}
            parts.append(PreparedSnapshot(snapshot.version, snapshot.iteration, arrays, snapshot.edits, own))
            slot += len(each.slots)
        self._split = snapshot, parts
        return parts

    def has_edits(self, snapshot: Snapshot | None = None) -> bool:
        """As `SceneObject.has_edits`, of any of them."""
        snapshots = self._parts_of(snapshot) if snapshot is not None else [None] * len(self.parts)
        return any([part.has_edits(own) for part, own in zip(self.parts, snapshots)])  # each remembers what was painted

    def discard_edits(self) -> None:
        for part in self.parts:
            part.discard_edits()

    def capture_edits(self, lock: str) -> dict[str, np.ndarray]:
        """As `SceneObject.capture_edits`, of all of them as one mesh."""
        self._split = None
        for part in self.parts:
            part.capture_edits(lock)
        return join(self.captured)

    def finalize(self, **values: Any) -> None:
        for part in self.parts:
            part.finalize(**values)
