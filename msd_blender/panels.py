# SPDX-License-Identifier: GPL-3.0-or-later
"""The panels of the sidebar's MSD tab."""

import textwrap
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated

from . import forecast, history, icons, jobs, model_list, server_jobs
from .capture import capture_problem, selected_meshes
from .connection import health_monitor, preferences
from .job_session import CONNECTING, format_progress, format_seconds, progress_fraction
from .live_job import LiveJob, find_live_job, running_jobs
from .operators import colour_type
from .presets import MSD_PT_presets
from .properties import FIRST_VALUES
from .protocol import CANCELLED, FAILED, FINISHED, OPTIONS, PAUSED, QUEUED, RUNNING, Job, JobRequest

_STATES = {CONNECTING: "Connecting…", QUEUED: "Waiting its turn…", RUNNING: "Starting…", PAUSED: "Paused"}
_ICONS = {FINISHED: "CHECKMARK", PAUSED: "PAUSE", FAILED: "ERROR", CANCELLED: "X"}
_PENDING = {"pause": "Pausing…", "finish": "Finishing…", "stop": "Stopping…"}
_MODE_ICONS = {"generate": "OUTLINER_OB_MESH", "texture": "TEXTURE", "refine": "SCULPTMODE_HLT"}
_MOST_OTHERS = 5  # jobs of others that are listed
NARROW = 240  # pixels at a scale of 1
_EXAMPLES = (  # for models that know most things
    "a red mushroom with white dots",
    "a weathered wooden crate with iron bands",
    "a ceramic teapot with blue flowers",
    "a plush teddy bear wearing a scarf",
    "an ornate treasure chest full of coins",
    "a cartoon pirate ship",
    "a mossy stone well",
    "a vintage radio of walnut and brass",
)


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


def is_narrow(context: bpy.types.Context) -> bool:
    """Whether the sidebar has no room for a name and its field side by side."""
    region, scale = context.region, context.preferences.system.ui_scale or 1.0
    return region is not None and region.width < NARROW * scale


def _props(layout: Any, settings: Any, *names: str) -> None:
    """A row for each property, but for options that have no effect. One that is left open shows no number."""
    narrow = is_narrow(bpy.context)
    layout.use_property_split = not narrow
    layout.use_property_decorate = False
    for name in filter(settings.sees, names):
        title = settings.bl_rna.properties[name].name
        if name in FIRST_VALUES:
            _switched(layout, settings, name, title, name)
        elif narrow and settings.bl_rna.properties[name].type != "BOOLEAN":
            column = layout.column(align=True)
            column.label(text=title)
            column.prop(settings, name, text="")
        else:
            layout.prop(settings, name)


def _switched(layout: Any, settings: Any, option: str, title: str, *names: str) -> None:
    """A row with a checkbox, and the properties where it is on; else what is used without them."""
    if narrow := is_narrow(bpy.context):
        layout.prop(settings, f"sets_{option}", text=title)
        row = layout.row(align=True)
    else:
        row = layout.row(heading=title, align=True)
        row.prop(settings, f"sets_{option}", text="")
    if getattr(settings, f"sets_{option}"):
        for name in names:
            row.prop(settings, name, text="")
    else:
        by_quality = option in ("iterations", "texture_size") and settings.quality != "STANDARD"
        none = OPTIONS[option].none  # short: the narrowest sidebar cuts what is longer
        text = "By Quality" if by_quality else "Automatic" if "server" in none else none.capitalize()
        row.label(text=translated(text), icon="BLANK1" if narrow else "NONE")


