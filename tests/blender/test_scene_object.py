# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
import pytest

from msd_blender.errors import ObjectDeletedError
from msd_blender.output import add_camera_and_light
from msd_blender.protocol import JobRequest, ProtocolError, Snapshot
from msd_blender.scene_object import SceneObject
from tests.blender.snapshots import cube, grid

pytestmark = pytest.mark.usefixtures("empty_scene")


def new_object(**settings: object) -> SceneObject:
    return SceneObject(JobRequest("a red\n mushroom", **settings))  # type: ignore[arg-type]


def positions(mesh: bpy.types.Mesh) -> np.ndarray:
    values = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.attributes["position"].data.foreach_get("vector", values)
    return values.reshape(-1, 3)


def test_mesh_is_the_snapshot() -> None:
    made = new_object()
    assert made.apply(cube())
    mesh = made.object.data
    np.testing.assert_array_equal(positions(mesh), cube().arrays["positions"])
    assert [tuple(p.vertices) for p in mesh.polygons] == [tuple(f) for f in cube().arrays["faces"].tolist()]
    assert len(mesh.edges) == 18 and not mesh.validate()
    middle = positions(mesh).mean(0)
    assert all(p.normal.dot(p.center) > p.normal.dot(middle) for p in mesh.polygons)  # outward
    assert all(p.use_smooth for p in mesh.polygons)
    colour = mesh.color_attributes.active_color
    assert (colour.name, colour.data_type, colour.domain) == ("Color", "BYTE_COLOR", "POINT")
    np.testing.assert_allclose(np.array(colour.data[0].color_srgb) * 255, (200, 40, 30, 255), atol=0.51)
    assert made.object.name == "a red mushroom"


def test_only_what_changed_is_written() -> None:
    made = new_object()
    made.apply(cube())
    made.object.data.vertices[0].select = False  # lost when the mesh is rebuilt
    before = made.object.data.as_pointer(), made.object.data.polygons[0].as_pointer()
    made.apply(cube(2, half=3.0))
    np.testing.assert_array_equal(positions(made.object.data), cube(half=3.0).arrays["positions"])
    assert not made.object.data.vertices[0].select
    assert (made.object.data.as_pointer(), made.object.data.polygons[0].as_pointer()) == before


def test_what_the_artist_added_survives_a_new_topology() -> None:
    made = new_object()
    made.apply(grid(9))
    object = made.object
    group = object.vertex_groups.new(name="lock")
    left = [i for i, co in enumerate(positions(object.data)) if co[0] <= 0.5]
    group.add(left, 0.75, "REPLACE")
    object.vertex_groups.new(name="empty")
    own = bpy.data.materials.new("own")
    object.data.materials.append(own)
    object.modifiers.new("Bevel", "BEVEL")
    object["note"] = object.data["note"] = "mine"

    made.apply(grid(21, 2))
    object = made.object
    assert len(object.data.vertices) == 21 * 21
    assert [g.name for g in object.vertex_groups] == ["lock", "empty"]
    weights = {v.index: v.groups[0].weight for v in object.data.vertices if v.groups}
    for index, co in enumerate(positions(object.data)):
        if abs(co[0] - 0.5625) > 0.01:  # half-way between two old vertices: either is right
            assert (index in weights) == (co[0] < 0.5625)
    assert set(weights.values()) == {0.75}
    assert [m.name for m in object.data.materials] == ["a red mushroom", "own"]
    assert object.modifiers[0].name == "Bevel" and object["note"] == object.data["note"] == "mine"


def test_settings_are_on_the_object() -> None:
    made = new_object(seed=2**62, negative_prompt="blue", iterations=7)
    assert {name: made.object["msd_" + name] for name in ("prompt", "negative_prompt", "seed", "iterations")} == {
        "prompt": "a red\n mushroom",
        "negative_prompt": "blue",
        "seed": str(2**62),
        "iterations": 7,
    }
    assert made.object["msd_guidance"] == "msd" and "blender" in made.object["msd_versions"]
    assert "msd_guidance_scale" not in made.object


