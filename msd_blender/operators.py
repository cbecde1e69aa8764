# SPDX-License-Identifier: GPL-3.0-or-later
"""The operators of the settings. Called from a button, Generate returns at once and a timer updates the object; called
by a script (`execute`), it returns when the object is finished."""

import random

import bpy
from bpy.props import IntProperty, StringProperty

from . import jobs
from .capture import capture_problem, selected_meshes
from .errors import ClientError
from .live_job import LiveJob, find_live_job_on, running_jobs
from .properties import RequestProperties
from .protocol import MAX_SEED

_SEED_LIMIT = min(MAX_SEED, 2**31 - 1)  # an integer property has 32 bits


class MSD_OT_generate(RequestProperties, bpy.types.Operator):
    """Start a job with these settings, on the active mesh where the mode needs one"""

    bl_idname = "msd.generate"
    bl_label = "Generate"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        settings = context.scene.msd
        if settings.mode == "generate":
            return True
        problem = capture_problem(context)
        if not problem and any(map(find_live_job_on, selected_meshes(context))):
            problem = "A job works on this object already: stop it first"
        cls.poll_message_set(problem or "Ready")
        return not problem

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        settings = context.scene.msd
        context.view_layer.update()  # a script may just have moved a camera
        for name in RequestProperties.__annotations__:
            if not self.properties.is_property_set(name):
                self.take_from(settings, name)
        self._start(context, settings.variants)
        jobs.start_timer()
        return {"FINISHED"} if self._started else {"CANCELLED"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        self._start(context)
        while any(live_job in running_jobs for live_job in self._started):
            self._started[0].session.wait(0.1)
            jobs.tick()
        errors = [live_job.session.error for live_job in self._started if live_job.session.error]
        for error in errors:
            self.report({"ERROR"}, error)
        return {"CANCELLED"} if errors or not self._started else {"FINISHED"}

    def _start(self, context: bpy.types.Context, variants: int = 1) -> None:
        """Start the jobs: one for each variant, one for the selected meshes or for each of them."""
        self._started: list[LiveJob] = []
        first = self.seed
        try:
            if self.mode == "generate":
                for number in range(variants):
                    self.seed = (first + number) % _SEED_LIMIT
                    self._started.append(jobs.start(self.request(), lock=self.lock, image=self._image()))
            elif problem := capture_problem(context):
                raise ValueError(problem + ".")
            else:
                chosen = selected_meshes(context)
                for objects in [chosen] if self.is_joined else [[object] for object in chosen]:
                    self._started.append(jobs.start(self.request(), objects, self.lock, self._image()))
        except (ValueError, ClientError) as error:
            self.report({"ERROR"}, str(error))

    def _image(self) -> bpy.types.Image | None:
        """The image of the image prompt. Raises ValueError where the file has none of this name."""
        image = next((each for each in bpy.data.images if each.name_full == self.image_prompt), None)
        if self.image_prompt and image is None:
            raise ValueError(f"There is no image {self.image_prompt!r}: choose another as image prompt, or none.")
        return image


class MSD_OT_lora_add(bpy.types.Operator):
    """Put a further LoRA on the model"""

    bl_idname = "msd.lora_add"
    bl_label = "Add LoRA"
    bl_options = {"UNDO", "INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.scene.msd.loras.add()
        return {"FINISHED"}


class MSD_OT_lora_remove(bpy.types.Operator):
    """Take this LoRA off the model"""

    bl_idname = "msd.lora_remove"
    bl_label = "Remove LoRA"
    bl_options = {"UNDO", "INTERNAL"}

    index: IntProperty(options={"HIDDEN"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.scene.msd.loras.remove(self.index)
        return {"FINISHED"}


class MSD_OT_prompt(bpy.types.Operator):
    """Take this prompt"""

    bl_idname = "msd.prompt"
    bl_label = "Prompt"
    bl_options = {"UNDO", "INTERNAL"}

    text: StringProperty(options={"HIDDEN"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.scene.msd.prompt = self.text
        return {"FINISHED"}


class MSD_OT_dice(bpy.types.Operator):
    """Draw another seed"""

    bl_idname = "msd.dice"
    bl_label = "Draw a Seed"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.scene.msd.seed = random.SystemRandom().randrange(10_000)
        return {"FINISHED"}


_CLASSES = (MSD_OT_generate, MSD_OT_lora_add, MSD_OT_lora_remove, MSD_OT_prompt, MSD_OT_dice)

register, unregister = bpy.utils.register_classes_factory(_CLASSES)
