# SPDX-License-Identifier: GPL-3.0-or-later
"""The models that the server has and what is put on them: the panel's lists, and sentences on what does not fit."""

import os
import re
from typing import Any

import bpy
from bpy.app.handlers import persistent
from bpy.props import CollectionProperty, IntProperty
from bpy.types import PropertyGroup, WindowManager

from . import jobs
from .client import Client
from .connection import Monitor, expand_path, is_local, preferences
from .protocol import Model

MODEL, LORA, CONTROLNET, IP_ADAPTER = KINDS = "model", "LoRA", "ControlNet", "IP-Adapter"  # as `Model.kind` has them
_PATHS = {MODEL: "model", CONTROLNET: "control_model", IP_ADAPTER: "ip_adapter"}  # the property that names one

monitor: Monitor[list[Model]] = Monitor(Client.models, max_age=20)
_shown: list[Model] = []  # what the lists show, an entry of `WindowManager.msd_models` each


def refresh() -> None:
    """Ask the server for its list if the last answer is old. On the main thread, from a panel's `draw`."""
    if monitor.refresh() and not bpy.app.timers.is_registered(_take_answer):
        bpy.app.timers.register(_take_answer, first_interval=0.1)


def _take_answer() -> float | None:
    """A timer that shows the answer once it is there. (The monitor's thread must not call Blender.)"""
    if monitor.is_requesting:
        return 0.1
    show(monitor.answer or [])
    jobs.redraw()
    return None


def show(models: list[Model]) -> None:
    """Let the lists show these models."""
    _shown[:] = models
    entries = bpy.context.window_manager.msd_models
    entries.clear()
    for model in models:
        entries.add().name = model.name


@persistent
def _after_load(*_: Any) -> None:
    show(list(_shown))  # a file that is opened brings a window manager of its own


def name_of(kind: str, place: str) -> str:
    """A name for people: as the server has it, else that of the file or folder; "" for the bundled one."""
    if place and (model := find(kind, place)):
        return model.name
    return re.split(r"[\\/]", place.rstrip("\\/"))[-1].removesuffix(".safetensors")


def find(kind: str, place: str) -> Model | None:
    """What the server has at a place that a property names."""
    place = _absolute(place)
    return next((each for each in _shown if each.kind == kind and each.place == place), None)


def problems(settings: Any) -> list[str]:
    """A sentence for each thing that the panel's settings name and that the job could not use, as far as is known."""
    named = [(MODEL, settings.model)] if settings.model else []
    named += [(LORA, each.file) for each in settings.loras if each.file]
    if settings.mode != "generate" and settings.control:
        named.append((CONTROLNET, settings.control_model))
    if settings.image_prompt:
        named.append((IP_ADAPTER, settings.ip_adapter))
    return [sentence for kind, place in named if (sentence := _problem(kind, place, find(MODEL, settings.model)))]


def _problem(kind: str, place: str, model: Model | None) -> str:
    if kind == CONTROLNET and not place:
        return "This model brings no ControlNet: choose one." if model and model.place else ""
    if kind == IP_ADAPTER and not place:
        return "An image prompt needs an IP-Adapter: choose one."
    if found := find(kind, place):
        return found.problem or (misfit(found, model) if kind != MODEL else "")
    if any(each.place == _absolute(place) for each in _shown):
        return f"{place} is no {kind}."
    path = _absolute(place)
    if _shown and _server_is_here() and os.path.isabs(path) and not os.path.exists(path):
        return f"There is no {kind} {path}: choose another, or correct its path."
    return ""


def misfit(addition: Model, model: Model | None) -> str:
    """Why what is put on a model does not fit it, as a sentence; "" where nothing says so."""
    if model is None or model.problem or not (addition.family and model.family):
        return ""
    fitting = {LORA: model.loras, CONTROLNET: model.controlnets, IP_ADAPTER: model.ip_adapters}
    if addition.place in fitting[addition.kind]:
        return ""
    if addition.family != model.family:
        return f"{addition.name} is for {addition.family}, but {model.name} is {model.family}."
    return f"{addition.name} is for another model of the family {model.family}."


def facts(model: Model) -> str:
    """Family, resolution and size: "SDXL, 1024 px, 6.9 GB"."""
    size = f"{model.size / 1e9:.1f} GB" if model.size >= 1e8 else f"{model.size / 1e6:.1f} MB"
    return ", ".join(filter(None, [model.family, f"{model.resolution} px" if model.resolution else "", size]))


def _server_is_here() -> bool:
    prefs = preferences()
    return prefs is None or prefs.place != "URL" or is_local(prefs.url)


def _absolute(place: str) -> str:
    prefs = preferences()
    return expand_path(place, prefs.url if prefs and prefs.place == "URL" else "") if place else ""


