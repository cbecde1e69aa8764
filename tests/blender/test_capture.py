# SPDX-License-Identifier: GPL-3.0-or-later
"""A mesh on its way to the server and back."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from msd_blender import materials
from msd_blender.capture import capture, capture_problem, read_positions
from msd_blender.errors import InvalidMeshError
from msd_blender.protocol import Snapshot, decode_snapshot, encode_snapshot
from msd_blender.scene_object import SceneObject
from tests.blender.helpers import answer, artist_state, request
from tests.blender.snapshots import grid

pytestmark = pytest.mark.usefixtures("empty_scene")


def cube() -> bpy.types.Object:
    """The artist's: six quads, UVs, a material, a bevel, a vertex group."""
    bpy.ops.mesh.primitive_cube_add()
    object = bpy.context.object
    object.data.materials.append(bpy.data.materials.new("paint"))
    object.modifiers.new("Bevel", "BEVEL")
    object.vertex_groups.new(name="lock").add([0, 1, 2, 3], 1.0, "REPLACE")
    object["mine"] = 7
    return object


def test_a_cube_as_arrays() -> None:
    object = cube()
    object.rotation_euler, object.location = (0, 0, np.pi / 2), (5, 0, 0)
    object.scale = (2, 1, 1)
    bpy.context.view_layer.update()
    captured = capture(object, "refine", "lock")
    arrays = decode_snapshot(encode_snapshot(Snapshot(1, 1, captured.arrays))[8:]).arrays
    assert arrays["faces"].shape == (12, 3) and arrays["uvs"].shape == (12, 3, 2)
    np.testing.assert_allclose(np.ptp(arrays["positions"], axis=0), (2, 4, 2), atol=1e-5)  # turned, not moved
    assert arrays["locked"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert captured.slots == [(0, 1001)] and not arrays["slots"].any()
    # Locked faces keep the colour of the material's nodes, which every new material has since Blender 5.0.
    assert ("texture.0" in arrays) == (object.data.materials[0].node_tree is not None)


def test_outward_stays_outward_where_the_scale_mirrors() -> None:
    object = cube()
    object.scale = (-1, 1, 2)
    bpy.context.view_layer.update()
    captured = capture(object, "refine")
    corners = captured.arrays["positions"][captured.arrays["faces"]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normals * corners.mean(1)).sum(1) > 0).all()
    scene_object = SceneObject(request("refine"), object, captured)
    before = read_positions(object.data)
    scene_object.apply(answer(captured, positions=captured.arrays["positions"] * np.float32(2)))
    np.testing.assert_allclose(read_positions(object.data), before * 2, atol=1e-5)


def test_texture_writes_images_and_nothing_else() -> None:
    object = cube()
    before = artist_state(object)
    captured = capture(object, "texture")
    scene_object = SceneObject(request("texture", maps=["roughness", "metallic", "normal"]), object, captured)
    maps = {
        "texture.0": np.full((8, 8, 3), (10, 200, 30), np.uint8),
        "roughness.0": np.full((8, 8), 51, np.uint8),
        "metallic.0": np.full((8, 8), 255, np.uint8),
        "normal.0": np.full((8, 8, 3), (128, 128, 255), np.uint8),
    }
    scene_object.apply(answer(captured, positions=captured.arrays["positions"] + np.float32(1), **maps))
    scene_object.finalize(job="j", state="finished")
    assert artist_state(object) == before
    material = object.data.materials[0]
    for kind, space in (
        ("texture", "sRGB"),
        ("roughness", "Non-Color"),
        ("metallic", "Non-Color"),
        ("normal", "Non-Color"),
    ):
        image = materials.image_of(material, kind)
        assert image.packed_file and image.colorspace_settings.name == space
        shown = materials.read_tile(image)
        expected = maps[f"{kind}.0"]
        flat = expected if expected.ndim == 3 else expected[..., None]
        np.testing.assert_array_equal(shown[..., :3], np.broadcast_to(flat, (8, 8, 3)))
    assert materials.ensure_principled(material).inputs["Normal"].links[0].from_node.type == "NORMAL_MAP"


def test_refine_moves_vertices_and_keeps_the_quads() -> None:
    object = cube()
    captured = capture(object, "refine", "lock")
    scene_object = SceneObject(request("refine"), object, captured)
    moved = captured.arrays["positions"] * np.float32(1.5)
    scene_object.apply(answer(captured, positions=moved))
    np.testing.assert_allclose(read_positions(object.data), moved)
    assert len(object.data.polygons) == 6 and artist_state(object)[3:] == (["Bevel"], ["lock"], 7, ["paint"])


def test_remesh_carries_over_what_the_artist_made() -> None:
    object = cube()
    layer = object.data.uv_layers.new(name="mine")
    layer.uv.foreach_set("vector", np.full(48, 0.25, np.float32))
    object.data.attributes.new("heat", "FLOAT", "POINT").data.foreach_set("value", np.full(8, 3.0, np.float32))
    captured = capture(object, "refine")
    scene_object = SceneObject(request("refine", remesh=True), object, captured)
    scene_object.apply(grid(9))
    mesh = object.data
    assert len(mesh.vertices) == 81 and len(mesh.polygons) == 128
    assert {layer.name for layer in mesh.uv_layers} >= {"mine"} and mesh.attributes["heat"].data[80].value == 3
    assert mesh.uv_layers["mine"].uv[0].vector[0] == 0.25
    assert [group.name for group in object.vertex_groups] == ["lock"] and object["mine"] == 7
    assert object.modifiers[0].name == "Bevel" and object.data.materials[0].name == "paint"


