# SPDX-License-Identifier: GPL-3.0-or-later
"""The Blender extension. Importing it needs no bpy; `register` does."""

from types import ModuleType

__version__ = "0.1.0"


def _modules() -> tuple[ModuleType, ...]:
    from . import commands, history, jobs, operators, panels, preferences, presets, properties, thumbnails

    return preferences, thumbnails, properties, history, jobs, operators, presets, panels, commands


def register() -> None:
    for module in _modules():
        module.register()


def unregister() -> None:
    for module in reversed(_modules()):
        module.unregister()
