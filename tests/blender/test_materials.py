# SPDX-License-Identifier: GPL-3.0-or-later
"""An artist's node trees: the images that are read and written, and the nodes that stay."""

from __future__ import annotations

from typing import Any

import bpy
import numpy as np
import pytest

from msd_blender import materials
from msd_blender.capture import capture
from tests.blender.helpers import answer
from tests.blender.node_trees import SIZE, cube, image_node, material, new_textures, node, paint, picture, shader, shown

pytestmark = pytest.mark.usefixtures("empty_scene")


def test_a_material_in_two_slots_is_one_texture() -> None:
    wood, metal = material("Wood", picture("wood", 9)), material("Metal")
    object = cube(metal, wood, metal, wood)
    scene_object, sent = paint(object)
    assert scene_object.captured.slots == [(0, 1001), (1, 1001)] and set(sent["slots"]) == {0, 1}
    assert [slot.material for slot in object.material_slots] == [metal, wood, metal, wood]
    assert (shown(metal), shown(wood)) == (100, 101)
    assert not scene_object.has_edits() and not scene_object.has_edits()


def test_a_material_that_others_have_is_copied_once() -> None:
    wood = material("Wood", picture("wood", 9))
    other, object = cube(wood), cube(wood, wood)
    scene_object, _ = paint(object)
    own = object.material_slots[0].material
    assert own == object.material_slots[1].material != wood and other.material_slots[0].material == wood
    assert shown(wood) == 9 and shown(own) == 100 and not scene_object.has_edits()
    assert [note for note in scene_object.captured.notes if "other objects" in note]


def test_one_image_behind_two_sockets_becomes_two() -> None:
    image = picture("wood", 9)
    wood = material("Wood", image)
    output = image_node(wood).outputs["Color"]
    for name in ("Roughness", "Emission Color"):
        wood.node_tree.links.new(output, shader(wood).inputs[name])
    scene_object, sent = paint(cube(wood), maps=["roughness"])
    assert {"texture.0", "roughness.0"} <= sent.keys()
    assert (shown(wood), shown(wood, "roughness")) == (100, 150)
    assert shader(wood).inputs["Emission Color"].links[0].from_node.image == image
    assert not scene_object.has_edits()
    scene_object.apply(answer(scene_object.captured, **new_textures(scene_object.captured, "roughness", base=60)))
    assert (shown(wood), shown(wood, "roughness")) == (60, 110) and not scene_object.has_edits()


def test_materials_that_share_an_image_get_their_own() -> None:
    image = picture("atlas", 9)
    one, two = material("One", image), material("Two", image)
    scene_object, sent = paint(cube(one, two))
    assert (shown(one), shown(two)) == (100, 101) and not scene_object.has_edits()
    assert materials.read_tile(image)[0, 0, 0] == 9
    # A copy that the artist makes meanwhile shares an image of ours.
    image_node(two).image = image_node(one).image
    assert scene_object.has_edits()
    scene_object.capture_edits("")
    scene_object.apply(answer(scene_object.captured, **new_textures(scene_object.captured, base=60)))
    assert (shown(one), shown(two)) == (60, 61) and not scene_object.has_edits()


def test_maps_that_were_not_asked_for_stay() -> None:
    wood = material("Wood", picture("wood", 9))
    rough = node(wood.node_tree, "TexImage", image=picture("rough", 77, "Non-Color"))
    wood.node_tree.links.new(rough.outputs["Color"], shader(wood).inputs["Roughness"])
    scene_object, sent = paint(cube(wood))
    assert "roughness.0" in sent
    scene_object.apply(answer(scene_object.captured, **new_textures(scene_object.captured, "roughness", base=60)))
    assert rough.image.name == "rough" and shown(wood) == 60


def test_channels_of_a_packed_image_are_read_and_get_images_of_their_own() -> None:
    packed = picture("packed", 200, "Non-Color")  # as glTF has them: green is roughness, blue metallic
    wood = material("Wood", picture("wood", 9))
    tree = wood.node_tree
    separate = node(tree, "SeparateColor")
    tree.links.new(node(tree, "TexImage", image=packed).outputs["Color"], separate.inputs["Color"])
    factor = node(tree, "Math", operation="MULTIPLY")
    tree.links.new(separate.outputs["Green"], factor.inputs[0])
    tree.links.new(factor.outputs[0], shader(wood).inputs["Roughness"])
    tree.links.new(separate.outputs["Blue"], shader(wood).inputs["Metallic"])
    scene_object, sent = paint(cube(wood), maps=["roughness"])
    assert (sent["roughness.0"] == 20).all() and (sent["metallic.0"] == 30).all()
    assert shown(wood, "roughness") == 150 and shader(wood).inputs["Metallic"].links[0].from_node == separate
    assert shader(wood).inputs["Roughness"].links[0].from_node == factor and packed.users


