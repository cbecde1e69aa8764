# SPDX-License-Identifier: GPL-3.0-or-later
"""The panels of the settings."""

from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated

from . import forecast, model_list, server_jobs
from .capture import capture_problem, selected_meshes
from .connection import health_monitor
from .job_session import format_seconds
from .layout import SidebarPanel, is_narrow, list_row, lock_row, placeholder, props, switched, wrapped_text
from .presets import MSD_PT_presets
from .protocol import OPTIONS

_EXAMPLES = (  # for models that know most things
    "a red mushroom with white dots",
    "a weathered wooden crate with iron bands",
    "a ceramic teapot with blue flowers",
    "a plush teddy bear wearing a scarf",
    "an ornate treasure chest full of coins",
    "a cartoon pirate ship",
    "a mossy stone well",
    "a vintage radio of walnut and brass",
)


class _Settings(SidebarPanel):
    """Base of the sub-panels of settings. names: the properties that it shows."""

    bl_parent_id = "MSD_PT_generate"
    bl_options = {"DEFAULT_CLOSED"}
    names: tuple[str, ...] = ()

    def draw(self, context: bpy.types.Context) -> None:
        props(self.layout, context.scene.msd, *self.names)


class MSD_PT_generate(SidebarPanel, bpy.types.Panel):
    bl_label = "Text to 3D"
    bl_order = 1

    def draw_header_preset(self, context: bpy.types.Context) -> None:
        MSD_PT_presets.draw_panel_header(self.layout)

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.msd
        narrow = is_narrow(context)
        if narrow:
            layout.prop(settings, "mode", text="")
        else:
            layout.row().prop(settings, "mode", expand=True)
        column = layout.column(align=True)
        row = column.row(align=True)
        placeholder(row, settings, "prompt", "a red mushroom")
        row.menu("MSD_MT_prompts", text="", icon="DOWNARROW_HLT")
        placeholder(column, settings, "negative_prompt", "not wanted")
        known = forecast.forecast(settings)
        if known is not None and known.unknown:
            wrapped_text(layout, f"{translated('Not known:')} {', '.join(known.unknown)}", context, icon="ERROR")
        elif known is not None and known.warnings:
            wrapped_text(layout, known.warnings[0], context, icon="INFO")
        props(layout, settings, "quality", "guidance")
        row = layout.row(align=True)
        row.prop(settings, "seed")
        row.operator("msd.dice", text="", icon="FILE_REFRESH")
        if settings.mode == "generate":
            props(layout, settings, "variants")
        elif context.object is not None and context.object.type == "MESH":
            lock_row(layout, settings, context.object)
        if settings.mode != "generate" and len(selected_meshes(context)) > 1:
            props(layout, settings, "together")
        row = layout.row()
        row.scale_y = 1.4
        row.operator(
            "msd.generate", text=settings.bl_rna.properties["mode"].enum_items[settings.mode].name, icon="PLAY"
        )
        if known is not None and known.seconds is not None:
            text = translated("About {}, as the last jobs of these settings").format(format_seconds(known.seconds))
            wrapped_text(layout, text, context, icon="TIME")
        if settings.mode != "generate":
            chosen = selected_meshes(context)
            if problem := capture_problem(context):
                wrapped_text(layout, translated(problem), context, icon="INFO")
            elif len(chosen) > 1:
                text = "One job for {} meshes, as they stand" if settings.is_joined else "One job for each of {} meshes"
                wrapped_text(layout, translated(text).format(len(chosen)), context, "INFO")
        model_list.refresh()
        server_jobs.refresh()
        for problem in model_list.problems(settings):
            wrapped_text(layout, problem, context, icon="ERROR")


class MSD_MT_prompts(bpy.types.Menu):
    """Examples of prompts: for a model that knows few things, one with each"""

    bl_label = "Examples"

    def draw(self, context: bpy.types.Context) -> None:
        model = model_list.find(model_list.MODEL, context.scene.msd.model)
        known = model.examples if model else []
        columns = self.layout.column_flow(columns=2 if known else 1)
        for text in known or _EXAMPLES:
            columns.operator("msd.prompt", text=text, translate=False).text = text


class MSD_PT_result(_Settings, bpy.types.Panel):
    bl_label = "Result"

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.msd
        props(self.layout, settings, "iterations", "target_faces", "texture_size")
        self.layout.column().prop(settings, "maps")
        props(self.layout, settings, "max_displacement", "remesh")


class MSD_PT_mean_shift(_Settings, bpy.types.Panel):
    bl_label = "Guidance"
    names = ("guidance_scale", "diversity", "sharpness")


