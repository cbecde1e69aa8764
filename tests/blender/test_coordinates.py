# SPDX-License-Identifier: GPL-3.0-or-later
"""The UV maps and Mapping nodes at which images are read, and the coordinates that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from msd_blender import materials
from msd_blender.capture import capture
from msd_blender.errors import InvalidMeshError
from tests.blender.node_trees import cube, image_node, material, node, paint, picture, shader, shown

pytestmark = pytest.mark.usefixtures("empty_scene")


def with_two_maps(made: Any) -> Any:
    object = cube(made)
    second = object.data.uv_layers.new(name="Second")
    second.uv.foreach_set("vector", np.tile(np.float32([0.25, 0.25, 0.5, 0.25, 0.5, 0.5, 0.25, 0.5]), 6))
    object.data.uv_layers.active = second  # selected, and the first has the camera icon
    return object


def read_at(object: Any) -> str:
    uvs = capture(object, "texture").arrays["uvs"]
    return "Second" if uvs.min() == 0.25 and uvs.max() == 0.5 else "UVMap"


def test_the_uv_map_is_the_one_that_the_material_shows() -> None:
    wood = material("Wood", picture("wood", 9))
    object = with_two_maps(wood)
    tree, vector = wood.node_tree, image_node(wood).inputs["Vector"]
    assert read_at(object) == "UVMap"
    object.data.uv_layers["Second"].active_render = True
    assert read_at(object) == "Second"
    tree.links.new(node(tree, "TexCoord").outputs["UV"], vector)
    assert read_at(object) == "Second"
    tree.links.new(node(tree, "UVMap", uv_map="UVMap").outputs[0], vector)
    assert read_at(object) == "UVMap"
    tree.links.new(node(tree, "Attribute", attribute_name="Second").outputs["Vector"], vector)
    assert read_at(object) == "Second"


def test_a_new_image_is_shown_through_the_map_that_it_was_painted_for() -> None:
    wood = material("Wood")
    object = with_two_maps(wood)
    paint(object)
    object.data.uv_layers["Second"].active_render = True  # later
    assert image_node(wood).inputs["Vector"].links[0].from_node.uv_map == "UVMap"


@pytest.mark.parametrize(
    "kind, values, expected",
    [
        ("POINT", {"Location": (0.25, 0.5, 0), "Scale": (0.5, 0.5, 1)}, lambda u, v: (0.5 * u + 0.25, 0.5 * v + 0.5)),
        ("POINT", {"Rotation": (0, 0, np.pi / 2), "Location": (1, 0, 0)}, lambda u, v: (1 - v, u)),
        ("TEXTURE", {"Location": (-1, 0, 0), "Scale": (2, 2, 1)}, lambda u, v: ((u + 1) / 2, v / 2)),
        ("VECTOR", {"Location": (9, 9, 9), "Scale": (0.5, 1, 1)}, lambda u, v: (0.5 * u, v)),
    ],
)
def test_a_mapping_node_is_taken_into_account(kind: str, values: dict[str, Any], expected: Any) -> None:
    wood = material("Wood", picture("wood", 9))
    object = cube(wood)
    before = capture(object, "texture").arrays["uvs"]
    mapping = node(wood.node_tree, "Mapping")
    for name, value in values.items():
        mapping.inputs[name].default_value = value
    mapping.vector_type = kind
    wood.node_tree.links.new(node(wood.node_tree, "TexCoord").outputs["UV"], mapping.inputs["Vector"])
    wood.node_tree.links.new(mapping.outputs[0], image_node(wood).inputs["Vector"])
    scene_object, sent = paint(object, maps=["roughness"])
    np.testing.assert_allclose(sent["uvs"], np.stack(expected(before[..., 0], before[..., 1]), -1), atol=1e-6)
    assert materials.image_of(wood, "roughness") and len(mapping.outputs[0].links) == 2  # the new one as well


def _box(tree: Any, image: Any) -> None:
    image.projection = "BOX"


def _generated(tree: Any, image: Any) -> None:
    tree.links.new(node(tree, "TexCoord").outputs["Generated"], image.inputs["Vector"])


def _missing(tree: Any, image: Any) -> None:
    tree.links.new(node(tree, "UVMap", uv_map="gone").outputs[0], image.inputs["Vector"])


def _warped(tree: Any, image: Any) -> None:
    tree.links.new(node(tree, "TexNoise").outputs["Color"], image.inputs["Vector"])


def _repeated(tree: Any, image: Any) -> None:
    mapping = node(tree, "Mapping")
    mapping.inputs["Scale"].default_value = (3, 3, 1)
    tree.links.new(node(tree, "TexCoord").outputs["UV"], mapping.inputs["Vector"])
    tree.links.new(mapping.outputs[0], image.inputs["Vector"])


def _driven(tree: Any, image: Any) -> None:
    _repeated(tree, image)
    tree.links.new(node(tree, "Value").outputs[0], tree.nodes["Mapping"].inputs["Scale"])


def _once(tree: Any, image: Any) -> None:
    _repeated(tree, image)
    tree.nodes["Mapping"].inputs["Scale"].default_value = (1, 1, 1)
    tree.nodes["Mapping"].inputs["Location"].default_value = (4, 0, 0)
    image.extension = "CLIP"


@pytest.mark.parametrize(
    "change, words",
    [
        (_box, "Box projection"),
        (_generated, "Generated"),
        (_missing, "'gone'"),
        (_warped, "Noise"),
        (_repeated, "Mapping node"),
        (_driven, "Scale"),
        (_once, "only once"),
    ],
)
def test_coordinates_that_cannot_be_painted_are_refused_in_a_sentence(change: Any, words: str) -> None:
    wood = material("Wood", picture("wood", 9))
    object = cube(wood)
    change(wood.node_tree, image_node(wood))
    with pytest.raises(InvalidMeshError, match=words) as refused:
        capture(object, "texture")
    assert "Wood" in str(refused.value)
    captured = capture(object, "refine")  # the shape can still be worked on
    assert "uvs" not in captured.arrays and "textures stay as they are" in captured.notes[0]


def test_a_map_at_other_coordinates_is_left_out_and_that_is_said() -> None:
    wood = material("Wood", picture("wood", 9))
    rough = node(wood.node_tree, "TexImage", image=picture("rough", 77), projection="BOX")
    wood.node_tree.links.new(rough.outputs["Color"], shader(wood).inputs["Roughness"])
    scene_object, sent = paint(cube(wood), maps=["roughness"])
    assert "roughness.0" not in sent and shown(wood, "roughness") == 150 and rough.image.name == "rough"
    assert ["other coordinates" in note for note in scene_object.captured.notes] == [True]
