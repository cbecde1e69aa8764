# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside the Blender of scripts/window_check.py: keys for operators, and the state of the scene as a file."""

import json
import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import bpy
from bpy_extras.view3d_utils import location_3d_to_region_2d

FOLDER = Path(sys.argv[-1])
ABOUT = json.loads((FOLDER / "about.json").read_text())  # by window_driver.py
PACKAGE = "bl_ext.user_default.msd_blender"
loads = 0  # files that were opened


def prepare() -> None:
    settings = bpy.context.scene.msd
    settings.prompt, settings.texture_size, settings.iterations = "a red mushroom", 64, 3000
    settings.maps = {"roughness"}
    bpy.data.materials["Material"].name = "Wood"
    for area in bpy.context.window_manager.windows[0].screen.areas:
        if area.type == "VIEW_3D":
            area.spaces[0].show_region_ui = True
            bpy.app.timers.register(partial(show_tab, area), first_interval=0.5)
    bpy.ops.wm.save_as_mainfile(filepath=str(FOLDER / "check.blend"))


def show_tab(area: bpy.types.Area) -> float | None:
    try:
        region_of(area, "UI").active_panel_category = "MSD"
    except (AttributeError, TypeError):  # not drawn yet
        return 0.2
    return None


def set_up() -> None:
    preferences = bpy.context.preferences
    preferences.view.use_save_prompt = False
    chosen = preferences.addons[PACKAGE].preferences
    chosen.place = "URL"
    for name in ("url", "token", "folder", "python", "data"):
        setattr(chosen, name, ABOUT[name])
    keymap = bpy.context.window_manager.keyconfigs.user.keymaps["Window"]
    for key, operator, values in ABOUT["keys"].values():
        item = keymap.keymap_items.new(operator, key, "PRESS", ctrl=True, shift=True, head=True)
        for name, value in values.items():
            setattr(item.properties, name, str(FOLDER / value) if name == "filepath" else value)
    prepare()
    bpy.app.handlers.load_post.append(after_load)
    bpy.app.timers.register(report, persistent=True)


@bpy.app.handlers.persistent
def after_load(*_: object) -> None:
    global loads
    loads += 1
    if not bpy.data.filepath:  # a new file
        prepare()


def region_of(area: bpy.types.Area, kind: str) -> bpy.types.Region:
    return next(region for region in area.regions if region.type == kind)


def viewport() -> tuple[bpy.types.Window, bpy.types.Area | None]:
    window = bpy.context.window_manager.windows[0]
    return window, next((area for area in window.screen.areas if area.type == "VIEW_3D"), None)


def pixel(object: bpy.types.Object) -> list[int] | None:
    """Where the window shows an object's origin, from its upper left."""
    window, area = viewport()
    if area is None:
        return None
    region = region_of(area, "WINDOW")
    place = location_3d_to_region_2d(region, area.spaces[0].region_3d, object.matrix_world.translation)
    return place and [round(region.x + place.x), round(window.height - region.y - place.y)]


def sidebar() -> list[int] | None:
    """Left, top, right and bottom of the sidebar in the window's pixels; None while it shows another tab."""
    window, area = viewport()
    region = area and region_of(area, "UI")
    if region is None or region.width < 2 or region.active_panel_category != "MSD":
        return None
    top = window.height - region.y - region.height
    return [region.x, top, region.x + region.width, top + region.height]


def button() -> str:
    """What Ctrl+C copies of the sidebar's button under the mouse: its Python command, or its property's path."""
    window, area = viewport()
    bpy.context.window_manager.clipboard = ""
    with bpy.context.temp_override(window=window, area=area, region=region_of(area, "UI")):
        if bpy.ops.ui.copy_python_command_button.poll():
            bpy.ops.ui.copy_python_command_button()
        elif bpy.ops.ui.copy_data_path_button.poll():
            bpy.ops.ui.copy_data_path_button(full_path=True)
    return bpy.context.window_manager.clipboard


def material(object: bpy.types.Object) -> dict | None:
    """Names of the object's first material, of the image that Solid view shows of it, and of its nodes' types."""
    found = object.material_slots[0].material if object.material_slots else None
    if found is None or found.node_tree is None:
        return None
    tree = found.node_tree
    image = getattr(tree.nodes.active, "image", None)
    return {"name": found.name, "image": image and image.name, "nodes": sorted({node.type for node in tree.nodes})}


def state() -> dict:
    live_job, connection = import_module(PACKAGE + ".live_job"), import_module(PACKAGE + ".connection")
    scene, (_, area), health = bpy.context.scene, viewport(), connection.health_monitor.answer
    settings = scene.msd
    present = {name for each in bpy.data.scenes for name in each.objects.keys()}
    return {
        "loads": loads,
        "mode": bpy.context.mode,
        "sidebar": sidebar(),
        "under": button() if (FOLDER / "ask").exists() else "",
        "worker": health.worker if health else "",
        "shading": area.spaces[0].shading.color_type if area else "",
        "settings": {"faces": settings.target_faces, "texture": settings.texture_size, "maps": sorted(settings.maps)},
        "materials": sorted(each.name for each in bpy.data.materials if not each.name.startswith(".")),
        "objects": {
            object.name: {
                "key": object.get("msd_key", ""),
                "pixel": pixel(object),
                "vertices": len(object.data.vertices) if object.type == "MESH" else 0,
                "mesh": object.data.name if object.data else "",
                "material": material(object),
            }
            for object in bpy.data.objects
            if object.name in present
        },
        "selected": [object.name for object in scene.objects if object.select_get()],
        "records": [
            {
                "key": record.key,
                "name": record.name,
                "state": record.state,
                "kept": record.kept,
                "error": record.error,
                "object": record.object.name if record.object and record.object.name in present else "",
            }
            for scene in bpy.data.scenes
            for record in scene.msd_jobs
        ],
        "jobs": [
            {
                "key": job.request.client_key,
                "state": job.session.state,
                "connection": job.session.connection_error,
                "pending": job.session.pending_action,
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
    return 0.05


bpy.context.preferences.view.show_splash = False
bpy.app.timers.register(set_up, first_interval=1)
