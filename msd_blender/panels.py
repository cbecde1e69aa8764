# SPDX-License-Identifier: GPL-3.0-or-later
"""The panels of the sidebar's MSD tab."""

import textwrap
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated

from . import history, icons, jobs, model_list
from .capture import capture_problem
from .connection import health_monitor, preferences
from .job_session import CONNECTING, format_progress, progress_fraction
from .live_job import LiveJob, find_live_job, running_jobs
from .presets import MSD_PT_presets
from .properties import FIRST_VALUES
from .protocol import CANCELLED, FAILED, FINISHED, OPTIONS, PAUSED, QUEUED, RUNNING

_STATES = {CONNECTING: "Connecting…", QUEUED: "Waiting its turn…", RUNNING: "Starting…", PAUSED: "Paused"}
_ICONS = {FINISHED: "CHECKMARK", PAUSED: "PAUSE", FAILED: "ERROR", CANCELLED: "X"}
_PENDING = {"pause": "Pausing…", "stop": "Stopping…"}


class _Panel:
    bl_category = "MSD"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    layout: Any


class _Settings(_Panel):
    """Base of the sub-panels of settings. names: the properties that it shows."""

    bl_parent_id = "MSD_PT_generate"
    bl_options = {"DEFAULT_CLOSED"}
    names: tuple[str, ...] = ()

    def draw(self, context: bpy.types.Context) -> None:
        _props(self.layout, context.scene.msd, *self.names)


def _props(layout: Any, settings: Any, *names: str) -> None:
    """A row for each property, but for options that have no effect. One that is left open shows no number."""
    layout.use_property_split = True
    layout.use_property_decorate = False
    for name in filter(settings.sees, names):
        if name in FIRST_VALUES:
            _switched(layout, settings, name, settings.bl_rna.properties[name].name, name)
        else:
            layout.prop(settings, name)


def _switched(layout: Any, settings: Any, option: str, title: str, *names: str) -> None:
    """A row with a checkbox, and the properties where it is on; else what is used without them."""
    row = layout.row(heading=title, align=True)
    row.prop(settings, f"sets_{option}", text="")
    if getattr(settings, f"sets_{option}"):
        for name in names:
            row.prop(settings, name, text="")
    else:
        by_quality = option in ("iterations", "texture_size") and settings.quality != "STANDARD"
        none = OPTIONS[option].none  # short: the narrowest sidebar cuts what is longer
        text = "By Quality" if by_quality else "Automatic" if "server" in none else none.capitalize()
        row.label(text=translated(text))


class MSD_PT_generate(_Panel, bpy.types.Panel):
    bl_label = "Text to 3D"

    def draw_header_preset(self, context: bpy.types.Context) -> None:
        MSD_PT_presets.draw_panel_header(self.layout)

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.msd
        layout.row().prop(settings, "mode", expand=True)
        column = layout.column(align=True)
        _placeholder(column, settings, "prompt", "a red mushroom")
        _placeholder(column, settings, "negative_prompt", "not wanted")
        _props(layout, settings, "quality", "guidance")
        row = layout.row(align=True)
        row.prop(settings, "seed")
        row.operator("msd.dice", text="", icon="FILE_REFRESH")
        if settings.mode == "generate":
            layout.prop(settings, "variants")
        elif context.object is not None and context.object.type == "MESH":
            layout.prop_search(settings, "lock", context.object, "vertex_groups")
        row = layout.row()
        row.scale_y = 1.4
        row.operator(
            "msd.generate", text=settings.bl_rna.properties["mode"].enum_items[settings.mode].name, icon="PLAY"
        )
        if settings.mode != "generate" and (problem := capture_problem(context)):
            _wrapped_text(layout, translated(problem), context, icon="INFO")
        if settings.model or settings.loras or settings.control or settings.image_prompt:
            model_list.refresh()
        for problem in model_list.problems(settings):
            _wrapped_text(layout, problem, context, icon="ERROR")


class MSD_PT_result(_Settings, bpy.types.Panel):
    bl_label = "Result"

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.msd
        _props(self.layout, settings, "iterations", "target_faces", "texture_size")
        self.layout.column().prop(settings, "maps")
        _props(self.layout, settings, "max_displacement", "remesh")


