# SPDX-License-Identifier: GPL-3.0-or-later
"""The panels of the jobs: those that run, and the history of the file's."""

from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated

from . import history, icons, server_jobs
from .job_operators import colour_type
from .job_session import CONNECTING, format_progress, format_seconds, progress_fraction
from .layout import SidebarPanel, is_narrow, lock_row, wrapped_text
from .live_job import LiveJob, find_live_job, running_jobs
from .protocol import CANCELLED, FAILED, FINISHED, PAUSED, QUEUED, RUNNING, Job, JobRequest

_STATES = {CONNECTING: "Connecting…", QUEUED: "Waiting its turn…", RUNNING: "Starting…", PAUSED: "Paused"}

_ICONS = {FINISHED: "CHECKMARK", PAUSED: "PAUSE", FAILED: "ERROR", CANCELLED: "X"}

_PENDING = {"pause": "Pausing…", "finish": "Finishing…", "stop": "Stopping…"}

_MODE_ICONS = {"generate": "OUTLINER_OB_MESH", "texture": "TEXTURE", "refine": "SCULPTMODE_HLT"}

_MOST_OTHERS = 5  # jobs of others that are listed


class MSD_PT_jobs(SidebarPanel, bpy.types.Panel):
    """One box for each job that runs."""

    bl_label = "Running"
    bl_order = 0  # what runs comes first

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
            lock_row(box, record, object, key)
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
        wrapped_text(box, text, context)
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
        wrapped_text(box, translated("Waiting for the server.") + " " + session.connection_error, context, icon="ERROR")
    elif session.edit_error:
        wrapped_text(box, session.edit_error + " " + translated("Resume gives your change up."), context, icon="ERROR")
    elif live_job.waits_for_object:
        text = "Its object was deleted, so the job waits: undo brings it back."
        if live_job.request.mode == "generate":
            text = "Its object was deleted, so the job waits: undo brings it back, Resume makes it anew."
        wrapped_text(box, translated(text), context, icon="INFO")
    elif live_job.scene_object is not None and object is not None and live_job.scene_object.is_being_edited:
        wrapped_text(box, translated("Updates wait until you leave this mode."), context, icon="INFO")
    elif session.state == QUEUED:
        if (waiting := server_jobs.find(session.id)) and waiting.place:
            text = translated("Place {} in the queue.").format(waiting.place)
            wrapped_text(box, f"{text} {waiting.waits_for}", context, icon="TIME")
    elif session.job is not None and session.job.machine:
        box.label(text=translated("On {}").format(session.job.machine), icon="NETWORK_DRIVE")
    for line in session.log[-2:]:
        wrapped_text(box, line, context)


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


class MSD_PT_history(SidebarPanel, bpy.types.Panel):
    bl_label = "History"
    bl_order = 2

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
            wrapped_text(column, about, context, icon="INFO")
        if record.error:
            wrapped_text(column, record.error, context)
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


_CLASSES = (MSD_PT_jobs, MSD_UL_jobs, MSD_PT_history)

register, unregister = bpy.utils.register_classes_factory(_CLASSES)
