# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a job as Blender properties, for the scene (its panel) and the operator alike."""

from collections.abc import Iterable
from typing import Any

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    FloatVectorProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from .cameras import MSD_PG_camera, MSD_PG_text
from .connection import expand_path, preferences
from .protocol import GUIDANCES, MAX_LORA_WEIGHT, MODES, OPTIONS, PATHS, JobRequest, Option, join_lora, split_lora

_MODE_NAMES = {
    "generate": ("Generate", "Make an object from nothing", "OUTLINER_OB_MESH"),
    "texture": ("Texture", "Paint the active mesh; its vertices and UVs stay as they are", "TEXTURE"),
    "refine": ("Refine", "Paint and reshape the active mesh", "SCULPTMODE_HLT"),
}
_GUIDANCE_NAMES = {
    "msd": ("Mean shift", "Mean-shift distillation: sharp, follows the modes of the prior"),
    "sds": ("Score", "Score distillation sampling: the classic baseline"),
    "sdi": ("Inversion", "Score distillation via inversion: found noise instead of drawn noise"),
    "vsd": ("Variational", "Variational score distillation: against a second denoiser that learns"),
}
QUALITIES = {"DRAFT": (160, 256), "STANDARD": (None, None), "HIGH": (1200, 2048)}  # iterations, texture size

_CHOICE_NAMES = {
    "cpu": "CPU",
    "cuda": "CUDA",
    "mps": "Apple GPU",
    "xpu": "Intel GPU",
    "nvdiffrast": "nvdiffrast",
}  # others are their identifiers, capitalized
_NO_CHOICE = "none"  # stands for "": Blender has no item without a name
_LARGEST = 2**31 - 1  # of Blender's integers
# Options that may be left open, in the units of the properties: the value to begin with, once a person sets one.
FIRST_VALUES: dict[str, float] = {
    "iterations": 400,
    "target_faces": 10_000,
    "texture_size": 1024,
    "max_displacement": 0.1,
    "guidance_scale": 7.5,
    "diversity": 1,
    "sharpness": 0.3,
    "regularization": 1,
    "field_of_view": 40,
    "memory_limit": 8,
}
_FIRST_ELEVATION = (-10, 60)


