# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user chooses for a generation: one set of properties, for the scene (panel) and the operator."""

import bpy
from bpy.props import EnumProperty, IntProperty, PointerProperty, StringProperty

from .protocol import GUIDANCES, MAX_ITERATIONS, MAX_PROMPT, JobRequest

_GUIDANCE_NAMES = {"msd": ("Mean shift", "Mean-shift distillation: sharp, follows the modes of the prior"),
                   "sds": ("Score", "Score distillation sampling: the classic baseline"),
                   "sdi": ("Inversion", "Score distillation via inversion: found noise instead of drawn noise"),
                   "vsd": ("Variational", "Variational score distillation: against a second denoiser that learns")}


class RequestProperties:
    """Mixed into the scene's settings and the operator. (Annotations as values: Blender reads them so.)"""

    prompt: StringProperty(name="Prompt", description="What to make", maxlen=MAX_PROMPT)
    negative_prompt: StringProperty(name="Negative", description="What to keep away from", maxlen=MAX_PROMPT)
    guidance: EnumProperty(name="Guidance", description="How the prior pulls the asset",
                           items=[(name, *_GUIDANCE_NAMES.get(name, (name, ""))) for name in GUIDANCES])
    seed: IntProperty(name="Seed", description="The same seed gives the same asset", min=0)
    iterations: IntProperty(name="Iterations", description="0: as many as the server finds right",
                            min=0, max=MAX_ITERATIONS)
    model: StringProperty(name="Model", subtype="DIR_PATH",
                          description="Folder of a Stable Diffusion pipeline on the server; empty: the bundled prior")

    def request(self) -> JobRequest:
        """The chosen values, checked. Raises `ProtocolError`."""
        return JobRequest(self.prompt, self.negative_prompt, seed=self.seed, guidance=self.guidance,
                          iterations=self.iterations or None, model=bpy.path.abspath(self.model)).validate()


class MSD_PG_settings(RequestProperties, bpy.types.PropertyGroup):
    """The panel's values, saved with the scene."""


def register() -> None:
    bpy.utils.register_class(MSD_PG_settings)
    bpy.types.Scene.msd = PointerProperty(type=MSD_PG_settings)


def unregister() -> None:
    del bpy.types.Scene.msd
    bpy.utils.unregister_class(MSD_PG_settings)
