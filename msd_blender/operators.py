# SPDX-License-Identifier: GPL-3.0-or-later
"""Generate and Stop. From a button Generate is live; called by a script it returns when the object is done."""

import bpy

from . import api
from .client import ClientError
from .connection import connector
from .properties import RequestProperties

current: api.Generation | None = None       # the running generation, or the last one
_INTERVAL = 0.05                            # seconds between two looks at what arrived


def running() -> bool:
    return bpy.app.timers.is_registered(_tick)


class MSD_OT_generate(RequestProperties, bpy.types.Operator):
    """Make an object from the prompt"""

    bl_idname = "msd.generate"
    bl_label = "Generate"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        cls.poll_message_set("An object is being made; stop it first.")
        return not running()

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        global current
        for name in RequestProperties.__annotations__:
            if not self.properties.is_property_set(name):
                setattr(self, name, getattr(context.scene.msd, name))
        try:
            request = self.request()
            connect = connector()
        except (ValueError, ClientError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        current = api.Generation(request, connect)
        bpy.app.timers.register(_tick, persistent=True)
        return {"FINISHED"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        global current
        try:
            current = api.Generation(self.request(), connector())
        except (ValueError, ClientError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        api.follow(current, None, None)
        current.live.close()
        if current.live.error:
            self.report({"ERROR"}, current.live.error)
            return {"CANCELLED"}
        return {"FINISHED"}


class MSD_OT_stop(bpy.types.Operator):
    """Stop making the object; what was reached stays"""

    bl_idname = "msd.stop"
    bl_label = "Stop"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return running()

    def execute(self, context: bpy.types.Context) -> set[str]:
        if current is not None:
            current.live.cancel()
        return {"FINISHED"}


def _tick() -> float | None:
    more = current is not None and current.step()
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()
    if more:
        return _INTERVAL
    if current is not None:
        current.live.close()
    bpy.ops.ed.undo_push(message="Generate")
    return None


_CLASSES = (MSD_OT_generate, MSD_OT_stop)


def register() -> None:
    for cls in _CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    global current
    if running():
        bpy.app.timers.unregister(_tick)
    if current is not None:
        current.live.cancel()
        current.live.close()
        current = None
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
