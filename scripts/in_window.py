# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside the Blender of scripts/window_check.py: keys for the operators, and the state of the scene as a file."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import bpy
from bpy_extras.view3d_utils import location_3d_to_region_2d

FOLDER, URL, TOKEN = Path(sys.argv[-3]), sys.argv[-2], sys.argv[-1]
PACKAGE = "bl_ext.user_default.msd_blender"
KEYS = {  # with Ctrl and Shift
    "F5": ("msd.generate", {"mode": "generate"}),
    "F6": ("msd.generate", {"mode": "texture"}),
    "F7": ("msd.pause", {}),
    "F8": ("msd.resume", {}),
    "F9": ("msd.stop", {}),
    "F10": ("msd.discard", {}),
    "F11": ("wm.open_mainfile", {"filepath": str(FOLDER / "check.blend"), "display_file_selector": False}),
    "F12": ("wm.read_homefile", {"use_factory_startup": True}),
}


def prepare() -> None:
    settings = bpy.context.scene.msd
    settings.prompt, settings.texture_size = "a red mushroom", 64
    settings.iterations = 3000
    window = bpy.context.window_manager.windows[0]
    for area in window.screen.areas:
        if area.type == "VIEW_3D":
            area.spaces[0].show_region_ui = True
            bpy.app.timers.register(partial(show_tab, area), first_interval=1)


def show_tab(area: bpy.types.Area) -> float | None:
    try:
        next(region for region in area.regions if region.type == "UI").active_panel_category = "MSD"
    except TypeError:  # not drawn yet
        return 0.5
    return None


def set_up() -> None:
    preferences = bpy.context.preferences
    preferences.view.use_save_prompt = False
    preferences.addons[PACKAGE].preferences.place = "URL"
    preferences.addons[PACKAGE].preferences.url = URL
    preferences.addons[PACKAGE].preferences.token = TOKEN
    keymap = bpy.context.window_manager.keyconfigs.user.keymaps["Window"]
    for key, (operator, values) in KEYS.items():
        item = keymap.keymap_items.new(operator, key, "PRESS", ctrl=True, shift=True, head=True)
        for name, value in values.items():
            setattr(item.properties, name, value)
    prepare()
    bpy.ops.wm.save_as_mainfile(filepath=str(FOLDER / "check.blend"))
    bpy.app.handlers.load_post.append(after_load)
    bpy.app.timers.register(report, persistent=True)


@bpy.app.handlers.persistent
def after_load(*_: object) -> None:
    if not bpy.data.filepath:  # a new file
        prepare()
        bpy.ops.wm.save_as_mainfile(filepath=str(FOLDER / "check.blend"))


def pixel(object: bpy.types.Object) -> list[int] | None:
    """Where the window shows an object's origin, from its upper left."""
    window = bpy.context.window_manager.windows[0]
    for area in window.screen.areas:
        if area.type == "VIEW_3D":
            region = next(each for each in area.regions if each.type == "WINDOW")
            place = location_3d_to_region_2d(region, area.spaces[0].region_3d, object.matrix_world.translation)
            return place and [round(region.x + place.x), round(window.height - region.y - place.y)]
    return None


def state() -> dict:
    from importlib import import_module

    live_job = import_module(PACKAGE + ".live_job")
    records = [record for scene in bpy.data.scenes for record in scene.msd_jobs]
    return {
        "mode": bpy.context.mode,
        "objects": {
            object.name: {
                "key": object.get("msd_key", ""),
                "pixel": pixel(object),
                "vertices": len(object.data.vertices) if object.type == "MESH" else 0,
            }
            for object in bpy.data.objects
            if object.users_scene
        },
        "selected": [object.name for object in bpy.context.scene.objects if object.select_get()],
        "records": [
            {
                "key": record.key,
                "state": record.state,
                "error": record.error,
                "object": record.object.name if record.object and record.object.users_scene else "",
            }
            for record in records
        ],
        "jobs": [
            {
                "key": job.request.client_key,
                "state": job.session.state,
                "waits": job.waits_for_object,
                "updates": len(job.session.update_milliseconds),
            }
            for job in live_job.running_jobs
        ],
    }


def report() -> float:
    made = FOLDER / "state.new"
    made.write_text(json.dumps(state()))
    os.replace(made, FOLDER / "state.json")
    return 0.1


bpy.context.preferences.view.show_splash = False
bpy.app.timers.register(set_up, first_interval=1)
