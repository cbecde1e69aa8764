# SPDX-License-Identifier: GPL-3.0-or-later
"""An artist's node trees: what is read of them, what is written to them, and what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy
import numpy as np
import pytest

from msd_blender import materials
from msd_blender.capture import Unfit, capture, why_not
from msd_blender.scene import Asset
from tests.blender.test_capture import answer, request

pytestmark = pytest.mark.usefixtures("empty_scene")
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


def paint(object: Any, mode: str = "texture", **settings: Any) -> tuple[Asset, dict[str, np.ndarray]]:
    """A job's first update, a colour of its own for each texture; the asset and what was sent."""
    source = capture(object, mode, kinds=("texture", *settings.get("maps", ())))
    asset = Asset(request(mode, **settings), object, source)
    asset.apply(answer(source, **news(source, *settings.get("maps", ()))))
    return asset, source.arrays


def news(source: Any, *maps: str, base: int = 100) -> dict[str, np.ndarray]:
    made = {}
    for slot in range(len(source.slots)):
        made[f"texture.{slot}"] = np.full((SIZE, SIZE, 3), base + slot, np.uint8)
        made |= {
            f"{kind}.{slot}": np.full((SIZE, SIZE, *(3,) * (kind == "normal")), base + 50 + slot, np.uint8)
            for kind in maps
        }
    return made


def shown(made: Any, kind: str = "texture") -> int:
    return int(materials.pixels_of(materials.image_of(made, kind))[0, 0, 0])


def test_a_material_in_two_slots_is_one_texture() -> None:
    wood, metal = material("Wood", picture("wood", 9)), material("Metal")
    object = cube(metal, wood, metal, wood)
    asset, sent = paint(object)
    assert asset.source.slots == [(0, 1001), (1, 1001)] and set(sent["slots"]) == {0, 1}
    assert [slot.material for slot in object.material_slots] == [metal, wood, metal, wood]
    assert (shown(metal), shown(wood)) == (100, 101)
    assert not asset.edited() and not asset.edited()


def test_a_material_that_others_have_is_copied_once() -> None:
    wood = material("Wood", picture("wood", 9))
    other, object = cube(wood), cube(wood, wood)
    asset, _ = paint(object)
    own = object.material_slots[0].material
    assert own == object.material_slots[1].material != wood and other.material_slots[0].material == wood
    assert shown(wood) == 9 and shown(own) == 100 and not asset.edited()
    assert [note for note in asset.source.notes if "other objects" in note]


def test_one_image_behind_two_sockets_becomes_two() -> None:
    image = picture("wood", 9)
    wood = material("Wood", image)
    output = image_node(wood).outputs["Color"]
    for name in ("Roughness", "Emission Color"):
        wood.node_tree.links.new(output, shader(wood).inputs[name])
    asset, sent = paint(cube(wood), maps=["roughness"])
    assert {"texture.0", "roughness.0"} <= sent.keys()
    assert (shown(wood), shown(wood, "roughness")) == (100, 150)
    assert shader(wood).inputs["Emission Color"].links[0].from_node.image == image
    assert not asset.edited()
    asset.apply(answer(asset.source, **news(asset.source, "roughness", base=60)))
    assert (shown(wood), shown(wood, "roughness")) == (60, 110) and not asset.edited()


def test_materials_that_share_an_image_get_their_own() -> None:
    image = picture("atlas", 9)
    one, two = material("One", image), material("Two", image)
    asset, sent = paint(cube(one, two))
    assert (shown(one), shown(two)) == (100, 101) and not asset.edited()
    assert materials.pixels_of(image)[0, 0, 0] == 9
    # A copy that the artist makes meanwhile shares an image of ours.
    image_node(two).image = image_node(one).image
    assert asset.edited()
    asset.edit("")
    asset.apply(answer(asset.source, **news(asset.source, base=60)))
    assert (shown(one), shown(two)) == (60, 61) and not asset.edited()


def test_maps_that_were_not_asked_for_stay() -> None:
    wood = material("Wood", picture("wood", 9))
    rough = node(wood.node_tree, "TexImage", image=picture("rough", 77, "Non-Color"))
    wood.node_tree.links.new(rough.outputs["Color"], shader(wood).inputs["Roughness"])
    asset, sent = paint(cube(wood))
    assert "roughness.0" in sent
    asset.apply(answer(asset.source, **news(asset.source, "roughness", base=60)))
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
    asset, sent = paint(cube(wood), maps=["roughness"])
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
    asset, sent = paint(cube(wood))
    assert (sent["texture.0"][..., 0] == 9).all() and shown(wood) == 100
    assert mix.outputs[2].links and mix.inputs[6].links[0].from_node == image_node(wood)
    assert any("'Mix'" in note for note in asset.source.notes)
    mix.mute = True  # then it changes nothing
    assert not capture(bpy.context.object, "texture").notes


