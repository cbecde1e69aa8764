# SPDX-License-Identifier: GPL-3.0-or-later
"""The scene's records of its jobs, saved in the .blend: their requests, their server, and versions of their
objects.

A version of an object is a hidden copy of its mesh and materials: from before a job, and its result.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import bpy
import numpy as np
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    FloatProperty,
    FloatVectorProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from .capture import CapturedMesh
from .icons import set_object_preview
from .job_session import format_seconds
from .live_job import find_live_job
from .materials import image_of, is_linked
from .nodes import KINDS
from .protocol import FAILED, FINAL_STATES, JobRequest, ProtocolError, from_dict, to_dict
from .scene_object import KEY_PROPERTY, find_object, object_name
from .thumbnails import decode_thumbnail

_HIDDEN_PREFIX = ".msd "  # Blender's menus leave out names that start with a dot


def _send_prompt(record: Any, context: bpy.types.Context) -> None:
    if (live_job := find_live_job(record.key)) is not None:
        live_job.send_prompt(record.prompt)
        record.name = object_name(live_job.request.prompt)


def _set_lock(record: Any, context: bpy.types.Context) -> None:
    if (live_job := find_live_job(record.key)) is not None:
        live_job.lock = record.lock


class _Part:
    """One of a job's objects, as its record has it. The property names are in saved files, so they stay as they are."""

    linear: FloatVectorProperty(size=9)  # `CapturedMesh.linear`
    offset: FloatVectorProperty(size=3)  # `CapturedMesh.offset`
    object: PointerProperty(type=bpy.types.Object)
    before: PointerProperty(type=bpy.types.Mesh)  # the version from before the job
    result: PointerProperty(type=bpy.types.Mesh)  # the version from the job's end


class MSD_PG_part(_Part, bpy.types.PropertyGroup):
    """One of several objects of a job, but the first, which is the record's own."""


class MSD_PG_job(_Part, bpy.types.PropertyGroup):
    """The record of one job. Its property names are in saved files, so they stay as they are."""

    key: StringProperty()  # `JobRequest.client_key`, by which the server knows the job
    job: StringProperty()  # the server's id
    server: StringProperty()  # `connection.server_location`
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
    place: FloatVectorProperty(size=3)  # location of a new object
    kept: BoolProperty()  # the artist stopped it and kept what was reached
    picture: StringProperty()  # the thumbnail, by `encode_thumbnail`
    seconds: FloatProperty()  # of work, by the server's last report
    faces: IntProperty()  # of the objects when the job ended
    image_prompt: PointerProperty(type=bpy.types.Image)
    others: CollectionProperty(type=MSD_PG_part)

    @property
    def parts(self) -> list[Any]:
        """A part for each object; the first is the record itself."""
        return [self, *self.others]

    @property
    def request(self) -> JobRequest:
        """Raises `ProtocolError` where the JSON is damaged."""
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

    @property
    def followable(self) -> bool:
        """Whether the server may have more of the job than the file: it runs or waits, or undo took its result."""
        return not self.ended or bool(self.job) and (self.state == FAILED or self.result is None)


def add_record(
    scene: bpy.types.Scene,
    request: JobRequest,
    lock: str,
    objects: Sequence[bpy.types.Object] = (),
    captured: Sequence[CapturedMesh] = (),
) -> MSD_PG_job:
    """Add the record of a new job, and the versions of the artist's objects from before.

    captured: of each object.
    """
    record = scene.msd_jobs.add()
    record.key, record.state = request.client_key, "connecting"
    record.request = request
    record.name = object_name(request.prompt)
    record.prompt, record.lock = record.name, lock
    record.linear = np.eye(3).ravel()
    record.place = scene.cursor.location
    for _ in objects[1:]:
        record.others.add()
    for part, object, each, version in zip(record.parts, objects, captured, copy_versions(objects)):
        part.object, part.before = object, version
        part.linear, part.offset = each.linear.ravel(), each.offset
    scene.msd_job = len(scene.msd_jobs) - 1
    return record