def test_edit_mode_is_left_alone() -> None:
    made = new_object()
    made.apply(cube())
    bpy.context.view_layer.objects.active = made.object
    bpy.ops.object.mode_set(mode="EDIT")
    assert not made.apply(grid(5, 2))
    bpy.ops.object.mode_set(mode="OBJECT")
    assert len(made.object.data.vertices) == 8
    assert made.apply(grid(5, 2))
    assert len(made.object.data.vertices) == 25


def test_state_that_undo_brought_back_is_written_over() -> None:
    made = new_object()
    made.apply(cube(1))
    bpy.context.view_layer.update()
    bpy.ops.ed.undo_push(message="one")
    made.apply(cube(2, half=2.0))
    bpy.ops.ed.undo_push(message="two")
    bpy.ops.ed.undo()
    assert positions(made.object.data).max() == 2  # the first state
    made.apply(Snapshot(3, 3, cube(2, half=2.0).arrays))
    assert positions(made.object.data).max() == 4


def test_deleted_object_is_gone() -> None:
    made = new_object()
    made.apply(cube())
    bpy.data.objects.remove(made.object)
    with pytest.raises(ObjectDeletedError, match="deleted"):
        made.apply(cube(2))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"faces": np.array([[0, 1, 8]], np.int32)}, "do not exist"),
        ({"faces": np.array([[0, 1, -1]], np.int32)}, "do not exist"),
        ({"faces": np.array([[0, 1, 1]], np.int32)}, "twice"),
        ({"positions": np.full((8, 3), np.nan, np.float32)}, "finite"),
        ({"colours": np.zeros((7, 3), np.uint8)}, "7 colours"),
    ],
)
def test_arrays_that_would_end_blender_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    made = new_object()
    with pytest.raises(ProtocolError, match=message):
        made.apply(Snapshot(1, 1, {**cube().arrays, **change}))


def render(object: bpy.types.Object, folder: Path) -> np.ndarray:
    """(32, 32, 3) sRGB in [0, 1] of the object under white light only, without its gloss: the base colour."""
    scene = bpy.context.scene
    shader = object.data.materials[0].node_tree.nodes["Principled BSDF"]
    shader.inputs["Specular IOR Level"].default_value = 0
    add_camera_and_light(object)
    bpy.data.objects["Sun"].hide_render = True
    scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.max_bounces = 16, False, 0
    scene.render.resolution_x = scene.render.resolution_y = 32
    scene.render.filepath = str(folder / "render.png")
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(scene.render.filepath)
    pixels = np.empty(32 * 32 * 4, np.float32)
    image.pixels.foreach_get(pixels)
    return pixels.reshape(32, 32, 4)[..., :3]


def test_colours_render(tmp_path: Path) -> None:
    made = new_object()
    made.apply(cube(colour=(200, 40, 30)))
    centre = render(made.object, tmp_path)[14:18, 14:18].mean((0, 1)) * 255
    np.testing.assert_allclose(centre, (200, 40, 30), atol=12)


def test_texture_renders_and_is_packed(tmp_path: Path) -> None:
    made = new_object()
    first = cube(colour=(200, 40, 30))
    made.apply(first)
    texture = np.zeros((8, 8, 3), np.uint8)
    texture[:4] = (20, 60, 210)  # the lower half
    uvs = np.full((12, 3, 2), (0.5, 0.25), np.float32)
    made.apply(Snapshot(2, 2, {**first.arrays, "uvs": uvs, "texture.0": texture}))
    made.finalize(job="j")
    image = bpy.data.images["a red mushroom"]
    assert image.packed_file and image.colorspace_settings.name == "sRGB" and tuple(image.size) == (8, 8)
    centre = render(made.object, tmp_path)[14:18, 14:18].mean((0, 1)) * 255
    np.testing.assert_allclose(centre, (20, 60, 210), atol=12)
    assert made.object["msd_job"] == "j"
