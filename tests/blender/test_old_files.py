# SPDX-License-Identifier: GPL-3.0-or-later
"""A .blend that an earlier version saved opens with its settings and its records of jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy

from msd_blender.protocol import FINISHED, PAUSED

OLD = Path(__file__).parents[1] / "data" / "old_files" / "scene.blend"


def test_its_settings_and_records_are_read(addon: Any) -> None:
    bpy.ops.wm.open_mainfile(filepath=str(OLD))
    settings = bpy.context.scene.msd
    assert (settings.prompt, settings.seed, settings.symmetry) == ("a red mushroom", 3, "x")
    assert settings.maps == {"normal"} and settings.diversity == 2.5 and settings.elevation_min == -10
    made, painted = bpy.context.scene.msd_jobs
    assert (made.name, made.state, painted.name, painted.lock) == ("a red mushroom", FINISHED, "a striped ball", "keep")
    assert painted.state in (PAUSED, "connecting") and painted.request.mode == "texture"
    assert made.request.seed == 3 and made.request.iterations == 4
    assert made.object["msd_prompt"] == "a red mushroom" and made.result is not None
    assert painted.object.name == "Ball" and painted.before is not None
    bpy.ops.msd.restore(key=made.key)
