# SPDX-License-Identifier: GPL-3.0-or-later
"""The operators on jobs: those that run, and those of the history."""

from typing import Any

import bpy
from bpy.props import BoolProperty, StringProperty
from mathutils import Vector

from . import history, jobs
from .live_job import LiveJob, find_live_job, find_live_job_on, running_jobs
from .materials import image_of
from .protocol import FAILED


class _JobOperator:
    """Base of the operators on one job of the scene: the one named by `key`, else the one that the panel shows."""

    key: StringProperty(
        name="Job", description="Key of the job; empty: the one that the panel shows", options={"SKIP_SAVE", "HIDDEN"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        cls.poll_message_set("There is no job yet: generate something")
        return bool(context.scene.msd_jobs or running_jobs)

    def record(self, context: bpy.types.Context) -> Any:
        if self.key:
            return history.find_record(self.key)
        records = context.scene.msd_jobs
        return records[min(context.scene.msd_job, len(records) - 1)]

    def live_job(self, context: bpy.types.Context) -> LiveJob | None:
        """The running job; None, after an error report, where it has ended."""
        record = self.record(context)
        live_job = find_live_job(record.key) if record else None
        if live_job is None:
            self.report({"ERROR"}, "This job does not run any more.")
        return live_job


class MSD_OT_pause(_JobOperator, bpy.types.Operator):
    """Let the job rest at a checkpoint; it keeps its place, and the device is free"""

    bl_idname = "msd.pause"
    bl_label = "Pause"

    def execute(self, context: bpy.types.Context) -> set[str]:
        if (live_job := self.live_job(context)) is None:
            return {"CANCELLED"}
        live_job.session.pause()
        return {"FINISHED"}


class MSD_OT_resume(_JobOperator, bpy.types.Operator):
    """Go on from the last state and your changes to it"""

    bl_idname = "msd.resume"
    bl_label = "Resume"

    def execute(self, context: bpy.types.Context) -> set[str]:
        record = self.record(context)
        live_job = find_live_job(record.key) if record else None
        try:
            if live_job is None:
                if record is None or not record.followable:
                    raise ValueError("This job has ended: generate it again.")
                live_job = jobs.attach(record)
                jobs.start_timer()
            if not record.ended or record.state == FAILED:
                live_job.resume()
        except (ValueError, RuntimeError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class MSD_OT_finish(_JobOperator, bpy.types.Operator):
    """Let the job grow no more: what is there is unwrapped, textured and finished"""

    bl_idname = "msd.finish"
    bl_label = "Finish Now"

    def execute(self, context: bpy.types.Context) -> set[str]:
        if (live_job := self.live_job(context)) is None:
            return {"CANCELLED"}
        live_job.session.finish()
        return {"FINISHED"}


class MSD_OT_stop(_JobOperator, bpy.types.Operator):
    """Stop the job; what was reached stays"""

    bl_idname = "msd.stop"
    bl_label = "Stop and Keep"

    def execute(self, context: bpy.types.Context) -> set[str]:
        if (live_job := self.live_job(context)) is None:
            return {"CANCELLED"}
        live_job.session.cancel()
        self.record(context).kept = True
        return {"FINISHED"}


class MSD_OT_discard(_JobOperator, bpy.types.Operator):
    """Stop the job if it runs, and take back all that it did to the scene"""

    bl_idname = "msd.discard"
    bl_label = "Discard"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        if (record := self.record(context)) is None:
            return {"CANCELLED"}
        jobs.discard(record)
        return {"FINISHED"}


class MSD_OT_again(_JobOperator, bpy.types.Operator):
    """Bring the job's settings back into the panel and start it once more"""

    bl_idname = "msd.again"
    bl_label = "Generate Again"

    start: BoolProperty(
        name="Start", description="Start the job, not only bring its settings back", default=True, options={"SKIP_SAVE"}
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        record = self.record(context)
        try:
            request = record.request
        except ValueError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        settings = context.scene.msd
        settings.set_from(request)
        settings.lock, settings.image_prompt = record.lock, record.image_prompt
        if request.mode != "generate" and (objects := history.objects_of(record)):
            settings.together = len(record.parts) > 1
            for each in context.selected_objects:
                each.select_set(False)
            for object in objects:
                object.select_set(True)
            context.view_layer.objects.active = objects[0]
        if self.start and bpy.ops.msd.generate.poll():
            bpy.ops.msd.generate("INVOKE_DEFAULT")
        return {"FINISHED"}


class MSD_OT_restore(_JobOperator, bpy.types.Operator):
    """Give the object the mesh and materials that it had when this job ended, or before it began"""

    bl_idname = "msd.restore"
    bl_label = "Restore This Version"
    bl_options = {"REGISTER", "UNDO"}

    before: BoolProperty(name="Before", description="The version from before the job", options={"SKIP_SAVE"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        record = self.record(context)
        parts = [(each, each.before if self.before else each.result) for each in record.parts]
        parts = [(part, version) for part, version in parts if version is not None]
        objects = history.objects_of(record)
        problem = (
            "This job left no version."
            if not parts
            else "A job works on this object: stop it first."
            if any(map(find_live_job_on, objects))
            else "Leave the object's mode first."
            if any(object.mode != "OBJECT" for object in objects)
            else ""
        )
        if problem:
            self.report({"ERROR"}, problem)
            return {"CANCELLED"}
        for part, version in parts:
            if part.object not in objects:  # it was deleted: make it again
                part.object = bpy.data.objects.new(record.name, version.copy())
                context.collection.objects.link(part.object)
                part.object.location = Vector(record.place) + Vector(part.offset)
        history.restore_versions([(part.object, version) for part, version in parts])
        return {"FINISHED"}


class MSD_OT_forget(_JobOperator, bpy.types.Operator):
    """Take the job off the list, with the versions that it keeps; its object stays"""

    bl_idname = "msd.forget"
    bl_label = "Remove From History"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        record = self.record(context)
        if find_live_job(record.key):
            self.report({"ERROR"}, "The job runs: stop it first.")
            return {"CANCELLED"}
        history.remove_record(record)
        return {"FINISHED"}


class MSD_OT_asset(_JobOperator, bpy.types.Operator):
    """Mark the job's object as an asset, with its picture, prompt and seed"""

    bl_idname = "msd.mark_asset"
    bl_label = "Mark as Asset"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        record = self.record(context)
        if not (objects := history.objects_of(record)):
            self.report({"ERROR"}, "The job has no object: restore it first.")
            return {"CANCELLED"}
        for object in objects:
            history.mark_asset(object, record)
        return {"FINISHED"}


class MSD_OT_show(_JobOperator, bpy.types.Operator):
    """Select the job's objects and bring them into view"""

    bl_idname = "msd.show"
    bl_label = "Show"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        record = self.record(context)
        if record is None or not history.select(*history.objects_of(record)):
            self.report({"ERROR"}, "The object is not in this view layer, or another one is being edited.")
            return {"CANCELLED"}
        region = next((each for each in context.area.regions if each.type == "WINDOW"), None) if context.area else None
        if region is not None and context.area.type == "VIEW_3D":
            with context.temp_override(region=region):
                bpy.ops.view3d.view_selected()
        return {"FINISHED"}


class MSD_OT_choose(_JobOperator, bpy.types.Operator):
    """Keep this variant, and take back the others"""

    bl_idname = "msd.choose"
    bl_label = "Choose This"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        if (record := self.record(context)) is None:
            return {"CANCELLED"}
        key = record.key
        for other in [each.key for each in history.variants_of(record) if each.key != key]:
            jobs.discard(history.find_record(other))
        return {"FINISHED"}


class MSD_OT_colours(bpy.types.Operator):
    """Show the colours in this viewport's Solid view"""

    bl_idname = "msd.show_colours"
    bl_label = "Show Colours"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.space_data is not None and context.space_data.type == "VIEW_3D"

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.space_data.shading.color_type = colour_type(context.object)
        return {"FINISHED"}


def colour_type(object: bpy.types.Object | None) -> str:
    """What a Solid view shows an object's colours by: its textures, or its vertices while it has none yet."""
    if object is None or object.type != "MESH" or not object.data.color_attributes:
        return "TEXTURE"
    materials = [slot.material for slot in object.material_slots if slot.material is not None]
    return "TEXTURE" if any(image_of(material, "texture") for material in materials) else "VERTEX"


class MSD_OT_mask(bpy.types.Operator):
    """Paint what must not change: makes a vertex group for it and enters Weight Paint"""

    bl_idname = "msd.paint_mask"
    bl_label = "Paint a Mask"
    bl_options = {"REGISTER", "UNDO"}

    key: StringProperty(
        name="Job", description="Of the running job that gets the mask; empty: the next job", options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        cls.poll_message_set("Select a mesh object first")
        return context.object is not None and context.object.type == "MESH"

    def execute(self, context: bpy.types.Context) -> set[str]:
        live_job = find_live_job(self.key) if self.key else None
        object = context.object if live_job is None or context.object in live_job.objects else live_job.object
        if object is None or (object != context.object and not history.select(object)):
            self.report({"ERROR"}, "The object is not there: leave the mode of the other one first.")
            return {"CANCELLED"}
        target = context.scene.msd if live_job is None else history.find_record(self.key)
        group = object.vertex_groups.get(target.lock) or object.vertex_groups.new(name="Mask")
        object.vertex_groups.active = group
        target.lock = group.name
        if object.mode != "WEIGHT_PAINT":
            bpy.ops.object.mode_set(mode="WEIGHT_PAINT")
        return {"FINISHED"}


class MSD_OT_report(bpy.types.Operator):
    """Report the ends of jobs in Blender's status bar and info editor.

    Blender shows no reports of operators that a script calls, as from a timer. So the timer leaves a line here and asks
    for an event, which runs this operator by its keymap.
    """

    bl_idname = "msd.report"
    bl_label = "Text to 3D"
    bl_options = {"INTERNAL"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(jobs.reports)

    def execute(self, context: bpy.types.Context) -> set[str]:
        while jobs.reports:
            kind, text = jobs.reports.pop(0)
            self.report({kind}, text)
        jobs.end_report_timer()
        return {"FINISHED"}


_CLASSES = (
    MSD_OT_pause,
    MSD_OT_resume,
    MSD_OT_finish,
    MSD_OT_stop,
    MSD_OT_discard,
    MSD_OT_again,
    MSD_OT_restore,
    MSD_OT_forget,
    MSD_OT_asset,
    MSD_OT_show,
    MSD_OT_choose,
    MSD_OT_colours,
    MSD_OT_mask,
    MSD_OT_report,
)

_keymap_item: Any = None  # (keymap, item)


def register() -> None:
    global _keymap_item
    for cls in _CLASSES:
        bpy.utils.register_class(cls)
    if (config := bpy.context.window_manager.keyconfigs.addon) is not None:  # None without a window
        keymap = config.keymaps.new("Window")
        _keymap_item = keymap, keymap.keymap_items.new(MSD_OT_report.bl_idname, "TIMER", "ANY", any=True)


def unregister() -> None:
    global _keymap_item
    if _keymap_item is not None:
        keymap, item = _keymap_item
        keymap.keymap_items.remove(item)
        _keymap_item = None
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
