# SPDX-License-Identifier: GPL-3.0-or-later
"""Which changes of an artist are edits, and how they are captured."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from msd_blender import materials
from msd_blender.errors import InvalidMeshError
from tests.blender.helpers import answer
from tests.blender.node_trees import cube, image_node, material, new_textures, paint, picture, shader, shown

pytestmark = pytest.mark.usefixtures("empty_scene")


def test_the_same_texels_stored_otherwise_are_no_edit() -> None:
    wood = material("Wood", picture("wood", 9))
    scene_object, _ = paint(cube(wood))
    image = materials.image_of(wood, "texture")
    image.pixels.foreach_set(materials.read_pixels(image) + np.float32(1e-4))
    assert not scene_object.has_edits()
    image.pack()
    image.reload()
    assert not scene_object.has_edits()


def test_another_image_is_one_edit() -> None:
    wood = material("Wood", picture("wood", 9))
    scene_object, _ = paint(cube(wood))
    image_node(wood).image = picture("mine", 33)
    assert scene_object.has_edits()
    assert (scene_object.capture_edits("")["texture.0"][..., 0] == 33).all()
    assert not scene_object.has_edits()
    scene_object.apply(answer(scene_object.captured, **new_textures(scene_object.captured, base=60)))
    assert shown(wood) == 60 and bpy.data.images["mine"].users == 0 and not scene_object.has_edits()


def test_a_change_that_is_refused_can_be_given_up() -> None:
    wood = material("Wood", picture("wood", 9))
    scene_object, _ = paint(cube(wood))
    image_node(wood).image, image_node(wood).projection = picture("mine", 33), "BOX"
    assert scene_object.has_edits()
    with pytest.raises(InvalidMeshError, match="Box projection"):
        scene_object.capture_edits("")
    scene_object.discard_edits()
    scene_object.apply(answer(scene_object.captured, **new_textures(scene_object.captured, base=60)))
    assert shown(wood) == 60 and not scene_object.has_edits()
    assert shader(wood).inputs["Base Color"].links[0].from_node.projection == "FLAT"


def test_painted_texels_stay_with_their_material() -> None:
    wood, metal = material("Wood", picture("wood", 9)), material("Metal", picture("metal", 8))
    object = cube(wood, metal)
    scene_object, _ = paint(object)
    image = materials.image_of(metal, "texture")
    pixels = materials.read_pixels(image)
    pixels[:8] = 1
    image.pixels.foreach_set(pixels)
    object.data.polygons.foreach_set("material_index", [1] * 6)  # now the first slot is the metal's
    assert scene_object.has_edits()
    arrays = scene_object.capture_edits("")
    assert scene_object.captured.slots == [(1, 1001)] and arrays["frozen.0"].sum() == 2
