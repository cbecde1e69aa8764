# SPDX-License-Identifier: GPL-3.0-or-later
"""The cameras of the scene that jobs favour: rows of the panel, each with a prompt of its own, and their operators."""

import math
from typing import Any

import bpy
from bpy.props import IntProperty, PointerProperty, StringProperty
from mathutils import Vector

from .protocol import MAX_CAMERAS, OPTIONS, PlacedCamera, join_camera


def angles(backward: Vector) -> tuple[float, float]:
    """Azimuth and elevation in degrees of a camera by its own Z axis in the world, from -Y and from the horizon."""
    x, y, z = backward
    return math.degrees(math.atan2(x, -y)), math.degrees(math.atan2(z, math.hypot(x, y)))


def _angles_of(object: bpy.types.Object) -> str:
    """The angles of an object's view as a request has them. As in Blender's own view, scale and shear do not matter."""
    return join_camera(PlacedCamera(*angles(object.matrix_world.col[2].to_3d())))


class MSD_PG_text(bpy.types.PropertyGroup):
    """A placed camera as a request has it, for operators, which cannot have pointers to objects."""

    text: StringProperty(name="Camera", description=OPTIONS["cameras"].syntax)


class MSD_PG_camera(bpy.types.PropertyGroup):
    """A camera that jobs favour: an object of the scene or, for one that a past job had, its angles."""

    object: PointerProperty(type=bpy.types.Object, name="Camera")
    angles: StringProperty(name="Angles", description="Azimuth and elevation, where no object has them")
    prompt: StringProperty(
        name="Prompt",
        description="Prompt of the pictures from this side, in place of the job's; empty: the job's",
        options={"TEXTEDIT_UPDATE"},
    )

    @property
    def is_gone(self) -> bool:
        """Whether the object was deleted; a pointer to it outlives that."""
        return not self.angles and (self.object is None or not self.object.users_scene)

    @property
    def text(self) -> str:
        """As a request has it, from where the object stands now; empty where it is gone."""
        if self.is_gone:
            return ""
        prompt = self.prompt.strip()
        return (self.angles or _angles_of(self.object)) + (f":{prompt}" if prompt else "")

    @text.setter
    def text(self, text: str) -> None:
        """Take a camera of the scene that has these angles and is in no other row, else the angles alone."""
        scene: Any = self.id_data
        taken = {row.object for row in scene.msd.cameras}
        self.angles, _, self.prompt = text.partition(":")
        for object in scene.objects:
            if object.type == "CAMERA" and object not in taken and _angles_of(object) == self.angles:
                self.object, self.angles = object, ""
                break


def _chosen(context: bpy.types.Context) -> list[bpy.types.Object]:
    """The selected cameras, or else the scene's."""
    selected = [each for each in context.selected_objects if each.type == "CAMERA"]
    return selected or ([context.scene.camera] if context.scene.camera else [])


class MSD_OT_camera_add(bpy.types.Operator):
    """Let jobs favour the sides that the selected cameras see, or else the scene's camera"""

    bl_idname = "msd.camera_add"
    bl_label = "Add Cameras"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        cls.poll_message_set("Select a camera first, or give the scene one")
        return bool(_chosen(context))

    def execute(self, context: bpy.types.Context) -> set[str]:
        rows = context.scene.msd.cameras
        listed = {row.object for row in rows}
        new = [each for each in _chosen(context) if each not in listed]
        if len(rows) + len(new) > MAX_CAMERAS:
            self.report({"ERROR"}, f"A job favours at most {MAX_CAMERAS} cameras: select fewer, or remove some.")
            return {"CANCELLED"}
        for each in new:
            rows.add().object = each
        return {"FINISHED"}


class MSD_OT_camera_remove(bpy.types.Operator):
    """Favour this camera's side no more; the camera stays in the scene"""

    bl_idname = "msd.camera_remove"
    bl_label = "Remove Camera"
    bl_options = {"UNDO", "INTERNAL"}

    index: IntProperty(options={"HIDDEN"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.scene.msd.cameras.remove(self.index)
        return {"FINISHED"}


class MSD_OT_view(bpy.types.Operator):
    """Let the side that this viewport shows count most: half of the cameras stand there"""

    bl_idname = "msd.from_view"
    bl_label = "From This View"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.region_data is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        settings = context.scene.msd
        settings.sets_view, settings.view = True, angles(context.region_data.view_rotation @ Vector((0, 0, 1)))
        return {"FINISHED"}


_CLASSES = (MSD_PG_text, MSD_PG_camera, MSD_OT_camera_add, MSD_OT_camera_remove, MSD_OT_view)

register, unregister = bpy.utils.register_classes_factory(_CLASSES)
