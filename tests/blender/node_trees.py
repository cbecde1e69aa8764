# SPDX-License-Identifier: GPL-3.0-or-later
"""An artist's materials and a job that paints them without a server."""

from __future__ import annotations

from typing import Any

import bpy
import numpy as np

from msd_blender import materials
from msd_blender.capture import capture
from msd_blender.scene_object import SceneObject
from tests.blender.helpers import answer, request

SIZE = 8


def picture(name: str, value: int, space: str = "sRGB") -> Any:
    image = bpy.data.images.new(name, SIZE, SIZE, alpha=True)
    image.colorspace_settings.name = space
    image.pixels.foreach_set(np.tile(np.float32([value / 255, 20 / 255, 30 / 255, 1]), SIZE * SIZE))
    image.update()
    return image


def node(tree: Any, kind: str, **values: Any) -> Any:
    made = tree.nodes.new(f"ShaderNode{kind}")
    for name, value in values.items():
        setattr(made, name, value)
    return made


def material(name: str = "Wood", image: Any = None) -> Any:
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    if image:
        tree = made.node_tree
        tree.links.new(node(tree, "TexImage", image=image).outputs["Color"], shader(made).inputs["Base Color"])
    return made


def shader(made: Any) -> Any:
    return next(each for each in made.node_tree.nodes if each.type == "BSDF_PRINCIPLED")


def image_node(made: Any) -> Any:
    return next(each for each in made.node_tree.nodes if each.type == "TEX_IMAGE")


def cube(*made: Any) -> Any:
    bpy.ops.mesh.primitive_cube_add()
    object = bpy.context.object
    for each in made:
        object.data.materials.append(each)
    count = max(1, len(made))
    object.data.polygons.foreach_set("material_index", np.arange(6) % count)
    return object


def paint(object: Any, mode: str = "texture", **settings: Any) -> tuple[SceneObject, dict[str, np.ndarray]]:
    """Apply a job's first update, with another colour for each texture; its object and the arrays that were sent."""
    captured = capture(object, mode, kinds=("texture", *settings.get("maps", ())))
    scene_object = SceneObject(request(mode, **settings), object, captured)
    scene_object.apply(answer(captured, **new_textures(captured, *settings.get("maps", ()))))
    return scene_object, captured.arrays


def new_textures(captured: Any, *maps: str, base: int = 100) -> dict[str, np.ndarray]:
    """Textures of each slot: `base` plus the slot's number, other maps 50 more."""
    made = {}
    for slot in range(len(captured.slots)):
        made[f"texture.{slot}"] = np.full((SIZE, SIZE, 3), base + slot, np.uint8)
        made |= {
            f"{kind}.{slot}": np.full((SIZE, SIZE, *(3,) * (kind == "normal")), base + 50 + slot, np.uint8)
            for kind in maps
        }
    return made


def shown(made: Any, kind: str = "texture") -> int:
    """The value that a material shows for a kind of texture."""
    return int(materials.read_tile(materials.image_of(made, kind))[0, 0, 0])