def test_two_images_before_one_socket_are_left_out_and_that_is_said() -> None:
    wood = material("Wood", picture("wood", 9))
    mix = mixed(wood, picture("dirt", 5))
    asset, sent = paint(cube(wood))
    assert "texture.0" not in sent and shown(wood) == 100
    assert mix.name in wood.node_tree.nodes and "left out" in asset.source.notes[0]


def test_a_shader_without_a_base_colour_is_replaced_and_that_is_said() -> None:
    wood = material("Wood")
    tree = wood.node_tree
    glass = node(tree, "BsdfGlass")
    tree.links.new(glass.outputs[0], tree.get_output_node("ALL").inputs["Surface"])
    asset, _ = paint(cube(wood))
    assert shown(wood) == 100 and "'Glass BSDF'" in asset.source.notes[0]
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
    asset, sent = paint(cube(flat), maps=["roughness"])
    assert (sent["texture.0"][..., 0] == 9).all() and shown(flat) == 100
    assert image_node(flat).outputs["Color"].links[0].to_node == light
    assert ["roughness" in note and "left out" in note for note in asset.source.notes] == [True]


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
    asset, sent = paint(cube(one), maps=["roughness"])
    assert (sent["texture.0"][..., 0] == 9).all()
    assert (shown(one), shown(one, "roughness"), shown(two)) == (100, 150, 9) and not asset.edited()
    group = one.node_tree.nodes["Group"]
    assert group.inputs["Rough"].links[0].from_node.type == "TEX_IMAGE" and group.node_tree != tree
    assert not asset.source.notes


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
    pixels = materials.read(image).reshape(SIZE, SIZE, 4)
    pixels[:, :3, 3] = 0
    image.pixels.foreach_set(pixels.ravel())
    image.alpha_mode = "CHANNEL_PACKED"
    leaf = material("Leaf", image)
    leaf.node_tree.links.new(image_node(leaf).outputs["Alpha"], shader(leaf).inputs["Alpha"])
    asset, _ = paint(cube(leaf))
    new = materials.image_of(leaf, "texture")
    assert new != image and shader(leaf).inputs["Alpha"].links[0].from_node.image == new
    assert new.alpha_mode == "CHANNEL_PACKED" and not asset.edited()
    expected = np.full((SIZE, SIZE), 255)
    expected[:, :3] = 0
    np.testing.assert_array_equal(materials.pixels_of(new)[..., 3], expected)
    pixels = materials.read(new).reshape(SIZE, SIZE, 4)
    pixels[0, 7, 3] = expected[0, 7] = 0  # the artist cuts a hole
    new.pixels.foreach_set(pixels.ravel())
    assert asset.edited()
    assert asset.edit("")["frozen.0"].sum() == 1
    asset.apply(answer(asset.source, **news(asset.source, base=60)))
    np.testing.assert_array_equal(materials.pixels_of(new)[..., 3], expected)
    assert shown(leaf) == 60 and not asset.edited()


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


# Coordinates.


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
    asset, sent = paint(object, maps=["roughness"])
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
    with pytest.raises(Unfit, match=words) as refused:
        capture(object, "texture")
    assert "Wood" in str(refused.value)
    source = capture(object, "refine")  # the shape can still be worked on
    assert "uvs" not in source.arrays and "textures stay as they are" in source.notes[0]


def test_a_map_at_other_coordinates_is_left_out_and_that_is_said() -> None:
    wood = material("Wood", picture("wood", 9))
    rough = node(wood.node_tree, "TexImage", image=picture("rough", 77), projection="BOX")
    wood.node_tree.links.new(rough.outputs["Color"], shader(wood).inputs["Roughness"])
    asset, sent = paint(cube(wood), maps=["roughness"])
    assert "roughness.0" not in sent and shown(wood, "roughness") == 150 and rough.image.name == "rough"
    assert ["other coordinates" in note for note in asset.source.notes] == [True]


# Edits.


def test_the_same_texels_stored_otherwise_are_no_edit() -> None:
    wood = material("Wood", picture("wood", 9))
    asset, _ = paint(cube(wood))
    image = materials.image_of(wood, "texture")
    image.pixels.foreach_set(materials.read(image) + np.float32(1e-4))
    assert not asset.edited()
    image.pack()
    image.reload()
    assert not asset.edited()