def find_record(key: str) -> Any:
    """The record of a job in whichever scene has it, None without one: undo may have removed it."""
    return next((record for scene in bpy.data.scenes for record in scene.msd_jobs if record.key == key), None)


def remove_record(record: MSD_PG_job) -> None:
    """Remove a record and its versions."""
    for part in record.parts:
        for mesh in (part.before, part.result):
            if mesh is not None:
                remove_mesh(mesh)
    for scene in bpy.data.scenes:
        for index, each in enumerate(scene.msd_jobs):
            if each.key == record.key:
                scene.msd_jobs.remove(index)
                scene.msd_job = max(0, min(scene.msd_job, len(scene.msd_jobs) - 1))
                return


def object_of(record: MSD_PG_job) -> bpy.types.Object | None:
    """The record's first object, None where it was deleted: then a duplicate is not taken for it."""
    if record.object is None:
        return find_object(record.key)
    return record.object if record.object.users_scene else None


def objects_of(record: MSD_PG_job) -> list[bpy.types.Object]:
    """The record's objects that are there."""
    others = (part.object for part in record.others)
    return [object for object in (object_of(record), *others) if object is not None and object.users_scene]


def details(record: MSD_PG_job) -> str:
    """Faces and time of an ended job: "9,812 faces, 2:41"; what is not known is left out."""
    faces = [f"{record.faces:,} faces"] if record.faces else []
    return ", ".join(faces + ([format_seconds(record.seconds)] if record.seconds else []))


def select(*objects: bpy.types.Object) -> bool:
    """Make the objects the only ones that are selected, and the first the active one; False where the scene's view
    layer does not show that, or the artist is in another mode."""
    layer = bpy.context.view_layer
    active = layer.objects.active
    if not objects or objects[0].name not in layer.objects or (active is not None and active.mode != "OBJECT"):
        return False
    for each in layer.objects:
        each.select_set(each in objects)
    layer.objects.active = objects[0]
    return True


def _show(scene: bpy.types.Scene, index: int) -> None:
    """A click into the list shows a job, and selects its objects."""
    scene.msd_job = index
    if scene == bpy.context.scene:
        select(*objects_of(scene.msd_jobs[index]))


def variants_of(record: MSD_PG_job) -> list[MSD_PG_job]:
    """The records of one scene that are like this one but for their seeds and what came of them; itself among them."""

    def wish(each: MSD_PG_job) -> dict[str, Any] | None:
        try:
            return {name: value for name, value in json.loads(each.wish).items() if name not in ("seed", "client_key")}
        except (ValueError, AttributeError):
            return None

    own = wish(record)
    records = record.id_data.msd_jobs if own is not None else [record]
    return [each for each in records if each == record or wish(each) == own]


def mark_asset(object: bpy.types.Object, record: MSD_PG_job) -> None:
    """Put the object into the asset browser, with its prompt, seed and thumbnail."""
    object.asset_mark()
    data = object.asset_data
    data.description = str(object.get("msd_prompt", record.name))
    data.author = "msd_blender"
    for tag in ("text to 3D", str(object.get("msd_guidance", "")), f"seed {object.get('msd_seed', '')}"):
        data.tags.new(tag, skip_if_exists=True)
    if (image := decode_thumbnail(record.picture)) is not None:
        set_object_preview(object, image)


# Versions.


def copy_versions(objects: Iterable[bpy.types.Object]) -> list[bpy.types.Mesh]:
    """Hidden copies of the objects' meshes, their materials and node groups."""
    copies = _Copies(lambda name: _HIDDEN_PREFIX + name)
    meshes = []
    for object in objects:
        mesh = object.data.copy()
        mesh.name = _HIDDEN_PREFIX + object.data.name
        for index, slot in enumerate(object.material_slots):
            mesh.materials[index] = slot.material and copies.of_material(slot.material)
        meshes.append(mesh)
    return meshes


