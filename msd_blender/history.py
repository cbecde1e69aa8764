# SPDX-License-Identifier: GPL-3.0-or-later
"""The scene's record of its jobs, saved in the .blend: what was asked, where it runs, what came of it.

A version of an object is a hidden copy of its mesh and materials: what was there before a job, and its result.
"""

import json
from typing import Any

import bpy
import numpy as np
from bpy.props import CollectionProperty, FloatVectorProperty, IntProperty, PointerProperty, StringProperty

from .materials import image_of
from .nodes import KINDS
from .pictures import from_text
from .protocol import FINAL_STATES, JobRequest, ProtocolError, from_dict, to_dict
from .scene import KEY, find
from .thumbnails import preview_of

_HIDDEN = ".msd "  # Blender's menus leave out names that start with a dot


def _send_prompt(item: Any, context: Any) -> None:
    from . import jobs

    jobs.edit_prompt(item)


def _set_lock(item: Any, context: Any) -> None:
    from . import jobs

    if (generation := jobs.of(item)) is not None:
        generation.lock = item.lock


class MSD_PG_job(bpy.types.PropertyGroup):
    """One job of the scene."""

    key: StringProperty()  # `JobRequest.client_key`, by which the server knows it again
    job: StringProperty()  # the server's id
    server: StringProperty()
    state: StringProperty()
    error: StringProperty()
    wish: StringProperty()  # the request as JSON
    prompt: StringProperty(
        name="Prompt", description="A new prompt, from which the running job goes on", update=_send_prompt
    )
    lock: StringProperty(
        name="Lock",
        description="Vertex group that must not move or change: its members with a weight above one half",
        update=_set_lock,
    )
    linear: FloatVectorProperty(size=9)  # `Source.linear`
    place: FloatVectorProperty(size=3)
    picture: StringProperty()
    object: PointerProperty(type=bpy.types.Object)
    before: PointerProperty(type=bpy.types.Mesh)
    result: PointerProperty(type=bpy.types.Mesh)

    @property
    def request(self) -> JobRequest:
        """Raises `ProtocolError`, for a file that somebody wrote by hand."""
        try:
            return from_dict(JobRequest, json.loads(self.wish))
        except (ValueError, TypeError, RecursionError):
            raise ProtocolError("The file's record of this job cannot be read.") from None

    @request.setter
    def request(self, request: JobRequest) -> None:
        self.wish = json.dumps(to_dict(request))

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES


def add(scene: Any, request: JobRequest, lock: str, linear: np.ndarray, object: Any) -> MSD_PG_job:
    item = scene.msd_jobs.add()
    item.key, item.state = request.client_key, "connecting"
    item.request = request
    item.name = " ".join(request.prompt.split())
    item.prompt, item.lock = item.name, lock  # it is not live yet, so that nothing is sent
    item.linear, item.place = np.asarray(linear, np.float32).ravel(), scene.cursor.location
    if object is not None:
        item.object, item.before = object, keep(object)
    scene.msd_job = len(scene.msd_jobs) - 1
    return item


def of_key(key: str) -> Any:
    """The record of a job, whichever scene has it: undo may have taken it away."""
    return next((item for scene in bpy.data.scenes for item in scene.msd_jobs if item.key == key), None)


def object_of(item: MSD_PG_job) -> Any:
    """The item's object, None where it was deleted."""
    found = item.object
    return found if found is not None and found.users_scene else find(item.key)


def mark_asset(object: Any, item: MSD_PG_job) -> None:
    """Make the object an asset that says how it was made, with its picture as the preview."""
    object.asset_mark()
    data = object.asset_data
    data.description = str(object.get("msd_prompt", item.name))
    data.author = "msd_blender"
    for tag in ("text to 3D", str(object.get("msd_guidance", "")), f"seed {object.get('msd_seed', '')}"):
        data.tags.new(tag, skip_if_exists=True)
    if (image := from_text(item.picture)) is not None:
        preview_of(object, image)


def keep(object: Any) -> Any:
    """A hidden copy of the object's mesh and its materials."""
    mesh = object.data.copy()
    mesh.name = _HIDDEN + object.data.name
    copies = {
        slot.material: _copy(slot.material, _HIDDEN + slot.material.name)
        for slot in object.material_slots
        if slot.material
    }
    for index, slot in enumerate(object.material_slots):
        mesh.materials[index] = slot.material and copies[slot.material]
    return mesh


def restore(object: Any, kept: Any) -> None:
    """Give the object the state that was kept, which stays kept."""
    old, name = object.data, object.data.name
    mesh = object.data = kept.copy()
    if not old.users:
        drop(old)
    mesh.name = name
    copies = {material: _copy(material, material.name.removeprefix(_HIDDEN)) for material in kept.materials if material}
    for index, slot in enumerate(object.material_slots):
        material = kept.materials[index] if index < len(kept.materials) else None
        slot.material = material and copies[material]


def _copy(material: Any, name: str) -> Any:
    copy = material.copy()
    copy.name = name
    copy.pop(KEY, None)  # the next job must not take it for its own
    return copy


def drop(mesh: Any) -> None:
    """Remove a mesh with the materials and images that only it has."""
    materials = [material for material in mesh.materials if material]
    bpy.data.meshes.remove(mesh)
    for material in materials:
        images = {image_of(material, kind) for kind in KINDS} - {None}
        if not material.users:
            bpy.data.materials.remove(material)
            for image in images:
                if not image.users:
                    bpy.data.images.remove(image)


def register() -> None:
    bpy.utils.register_class(MSD_PG_job)
    bpy.types.Scene.msd_jobs = CollectionProperty(type=MSD_PG_job)
    bpy.types.Scene.msd_job = IntProperty(name="Job", description="The job that the panel shows")


def unregister() -> None:
    del bpy.types.Scene.msd_jobs, bpy.types.Scene.msd_job
    bpy.utils.unregister_class(MSD_PG_job)
