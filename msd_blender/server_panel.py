# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's state in the sidebar and the preferences, with the operators that start and stop it."""

import subprocess

import bpy
from bpy.app.translations import pgettext_iface as translated

from . import jobs, model_list
from .connection import client_factory, data_folder, health_monitor, preferences, shared_server, terminal_command
from .errors import ClientError
from .layout import SidebarPanel, wrapped_text
from .local_server import log_tail, open_terminal


class MSD_OT_server_start(bpy.types.Operator):
    """Start the server of the preferences; jobs also start it"""

    bl_idname = "msd.server_start"
    bl_label = "Start"

    def execute(self, context: bpy.types.Context) -> set[str]:
        shared_server.allow_start()
        try:
            health_monitor.connect(client_factory())
        except (ValueError, ClientError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class MSD_OT_server_stop(bpy.types.Operator):
    """Stop the server on this machine; its jobs wait at a checkpoint until it is started again"""

    bl_idname = "msd.server_stop"
    bl_label = "Stop"

    def execute(self, context: bpy.types.Context) -> set[str]:
        shared_server.stop(data_folder())
        health_monitor.expire()
        return {"FINISHED"}


class MSD_OT_server_terminal(bpy.types.Operator):
    """Run the server in a terminal window of its own, or install.py where there is no server yet. It goes on when
    Blender ends"""

    bl_idname = "msd.server_terminal"
    bl_label = "Run in a Terminal…"

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        try:
            command, _ = terminal_command()
        except ClientError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        title, text = "Open a terminal window and run this?", subprocess.list2cmdline(command)
        return context.window_manager.invoke_confirm(self, event, title=title, message=text, confirm_text="Run")

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            open_terminal(*terminal_command())
        except ClientError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        health_monitor.expire()
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


class MSD_PT_server(SidebarPanel, bpy.types.Panel):
    bl_label = "Server"
    bl_order = 3

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
            wrapped_text(column, health.problem, context, icon="ERROR")
        else:
            state = {"idle": "Ready", "busy": "Working", "starting": "Starting…"}.get(health.worker, "Running")
            column.label(text=translated(state), icon="CHECKMARK")
        if health.device:
            wrapped_text(
                column,
                f"{health.device}, {health.memory / 1e9:.1f} / {health.memory_total / 1e9:.0f} GB",
                context,
                icon="MEMORY",
            )
        name = model_list.name_of(model_list.MODEL, context.scene.msd.model)
        column.label(text=name or translated("Bundled model"), icon="FILE_VOLUME")
    elif health_monitor.problem:
        wrapped_text(column, health_monitor.problem, context, icon="ERROR")
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


_CLASSES = (MSD_OT_server_start, MSD_OT_server_stop, MSD_OT_server_terminal, MSD_OT_server_log, MSD_PT_server)


def register() -> None:
    for cls in _CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    if bpy.app.timers.is_registered(_redraw):
        bpy.app.timers.unregister(_redraw)
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
