# SPDX-License-Identifier: GPL-3.0-or-later
"""Versions of an object: what a job has painted goes, and names, linked duplicates and shared materials stay."""

from __future__ import annotations

from typing import Any

import bpy
import pytest

from msd_blender import history, materials
from tests.blender.node_trees import cube, image_node, material, paint, picture, shown
from tests.blender.test_materials import grouped, in_group

pytestmark = pytest.mark.usefixtures("empty_scene")


def names() -> dict[str, set[str]]:
    """Of everything that is no hidden version."""
    kinds = ("objects", "meshes", "materials", "node_groups")
    return {kind: {each.name for each in getattr(bpy.data, kind) if not each.name.startswith(".")} for kind in kinds}


@pytest.mark.parametrize(
    "make", [lambda image: material("Wood", image), lambda image: in_group("Wood", grouped(image))]
)
def test_restoring_gives_names_and_linked_duplicates_back(make: Any) -> None:
    object = cube(make(picture("wood", 9)))
    twin = object.copy()
    bpy.context.collection.objects.link(twin)
    before = names()
    version = history.copy_versions([object])[0]
    paint(object)
    assert shown(object.material_slots[0].material) == 100 and names() == before
    for _ in range(2):
        history.restore_versions([(object, version)])
        assert names() == before and twin.data == object.data != version
        assert shown(object.material_slots[0].material) == 9
    assert object.data.materials[0].name == "Wood"


def test_a_material_that_others_use_is_theirs_again() -> None:
    wood = material("Wood", picture("wood", 9))
    object, other = cube(wood), cube(wood)
    version = history.copy_versions([object])[0]
    paint(object)
    assert object.material_slots[0].material != wood
    history.restore_versions([(object, version)])
    assert object.material_slots[0].material == other.material_slots[0].material == wood and shown(wood) == 9


def test_a_result_that_others_use_is_not_taken_for_the_version_before() -> None:
    object = cube(material("Wood", picture("wood", 9)))
    version = history.copy_versions([object])[0]
    paint(object)
    other = cube(object.material_slots[0].material)
    history.restore_versions([(object, version)])
    assert shown(object.material_slots[0].material) == 9 and shown(other.material_slots[0].material) == 100


def test_solid_view_shows_the_base_colour_and_no_node_is_left_over() -> None:
    made = materials.new_material("Made")
    object = cube(made)
    paint(object, maps=("roughness", "normal"))
    base = materials.image_of(made, "texture")
    assert made.node_tree.nodes.active.image == base
    assert not [each for each in made.node_tree.nodes if each.type == "VERTEX_COLOR"]


def test_the_artists_active_image_stays_active() -> None:
    wood = material("Wood", picture("wood", 9))
    other = wood.node_tree.nodes.new("ShaderNodeTexImage")
    other.image = picture("reference", 7)
    wood.node_tree.nodes.active = other
    paint(cube(wood))
    assert wood.node_tree.nodes.active == other and image_node(wood) is not None