def restore_versions(versions: Sequence[tuple[bpy.types.Object, bpy.types.Mesh]]) -> None:
    """Give each object and its linked duplicates a copy of a version, which stays in the file.

    Materials and node groups that no job has painted, because other objects use them too, are taken as they are.
    """
    used = {slot.material for object, _ in versions for slot in object.material_slots if slot.material}
    for object, version in versions:
        old, name = object.data, object.data.name
        for slot in object.material_slots:
            slot.material = None
        mesh = version.copy()
        old.user_remap(mesh)
        bpy.data.meshes.remove(old)
        mesh.name = name
    _remove_unused(used)
    copies = _Copies(lambda name: name.removeprefix(_HIDDEN_PREFIX), reuse=True)
    for object, version in versions:
        for index, slot in enumerate(object.material_slots):
            material = version.materials[index] if index < len(version.materials) else None
            slot.material = material and copies.of_material(material)


class _Copies:
    """Copies of materials and of their node groups, each made once.

    Args:
        rename: gives a copy its name.
        reuse: take what has that name, if no job has made or painted it, instead of a copy.
    """

    def __init__(self, rename: Callable[[str], str], reuse: bool = False) -> None:
        self._rename, self._reuse = rename, reuse
        self._made: dict[bpy.types.ID, Any] = {}

    def of_material(self, material: bpy.types.Material) -> bpy.types.Material:
        found = bpy.data.materials.get(self._rename(material.name)) if self._reuse else None
        if found is not None and KEY_PROPERTY not in found:
            return found
        if material not in self._made:
            self._made[material] = copy = self._copy(material)
            copy[KEY_PROPERTY] = ""  # else the object's next job would take it for its own
            if copy.node_tree is not None:
                self._copy_groups(copy.node_tree)
        return self._made[material]

    def _copy_groups(self, tree: bpy.types.NodeTree) -> None:
        for node in tree.nodes:
            if node.type == "GROUP" and node.node_tree is not None and not is_linked(node.node_tree):
                node.node_tree = self._of_group(node.node_tree)

    def _of_group(self, group: bpy.types.NodeTree) -> bpy.types.NodeTree:
        found = bpy.data.node_groups.get(self._rename(group.name)) if self._reuse else None
        if found is not None:
            return found
        if group not in self._made:
            self._made[group] = copy = self._copy(group)
            self._copy_groups(copy)
        return self._made[group]

    def _copy(self, data: Any) -> Any:
        copy = data.copy()
        copy.name = self._rename(data.name)
        return copy


def remove_mesh(mesh: bpy.types.Mesh) -> None:
    """Remove a mesh, and its materials, their node groups and images where nothing else uses them."""
    materials = {material for material in mesh.materials if material}
    bpy.data.meshes.remove(mesh)
    _remove_unused(materials)


def _remove_unused(materials: set[bpy.types.Material]) -> None:
    for material in materials:
        images = {image for kind in KINDS if (image := image_of(material, kind)) is not None}
        groups = groups_of(material)
        if not material.users:
            bpy.data.materials.remove(material)
            for group in groups:
                if not group.users:
                    bpy.data.node_groups.remove(group)
            for image in images:
                if not image.users:
                    bpy.data.images.remove(image)


def groups_of(material: bpy.types.Material) -> list[bpy.types.NodeTree]:
    """The node groups of a material, the outer ones first, each once."""
    found: list[bpy.types.NodeTree] = []
    trees = [material.node_tree] if material.node_tree else []
    for tree in trees:
        inner = [node.node_tree for node in tree.nodes if node.type == "GROUP" and node.node_tree]
        trees += [group for group in inner if group not in trees]
        found += [group for group in inner if group not in found]
    return found


def register() -> None:
    bpy.utils.register_class(MSD_PG_part)
    bpy.utils.register_class(MSD_PG_job)
    bpy.types.Scene.msd_jobs = CollectionProperty(type=MSD_PG_job)
    bpy.types.Scene.msd_job = IntProperty(name="Job", description="The job that the panel shows")
    bpy.types.Scene.msd_shown_job = IntProperty(get=lambda scene: scene.msd_job, set=_show, options={"SKIP_SAVE"})


def unregister() -> None:
    del bpy.types.Scene.msd_jobs, bpy.types.Scene.msd_job, bpy.types.Scene.msd_shown_job
    bpy.utils.unregister_class(MSD_PG_job)
    bpy.utils.unregister_class(MSD_PG_part)
