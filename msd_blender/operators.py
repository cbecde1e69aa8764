# SPDX-License-Identifier: GPL-3.0-or-later
"""The buttons. Generate is live from a button; called by a script it returns when the object is done."""

import random
from typing import Any

import bpy
from bpy.props import BoolProperty, StringProperty

from . import history, jobs
from .capture import why_not
from .client import ClientError
from .connection import data_folder, session, watch
from .local_server import log_tail
from .properties import RequestProperties
from .protocol import FAILED, MAX_SEED, to_dict

_LIMIT = min(MAX_SEED, 2**31 - 1)  # of Blender's integers


class MSD_OT_generate(RequestProperties, bpy.types.Operator):
    """Start a job with these settings, on the active mesh where the mode needs one"""

    bl_idname = "msd.generate"
    bl_label = "Generate"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        settings = context.scene.msd
        if settings.mode == "generate":
            return True
        problem = why_not(context)
        if not problem and jobs.on(context.active_object):
            problem = "A job works on this object already: stop it first"
        cls.poll_message_set(problem or "Ready")
        return not problem

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        settings = context.scene.msd
        for name in RequestProperties.__annotations__:
            if not self.properties.is_property_set(name):
                setattr(self, name, getattr(settings, name))
        count, first = settings.variants if self.mode == "generate" else 1, self.seed
        cursor = context.scene.cursor
        place = cursor.location.copy()
        for number in range(count):
            self.seed = (first + number) % _LIMIT
            cursor.location.x = place.x + 2.5 * number
            result = self._start(context, live=True)
            if result == {"CANCELLED"}:
                break
        cursor.location = place
        return result

    def execute(self, context: bpy.types.Context) -> set[str]:
        return self._start(context, live=False)

    def _start(self, context: bpy.types.Context, live: bool) -> set[str]:
        try:
            object = None
            if self.mode != "generate":
                if problem := why_not(context):
                    raise ValueError(problem + ".")
                object = context.active_object
            generation = jobs.start(self.request(), object, self.lock)
        except (ValueError, ClientError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if live:
            jobs.watch()
            return {"FINISHED"}
        while generation in jobs.generations:
            generation.live.wait(0.1)
            jobs.tick()
        if generation.live.error:
            self.report({"ERROR"}, generation.live.error)
            return {"CANCELLED"}
        return {"FINISHED"}


class _JobOperator:
    """Mixed into the operators that act on one job of the scene: the named one, else the one that is shown."""

    key: StringProperty(
        name="Job", description="Key of the job; empty: the one that the panel shows", options={"SKIP_SAVE", "HIDDEN"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        cls.poll_message_set("There is no job yet: generate something")
        return bool(context.scene.msd_jobs)

    def item(self, context: bpy.types.Context) -> Any:
        items = context.scene.msd_jobs
        return history.of_key(self.key) if self.key else items[min(context.scene.msd_job, len(items) - 1)]

    def generation(self, context: bpy.types.Context) -> Any:
        item = self.item(context)
        found = item and jobs.of(item)
        if found is None:
            self.report({"ERROR"}, "This job does not run any more.")
        return found


class MSD_OT_pause(_JobOperator, bpy.types.Operator):
    """Let the job rest at a checkpoint; it keeps its place, and the device is free"""

    bl_idname = "msd.pause"
    bl_label = "Pause"

    def execute(self, context: bpy.types.Context) -> set[str]:
        if (generation := self.generation(context)) is None:
            return {"CANCELLED"}
        generation.live.pause()
        return {"FINISHED"}


class MSD_OT_resume(_JobOperator, bpy.types.Operator):
    """Go on from the last state and your changes to it"""

    bl_idname = "msd.resume"
    bl_label = "Resume"

    def execute(self, context: bpy.types.Context) -> set[str]:
        item = self.item(context)
        generation = item and jobs.of(item)
        try:
            if generation is None and item and not item.ended or item.state == FAILED and item.job:
                generation = jobs.attach(item)
                jobs.watch()
            if generation is None:
                raise ValueError("This job has ended: generate it again.")
            generation.resume()
        except (ValueError, RuntimeError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class MSD_OT_stop(_JobOperator, bpy.types.Operator):
    """Stop the job; what was reached stays"""

    bl_idname = "msd.stop"
    bl_label = "Stop and Keep"

    def execute(self, context: bpy.types.Context) -> set[str]:
        if (generation := self.generation(context)) is None:
            return {"CANCELLED"}
        generation.live.cancel()
        return {"FINISHED"}


class MSD_OT_discard(_JobOperator, bpy.types.Operator):
    """Stop the job if it runs, and take back all that it did to the scene"""

    bl_idname = "msd.discard"
    bl_label = "Discard"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        jobs.discard(self.item(context))
        return {"FINISHED"}


class MSD_OT_again(_JobOperator, bpy.types.Operator):
    """Bring the job's settings back into the panel and start it once more"""

    bl_idname = "msd.again"
    bl_label = "Generate Again"

    start: BoolProperty(
        name="Start", description="Start the job, not only bring its settings back", default=True, options={"SKIP_SAVE"}
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        item = self.item(context)
        try:
            request = item.request
        except ValueError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        settings = context.scene.msd
        for name in RequestProperties.__annotations__:
            settings.property_unset(name)
        for name, value in to_dict(request).items():
            if value is None or name not in settings.bl_rna.properties:
                continue
            if name == "maps":
                value = set(value)
            elif name == "symmetry":
                value = value or "none"
            setattr(settings, name, value)
        if request.elevation is not None:
            settings.elevation_min, settings.elevation_max = map(round, request.elevation)
        settings.lock = item.lock
        object = history.object_of(item)
        if request.mode != "generate" and object is not None:
            for each in context.selected_objects:
                each.select_set(False)
            object.select_set(True)
            context.view_layer.objects.active = object
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
        item = self.item(context)
        kept = item.before if self.before else item.result
        object = history.object_of(item)
        problem = (
            "This job left no version."
            if kept is None
            else "A job works on this object: stop it first."
            if object and jobs.on(object)
            else "Leave the object's mode first."
            if object and object.mode != "OBJECT"
            else ""
        )
        if problem:
            self.report({"ERROR"}, problem)
            return {"CANCELLED"}
        if object is None:  # deleted since: make it again
            object = bpy.data.objects.new(item.name, kept.copy())
            context.collection.objects.link(object)
            object.location = item.place
            item.object = object
        history.restore(object, kept)
        return {"FINISHED"}


class MSD_OT_forget(_JobOperator, bpy.types.Operator):
    """Take the job off the list, with the versions that it keeps; its object stays"""

    bl_idname = "msd.forget"
    bl_label = "Remove From History"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        item = self.item(context)
        if jobs.of(item):
            self.report({"ERROR"}, "The job runs: stop it first.")
            return {"CANCELLED"}
        jobs.forget(item)
        return {"FINISHED"}


class MSD_OT_asset(_JobOperator, bpy.types.Operator):
    """Mark the job's object as an asset, with its picture, prompt and seed"""

    bl_idname = "msd.mark_asset"
    bl_label = "Mark as Asset"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        item = self.item(context)
        object = history.object_of(item)
        if object is None:
            self.report({"ERROR"}, "The job has no object: restore it first.")
            return {"CANCELLED"}
        history.mark_asset(object, item)
        return {"FINISHED"}


class MSD_OT_dice(bpy.types.Operator):
    """Draw another seed"""

    bl_idname = "msd.dice"
    bl_label = "Draw a Seed"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.scene.msd.seed = random.SystemRandom().randrange(10_000)
        return {"FINISHED"}


class MSD_OT_server_start(bpy.types.Operator):
    """Start the server of the preferences; jobs also start it"""

    bl_idname = "msd.server_start"
    bl_label = "Start"

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            watch.run(jobs.connector())
        except (ValueError, ClientError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class MSD_OT_server_stop(bpy.types.Operator):
    """Stop the server on this machine; its jobs wait at a checkpoint until it is started again"""

    bl_idname = "msd.server_stop"
    bl_label = "Stop"

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.stop(data_folder())
        watch.again()
        return {"FINISHED"}


class MSD_OT_server_log(bpy.types.Operator):
    """Show the end of the server's log as a text"""

    bl_idname = "msd.server_log"
    bl_label = "Show Log"

    def execute(self, context: bpy.types.Context) -> set[str]:
        text = bpy.data.texts.get("msd server.log") or bpy.data.texts.new("msd server.log")
        text.from_string(log_tail(data_folder()) or "The server has said nothing yet.\n")
        if context.window_manager.windows and not bpy.app.background:
            bpy.ops.wm.window_new()
            area = context.window_manager.windows[-1].screen.areas[0]
            area.type = "TEXT_EDITOR"
            area.spaces[0].text = text
        return {"FINISHED"}


_CLASSES = (
    MSD_OT_generate,
    MSD_OT_pause,
    MSD_OT_resume,
    MSD_OT_stop,
    MSD_OT_discard,
    MSD_OT_again,
    MSD_OT_restore,
    MSD_OT_forget,
    MSD_OT_asset,
    MSD_OT_dice,
    MSD_OT_server_start,
    MSD_OT_server_stop,
    MSD_OT_server_log,
)


def register() -> None:
    for cls in _CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