def test_slots_are_materials_and_tiles_there_and_back() -> None:
    object = cube()
    mesh = object.data
    paint, metal = mesh.materials[0], bpy.data.materials.new("metal")
    mesh.materials.append(metal)
    mesh.polygons.foreach_set("material_index", [0, 0, 0, 0, 1, 1])
    tiles = {1001: np.full((8, 8, 3), 90, np.uint8), 1002: np.full((4, 4, 3), 160, np.uint8)}
    materials.assign_image(paint, "texture", materials.new_tiled_image("tiles", "texture", tiles), "UVMap")
    flat = np.full((24, 2), 0.5, np.float32)
    flat[4:8, 0] = 1.5  # the second face, in the second tile
    flat[20:, 0] = 3.5  # where the image repeats, that is the first
    mesh.uv_layers.active.uv.foreach_set("vector", flat.ravel())
    captured = capture(object, "texture")
    assert captured.slots == [(0, 1001), (0, 1002), (1, 1001)]
    assert captured.arrays["texture.0"].shape == (8, 8, 3) and captured.arrays["texture.1"][0, 0, 0] == 160
    assert (captured.arrays["uvs"] == 0.5).all() and np.bincount(captured.arrays["slots"]).tolist() == [6, 2, 4]

    scene_object = SceneObject(request("texture"), object, captured)
    new = {f"texture.{i}": np.full((8, 8, 3), 20 * (i + 1), np.uint8) for i in range(3)}
    scene_object.apply(answer(captured, **new))
    scene_object.finalize(job="j")
    image = materials.image_of(paint, "texture")
    assert image.name != "tiles" and bpy.data.images["tiles"].source == "TILED"  # the artist's own is there yet
    assert [materials.read_tile(image, tile)[0, 0, 0] for tile in (1001, 1002)] == [20, 40]
    assert materials.read_tile(materials.image_of(metal, "texture"))[0, 0, 0] == 60


def test_a_material_that_others_have_is_copied_first() -> None:
    object = cube()
    other = bpy.data.objects.new("other", object.data.copy())
    bpy.context.collection.objects.link(other)
    captured = capture(object, "texture")
    SceneObject(request("texture"), object, captured).apply(
        answer(captured, **{"texture.0": np.zeros((8, 8, 3), np.uint8)})
    )
    assert materials.image_of(other.data.materials[0], "texture") is None
    assert materials.image_of(object.data.materials[0], "texture") is not None


def test_what_does_not_fit_is_one_sentence() -> None:
    object = cube()
    with pytest.raises(InvalidMeshError, match="no vertex group 'none'"):
        capture(object, "refine", "none")
    object.data.uv_layers.active.uv[0].vector = (1.4, 0.5)
    with pytest.raises(InvalidMeshError, match="cross the border of a tile"):
        capture(object, "texture")
    object.data.uv_layers.remove(object.data.uv_layers.active)
    with pytest.raises(InvalidMeshError, match="no UV map"):
        capture(object, "texture")
    assert "uvs" not in capture(object, "refine").arrays
    object.shape_key_add(name="Basis")
    with pytest.raises(InvalidMeshError, match="shape keys"):
        capture(object, "refine")
    object.scale = (0, 1, 1)
    bpy.context.view_layer.update()
    with pytest.raises(InvalidMeshError, match="scaled to nothing"):
        capture(object)
    bpy.ops.object.mode_set(mode="EDIT")
    with pytest.raises(InvalidMeshError, match="Edit Mode"):
        capture(object)
    assert "Edit Mode" in capture_problem(bpy.context)
    bpy.ops.object.mode_set(mode="OBJECT")
    bpy.ops.mesh.primitive_cube_add()
    object.select_set(True)
    assert capture_problem(bpy.context) == ""  # a job for each
    other = bpy.context.object
    other.data = object.data
    assert "have one mesh" in capture_problem(bpy.context)
    bpy.context.object.data.clear_geometry()
    object.select_set(False)
    assert "no faces" in capture_problem(bpy.context)
    with pytest.raises(InvalidMeshError, match="no faces"):
        capture(bpy.context.object)
    bpy.ops.object.empty_add()
    assert "Select a mesh" in capture_problem(bpy.context)


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
    captured = capture(object, "refine")
    scene_object = SceneObject(request("refine"), object, captured)
    moved = captured.arrays["positions"].copy()
    moved[0] += 1
    scene_object.apply(answer(captured, positions=moved))
    after = np.array([vertex.co for vertex in object.data.vertices])
    np.testing.assert_array_equal(after[1:], before[1:])
    assert np.abs(after[0] - before[0]).max() > 0.1 and not scene_object.has_edits()
