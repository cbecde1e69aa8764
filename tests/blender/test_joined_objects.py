# SPDX-License-Identifier: GPL-3.0-or-later
"""Several objects that one job works on: what is sent is their meshes as they stand, and each gets its own back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import pytest

from msd_blender import history, jobs, panels
from msd_blender.capture import CapturedMesh, read_positions
from msd_blender.errors import InvalidMeshError
from msd_blender.joined_objects import JoinedObjects, capture_all, join, split
from msd_blender.live_job import find_live_job_on, running_jobs
from msd_blender.local_server import LocalServer
from msd_blender.protocol import CANCELLED, FINISHED, MAX_SLOTS, PAUSED, RUNNING, JobRequest, ProtocolError, Snapshot
from tests.blender.helpers import finish_jobs, request, update_until
from tests.blender.node_trees import cube, material, new_textures, picture, shown
from tests.blender.test_panel import drawn, records, said, settings


def boxes(*shared: Any) -> list[Any]:
    """Three: as it is, turned and mirrored; two materials, one of them shared, and a vertex group on the last."""
    made = [cube(material("Wood", picture("wood", 9)), *shared), cube(*shared), cube(material("Tin"))]
    made[1].location, made[1].rotation_euler = (3, 0.1, 0), (0.3, 0.2, 0.1)
    made[2].location, made[2].scale = (-3, 0, 1), (-1, 2, 1)
    made[2].vertex_groups.new(name="lid").add([0, 1, 2], 1, "REPLACE")
    bpy.context.view_layer.update()
    return made


def joined(
    objects: list[Any], mode: str = "texture", lock: str = "", **settings: Any
) -> tuple[JoinedObjects, dict[str, np.ndarray]]:
    captured = capture_all(objects, mode, lock, ("texture", *settings.get("maps", ())))
    return JoinedObjects(request(mode, **settings), objects, captured), join(captured)


def answered(sent: dict[str, np.ndarray], **arrays: np.ndarray) -> Snapshot:
    return Snapshot(1, 1, {name: sent[name] for name in ("positions", "faces", "uvs", "slots")} | arrays)


def world_positions(object: Any) -> np.ndarray:
    return read_positions(object.data) @ np.array(object.matrix_world.to_3x3()).T + np.array(object.location)


def values(objects: list[Any]) -> list[list[int]]:
    return [[shown(slot.material) for slot in object.material_slots] for object in objects]


def reopened(path: Path) -> None:
    for image in bpy.data.images:
        if image.has_data and image.is_dirty:  # else Blender does not save its pixels
            image.pack()
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    bpy.ops.wm.open_mainfile(filepath=str(path))


def select(objects: list[Any]) -> None:
    bpy.ops.object.select_all(action="DESELECT")
    assert history.select(*objects)


@pytest.mark.usefixtures("empty_scene")
def test_what_is_sent_is_the_meshes_as_they_stand() -> None:
    objects = boxes(material("Oak", picture("oak", 20)))
    sent = join(capture_all(objects, "texture", "lid"))
    np.testing.assert_allclose(
        sent["positions"], np.concatenate([world_positions(each) for each in objects]), atol=1e-6
    )
    assert sent["locked"].tolist() == [0] * 16 + [1, 1, 1] + [0] * 5
    assert [set(part) for part in np.split(sent["slots"], 3)] == [{0, 1}, {2}, {3}]
    assert {name: int(sent[name][0, 0, 0]) for name in ("texture.0", "texture.1", "texture.2")} == {
        "texture.0": 9, "texture.1": 20, "texture.2": 20
    }  # fmt: skip
    a, b, c = sent["positions"][sent["faces"]].transpose(1, 0, 2)
    volume = np.einsum("ij,ij->", a, np.cross(b, c)) / 6
    assert volume == pytest.approx(8 + 8 + 16, rel=1e-5)  # every face shows outward, also where an object is mirrored


@pytest.mark.usefixtures("empty_scene")
@pytest.mark.parametrize("seed", range(5))
def test_each_gets_its_own_back_bit_for_bit(seed: int) -> None:
    draw = np.random.default_rng(seed)
    objects = boxes(material("Oak", picture("oak", 20)))
    for object in objects:
        object.location, object.rotation_euler = draw.normal(0, 100, 3), draw.uniform(-math.pi, math.pi, 3)
        object.scale = draw.choice([-1, 1], 3) * draw.uniform(0.01, 10, 3)
    bpy.context.view_layer.update()
    captured = capture_all(objects, "texture", "lid")
    parts = split(join(captured), captured)
    for part, each in zip(parts, captured, strict=True):
        assert part.keys() == each.arrays.keys() - {"locked"}
        for name, array in part.items():
            np.testing.assert_array_equal(array, each.arrays[name])


@pytest.mark.usefixtures("empty_scene")
def test_each_shows_its_own_textures_and_keeps_its_mesh() -> None:
    objects = boxes(material("Oak", picture("oak", 20)))
    before = [read_positions(object.data) for object in objects]
    both, sent = joined(objects)
    slots = CapturedMesh(slots=[(0, 1001)] * 4)
    assert both.apply(answered(sent, **new_textures(slots)))
    assert values(objects) == [[100, 101], [102], [103]]
    for object, positions in zip(objects, before):
        np.testing.assert_array_equal(read_positions(object.data), positions)
    assert not both.has_edits() and not both.has_edits()
    snapshot = answered(sent, **new_textures(slots, base=60))
    assert not both.has_edits(snapshot) and both.apply(snapshot)
    assert values(objects) == [[60, 61], [62], [63]]


@pytest.mark.usefixtures("empty_scene")
def test_moved_vertices_move_in_each_objects_own_axes() -> None:
    objects = boxes()
    expected = [world_positions(object) + (0, 0, 0.25) for object in objects]
    expected[0] -= (0, 0, 0.25)  # the first one stays
    kept = read_positions(objects[0].data)
    both, sent = joined(objects, "refine")
    moved = sent["positions"].copy()
    moved[8:, 2] += 0.25
    assert both.apply(answered(sent, positions=moved))
    for object, positions in zip(objects, expected):
        np.testing.assert_allclose(world_positions(object), positions, atol=1e-5)
    np.testing.assert_array_equal(read_positions(objects[0].data), kept)
    assert not both.has_edits()


@pytest.mark.usefixtures("empty_scene")
def test_an_edit_of_one_is_sent_in_its_place() -> None:
    objects = boxes()
    both, sent = joined(objects)
    both.apply(answered(sent, **new_textures(CapturedMesh(slots=[(0, 1001)] * 3))))
    image = objects[2].material_slots[0].material.node_tree.nodes.active.image
    image.pixels[:4] = (1, 0, 0, 1)
    image.update()
    assert both.has_edits()
    arrays = both.capture_edits("lid")
    assert arrays["frozen.2"].sum() == 1 and "frozen.0" not in arrays and arrays["locked"].sum() == 3
    objects[1].data.vertices[0].co.x += 1
    assert both.has_edits()
    moved = np.abs(both.capture_edits("")["positions"] - sent["positions"]).max(1)
    assert np.flatnonzero(moved > 0.1).tolist() == [8]
    objects[0].location.x += 1  # an object that is moved is no edit, as with one object
    bpy.context.view_layer.update()
    assert not both.has_edits()


@pytest.mark.usefixtures("empty_scene")
def test_nothing_is_shown_while_one_of_them_is_edited() -> None:
    objects = boxes()
    both, sent = joined(objects)
    select(objects[1:2])
    bpy.ops.object.mode_set(mode="EDIT")
    assert both.is_being_edited and not both.apply(answered(sent, **new_textures(CapturedMesh(slots=[(0, 1001)] * 3))))
    bpy.ops.object.mode_set(mode="OBJECT")
    assert values(objects[:1]) == [[9]]


@pytest.mark.usefixtures("empty_scene")
def test_what_cannot_be_joined_says_why() -> None:
    objects = boxes()
    with pytest.raises(InvalidMeshError, match="No selected object has a vertex group 'hat'"):
        capture_all(objects, "texture", "hat")
    captured = capture_all(objects, "texture")
    sent = join(captured)
    for wrong in ({"positions": sent["positions"][1:]}, {"faces": sent["faces"][1:]}, {"uvs": sent["uvs"][1:]}):
        with pytest.raises(ProtocolError):
            split({**sent, **wrong}, captured)
    captured[0].slots *= MAX_SLOTS
    with pytest.raises(InvalidMeshError, match=f"have {MAX_SLOTS + 2} textures together: select fewer"):
        join(captured)
    objects[1].data.uv_layers.remove(objects[1].data.uv_layers[0])
    with pytest.raises(InvalidMeshError, match="has no UV map: unwrap it"):
        capture_all(objects, "texture")
    assert "uvs" not in join(capture_all(objects, "refine"))  # then only their shape is refined


def test_one_job_paints_the_selected_meshes(remote: LocalServer, tiny: dict[str, Any], tmp_path: Path) -> None:
    objects = boxes(material("Oak", picture("oak", 20)))
    names = {material.name for material in bpy.data.materials}
    before = values(objects[:2])
    select(objects)
    settings().mode = "texture"
    assert "One job for 3 meshes" in said(drawn(panels.MSD_PT_generate))
    given = {**tiny, "iterations": 2, "texture_size": 64}
    assert bpy.ops.msd.generate(mode="texture", prompt="a crate", **given) == {"FINISHED"}
    (record,) = records()
    assert record.state == FINISHED and history.objects_of(record) == objects and record.faces == 18
    assert all(object["msd_prompt"] == "a crate" and object["msd_key"] == record.key for object in objects)
    painted = [[slot.material for slot in object.material_slots] for object in objects]
    assert len({each for made in painted for each in made}) == 4 and values(objects[:2]) != before
    select(objects[:1])
    assert bpy.ops.msd.restore(before=True) == {"FINISHED"}
    assert (
        values(objects[:2]) == before and objects[0].material_slots[1].material == objects[1].material_slots[0].material
    )
    assert {each.name for each in bpy.data.materials if not each.name.startswith(".")} == names
    bpy.data.objects.remove(objects[2])
    assert bpy.ops.msd.restore() == {"FINISHED"}  # the result, and the object that was deleted
    (record,) = records()
    assert len(history.objects_of(record)) == 3 and values(objects[:2]) != before
    reopened(tmp_path / "x.blend")
    (record,) = records()
    assert len(history.objects_of(record)) == 3 and all(part.before and part.result for part in record.parts)
    bpy.ops.msd.again(start=False)
    assert set(bpy.context.selected_objects) == set(history.objects_of(record)) and settings().together
    bpy.ops.msd.discard()
    assert not records() and values([bpy.data.objects[each] for each in ("Cube", "Cube.001")]) == before


def test_a_job_on_several_objects_through_undo_deletion_and_the_file(
    remote: LocalServer, tiny: dict[str, Any], tmp_path: Path
) -> None:
    boxes(material("Oak", picture("oak", 20)))
    bpy.ops.ed.undo_push(message="the boxes")
    objects = list(bpy.context.scene.objects)
    job = JobRequest("a crate", mode="texture", texture_size=64, **{**tiny, "iterations": 3000})
    live_job = jobs.start(job, objects)
    update_until(lambda: live_job.session.update_milliseconds)
    assert all(find_live_job_on(object) is live_job for object in objects)
    bpy.ops.ed.undo()
    jobs.tick()
    (record,) = records()
    assert history.objects_of(record) == live_job.objects == list(bpy.context.scene.objects)
    second = live_job.objects[1]
    copy = second.copy()
    bpy.context.collection.objects.link(copy)
    jobs.tick()
    assert "msd_key" not in copy and second["msd_key"] == record.key
    bpy.data.objects.remove(copy)
    select([second])
    bpy.ops.object.delete()
    bpy.ops.ed.undo_push(message="Delete")
    update_until(lambda: live_job.session.state == PAUSED)
    assert live_job.waits_for_object
    bpy.ops.ed.undo()
    update_until(lambda: live_job.session.state == RUNNING)
    assert len(live_job.objects) == 3 and not live_job.waits_for_object
    reopened(tmp_path / "x.blend")
    (live_job,) = running_jobs
    update_until(lambda: live_job.session.update_milliseconds)
    (record,) = records()
    assert history.objects_of(record) == live_job.objects and len(live_job.objects) == 3
    assert [tuple(part.offset) for part in record.parts] == [tuple(each.offset) for each in live_job.captured]
    live_job.session.cancel()
    finish_jobs()
    (record,) = records()
    assert record.state == CANCELLED and all(part.result for part in record.parts)
    bpy.ops.msd.discard()
    assert values(list(bpy.context.scene.objects)[:2]) == [[9, 20], [20]] and not records()


def test_a_job_each_where_it_is_asked_for_or_topology_changes(remote: LocalServer, tiny: dict[str, Any]) -> None:
    objects = boxes()
    select(objects[:2])
    given = {**tiny, "iterations": 2, "texture_size": 64, "prompt": "a crate"}
    assert bpy.ops.msd.generate(mode="texture", together=False, **given) == {"FINISHED"}
    assert [history.objects_of(record) for record in records()] == [[objects[0]], [objects[1]]]
    assert bpy.ops.msd.generate(mode="refine", remesh=True, **given) == {"FINISHED"}
    assert len(records()) == 4 and not any(len(record.others) for record in records())
    assert bpy.ops.msd.generate(mode="refine", **given) == {"FINISHED"}
    assert history.objects_of(records()[-1]) == objects[:2]
