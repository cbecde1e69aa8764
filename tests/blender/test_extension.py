# SPDX-License-Identifier: GPL-3.0-or-later
"""The zip, installed into a Blender with a user folder of its own, and used there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from msd_blender.local_server import LocalServer

ROOT = Path(__file__).parents[2]

USE = """
import importlib, sys, threading
import bpy
import addon_utils                          # found once bpy is there

ZIP, URL = sys.argv[1:]
NAME = "bl_ext.user_default.msd_blender"

def ours():
    return ({name for name in dir(bpy.types) if name.startswith("MSD_")}, hasattr(bpy.types.Scene, "msd"),
            "generate" in dir(bpy.ops.msd))

def handlers():
    return [handler for name in dir(bpy.app.handlers) if isinstance(getattr(bpy.app.handlers, name), list)
            for handler in getattr(bpy.app.handlers, name) if "msd_blender" in handler.__module__]

bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.extensions.package_install_files(filepath=ZIP, repo="user_default", enable_on_install=True)
types, scene, operator = ours()
assert {"MSD_PT_generate", "MSD_OT_generate", "MSD_OT_stop"} <= types and scene and operator
jobs = importlib.import_module(NAME + ".jobs")
server_panel = importlib.import_module(NAME + ".server_panel")
preferences = bpy.context.preferences.addons[NAME].preferences
preferences.place, preferences.url = "URL", URL

def generate(*how, **settings):
    try:
        return bpy.ops.msd.generate(*how, **settings)
    except RuntimeError as error:               # how a script sees an operator's error
        return str(error)

assert "The prompt is empty" in generate()
assert generate(prompt="a red mushroom", iterations=2) == {"FINISHED"}       # a script: it blocks
assert bpy.data.objects["a red mushroom"]["msd_state"] == "finished"

# A button is live, by a timer. In the background there are neither: be both.
settings = bpy.context.scene.msd
settings.prompt, settings.iterations = "a blue chair", 40
session = jobs.start(settings.request()).session
while not session.update_milliseconds:
    assert jobs.tick()
    session.wait(0.1)
assert len(bpy.data.objects["a blue chair"].data.polygons)
session.cancel()
while jobs.tick():
    session.wait(0.1)
assert bpy.data.objects["a blue chair"]["msd_state"] == "cancelled", session.error

preferences.place = "LOCAL"
assert "set the server folder" in generate(prompt="a red mushroom")
assert [item.state for item in bpy.context.scene.msd_jobs] == ["finished", "cancelled"]

for _ in range(2):
    assert len(handlers()) == 8
    addon_utils.disable(NAME)
    assert ours() == (set(), False, False) and handlers() == []
    assert threading.enumerate() == [threading.main_thread()]
    assert not any(bpy.app.timers.is_registered(timer) for timer in (jobs.tick, server_panel._redraw))
    addon_utils.enable(NAME)
addon_utils.disable(NAME)
print("used")
"""


def test_the_extension_is_built_installed_used_and_removed(server: LocalServer, tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "extension.py", tmp_path], check=True, capture_output=True)
    (made,) = tmp_path.glob("*.zip")
    names = set(zipfile.ZipFile(made).namelist())
    package = ROOT / "msd_blender"
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    assert {name for name in names if not name.endswith("/")} == modules | {
        "py.typed",
        "blender_manifest.toml",
        "LICENSE",
    }
    # Not from the repository's folder, where the package could be found without the extension.
    done = subprocess.run(
        [sys.executable, "-c", USE, made, server.url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(tmp_path), "BLENDER_USER_RESOURCES": str(tmp_path / "user")},
    )
    assert done.returncode == 0 and "used" in done.stdout, done.stderr