class MSD_PT_generate(_Panel, bpy.types.Panel):
    bl_label = "Text to 3D"

    def draw_header_preset(self, context: bpy.types.Context) -> None:
        MSD_PT_presets.draw_panel_header(self.layout)

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.msd
        narrow = is_narrow(context)
        if narrow:
            layout.prop(settings, "mode", text="")
        else:
            layout.row().prop(settings, "mode", expand=True)
        column = layout.column(align=True)
        row = column.row(align=True)
        _placeholder(row, settings, "prompt", "a red mushroom")
        row.menu("MSD_MT_prompts", text="", icon="DOWNARROW_HLT")
        _placeholder(column, settings, "negative_prompt", "not wanted")
        known = forecast.forecast(settings)
        if known is not None and known.unknown:
            _wrapped_text(layout, f"{translated('Not known:')} {', '.join(known.unknown)}", context, icon="ERROR")
        elif known is not None and known.warnings:
            _wrapped_text(layout, known.warnings[0], context, icon="INFO")
        _props(layout, settings, "quality", "guidance")
        row = layout.row(align=True)
        row.prop(settings, "seed")
        row.operator("msd.dice", text="", icon="FILE_REFRESH")
        if settings.mode == "generate":
            _props(layout, settings, "variants")
        elif context.object is not None and context.object.type == "MESH":
            _lock(layout, settings, context.object)
        row = layout.row()
        row.scale_y = 1.4
        row.operator(
            "msd.generate", text=settings.bl_rna.properties["mode"].enum_items[settings.mode].name, icon="PLAY"
        )
        if known is not None and known.seconds is not None:
            text = translated("About {}, as the last jobs of these settings").format(format_seconds(known.seconds))
            _wrapped_text(layout, text, context, icon="TIME")
        if settings.mode != "generate":
            chosen = selected_meshes(context)
            if problem := capture_problem(context):
                _wrapped_text(layout, translated(problem), context, icon="INFO")
            elif len(chosen) > 1:
                _props(layout, settings, "together")
                text = "One job for {} meshes, as they stand" if settings.is_joined else "One job for each of {} meshes"
                _wrapped_text(layout, translated(text).format(len(chosen)), context, "INFO")
        model_list.refresh()
        server_jobs.refresh()
        for problem in model_list.problems(settings):
            _wrapped_text(layout, problem, context, icon="ERROR")


class MSD_MT_prompts(bpy.types.Menu):
    """Examples of prompts: for a model that knows few things, one with each"""

    bl_label = "Examples"

    def draw(self, context: bpy.types.Context) -> None:
        model = model_list.find(model_list.MODEL, context.scene.msd.model)
        known = model.examples if model else []
        columns = self.layout.column_flow(columns=2 if known else 1)
        for text in known or _EXAMPLES:
            columns.operator("msd.prompt", text=text, translate=False).text = text


def _lock(layout: Any, owner: Any, object: bpy.types.Object, key: str = "") -> None:
    """The vertex group that must not change, and a brush that paints it."""
    row = layout.row(align=True)
    row.use_property_split = False
    title = {"text": ""} if is_narrow(bpy.context) else {}
    row.prop_search(owner, "lock", object, "vertex_groups", **title)
    row.operator("msd.paint_mask", text="", icon="WPAINT_HLT").key = key


class MSD_PT_result(_Settings, bpy.types.Panel):
    bl_label = "Result"

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.msd
        _props(self.layout, settings, "iterations", "target_faces", "texture_size")
        self.layout.column().prop(settings, "maps")
        _props(self.layout, settings, "max_displacement", "remesh")


class MSD_PT_mean_shift(_Settings, bpy.types.Panel):
    bl_label = "Guidance"
    names = ("guidance_scale", "diversity", "sharpness")


class MSD_PT_cameras(_Settings, bpy.types.Panel):
    bl_label = "Cameras"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.msd
        _props(layout, settings, "field_of_view", "background")
        _switched(layout, settings, "elevation", "Elevation", "elevation_min", "elevation_max")
        _switched(layout, settings, "view", "View", "view")
        layout.operator("msd.from_view", icon="VIEW_CAMERA")
        column = layout.column(align=True)
        for index, camera in enumerate(settings.cameras):
            _draw_camera(column, camera, index)
        column.operator("msd.camera_add", icon="ADD")


def _draw_camera(column: Any, camera: Any, index: int) -> None:
    """A placed camera by its name, or by its angles where no object has them, and its prompt."""
    narrow = is_narrow(bpy.context)
    row = column.row(align=True)
    row.use_property_split = False
    name = camera.object.name if camera.object else translated("Camera")
    if camera.is_gone:
        row.label(text=translated("{} is gone").format(name), icon="ERROR")
    else:
        title = row if narrow else row.split(factor=0.4, align=True)
        title.label(text=camera.angles.replace(",", "°, ") + "°" if camera.angles else name, icon="CAMERA_DATA")
        _placeholder(column if narrow else title, camera, "prompt", "the job's prompt")
    row.operator("msd.camera_remove", text="", icon="X").index = index


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
    bl_label = "Model"

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
    if is_narrow(bpy.context):
        column = layout.column(align=True)
        column.label(text=title)
        column.popover(panel, text=chosen)
        return
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
        return bool(running_jobs or server_jobs.others())

    def draw(self, context: bpy.types.Context) -> None:
        server_jobs.refresh()
        for live_job in running_jobs:
            _draw_live(self.layout.box(), live_job, context)
        if running_jobs:
            _draw_colours(self.layout, context)
        if others := server_jobs.others():
            column = self.layout.box().column(align=True)
            column.label(text="Other Jobs on the Server")
            for job in others[:_MOST_OTHERS]:
                _draw_other(column, job)
            if len(others) > _MOST_OTHERS:
                column.label(text=translated("and {} more").format(len(others) - _MOST_OTHERS), icon="BLANK1")