class MSD_PT_mean_shift(_Settings, bpy.types.Panel):
    bl_label = "Diversity and Sharpness"
    names = ("guidance_scale", "diversity", "sharpness")


class MSD_PT_cameras(_Settings, bpy.types.Panel):
    bl_label = "Cameras"

    def draw(self, context: bpy.types.Context) -> None:
        _props(self.layout, context.scene.msd, "field_of_view", "background")
        _switched(self.layout, context.scene.msd, "elevation", "Elevation", "elevation_min", "elevation_max")


class MSD_PT_shape(_Settings, bpy.types.Panel):
    bl_label = "Shape"
    names = ("regularization", "symmetry", "flat")


class MSD_PT_control(_Settings, bpy.types.Panel):
    """What the model sees of the mesh, where there is one."""

    bl_label = "Control"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.scene.msd.mode in OPTIONS["control"].modes

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.msd
        _props(layout, settings, "control")
        if settings.mode in OPTIONS["control_model"].modes:
            name = model_list.name_of(model_list.CONTROLNET, settings.control_model)
            _list(layout, "ControlNet", "MSD_PT_controlnets", name or translated("The model's own"))
            layout.prop(settings, "control_model", text="Path")
        _props(layout, settings, "control_strength")


class MSD_PT_image_prompt(_Settings, bpy.types.Panel):
    """A picture that the model follows beside the prompt."""

    bl_label = "Image Prompt"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.msd
        layout.template_ID(settings, "image_prompt", open="image.open")
        _props(layout, settings, "image_prompt_strength")
        name = model_list.name_of(model_list.IP_ADAPTER, settings.ip_adapter)
        _list(layout, "IP-Adapter", "MSD_PT_ip_adapters", name or translated("None"))
        layout.prop(settings, "ip_adapter", text="Path")


class MSD_PT_model(_Settings, bpy.types.Panel):
    bl_label = "Model and Device"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.msd
        model_list.refresh()
        name = model_list.name_of(model_list.MODEL, settings.model)
        _list(layout, "Model", "MSD_PT_models", name or translated("Bundled model"))
        layout.use_property_split, layout.use_property_decorate = True, False
        layout.prop(settings, "model", text="Path")
        column = layout.column(align=True)
        for index, lora in enumerate(settings.loras):
            _draw_lora(column, lora, index)
        row = column.row(align=True)
        row.popover("MSD_PT_loras", text="Add LoRA", icon="ADD")
        row.operator("msd.lora_add", text="", icon="FILEBROWSER")
        _props(layout, settings, "device")
        for device in health_monitor.answer.device.split("; ") if health_monitor.answer else ():
            _wrapped_text(layout, device, context, icon="MEMORY")
        _props(layout, settings, "memory_limit", "rasterizer", "priority")


def _list(layout: Any, title: str, panel: str, chosen: str) -> None:
    """A row that opens a list of what the server has."""
    split = layout.split(factor=0.4, align=True)
    title_row = split.row()
    title_row.alignment = "RIGHT"
    title_row.label(text=title)
    split.popover(panel, text=chosen)


def _draw_lora(column: Any, lora: Any, index: int) -> None:
    """A LoRA by its name; its path is under it where it is opened, or where there is none yet."""
    row = column.row(align=True)
    row.use_property_split = False
    opened = lora.expanded or not lora.file
    name = model_list.name_of(model_list.LORA, lora.file) or translated("LoRA file")
    row.prop(lora, "expanded", text=name, icon="DOWNARROW_HLT" if opened else "RIGHTARROW", emboss=False)
    weight = row.row(align=True)
    weight.ui_units_x = 3
    weight.prop(lora, "weight", text="")
    row.operator("msd.lora_remove", text="", icon="X").index = index
    if opened:
        path = column.row()
        path.use_property_split = False
        _placeholder(path, lora, "file", "LoRA file")