class MSD_UL_models(bpy.types.UIList):
    """The entries of one kind, which is the list's id; what cannot be used comes last."""

    def draw_item(
        self,
        context: Any,
        layout: Any,
        data: Any,
        item: Any,
        icon: Any,
        active: Any,
        property: Any,
        index: int = 0,
        flag: int = 0,
    ) -> None:
        model, settings = _shown[index], context.scene.msd
        problem = _unfit(model, settings)
        split = layout.split(factor=0.45)
        split.label(text=model.name, icon="ERROR" if problem else "CHECKMARK" if _is_chosen(model, settings) else "DOT")
        split.label(text=problem.removeprefix(f"{model.place} ") or facts(model))

    def filter_items(self, context: Any, data: Any, property: str) -> tuple[list[int], list[int]]:
        self.use_filter_show = True
        words, settings = self.filter_name.lower().split(), context.scene.msd
        flags = [
            self.bitflag_filter_item
            if each.kind == self.list_id and all(word in f"{each.name} {each.family}".lower() for word in words)
            else 0
            for each in _shown
        ]
        ranked = sorted(range(len(_shown)), key=lambda i: bool(_unfit(_shown[i], settings)))
        order = [0] * len(_shown)
        for rank, index in enumerate(ranked):
            order[index] = rank
        return flags, order


def _unfit(model: Model, settings: Any) -> str:
    return model.problem or ("" if model.kind == MODEL else misfit(model, find(MODEL, settings.model)))


def _is_chosen(model: Model, settings: Any) -> bool:
    if model.kind == LORA:
        return any(_absolute(each.file) == model.place for each in settings.loras)
    return _absolute(getattr(settings, _PATHS[model.kind])) == model.place


def choose(model: Model, settings: Any) -> None:
    """Set the property of a model, a ControlNet or an IP-Adapter; put a LoRA on the model, or take it off."""
    if model.kind in _PATHS:
        setattr(settings, _PATHS[model.kind], model.place)
    elif _is_chosen(model, settings):
        settings.set_loras([(each.file, each.weight) for each in settings.loras if _absolute(each.file) != model.place])
    else:
        settings.loras.add().file = model.place


def _index(kind: str) -> Any:
    """The property of a list's active entry: of LoRAs, of which there may be several, none is."""

    def get(_: Any) -> int:
        settings = bpy.context.scene.msd
        chosen = (i for i, each in enumerate(_shown) if each.kind == kind != LORA and _is_chosen(each, settings))
        return next(chosen, -1)

    def set(_: Any, index: int) -> None:
        choose(_shown[index], bpy.context.scene.msd)

    return IntProperty(get=get, set=set, options={"SKIP_SAVE"})


class _List:
    """Base of the pop-overs, one for each kind."""

    bl_space_type = "VIEW_3D"
    bl_region_type = "HEADER"
    bl_ui_units_x = 28
    layout: Any
    kind = ""

    def draw(self, context: bpy.types.Context) -> None:
        refresh()
        layout, manager = self.layout, context.window_manager
        if not _shown:
            layout.label(text="Asking…" if monitor.is_requesting else monitor.problem or "The server does not run.")
            return
        layout.template_list("MSD_UL_models", self.kind, manager, "msd_models", manager, f"msd_{self.kind}", rows=8)


class MSD_PT_models(_List, bpy.types.Panel):
    """Models on the server's machine"""

    bl_label, kind = "Models", MODEL


class MSD_PT_loras(_List, bpy.types.Panel):
    """LoRAs on the server's machine; click one to put it on the model, again to take it off"""

    bl_label, kind = "LoRAs", LORA


class MSD_PT_controlnets(_List, bpy.types.Panel):
    """ControlNets on the server's machine"""

    bl_label, kind = "ControlNets", CONTROLNET


class MSD_PT_ip_adapters(_List, bpy.types.Panel):
    """IP-Adapters on the server's machine"""

    bl_label, kind = "IP-Adapters", IP_ADAPTER


class MSD_PG_model(PropertyGroup):
    """An entry of the lists, with its name alone: the rest is in `_shown`."""


_CLASSES = (MSD_PG_model, MSD_UL_models, MSD_PT_models, MSD_PT_loras, MSD_PT_controlnets, MSD_PT_ip_adapters)


def register() -> None:
    for cls in _CLASSES:
        bpy.utils.register_class(cls)
    WindowManager.msd_models = CollectionProperty(type=MSD_PG_model, options={"SKIP_SAVE"})
    for kind in KINDS:
        setattr(WindowManager, f"msd_{kind}", _index(kind))
    bpy.app.handlers.load_post.append(_after_load)


def unregister() -> None:
    bpy.app.handlers.load_post.remove(_after_load)
    if bpy.app.timers.is_registered(_take_answer):
        bpy.app.timers.unregister(_take_answer)
    monitor.close()
    _shown.clear()
    for kind in KINDS:
        delattr(WindowManager, f"msd_{kind}")
    del WindowManager.msd_models
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