def _draw_other(column: Any, job: Job) -> None:
    """A job of another file, or of another person."""
    state = {RUNNING: "Running", PAUSED: "Paused"}.get(job.state, "Waiting")
    text = translated(state) + (f" {job.place}" if job.place else "") + (f", {job.machine}" if job.machine else "")
    split = column if is_narrow(bpy.context) else column.split(factor=0.55)
    split.label(text=job.request.prompt, icon="PLAY" if job.state == RUNNING else _ICONS.get(job.state, "TIME"))
    split.label(text=text, icon="BLANK1" if split == column else "NONE")


def _draw_colours(layout: Any, context: bpy.types.Context) -> None:
    """A button for a Solid view that shows no textures."""
    space = context.space_data
    if space is not None and space.shading.type == "SOLID" and space.shading.color_type != colour_type(context.object):
        layout.operator("msd.show_colours", icon="SHADING_TEXTURE")


def _draw_live(box: Any, live_job: LiveJob, context: bpy.types.Context) -> None:
    session, key = live_job.session, live_job.request.client_key
    record, object = history.find_record(key), live_job.object
    if record is not None:
        box.prop(record, "prompt", text="")
        if object is not None and len(object.data.polygons):
            _lock(box, record, object, key)
    if icon := icons.icon_id(key):
        box.template_icon(icon, scale=5)
    factor, text = 0.0, translated(_STATES.get(session.state, session.state))
    if session.progress:
        factor, text = progress_fraction(session.progress), format_progress(session.progress)
        if session.state == PAUSED:
            text = f"{translated('Paused')}, {session.progress.iteration}/{session.progress.iterations}"
    text = translated(_PENDING[session.pending_action]) if session.pending_action else text
    narrow = is_narrow(context)
    box.progress(factor=factor, text=f"{factor:.0%}" if narrow else text)
    if narrow:
        _wrapped_text(box, text, context)
    row = box.row(align=True)
    resume = session.state == PAUSED or session.pending_action == "pause" or bool(session.edit_error)
    row.operator("msd.resume" if resume else "msd.pause", icon="PLAY" if resume else "PAUSE").key = key
    row.operator("msd.show", text="", icon="ZOOM_SELECTED").key = key
    row.operator("msd.discard", text="", icon="TRASH").key = key
    row = box.column(align=True) if narrow else box.row(align=True)
    finish = row.row(align=True)  # it stays in its place, where a second click must not hit another button
    has_grown, ends = session.progress and session.progress.iteration, session.job and session.job.finishing
    finish.enabled = bool(has_grown) and not ends
    finish.operator("msd.finish", icon="SHADERFX").key = key
    row.operator("msd.stop", text="Keep", icon="CHECKMARK").key = key
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
        if (waiting := server_jobs.find(session.id)) and waiting.place:
            text = translated("Place {} in the queue.").format(waiting.place)
            _wrapped_text(box, f"{text} {waiting.waits_for}", context, icon="TIME")
    elif session.job is not None and session.job.machine:
        box.label(text=translated("On {}").format(session.job.machine), icon="NETWORK_DRIVE")
    for line in session.log[-2:]:
        _wrapped_text(box, line, context)


def _request_of(record: Any) -> JobRequest | None:
    try:
        request: JobRequest = record.request
    except ValueError:  # it is damaged
        return None
    return request


class MSD_UL_jobs(bpy.types.UIList):
    """The jobs of the file, with seed, time, faces and mode."""

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
        row = layout.row(align=True)
        if icon_id := icons.icon_id(item.key, item.picture):
            row.label(text=item.name, icon_value=icon_id)
        else:
            row.label(text=item.name, icon=_ICONS.get(item.state, "TIME"))
        if is_narrow(context):
            return
        row = layout.row(align=True)
        row.alignment = "RIGHT"
        request = _request_of(item)
        faces = f"{item.faces / 1000:.0f}k" if item.faces >= 1000 else str(item.faces) if item.faces else ""
        time = format_seconds(item.seconds) if item.seconds else ""
        row.label(text="  ".join(filter(None, [f"#{request.seed}" if request else "", time, faces])))
        row.label(icon=_MODE_ICONS.get(request.mode if request else "", "BLANK1"))

    def filter_items(self, context: Any, data: Any, property: str) -> tuple[list[int], list[int]]:
        """Records whose prompt, mode, seed and state have all words; the newest first."""
        self.use_filter_show = True
        words, records = self.filter_name.lower().split(), getattr(data, property)
        flags = []
        for record in records:
            request = _request_of(record)
            about = f"{record.name} {record.state}" + (f" {request.mode} #{request.seed}" if request else "")
            flags.append(self.bitflag_filter_item if all(word in about.lower() for word in words) else 0)
        return flags, list(reversed(range(len(records))))


