# SPDX-License-Identifier: GPL-3.0-or-later
"""The sidebar's tab."""

import textwrap

import bpy

from . import operators
from .live import CONNECTING, Live, describe, fraction


class MSD_PT_generate(bpy.types.Panel):
    bl_label = "Generate"
    bl_category = "MSD"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        settings = context.scene.msd
        layout.prop(settings, "prompt", text="", placeholder="a red mushroom")
        layout.prop(settings, "guidance")
        layout.prop(settings, "seed")
        layout.operator("msd.generate", icon="PLAY")
        if operators.current is not None:
            _draw_live(layout, operators.current.live, context.region.width)


class MSD_PT_more(bpy.types.Panel):
    bl_label = "More"
    bl_category = "MSD"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_parent_id = "MSD_PT_generate"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        for name in ("negative_prompt", "iterations", "model"):
            layout.prop(context.scene.msd, name)


def _draw_live(layout: bpy.types.UILayout, live: Live, width: int) -> None:
    if operators.running():
        factor, text = 0.0, "Starting the server…" if live.state == CONNECTING else "Waiting…"
        if live.progress:
            factor, text = fraction(live.progress), describe(live.progress)
        layout.progress(factor=factor, text=text)
        layout.operator("msd.stop", icon="CANCEL")
    else:
        layout.label(text=live.state.capitalize(), icon="ERROR" if live.error else "CHECKMARK")
    for line in (live.error, *live.log[-3:]):
        for part in textwrap.wrap(line, max(20, width // 8)):
            layout.label(text=part)


_CLASSES = (MSD_PT_generate, MSD_PT_more)


def register() -> None:
    for cls in _CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