class MSD_PT_jobs(_Panel, bpy.types.Panel):
    """One box for each job that runs."""

    bl_label = "Running"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(running_jobs)

    def draw(self, context: bpy.types.Context) -> None:
        for live_job in running_jobs:
            _draw_live(self.layout.box(), live_job, context)


def _draw_live(box: Any, live_job: LiveJob, context: bpy.types.Context) -> None:
    session, key = live_job.session, live_job.request.client_key
    record, object = history.find_record(key), live_job.object
    if record is not None:
        box.prop(record, "prompt", text="")
        if object is not None and object.vertex_groups:
            box.prop_search(record, "lock", object, "vertex_groups")
    if icon := icons.icon_id(key):
        box.template_icon(icon, scale=5)
    factor, text = 0.0, translated(_STATES.get(session.state, session.state))
    if session.progress:
        factor, text = progress_fraction(session.progress), format_progress(session.progress)
        if session.state == PAUSED:
            text = f"{translated('Paused')}, {session.progress.iteration}/{session.progress.iterations}"
    box.progress(factor=factor, text=translated(_PENDING[session.pending_action]) if session.pending_action else text)
    row = box.row(align=True)
    resume = session.state == PAUSED or session.pending_action == "pause" or bool(session.edit_error)
    row.operator("msd.resume" if resume else "msd.pause", icon="PLAY" if resume else "PAUSE").key = key
    row.operator("msd.stop", text="Keep", icon="CHECKMARK").key = key
    row.operator("msd.discard", text="", icon="TRASH").key = key
    if session.connection_error:
        _wrapped_text(
            box, translated("Waiting for the server.") + " " + session.connection_error, context, icon="ERROR"
        )
    elif session.edit_error:
        _wrapped_text(box, session.edit_error + " " + translated("Resume gives your change up."), context, icon="ERROR")
    elif live_job.waits_for_object:
        text = "Its object was deleted, so the job waits: undo brings it back."
        if live_job.request.mode == "generate":
            text = "Its object was deleted, so the job waits: undo brings it back, Resume makes it anew."
        _wrapped_text(box, translated(text), context, icon="INFO")
    elif live_job.scene_object is not None and object is not None and live_job.scene_object.is_being_edited:
        _wrapped_text(box, translated("Updates wait until you leave this mode."), context, icon="INFO")
    elif session.state == QUEUED:
        _ask_health()
        if health_monitor.answer is not None and health_monitor.answer.problem:
            _wrapped_text(box, health_monitor.answer.problem, context, icon="ERROR")
    elif session.job is not None and session.job.machine:
        box.label(text=translated("On {}").format(session.job.machine), icon="NETWORK_DRIVE")
    for line in session.log[-2:]:
        _wrapped_text(box, line, context)


class MSD_UL_jobs(bpy.types.UIList):
    def draw_item(
        self,
        context: Any,
        layout: Any,
        data: Any,
        item: Any,
        icon: Any,
        active: Any,
        property: Any,
        index: int = 0,
        flag: int = 0,
    ) -> None:
        if icon_id := icons.icon_id(item.key, item.picture):
            layout.label(text=item.name, icon_value=icon_id)
        else:
            layout.label(text=item.name, icon=_ICONS.get(item.state, "TIME"))


class MSD_PT_history(_Panel, bpy.types.Panel):
    bl_label = "History"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(context.scene.msd_jobs)

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, context.scene
        layout.template_list("MSD_UL_jobs", "", scene, "msd_jobs", scene, "msd_job", rows=3)
        record = scene.msd_jobs[min(scene.msd_job, len(scene.msd_jobs) - 1)]
        if find_live_job(record.key) is not None:
            return
        if icon_id := icons.icon_id(record.key, record.picture):
            layout.template_icon(icon_id, scale=6)
        column = layout.column(align=True)
        if record.kept and record.state == CANCELLED:
            column.label(text="Kept", icon="CHECKMARK")
        elif record.state in _ICONS:
            column.label(text=record.state.capitalize(), icon=_ICONS[record.state])
        if record.error:
            _wrapped_text(column, record.error, context)
        if record.job and record.followable:
            going_on = not record.ended or record.state == FAILED
            column.operator("msd.resume", text="Take Up Again" if going_on else "Fetch the Result", icon="PLAY")
        column.operator("msd.again", icon="FILE_REFRESH")
        column.operator("msd.again", text="Use These Settings", icon="SETTINGS").start = False
        if record.result is not None:
            column.operator("msd.restore", icon="LOOP_BACK")
        if record.before is not None:
            column.operator("msd.restore", text="Restore From Before", icon="LOOP_BACK").before = True
        column.operator("msd.mark_asset", icon="ASSET_MANAGER")
        row = layout.row(align=True)
        row.operator("msd.discard", text="Discard", icon="TRASH")
        row.operator("msd.forget", text="Remove", icon="X")