def mixed(wood: Any, other: Any = None) -> Any:
    """Put a Mix before the base colour."""
    tree = wood.node_tree
    mix = node(tree, "Mix", data_type="RGBA", blend_type="MULTIPLY")
    tree.links.new(
        image_node(wood).outputs["Color"], mix.inputs["A_Color"] if "A_Color" in mix.inputs else mix.inputs[6]
    )
    if other:
        tree.links.new(node(tree, "TexImage", image=other).outputs["Color"], mix.inputs[7])
    reroute = tree.nodes.new("NodeReroute")
    tree.links.new(mix.outputs[2], reroute.inputs[0])
    tree.links.new(reroute.outputs[0], shader(wood).inputs["Base Color"])
    return mix


def test_an_image_behind_other_nodes_is_found_and_they_stay() -> None:
    wood = material("Wood", picture("wood", 9))
    mix = mixed(wood)
    scene_object, sent = paint(cube(wood))
    assert (sent["texture.0"][..., 0] == 9).all() and shown(wood) == 100
    assert mix.outputs[2].links and mix.inputs[6].links[0].from_node == image_node(wood)
    assert any("'Mix'" in note for note in scene_object.captured.notes)
    mix.mute = True  # then it changes nothing
    assert not capture(bpy.context.object, "texture").notes


def test_two_images_before_one_socket_are_left_out_and_that_is_said() -> None:
    wood = material("Wood", picture("wood", 9))
    mix = mixed(wood, picture("dirt", 5))
    scene_object, sent = paint(cube(wood))
    assert "texture.0" not in sent and shown(wood) == 100
    assert mix.name in wood.node_tree.nodes and "left out" in scene_object.captured.notes[0]


def test_a_shader_without_a_base_colour_is_replaced_and_that_is_said() -> None:
    wood = material("Wood")
    tree = wood.node_tree
    glass = node(tree, "BsdfGlass")
    tree.links.new(glass.outputs[0], tree.get_output_node("ALL").inputs["Surface"])
    scene_object, _ = paint(cube(wood))
    assert shown(wood) == 100 and "'Glass BSDF'" in scene_object.captured.notes[0]
    assert tree.get_output_node("ALL").inputs["Surface"].links[0].from_node.type == "BSDF_PRINCIPLED"


def test_shaders_of_other_kinds_are_painted() -> None:
    flat = material("Flat")
    tree = flat.node_tree
    light, clear = node(tree, "Emission"), node(tree, "BsdfTransparent")
    tree.links.new(node(tree, "TexImage", image=picture("flat", 9)).outputs["Color"], light.inputs["Color"])
    both = node(tree, "MixShader")
    tree.links.new(clear.outputs[0], both.inputs[1])
    tree.links.new(light.outputs[0], both.inputs[2])
    tree.links.new(both.outputs[0], tree.get_output_node("ALL").inputs["Surface"])
    scene_object, sent = paint(cube(flat), maps=["roughness"])
    assert (sent["texture.0"][..., 0] == 9).all() and shown(flat) == 100
    assert image_node(flat).outputs["Color"].links[0].to_node == light
    assert ["roughness" in note and "left out" in note for note in scene_object.captured.notes] == [True]


def grouped(image: Any) -> Any:
    """A group with a Principled shader in it, whose base colour an image in it feeds, and its roughness an input."""
    tree = bpy.data.node_groups.new("Paint", "ShaderNodeTree")
    tree.interface.new_socket("Rough", in_out="INPUT", socket_type="NodeSocketFloat")
    tree.interface.new_socket("Shader", in_out="OUTPUT", socket_type="NodeSocketShader")
    inside = node(tree, "BsdfPrincipled")
    tree.links.new(node(tree, "TexImage", image=image).outputs["Color"], inside.inputs["Base Color"])
    tree.links.new(tree.nodes.new("NodeGroupInput").outputs[0], inside.inputs["Roughness"])
    tree.links.new(inside.outputs[0], tree.nodes.new("NodeGroupOutput").inputs[0])
    return tree


def in_group(name: str, tree: Any) -> Any:
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    group = node(made.node_tree, "Group", node_tree=tree)
    made.node_tree.links.new(group.outputs[0], made.node_tree.get_output_node("ALL").inputs["Surface"])
    return made