class MSD_PT_cameras(_Settings, bpy.types.Panel):
    bl_label = "Cameras"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.msd
        props(layout, settings, "field_of_view", "background")
        switched(layout, settings, "elevation", "Elevation", "elevation_min", "elevation_max")
        switched(layout, settings, "view", "View", "view")
        layout.operator("msd.from_view", icon="VIEW_CAMERA")
        column = layout.column(align=True)
        for index, camera in enumerate(settings.cameras):
            _draw_camera(column, camera, index)
        column.operator("msd.camera_add", icon="ADD")


def _draw_camera(column: Any, camera: Any, index: int) -> None:
    """A placed camera by its name, or by its angles where no object has them, and its prompt."""
    narrow = is_narrow(bpy.context)
    row = column.row(align=True)
    row.use_property_split = False
    name = camera.object.name if camera.object else translated("Camera")
    if camera.is_gone:
        row.label(text=translated("{} is gone").format(name), icon="ERROR")
    else:
        title = row if narrow else row.split(factor=0.4, align=True)
        title.label(text=camera.angles.replace(",", "°, ") + "°" if camera.angles else name, icon="CAMERA_DATA")
        placeholder(column if narrow else title, camera, "prompt", "the job's prompt")
    row.operator("msd.camera_remove", text="", icon="X").index = index


class MSD_PT_shape(_Settings, bpy.types.Panel):
    bl_label = "Shape"
    names = ("regularization", "symmetry", "flat")


class MSD_PT_control(_Settings, bpy.types.Panel):
    """What the model sees of the mesh, where there is one."""

    bl_label = "Control"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.scene.msd.mode in OPTIONS["control"].modes

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.msd
        props(layout, settings, "control")
        if settings.mode in OPTIONS["control_model"].modes:
            name = model_list.name_of(model_list.CONTROLNET, settings.control_model)
            list_row(layout, "ControlNet", "MSD_PT_controlnets", name or translated("The model's own"))
            layout.prop(settings, "control_model", text="Path")
        props(layout, settings, "control_strength")


class MSD_PT_image_prompt(_Settings, bpy.types.Panel):
    """A picture that the model follows beside the prompt."""

    bl_label = "Image Prompt"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.msd
        layout.template_ID(settings, "image_prompt", open="image.open")
        props(layout, settings, "image_prompt_strength")
        name = model_list.name_of(model_list.IP_ADAPTER, settings.ip_adapter)
        list_row(layout, "IP-Adapter", "MSD_PT_ip_adapters", name or translated("None"))
        layout.prop(settings, "ip_adapter", text="Path")


class MSD_PT_model(_Settings, bpy.types.Panel):
    bl_label = "Model"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.msd
        model_list.refresh()
        name = model_list.name_of(model_list.MODEL, settings.model)
        list_row(layout, "Model", "MSD_PT_models", name or translated("Bundled model"))
        layout.use_property_split, layout.use_property_decorate = True, False
        layout.prop(settings, "model", text="Path")
        column = layout.column(align=True)
        for index, lora in enumerate(settings.loras):
            _draw_lora(column, lora, index)
        row = column.row(align=True)
        row.popover("MSD_PT_loras", text="Add LoRA", icon="ADD")
        row.operator("msd.lora_add", text="", icon="FILEBROWSER")
        props(layout, settings, "device")
        for device in health_monitor.answer.device.split("; ") if health_monitor.answer else ():
            wrapped_text(layout, device, context, icon="MEMORY")
        props(layout, settings, "memory_limit", "rasterizer", "priority")


def _draw_lora(column: Any, lora: Any, index: int) -> None:
    """A LoRA by its name; its path is under it where it is opened, or where there is none yet."""
    row = column.row(align=True)
    row.use_property_split = False
    opened = lora.expanded or not lora.file
    name = model_list.name_of(model_list.LORA, lora.file) or translated("LoRA file")
    row.prop(lora, "expanded", text=name, icon="DOWNARROW_HLT" if opened else "RIGHTARROW", emboss=False)
    weight = row.row(align=True)
    weight.ui_units_x = 3
    weight.prop(lora, "weight", text="")
    row.operator("msd.lora_remove", text="", icon="X").index = index
    if opened:
        path = column.row()
        path.use_property_split = False
        placeholder(path, lora, "file", "LoRA file")


_CLASSES = (
    MSD_PT_generate,
    MSD_MT_prompts,
    MSD_PT_result,
    MSD_PT_mean_shift,
    MSD_PT_cameras,
    MSD_PT_shape,
    MSD_PT_control,
    MSD_PT_image_prompt,
    MSD_PT_model,
)

register, unregister = bpy.utils.register_classes_factory(_CLASSES)
