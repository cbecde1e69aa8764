# SPDX-License-Identifier: GPL-3.0-or-later
"""The sidebar's tab."""

import textwrap
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated

from . import history, jobs, thumbnails
from .capture import why_not
from .connection import preferences, watch
from .generation import Generation
from .live import CONNECTING, describe, fraction
from .presets import MSD_PT_presets
from .protocol import FINISHED, OPTIONS, PAUSED, QUEUED, RUNNING

_STATES = {CONNECTING: "Connecting…", QUEUED: "Waiting its turn…", RUNNING: "Starting…", PAUSED: "Paused"}
_ICONS = {FINISHED: "CHECKMARK", PAUSED: "PAUSE", "failed": "ERROR", "cancelled": "X"}
_WISHES = {"pause": "Pausing…", "stop": "Stopping…"}


class _Panel:
    bl_category = "MSD"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    layout: Any


class _Settings(_Panel):
    """Sub-panels of settings: names of properties."""

    bl_parent_id = "MSD_PT_generate"
    bl_options = {"DEFAULT_CLOSED"}
    names: tuple[str, ...] = ()

    def draw(self, context: bpy.types.Context) -> None:
        _props(self.layout, context.scene.msd, *self.names)


def _props(layout: Any, settings: Any, *names: str) -> None:
    """A row for each property, but for options that have no effect in the chosen mode."""
    layout.use_property_split = True
    layout.use_property_decorate = False
    for name in names:
        if name not in OPTIONS or settings.mode in OPTIONS[name].modes:
            layout.prop(settings, name)


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
        if settings.mode != "generate" and (problem := why_not(context)):
            _lines(layout, translated(problem), context, icon="INFO")


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
        column = self.layout.column(align=True)
        _props(column, context.scene.msd, "elevation_min", "elevation_max")


class MSD_PT_shape(_Settings, bpy.types.Panel):
    bl_label = "Shape"
    names = ("regularization", "symmetry", "flat")


class MSD_PT_model(_Settings, bpy.types.Panel):
    bl_label = "Model and Device"
    names = ("model", "device", "rasterizer", "priority")


class MSD_PT_jobs(_Panel, bpy.types.Panel):
    """One box for each job that runs."""

    bl_label = "Running"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(jobs.generations)

    def draw(self, context: bpy.types.Context) -> None:
        for generation in jobs.generations:
            _draw_live(self.layout.box(), generation, context)


def _draw_live(box: Any, generation: Generation, context: bpy.types.Context) -> None:
    live, key = generation.live, generation.request.client_key
    item = history.of_key(key)
    if item is not None:
        box.prop(item, "prompt", text="")
        if generation.object is not None and generation.object.vertex_groups:
            box.prop_search(item, "lock", generation.object, "vertex_groups")
    if icon := thumbnails.icon(key):
        box.template_icon(icon, scale=5)
    factor, text = 0.0, translated(_STATES.get(live.state, live.state))
    if live.progress:
        factor, text = fraction(live.progress), describe(live.progress)
        if live.state == PAUSED:
            text = f"{translated('Paused')}, {live.progress.iteration}/{live.progress.iterations}"
    box.progress(factor=factor, text=translated(_WISHES[live.wish]) if live.wish else text)
    row = box.row(align=True)
    resume = live.state == PAUSED or live.wish == "pause" or bool(live.refused)
    row.operator("msd.resume" if resume else "msd.pause", icon="PLAY" if resume else "PAUSE").key = key
    row.operator("msd.stop", text="Keep", icon="CHECKMARK").key = key
    row.operator("msd.discard", text="", icon="TRASH").key = key
    if live.lost:
        _lines(box, translated("Waiting for the server.") + " " + live.lost, context, icon="ERROR")
    elif live.refused:
        _lines(box, live.refused + " " + translated("Resume gives your change up."), context, icon="ERROR")
    elif generation.asset is not None and generation.object is not None and generation.asset.busy:
        _lines(box, translated("Updates wait until you leave this mode."), context, icon="INFO")
    for line in live.log[-2:]:
        _lines(box, line, context)


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
        picture = thumbnails.icon(item.key, item.picture)
        if picture:
            layout.label(text=item.name, icon_value=picture)
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
        item = scene.msd_jobs[min(scene.msd_job, len(scene.msd_jobs) - 1)]
        if jobs.of(item) is not None:
            return
        if picture := thumbnails.icon(item.key, item.picture):
            layout.template_icon(picture, scale=6)
        column = layout.column(align=True)
        if item.state in _ICONS:
            column.label(text=item.state.capitalize(), icon=_ICONS[item.state])
        if item.error:
            _lines(column, item.error, context)
        if item.job and (not item.ended or item.state == "failed"):
            column.operator("msd.resume", text="Take Up Again", icon="PLAY")
        column.operator("msd.again", icon="FILE_REFRESH")
        column.operator("msd.again", text="Use These Settings", icon="SETTINGS").start = False
        if item.result is not None:
            column.operator("msd.restore", icon="LOOP_BACK")
        if item.before is not None:
            column.operator("msd.restore", text="Restore From Before", icon="LOOP_BACK").before = True
        column.operator("msd.mark_asset", icon="ASSET_MANAGER")
        row = layout.row(align=True)
        row.operator("msd.discard", text="Discard", icon="TRASH")
        row.operator("msd.forget", text="Remove", icon="X")


class MSD_PT_server(_Panel, bpy.types.Panel):
    bl_label = "Server"

    def draw(self, context: bpy.types.Context) -> None:
        layout, chosen, health = self.layout, preferences(), watch.health
        if watch.look() and not bpy.app.timers.is_registered(_redraw):
            bpy.app.timers.register(_redraw, first_interval=0.2)
        column = layout.column(align=True)
        if health is not None:
            state = {"idle": "Ready", "busy": "Working", "starting": "Starting…"}.get(health.worker, "Running")
            column.label(text=translated(state), icon="CHECKMARK")
            if health.device:
                _lines(
                    column,
                    f"{health.device}, {health.memory / 1e9:.1f} / {health.memory_total / 1e9:.0f} GB",
                    context,
                    icon="MEMORY",
                )
            column.label(text=context.scene.msd.model or translated("Bundled model"), icon="FILE_VOLUME")
        elif watch.problem:
            _lines(column, watch.problem, context, icon="ERROR")
        else:
            column.label(text=translated("Asking…" if watch.asking else "Not running"), icon="X")
        row = layout.row(align=True)
        if chosen is None or chosen.place == "LOCAL":
            if health is None:
                row.operator("msd.server_start", icon="PLAY")
            else:
                row.operator("msd.server_stop", icon="SNAP_FACE")
            row.operator("msd.server_log", icon="TEXT")
        if chosen is not None:
            layout.operator("preferences.addon_show", text="Preferences…", icon="PREFERENCES").module = __package__


def _redraw() -> float | None:
    """Wait for the server's answer, then draw it. (A thread must not touch Blender.)"""
    if watch.asking:
        return 0.2
    jobs.redraw()
    return None


def _placeholder(layout: Any, settings: Any, name: str, text: str) -> None:
    layout.prop(settings, name, text="", placeholder=text)


def _lines(layout: Any, text: str, context: bpy.types.Context, icon: str = "NONE") -> None:
    """A sentence in as many labels as the sidebar is narrow."""
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
