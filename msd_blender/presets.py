# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's presets for the panel's settings: those of the artist, and six that the extension ships."""

from pathlib import Path

import bpy
from bl_operators.presets import AddPresetBase
from bl_ui.utils import PresetPanel

from .properties import RequestProperties

_FOLDER = "msd"
_SHIPPED = str(Path(__file__).parent / "shipped")  # Blender looks for presets/msd in it
_NOT_SAVED = {
    "prompt",
    "image_prompt",
    "mode",
    "seed",
    "lock",
    "priority",
    "sets_view",
    "view",
    "cameras",
}  # these belong to one job


class MSD_OT_preset_add(AddPresetBase, bpy.types.Operator):
    """Add or remove a preset of these settings"""

    bl_idname = "msd.preset_add"
    bl_label = "Add Settings Preset"
    preset_menu = "MSD_PT_presets"
    preset_defines = ["settings = bpy.context.scene.msd"]
    preset_values = [f"settings.{name}" for name in RequestProperties.__annotations__ if name not in _NOT_SAVED]
    preset_subdir = _FOLDER


class MSD_PT_presets(PresetPanel, bpy.types.Panel):
    bl_label = "Settings Presets"
    preset_subdir = _FOLDER
    preset_operator = "script.execute_preset"
    preset_add_operator = "msd.preset_add"


_CLASSES = (MSD_OT_preset_add, MSD_PT_presets)


def register() -> None:
    for cls in _CLASSES:
        bpy.utils.register_class(cls)
    bpy.utils.register_preset_path(_SHIPPED)


def unregister() -> None:
    bpy.utils.unregister_preset_path(_SHIPPED)
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
