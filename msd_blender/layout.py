# SPDX-License-Identifier: GPL-3.0-or-later
"""Pieces of the sidebar's panels, which fit the narrowest sidebar too."""

import textwrap
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated

from .properties import FIRST_VALUES
from .protocol import OPTIONS

NARROW = 240  # pixels at a scale of 1


class SidebarPanel:
    bl_category = "MSD"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    layout: Any


def is_narrow(context: bpy.types.Context) -> bool:
    """Whether the sidebar has no room for a name and its field side by side."""
    region, scale = context.region, context.preferences.system.ui_scale or 1.0
    return region is not None and region.width < NARROW * scale


def props(layout: Any, settings: Any, *names: str) -> None:
    """A row for each property, but for options that have no effect. One that is left open shows no number."""
    narrow = is_narrow(bpy.context)
    layout.use_property_split = not narrow
    layout.use_property_decorate = False
    for name in filter(settings.sees, names):
        title = settings.bl_rna.properties[name].name
        if name in FIRST_VALUES:
            switched(layout, settings, name, title, name)
        elif narrow and settings.bl_rna.properties[name].type != "BOOLEAN":
            column = layout.column(align=True)
            column.label(text=title)
            column.prop(settings, name, text="")
        else:
            layout.prop(settings, name)


def switched(layout: Any, settings: Any, option: str, title: str, *names: str) -> None:
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


def placeholder(layout: Any, settings: Any, name: str, text: str) -> None:
    layout.prop(settings, name, text="", placeholder=text)


def wrapped_text(layout: Any, text: str, context: bpy.types.Context, icon: str = "NONE") -> None:
    """A sentence in as many labels as the sidebar's width needs."""
    scale = context.preferences.system.ui_scale or 1.0
    pixels = context.region.width if context.region else NARROW  # nothing is drawn in the background
    width = max(10, int(pixels / (7.2 * scale)) - (8 if icon == "NONE" else 11))
    column = layout.column(align=True)
    column.scale_y = 0.8
    for part in textwrap.wrap(text, width):
        column.label(text=part, icon=icon)
        icon = "BLANK1" if icon != "NONE" else icon


def list_row(layout: Any, title: str, panel: str, chosen: str) -> None:
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


def lock_row(layout: Any, owner: Any, object: bpy.types.Object, key: str = "") -> None:
    """The vertex group that must not change, and a brush that paints it."""
    row = layout.row(align=True)
    row.use_property_split = False
    title = {"text": ""} if is_narrow(bpy.context) else {}
    row.prop_search(owner, "lock", object, "vertex_groups", **title)
    row.operator("msd.paint_mask", text="", icon="WPAINT_HLT").key = key