class MSD_PT_server(_Panel, bpy.types.Panel):
    bl_label = "Server"

    def draw(self, context: bpy.types.Context) -> None:
        draw_server(self.layout, context)
        if preferences() is not None:
            row = self.layout.row()
            row.operator("preferences.addon_show", text="Preferences…", icon="PREFERENCES").module = __package__


def draw_server(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The state of the server, with buttons that start and stop it."""
    prefs, health = preferences(), health_monitor.answer
    _ask_health()
    column = layout.column(align=True)
    if health is not None:
        if health.problem:
            _wrapped_text(column, health.problem, context, icon="ERROR")
        else:
            state = {"idle": "Ready", "busy": "Working", "starting": "Starting…"}.get(health.worker, "Running")
            column.label(text=translated(state), icon="CHECKMARK")
        if health.device:
            _wrapped_text(
                column,
                f"{health.device}, {health.memory / 1e9:.1f} / {health.memory_total / 1e9:.0f} GB",
                context,
                icon="MEMORY",
            )
        name = model_list.name_of(model_list.MODEL, context.scene.msd.model)
        column.label(text=name or translated("Bundled model"), icon="FILE_VOLUME")
    elif health_monitor.problem:
        _wrapped_text(column, health_monitor.problem, context, icon="ERROR")
    else:
        column.label(text=translated("Asking…" if health_monitor.is_requesting else "Not running"), icon="X")
    row = layout.row(align=True)
    if prefs is None or prefs.place == "LOCAL":
        if health is None:
            row.operator("msd.server_start", icon="PLAY")
        else:
            row.operator("msd.server_stop", icon="SNAP_FACE")
        row.operator("msd.server_log", icon="TEXT")


def _ask_health() -> None:
    if health_monitor.refresh() and not bpy.app.timers.is_registered(_redraw):
        bpy.app.timers.register(_redraw, first_interval=0.2)


def _redraw() -> float | None:
    """A timer that redraws the panel once the health request has ended, and asks on while no job can run.
    (The request's thread must not call Blender.)"""
    if health_monitor.is_requesting:
        return 0.2
    jobs.redraw()
    health = health_monitor.answer
    if health is None or health.worker != "starting" and not health.problem:
        return None
    health_monitor.expire()
    health_monitor.refresh()
    return 1.0


def _placeholder(layout: Any, settings: Any, name: str, text: str) -> None:
    layout.prop(settings, name, text="", placeholder=text)


def _wrapped_text(layout: Any, text: str, context: bpy.types.Context, icon: str = "NONE") -> None:
    """A sentence in as many labels as the sidebar's width needs."""
    scale = context.preferences.system.ui_scale
    width = max(16, int(context.region.width / (7.2 * scale)) - 8)
    column = layout.column(align=True)
    column.scale_y = 0.8
    for part in textwrap.wrap(text, width):
        column.label(text=part, icon=icon)
        icon = "BLANK1" if icon != "NONE" else icon


_CLASSES = (
    MSD_PT_generate,
    MSD_PT_result,
    MSD_PT_mean_shift,
    MSD_PT_cameras,
    MSD_PT_shape,
    MSD_PT_control,
    MSD_PT_image_prompt,
    MSD_PT_model,
    MSD_PT_jobs,
    MSD_UL_jobs,
    MSD_PT_history,
    MSD_PT_server,
)


def register() -> None:
    for cls in _CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    if bpy.app.timers.is_registered(_redraw):
        bpy.app.timers.unregister(_redraw)
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