def _items(choices: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """An enumeration's items: (identifier, name, description)."""
    names = [choice or _NO_CHOICE for choice in choices]
    return [(name, _CHOICE_NAMES.get(name, name.title()), "") for name in names]


def _property(name: str, title: str, **more: Any) -> Any:
    """The property of an option: its description, range, choices and default are the option's.

    Blender's numbers cannot be None: 0 stands for it. `more` overrides single arguments; none: what 0 means.
    """
    option = OPTIONS[name]
    none = more.pop("none", option.none)
    description = option.text[0].upper() + option.text[1:] + (f"; 0: {none}" if option.default is None else "")
    arguments = {"name": title, "description": description}
    if option.choices:
        chosen = {"options": {"ENUM_FLAG"}} if option.many else {"default": option.default or _NO_CHOICE}
        return EnumProperty(**{**arguments, "items": _items(option.choices), **chosen, **more})
    if option.type is str:
        return StringProperty(**{**arguments, "maxlen": option.length or 0, **more})
    if option.type is bool:
        return BoolProperty(**{**arguments, "default": option.default, **more})
    low = 0 if option.default is None else option.low
    number = {**arguments, "min": low, "max": min(option.high, _LARGEST), "default": option.default or 0, **more}
    return IntProperty(**number) if option.type is int else FloatProperty(**number)


class MSD_PG_lora(bpy.types.PropertyGroup):
    """A LoRA with its weight."""

    file: StringProperty(name="File", description="A .safetensors file on the server's machine", subtype="FILE_PATH")
    weight: FloatProperty(
        name="Weight",
        description="How strongly it changes the model: 1 as its maker meant it, 0 not at all",
        min=-MAX_LORA_WEIGHT,
        max=MAX_LORA_WEIGHT,
        soft_min=-2,
        soft_max=2,
        default=1,
    )
    expanded: BoolProperty(name="Path", description="Show the file's path", options={"SKIP_SAVE"})


class RequestProperties:
    """Mixed into the scene's settings and the operator. (Annotations as values: Blender reads them so.)

    Each is named as the option of `JobRequest` that it sets, but for quality, lock, together, the two ends of the
    elevation and the switch of the view; the image prompt is the name of an image, and a camera is a text.
    """

    mode: _property("mode", "Mode", items=[(name, *_MODE_NAMES[name], i) for i, name in enumerate(MODES)])
    prompt: _property("prompt", "Prompt", options={"TEXTEDIT_UPDATE"})  # what is unknown is said as it is typed
    negative_prompt: _property("negative_prompt", "Negative")
    guidance: _property(
        "guidance", "Guidance", items=[(name, *_GUIDANCE_NAMES.get(name, (name, ""))) for name in GUIDANCES]
    )
    quality: EnumProperty(
        name="Quality",
        description="How long to work, and how fine the texture is",
        items=[
            ("DRAFT", "Draft", "Quick: fewer iterations and a small texture"),
            ("STANDARD", "Standard", "Iterations and texture size are chosen by the server"),
            ("HIGH", "High", "Slow: 1200 iterations and a texture of 2048 pixels"),
        ],
        default="STANDARD",
    )
    seed: _property("seed", "Seed")
    iterations: _property("iterations", "Iterations", none="as the quality says", soft_max=5000)
    target_faces: _property("target_faces", "Faces", soft_max=100_000)
    texture_size: _property("texture_size", "Texture", none="as the quality says", subtype="PIXEL")
    maps: _property("maps", "Maps")
    lock: StringProperty(
        name="Lock", description="Vertex group that must not move or change: its members with a weight above one half"
    )
    together: BoolProperty(
        name="Together",
        description="Of several selected meshes: one job for all, which the model sees as one object, as they stand; "
        "else a job for each",
        default=True,
    )
    max_displacement: _property("max_displacement", "Move at Most", subtype="DISTANCE", soft_max=10)
    remesh: _property("remesh", "Remesh")
    guidance_scale: _property("guidance_scale", "Guidance Scale", soft_max=100)
    diversity: _property("diversity", "Diversity", soft_max=10)
    sharpness: _property("sharpness", "Sharpness", soft_max=2)
    regularization: _property("regularization", "Smoothness", soft_max=10)
    symmetry: _property("symmetry", "Symmetry")
    flat: _property("flat", "Flat Shading")
    elevation_min: IntProperty(
        name="Elevation Min", description="Lowest camera, in degrees", min=-90, max=90, default=-90
    )
    elevation_max: IntProperty(
        name="Max",
        description=f"Highest camera, in degrees; both at their ends: {OPTIONS['elevation'].none}",
        min=-90,
        max=90,
        default=90,
    )
    field_of_view: _property("field_of_view", "Field of View")
    sets_view: BoolProperty(name="View", description=f"{OPTIONS['view'].text[0].upper()}{OPTIONS['view'].text[1:]}")
    view: FloatVectorProperty(
        name="View", description=OPTIONS["view"].text, size=2, min=-180, max=180, precision=0, step=100
    )
    cameras: CollectionProperty(type=MSD_PG_text, name="Cameras", description=OPTIONS["cameras"].text)
    background: _property("background", "Background")
    model: _property("model", "Model", subtype="FILE_PATH")
    loras: CollectionProperty(type=MSD_PG_lora, name="LoRAs", description=OPTIONS["loras"].text)
    control: _property("control", "Control")
    control_model: _property("control_model", "ControlNet", subtype="FILE_PATH")
    control_strength: _property("control_strength", "Strength")
    image_prompt: StringProperty(name="Image Prompt", description="Name of the image that the model follows")
    image_prompt_strength: _property("image_prompt_strength", "Strength")
    ip_adapter: _property("ip_adapter", "IP-Adapter", subtype="FILE_PATH")
    device: _property("device", "Device")
    memory_limit: _property("memory_limit", "Memory Limit", soft_max=64)
    rasterizer: _property("rasterizer", "Rasterizer")
    priority: _property("priority", "Priority")

    @property
    def is_joined(self) -> bool:
        """Whether one job is to work on all selected meshes."""
        return bool(self.together and not (self.mode == "refine" and self.remesh))

    def request(self) -> JobRequest:
        """The request with the options that apply to the mode; its mesh is uploaded later. Raises `ProtocolError`."""
        values = {
            name: self._value(option)
            for name, option in OPTIONS.items()
            if not option.internal and self.mode in option.modes
        }
        iterations, texture_size = QUALITIES[self.quality]
        values["iterations"] = values["iterations"] or iterations
        values["texture_size"] = values["texture_size"] or texture_size
        chosen = preferences()
        server = chosen.url if chosen and chosen.place == "URL" else ""
        values |= {name: expand_path(values[name], server) for name in PATHS if name in values}
        values["loras"] = [
            join_lora(expand_path(file, server), weight) for file, weight in map(split_lora, values["loras"])
        ]
        return JobRequest(**values).validate(uploaded=False)

    def set_from(self, request: JobRequest) -> None:
        """Show a request: the inverse of `request`. Options that it leaves out get their defaults."""
        for name in RequestProperties.__annotations__:
            self.property_unset(name)
        for name, option in OPTIONS.items():
            value = getattr(request, name)
            if value is None or option.internal:
                continue
            if name == "elevation":
                self.elevation_min, self.elevation_max = map(round, value)
            elif name == "view":
                self.sets_view, self.view = True, value
            elif name == "loras":
                self.set_loras(map(split_lora, value))
            elif name == "cameras":
                self.set_cameras(value)
            elif option.many:
                setattr(self, name, set(value))
            else:
                setattr(self, name, value or _NO_CHOICE if option.choices else value)

    def take_from(self, other: Any, name: str) -> None:
        """Set a property as `other` has it."""
        if name == "loras":
            self.set_loras((each.file, each.weight) for each in other.loras)
        elif name == "cameras":
            self.set_cameras(each.text for each in other.cameras if each.text)
        elif name == "image_prompt":
            self.image_prompt = other.image_prompt.name_full if other.image_prompt else ""
        else:
            setattr(self, name, getattr(other, name))

    def set_loras(self, loras: Iterable[tuple[str, float]]) -> None:
        """Set the list of (file, weight)."""
        self.loras.clear()
        for file, weight in loras:
            each = self.loras.add()
            each.file, each.weight = file, weight

    def set_cameras(self, texts: Iterable[str]) -> None:
        """Set the list of placed cameras, each as a request has it."""
        self.cameras.clear()
        for text in texts:
            self.cameras.add().text = text

    def _value(self, option: Option) -> Any:
        """The value of an option, as the protocol has it."""
        if option.name == "elevation":
            ends = [self.elevation_min, self.elevation_max]
            return None if ends == [option.low, option.high] else ends
        if option.name == "view":
            return [round(angle, 6) for angle in self.view] if self.sets_view else None
        if option.name == "loras":
            return [join_lora(each.file, round(each.weight, 6)) for each in self.loras if each.file]
        if option.name == "cameras":
            return [each.text for each in self.cameras if each.text]
        value = getattr(self, option.name)
        if option.many:
            return [choice for choice in option.choices if choice in value]
        if option.choices:
            return "" if value == _NO_CHOICE else value
        if option.type is float:
            value = round(value, 6)  # Blender's is a float32
        return value or None if option.default is None else value


class MSD_PG_settings(RequestProperties, bpy.types.PropertyGroup):
    """The panel's values, saved with the scene."""

    # Pointers, which an operator cannot have.
    image_prompt: PointerProperty(
        type=bpy.types.Image, name="Image Prompt", description="Image that the model follows beside the prompt"
    )
    cameras: CollectionProperty(type=MSD_PG_camera, name="Cameras", description=OPTIONS["cameras"].text)

    variants: IntProperty(
        name="Variants", description="Number of objects, of successive seeds, side by side", default=1, min=1, max=16
    )

    def sees(self, name: str) -> bool:
        """Whether a property has an effect, as the others stand."""
        if name in OPTIONS and self.mode not in OPTIONS[name].modes:
            return False
        if name == "variants":
            return bool(self.mode == "generate")
        if name == "together":
            return not (self.mode == "refine" and self.remesh)
        if name in ("diversity", "sharpness"):
            return bool(self.guidance == "msd")
        return not (name == "target_faces" and self.mode == "refine" and not self.remesh)


def _switch(name: str) -> Any:
    """A checkbox that says whether an option is left open: then no number is shown that is not used."""
    text = OPTIONS[name].text
    return BoolProperty(
        name="Set",
        description=f"{text[0].upper()}{text[1:]}",
        get=lambda self: getattr(self, name) > 0,
        set=lambda self, on: setattr(self, name, FIRST_VALUES[name] if on else 0),
    )


def _set_elevation(settings: Any, on: bool) -> None:
    low, high = _FIRST_ELEVATION if on else (OPTIONS["elevation"].low, OPTIONS["elevation"].high)
    settings.elevation_min, settings.elevation_max = int(low), int(high)


MSD_PG_settings.__annotations__ |= {
    **{f"sets_{name}": _switch(name) for name in FIRST_VALUES},
    "sets_elevation": BoolProperty(
        name="Set",
        description="How high above the horizon the cameras are, in degrees",
        get=lambda self: (self.elevation_min, self.elevation_max) != (-90, 90),
        set=_set_elevation,
    ),
}


def register() -> None:
    bpy.utils.register_class(MSD_PG_lora)
    bpy.utils.register_class(MSD_PG_settings)
    bpy.types.Scene.msd = PointerProperty(type=MSD_PG_settings)


def unregister() -> None:
    del bpy.types.Scene.msd
    bpy.utils.unregister_class(MSD_PG_settings)
    bpy.utils.unregister_class(MSD_PG_lora)
