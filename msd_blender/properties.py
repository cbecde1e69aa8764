# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user chooses for a job: one set of properties, for the scene (panel) and the operator."""

from typing import Any

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from .connection import expand_path, preferences
from .protocol import AXES, BACKGROUNDS, COUNTS, DEVICES, GUIDANCES, MAPS, MAX_PROMPT, MODES, NUMBERS, JobRequest

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
QUALITIES = {"DRAFT": (160, 256), "STANDARD": (None, None), "HIGH": (1200, 1024)}  # iterations, texture size


def _items(names: tuple[str, ...], empty: str = "") -> list[tuple[str, str, str]]:
    """An enumeration's items; Blender knows no item without a name."""
    return [
        (name or "none", (name or empty).replace("_", " ").title() if name != "cpu" else "CPU", "") for name in names
    ]


def _number(title: str, field: str, what: str, **more: Any) -> Any:
    low, high = NUMBERS[field]
    return FloatProperty(
        name=title,
        description=f"{what}; 0: as the server finds right",
        min=0,
        max=high,
        soft_max=more.pop("soft_max", high),
        default=0,
        **more,
    )


class RequestProperties:
    """Mixed into the scene's settings and the operator. (Annotations as values: Blender reads them so.)"""

    mode: EnumProperty(
        name="Mode", description="What to do", items=[(name, *_MODE_NAMES[name], i) for i, name in enumerate(MODES)]
    )
    prompt: StringProperty(name="Prompt", description="What to make, for example: a red mushroom", maxlen=MAX_PROMPT)
    negative_prompt: StringProperty(name="Negative", description="What to keep away from", maxlen=MAX_PROMPT)
    guidance: EnumProperty(
        name="Guidance",
        description="How the prior pulls the asset",
        items=[(name, *_GUIDANCE_NAMES.get(name, (name, ""))) for name in GUIDANCES],
    )
    quality: EnumProperty(
        name="Quality",
        description="How long to work, and how fine the texture is",
        items=[
            ("DRAFT", "Draft", "Quick: fewer iterations and a small texture"),
            ("STANDARD", "Standard", "As the server finds right"),
            ("HIGH", "High", "Slow: three times the iterations and a texture of 1024 pixels"),
        ],
        default="STANDARD",
    )
    seed: IntProperty(name="Seed", description="The same seed gives the same asset", min=0)
    iterations: IntProperty(
        name="Iterations", description="0: as the quality says", min=0, max=COUNTS["iterations"][1], soft_max=5000
    )
    target_faces: IntProperty(
        name="Faces",
        description="Triangles of the result; 0: as the server finds right",
        min=0,
        max=COUNTS["target_faces"][1],
        soft_max=100_000,
    )
    texture_size: IntProperty(
        name="Texture",
        description="Edge of a new texture in pixels; 0: as the quality says",
        subtype="PIXEL",
        min=0,
        max=COUNTS["texture_size"][1],
    )
    maps: EnumProperty(
        name="Maps", description="What is painted beside base colour", options={"ENUM_FLAG"}, items=_items(MAPS)
    )
    lock: StringProperty(
        name="Lock", description="Vertex group that must not move or change: its members with a weight above one half"
    )
    max_displacement: _number(
        "Move at Most", "max_displacement", "How far a vertex may move", subtype="DISTANCE", soft_max=10
    )
    remesh: BoolProperty(
        name="Remesh",
        description="The topology may change, and a texture becomes vertex colors; else only vertices move",
    )
    guidance_scale: _number("Guidance Scale", "guidance_scale", "How strongly the prompt pulls", soft_max=100)
    diversity: _number(
        "Diversity",
        "diversity",
        "Width of the mean shift at the start: smaller keeps more of what "
        "the prompt can mean, larger settles on one thing",
        soft_max=10,
    )
    sharpness: _number("Sharpness", "sharpness", "Width of the mean shift at the end: smaller is sharper", soft_max=2)
    regularization: _number(
        "Smoothness", "regularization", "How strongly smooth surfaces weigh, 1 is usual", soft_max=10
    )
    symmetry: EnumProperty(
        name="Symmetry",
        description="Axis whose plane through the origin the shape mirrors in",
        items=_items(AXES, "none"),
    )
    flat: BoolProperty(name="Flat Shading", description="Flat instead of smooth normals while it is optimized")
    elevation_min: IntProperty(
        name="Elevation Min", description="Lowest camera, in degrees", min=-90, max=90, default=-90
    )
    elevation_max: IntProperty(
        name="Max",
        description="Highest camera, in degrees; both at their ends: as the server finds right",
        min=-90,
        max=90,
        default=90,
    )
    field_of_view: FloatProperty(
        name="Field of View",
        description="Of the cameras, in degrees; 0: as the server finds right",
        min=0,
        max=NUMBERS["field_of_view"][1],
    )
    background: EnumProperty(
        name="Background", description="What is behind the object while it is optimized", items=_items(BACKGROUNDS)
    )
    model: StringProperty(
        name="Model",
        subtype="DIR_PATH",
        description="Folder of a Stable Diffusion pipeline on the server; empty: the bundled prior",
    )
    device: EnumProperty(name="Device", description="What the server works on", items=_items(DEVICES))

    def request(self) -> JobRequest:
        """The chosen values, checked but for the mesh, which is uploaded later. Raises `ProtocolError`."""
        iterations, texture_size = QUALITIES[self.quality]
        refine = self.mode == "refine"
        chosen = preferences()
        server = chosen.url if chosen and chosen.place == "URL" else ""
        request = JobRequest(
            self.prompt,
            self.negative_prompt,
            seed=self.seed,
            guidance=self.guidance,
            iterations=self.iterations or iterations,
            guidance_scale=self.guidance_scale or None,
            model=expand_path(self.model, server),
            device=self.device,
            diversity=self.diversity or None,
            sharpness=self.sharpness or None,
            target_faces=self.target_faces or None,
            texture_size=self.texture_size or texture_size,
            maps=[name for name in MAPS if name in self.maps],
            flat=self.flat,
            symmetry="" if self.symmetry == "none" else self.symmetry,
            max_displacement=self.max_displacement or None if refine else None,
            remesh=self.remesh and refine,
            regularization=self.regularization or None,
            field_of_view=self.field_of_view or None,
            elevation=None
            if (self.elevation_min, self.elevation_max) == (-90, 90)
            else [self.elevation_min, self.elevation_max],
            background=self.background,
        ).validate()
        request.mode = self.mode
        return request


class MSD_PG_settings(RequestProperties, bpy.types.PropertyGroup):
    """The panel's values, saved with the scene."""

    variants: IntProperty(
        name="Variants", description="So many objects, of as many seeds, side by side", default=1, min=1, max=16
    )


def register() -> None:
    bpy.utils.register_class(MSD_PG_settings)
    bpy.types.Scene.msd = PointerProperty(type=MSD_PG_settings)


def unregister() -> None:
    del bpy.types.Scene.msd
    bpy.utils.unregister_class(MSD_PG_settings)