def test_a_group_is_looked_into_and_other_materials_keep_theirs() -> None:
    tree = grouped(picture("wood", 9))
    one, two = in_group("One", tree), in_group("Two", tree)
    scene_object, sent = paint(cube(one), maps=["roughness"])
    assert (sent["texture.0"][..., 0] == 9).all()
    assert (shown(one), shown(one, "roughness"), shown(two)) == (100, 150, 9) and not scene_object.has_edits()
    group = one.node_tree.nodes["Group"]
    assert group.inputs["Rough"].links[0].from_node.type == "TEX_IMAGE" and group.node_tree != tree
    assert not scene_object.captured.notes


def test_what_else_a_groups_input_feeds_keeps_it() -> None:
    tree = grouped(picture("wood", 9))
    inside = next(each for each in tree.nodes if each.type == "BSDF_PRINCIPLED")
    given = next(each for each in tree.nodes if each.type == "GROUP_INPUT").outputs[0]
    tree.links.new(given, inside.inputs["Coat Roughness"])
    one = in_group("One", tree)
    group = one.node_tree.nodes["Group"]
    noise = node(one.node_tree, "TexNoise")
    one.node_tree.links.new(noise.outputs[0], group.inputs["Rough"])
    paint(cube(one), maps=["roughness"])
    assert shown(one, "roughness") == 150 and group.inputs["Rough"].links[0].from_node == noise
    inside = next(each for each in group.node_tree.nodes if each.type == "BSDF_PRINCIPLED")
    assert inside.inputs["Coat Roughness"].links[0].from_node.type == "GROUP_INPUT"


def test_alpha_is_kept_and_may_be_painted() -> None:
    image = picture("leaf", 9)
    pixels = materials.read_pixels(image).reshape(SIZE, SIZE, 4)
    pixels[:, :3, 3] = 0
    image.pixels.foreach_set(pixels.ravel())
    image.alpha_mode = "CHANNEL_PACKED"
    leaf = material("Leaf", image)
    leaf.node_tree.links.new(image_node(leaf).outputs["Alpha"], shader(leaf).inputs["Alpha"])
    scene_object, _ = paint(cube(leaf))
    new = materials.image_of(leaf, "texture")
    assert new != image and shader(leaf).inputs["Alpha"].links[0].from_node.image == new
    assert new.alpha_mode == "CHANNEL_PACKED" and not scene_object.has_edits()
    expected = np.full((SIZE, SIZE), 255)
    expected[:, :3] = 0
    np.testing.assert_array_equal(materials.read_tile(new)[..., 3], expected)
    pixels = materials.read_pixels(new).reshape(SIZE, SIZE, 4)
    pixels[0, 7, 3] = expected[0, 7] = 0  # the artist cuts a hole
    new.pixels.foreach_set(pixels.ravel())
    assert scene_object.has_edits()
    assert scene_object.capture_edits("")["frozen.0"].sum() == 1
    scene_object.apply(answer(scene_object.captured, **new_textures(scene_object.captured, base=60)))
    np.testing.assert_array_equal(materials.read_tile(new)[..., 3], expected)
    assert shown(leaf) == 60 and not scene_object.has_edits()


@pytest.mark.parametrize(
    "is_float, space, value, kind, sent",
    [
        (False, "sRGB", 0.5, "texture", 128),
        (False, "Non-Color", 0.5, "texture", 188),
        (True, "Linear Rec.709", 0.5, "texture", 188),
        (False, "Non-Color", 0.5, "roughness", 128),
        (False, "sRGB", 0.5, "roughness", 55),
        (True, "Linear Rec.709", 0.5, "roughness", 128),
    ],
)
def test_colour_spaces_are_those_of_the_shader(is_float: bool, space: str, value: float, kind: str, sent: int) -> None:
    image = bpy.data.images.new("grey", SIZE, SIZE, float_buffer=is_float)
    image.colorspace_settings.name = space
    image.pixels.foreach_set(np.tile(np.float32([value, value, value, 1]), SIZE * SIZE))
    wood = material("Wood")
    socket = shader(wood).inputs["Base Color" if kind == "texture" else "Roughness"]
    wood.node_tree.links.new(node(wood.node_tree, "TexImage", image=image).outputs["Color"], socket)
    assert (capture(cube(wood), "texture").arrays[f"{kind}.0"] == sent).all()


def test_a_locked_face_without_an_image_keeps_its_colour() -> None:
    red, blue = material("Red"), material("Blue")
    shader(red).inputs["Base Color"].default_value = (1, 0.5, 0, 1)
    object = cube(red, blue)
    object.vertex_groups.new(name="lock").add(list(object.data.polygons[0].vertices), 1, "REPLACE")
    sent = capture(object, "texture", "lock", size=64).arrays
    assert sent["texture.0"].shape == (64, 64, 3) and (sent["texture.0"] == (255, 188, 0)).all()
    assert "texture.1" not in sent