def test_another_image_is_one_edit() -> None:
    wood = material("Wood", picture("wood", 9))
    asset, _ = paint(cube(wood))
    image_node(wood).image = picture("mine", 33)
    assert asset.edited()
    assert (asset.edit("")["texture.0"][..., 0] == 33).all()
    assert not asset.edited()
    asset.apply(answer(asset.source, **news(asset.source, base=60)))
    assert shown(wood) == 60 and bpy.data.images["mine"].users == 0 and not asset.edited()


def test_a_change_that_is_refused_can_be_given_up() -> None:
    wood = material("Wood", picture("wood", 9))
    asset, _ = paint(cube(wood))
    image_node(wood).image, image_node(wood).projection = picture("mine", 33), "BOX"
    assert asset.edited()
    with pytest.raises(Unfit, match="Box projection"):
        asset.edit("")
    asset.overwrite()
    asset.apply(answer(asset.source, **news(asset.source, base=60)))
    assert shown(wood) == 60 and not asset.edited()
    assert shader(wood).inputs["Base Color"].links[0].from_node.projection == "FLAT"


def test_painted_texels_stay_with_their_material() -> None:
    wood, metal = material("Wood", picture("wood", 9)), material("Metal", picture("metal", 8))
    object = cube(wood, metal)
    asset, _ = paint(object)
    image = materials.image_of(metal, "texture")
    pixels = materials.read(image)
    pixels[:8] = 1
    image.pixels.foreach_set(pixels)
    object.data.polygons.foreach_set("material_index", [1] * 6)  # now the first slot is the metal's
    assert asset.edited()
    arrays = asset.edit("")
    assert asset.source.slots == [(1, 1001)] and arrays["frozen.0"].sum() == 2


# What belongs to a library.


def linked(folder: Path, object: Any, *kinds: str) -> Any:
    path = str(folder / "lib.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    name = object.name
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    with bpy.data.libraries.load(path, link=True) as (_, wanted):
        wanted.objects = [name]
    bpy.context.scene.collection.objects.link(wanted.objects[0])
    bpy.context.view_layer.objects.active = wanted.objects[0]
    return wanted.objects[0]


def test_what_a_library_has_is_refused_before_the_job(tmp_path: Path) -> None:
    object = linked(tmp_path, cube(material("Wood", picture("wood", 9))))
    for mode in ("texture", "refine"):
        with pytest.raises(Unfit, match="linked from lib.blend: make it local"):
            capture(object, mode)
    object.select_set(True)
    assert "make it local" in why_not(bpy.context)
    override = object.override_create()
    with pytest.raises(Unfit, match="make it local"):
        capture(override, "texture")


def test_a_librarys_material_is_painted_as_a_copy(tmp_path: Path) -> None:
    image = picture("wood", 9)
    image.pack()
    object = linked(tmp_path, cube(material("Wood", image)))
    wood, mesh = object.material_slots[0].material, object.data.copy()
    own = bpy.data.objects.new("own", mesh)
    bpy.context.scene.collection.objects.link(own)
    asset, sent = paint(own)
    assert wood.library and (sent["texture.0"][..., 0] == 9).all() and shown(wood) == 9
    assert not own.material_slots[0].material.library and shown(own.material_slots[0].material) == 100
    assert any("library" in note for note in asset.source.notes) and not asset.edited()


@pytest.mark.parametrize("scale", [1e-3, 5e-4, 1e-7])
def test_a_small_scale_is_taken(scale: float) -> None:
    object = cube()
    object.scale = (scale,) * 3
    bpy.context.view_layer.update()
    arrays = capture(object, "texture").arrays
    np.testing.assert_allclose(np.ptp(arrays["positions"], axis=0), 2 * scale, rtol=1e-5)


def test_vertices_that_the_server_leaves_keep_their_bits() -> None:
    object = cube()
    object.rotation_euler, object.scale = (0.3, 0.2, 0.1), (0.7, 0.7, 1.3)
    bpy.context.view_layer.update()
    before = np.array([vertex.co for vertex in object.data.vertices])
    source = capture(object, "refine")
    asset = Asset(request("refine"), object, source)
    moved = source.arrays["positions"].copy()
    moved[0] += 1
    asset.apply(answer(source, positions=moved))
    after = np.array([vertex.co for vertex in object.data.vertices])
    np.testing.assert_array_equal(after[1:], before[1:])
    assert np.abs(after[0] - before[0]).max() > 0.1 and not asset.edited()
