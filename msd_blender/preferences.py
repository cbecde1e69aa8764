# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the server is."""

import atexit
import os

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty

from .connection import health_monitor, shared_server
from .protocol import DEFAULT_HOST, DEFAULT_PORT
from .server_panel import draw_server


class MSD_Preferences(bpy.types.AddonPreferences):
    bl_idname = __package__

    place: EnumProperty(
        name="Server",
        items=[
            ("LOCAL", "On this machine", "Start the server from its folder when it is needed"),
            ("URL", "At an address", "Use a server that somebody runs"),
        ],
    )
    folder: StringProperty(
        name="Server folder",
        subtype="DIR_PATH",
        description="The folder in which install.py or `make setup` was run; empty: where it is found",
    )
    python: StringProperty(
        name="Python", subtype="FILE_PATH", description="Python of the server; empty: the one in its folder"
    )
    data: StringProperty(
        name="Data folder",
        subtype="DIR_PATH",
        description="Where the server keeps its jobs; empty: the extension's own folder",
    )
    keep: BoolProperty(name="Keep Running", description="The server goes on with its jobs when Blender ends")
    limits_cores: BoolProperty(
        name="Cores",
        description="Give a local server fewer cores than the machine has, so that Blender has the others for itself. "
        "It takes effect when the server is started",
    )
    cores: IntProperty(
        name="Cores",
        description="Threads of a local server's work on the CPU. With another number a seed gives another result",
        default=max(1, (os.cpu_count() or 2) - 1),
        min=1,
        max=1024,
        soft_max=os.cpu_count() or 1,
    )
    url: StringProperty(
        name="Address",
        description="Of the server, such as http://127.0.0.1:8732",
        default=f"http://{DEFAULT_HOST}:{DEFAULT_PORT}",
    )
    token: StringProperty(name="Token", subtype="PASSWORD", description="Needed by a server on another machine")

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(self, "place")
        for name in ("url", "token") if self.place == "URL" else ("folder", "python", "data", "keep"):
            layout.prop(self, name)
        if self.place == "LOCAL":
            row = layout.row(heading="Cores", align=True)
            row.prop(self, "limits_cores", text="")
            if self.limits_cores:
                row.prop(self, "cores", text="")
            else:
                row.label(text="All there are")
        column = layout.box().column()
        draw_server(column, context)
        if self.place == "LOCAL":
            column.operator("msd.server_terminal", icon="CONSOLE")


def register() -> None:
    bpy.utils.register_class(MSD_Preferences)
    atexit.register(shared_server.close)


def unregister() -> None:
    atexit.unregister(shared_server.close)
    health_monitor.close()
    shared_server.close()
    bpy.utils.unregister_class(MSD_Preferences)
