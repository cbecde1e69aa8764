# SPDX-License-Identifier: GPL-3.0-or-later
"""Generate and Stop. From a button Generate is live; called by a script it returns when the object is done."""

import bpy

from . import api
from .client import ClientError
from .connection import connector
from .properties import RequestProperties
from .protocol import JobRequest

current: api.Generation | None = None       # the running generation, or the last one
_INTERVAL = 0.05                            # seconds between two looks at what arrived


def running() -> bool:
    return bpy.app.timers.is_registered(tick)


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
        for name in RequestProperties.__annotations__:
            if not self.properties.is_property_set(name):
                setattr(self, name, getattr(context.scene.msd, name))
        return self._start(live=True)

    def execute(self, context: bpy.types.Context) -> set[str]:
        return self._start(live=False)

    def _start(self, live: bool) -> set[str]:
        try:
            generation = start(self.request())
        except (ValueError, ClientError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if live:
            bpy.app.timers.register(tick, persistent=True)
            return {"FINISHED"}
        api.follow(generation, None, None)
        generation.live.close()
        if generation.live.error:
            self.report({"ERROR"}, generation.live.error)
            return {"CANCELLED"}
        return {"FINISHED"}


def start(request: JobRequest) -> api.Generation:
    """Make it the current generation, on the server of the preferences. Raises ValueError, `ClientError`."""
    global current
    current = api.Generation(request, connector())
    return current


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


def tick() -> float | None:
    """Take the current generation on: the timer of the main thread. None, which ends it, when it is done."""
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
        bpy.app.timers.unregister(tick)
    if current is not None:
        current.live.cancel()
        current.live.close()
        current = None
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