class MSD_PT_history(_Panel, bpy.types.Panel):
    bl_label = "History"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(context.scene.msd_jobs)

    def draw(self, context: bpy.types.Context) -> None:
        layout, scene = self.layout, context.scene
        layout.template_list("MSD_UL_jobs", "", scene, "msd_jobs", scene, "msd_shown_job", rows=4)
        record = scene.msd_jobs[min(scene.msd_job, len(scene.msd_jobs) - 1)]
        if len(variants := history.variants_of(record)) > 1:
            self._draw_variants(variants, context)
        if find_live_job(record.key) is not None:
            return
        if len(variants) == 1 and (icon_id := icons.icon_id(record.key, record.picture)):
            layout.template_icon(icon_id, scale=6)
        column = layout.column(align=True)
        if record.kept and record.state == CANCELLED:
            column.label(text="Kept", icon="CHECKMARK")
        elif record.state in _ICONS:
            column.label(text=record.state.capitalize(), icon=_ICONS[record.state])
        if about := _about(record):
            _wrapped_text(column, about, context, icon="INFO")
        if record.error:
            _wrapped_text(column, record.error, context)
        if record.job and record.followable:
            going_on = not record.ended or record.state == FAILED
            column.operator("msd.resume", text="Take Up Again" if going_on else "Fetch the Result", icon="PLAY")
        column.operator("msd.show", icon="ZOOM_SELECTED")
        _draw_colours(column, context)
        column.operator("msd.again", icon="FILE_REFRESH")
        narrow = is_narrow(context)
        column.operator(
            "msd.again", text="Use Settings" if narrow else "Use These Settings", icon="SETTINGS"
        ).start = False
        if record.result is not None:
            column.operator("msd.restore", text="Restore" if narrow else "Restore This Version", icon="LOOP_BACK")
        if record.before is not None:
            text = "From Before" if narrow else "Restore From Before"
            column.operator("msd.restore", text=text, icon="LOOP_BACK").before = True
        column.operator("msd.mark_asset", icon="ASSET_MANAGER")
        row = layout.column(align=True) if narrow else layout.row(align=True)
        row.operator("msd.discard", text="Discard", icon="TRASH")
        row.operator("msd.forget", text="Remove", icon="X")

    def _draw_variants(self, variants: list[Any], context: bpy.types.Context) -> None:
        """The pictures of jobs that differ in their seeds, to choose from."""
        scale = context.preferences.system.ui_scale or 1.0
        columns = max(2, int(context.region.width / (110 * scale)))
        grid = self.layout.grid_flow(row_major=True, columns=columns, even_columns=True)
        for record in variants:
            cell = grid.box().column(align=True)
            if icon_id := icons.icon_id(record.key, record.picture):
                cell.template_icon(icon_id, scale=4)
            row = cell.row(align=True)
            request = _request_of(record)
            row.operator("msd.show", text=f"#{request.seed}" if request else "Show").key = record.key
            row.operator("msd.choose", text="", icon="CHECKMARK").key = record.key


def _about(record: Any) -> str:
    """Mode, seed, time and faces of a job, as far as they are known."""
    request = _request_of(record)
    parts = [request.mode.capitalize(), f"seed {request.seed}"] if request else []
    return ", ".join(filter(None, [*parts, history.details(record)]))


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
    scale = context.preferences.system.ui_scale or 1.0
    pixels = context.region.width if context.region else NARROW  # nothing is drawn in the background
    width = max(10, int(pixels / (7.2 * scale)) - (8 if icon == "NONE" else 11))
    column = layout.column(align=True)
    column.scale_y = 0.8
    for part in textwrap.wrap(text, width):
        column.label(text=part, icon=icon)
        icon = "BLANK1" if icon != "NONE" else icon


_CLASSES = (
    MSD_PT_jobs,  # what runs comes first
    MSD_PT_generate,
    MSD_MT_prompts,
    MSD_PT_result,
    MSD_PT_mean_shift,
    MSD_PT_cameras,
    MSD_PT_shape,
    MSD_PT_control,
    MSD_PT_image_prompt,
    MSD_PT_model,
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
