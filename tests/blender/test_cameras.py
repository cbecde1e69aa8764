# SPDX-License-Identifier: GPL-3.0-or-later
"""The scene's cameras that jobs favour: added by a button, told by their angles, brought back with a job's settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bpy
import pytest
from mathutils import Matrix, Vector

from msd_blender import panels
from msd_blender.local_server import LocalServer
from msd_blender.properties import RequestProperties
from msd_blender.protocol import MAX_CAMERAS, split_camera
from tests.blender.test_panel import drawn, said, settings

pytestmark = pytest.mark.usefixtures("addon")


def camera(azimuth: float, elevation: float, name: str = "Camera", roll: float = 0.0) -> Any:
    """A camera that sees the origin from these angles in degrees."""
    bpy.ops.object.select_all(action="DESELECT")
    object = bpy.data.objects.new(name, bpy.data.cameras.new(name))
    bpy.context.collection.objects.link(object)
    a, e = math.radians(azimuth), math.radians(elevation)
    object.location = 5 * Vector((math.sin(a) * math.cos(e), -math.cos(a) * math.cos(e), math.sin(e)))
    object.rotation_mode = "QUATERNION"
    facing = (-object.location).to_track_quat("-Z", "Y").to_matrix() @ Matrix.Rotation(math.radians(roll), 3, "Z")
    object.rotation_quaternion = facing.to_quaternion()
    object.select_set(True)
    bpy.context.view_layer.update()
    return object


def followed() -> list[str]:
    settings().prompt = "a house"
    cameras: list[str] = settings().request().cameras
    return cameras


def rows() -> list[Any]:
    return list(settings().cameras)


def test_the_selected_cameras_are_added_each_once_and_else_the_scenes() -> None:
    assert not bpy.ops.msd.camera_add.poll()
    scenes = camera(0, 0, "scene's")
    scenes.select_set(False)
    assert not bpy.ops.msd.camera_add.poll()
    bpy.context.scene.camera = scenes
    assert bpy.ops.msd.camera_add() == {"FINISHED"}
    assert [row.object.name for row in rows()] == ["scene's"]
    left, right = camera(-90, 20, "left"), camera(90, 0, "right")
    bpy.ops.mesh.primitive_cube_add()
    for each in (left, right, bpy.context.object):
        each.select_set(True)
    for _ in range(2):
        bpy.ops.msd.camera_add()
    assert sorted(row.object.name for row in rows()) == ["left", "right", "scene's"]
    bpy.ops.msd.camera_remove(index=0)
    assert sorted(row.object.name for row in rows()) == ["left", "right"] and scenes.users_scene
    assert sorted(followed()) == ["-90,20", "90,0"]
    rows()[1].prompt = "  a red door "
    assert followed()[1] == f"{'90,0' if rows()[1].object == right else '-90,20'}:a red door"


def test_a_job_has_no_more_cameras_than_the_server_takes() -> None:
    settings().set_cameras(["0,0"] * MAX_CAMERAS)
    camera(0, 0)
    with pytest.raises(RuntimeError, match="at most 32 cameras"):
        bpy.ops.msd.camera_add()
    assert len(rows()) == MAX_CAMERAS and len(followed()) == MAX_CAMERAS


@pytest.mark.parametrize("azimuth, elevation", [(0, 0), (90, 0), (-135, 30), (20, -60), (179, 85)])
@pytest.mark.parametrize(
    "change",
    [
        lambda object: None,
        lambda object: setattr(object, "scale", (2, 0.5, 3)),
        lambda object: setattr(object, "location", (9, 9, 9)),
        lambda object: setattr(object.data, "lens", 200),
    ],
    ids=["plain", "scaled", "moved", "lens"],
)
def test_the_angles_are_those_of_the_viewing_direction(
    azimuth: float, elevation: float, change: Callable[[Any], None]
) -> None:
    object = camera(azimuth, elevation, roll=37)
    change(object)
    bpy.ops.msd.camera_add()
    bpy.context.view_layer.update()
    (text,) = followed()
    seen = split_camera(text)
    assert (seen.azimuth, seen.elevation) == pytest.approx((azimuth, elevation), abs=2e-3)


def test_a_parents_shear_does_not_turn_the_view() -> None:
    object = camera(40, 25)
    parent = bpy.data.objects.new("parent", None)
    bpy.context.collection.objects.link(parent)
    parent.rotation_euler, parent.scale = (0.3, 0.5, 0.7), (1, 3, 0.5)
    object.parent = parent
    bpy.context.view_layer.update()
    looks = object.matrix_world.col[2].to_3d().normalized()  # as Blender's own view has it
    assert abs(object.matrix_world.col[0].to_3d().normalized().dot(looks)) > 0.1  # sheared
    bpy.ops.msd.camera_add()
    seen = split_camera(followed()[0])
    a, e = math.radians(seen.azimuth), math.radians(seen.elevation)
    assert Vector((math.sin(a) * math.cos(e), -math.cos(a) * math.cos(e), math.sin(e))).dot(looks) > 1 - 1e-6


def test_a_deleted_camera_is_said_to_be_gone_and_not_sent() -> None:
    for number in range(2):
        camera(90 * number, 0, f"camera {number}")
        bpy.ops.msd.camera_add()
    assert followed() == ["0,0", "90,0"] and "gone" not in said(drawn(panels.MSD_PT_cameras))
    bpy.ops.object.select_all(action="DESELECT")
    bpy.data.objects["camera 0"].select_set(True)
    bpy.ops.object.delete()
    assert followed() == ["90,0"]
    assert "camera 0 is gone" in said(drawn(panels.MSD_PT_cameras))
    bpy.data.objects.remove(bpy.data.objects["camera 1"])
    assert followed() == [] and "Camera is gone" in said(drawn(panels.MSD_PT_cameras))


def test_the_panel_has_a_row_for_each_with_its_prompt() -> None:
    camera(30, 10, "front")
    bpy.ops.msd.camera_add()
    settings().cameras.add().text = "-30.5,10:a dark side"
    layout = drawn(panels.MSD_PT_cameras)
    assert "front" in said(layout) and "-30.5°, 10°" in said(layout)
    prompts = [call.args[0] for call in layout.prop.call_args_list if call.args[1] == "prompt"]
    assert [each.prompt for each in prompts] == ["", "a dark side"]
    operators = [call.args[0] for call in layout.operator.call_args_list]
    assert operators.count("msd.camera_remove") == 2 and operators[-1] == "msd.camera_add"


def test_the_jobs_cameras_come_back_as_objects_or_as_angles() -> None:
    front, side = camera(0.1234, 10.5, "front"), camera(90, 0, "side")
    for each in (front, side):
        each.select_set(True)
    bpy.ops.msd.camera_add()
    for row in rows():
        row.prompt = f"the {row.object.name}"
    settings().prompt = "a house"
    request = settings().request()
    assert sorted(request.cameras) == ["0.123,10.5:the front", "90,0:the side"]
    settings().cameras.clear()
    settings().set_from(request)
    assert {row.object: row.prompt for row in rows()} == {front: "the front", side: "the side"}
    assert settings().request() == request
    side.rotation_quaternion.rotate(Matrix.Rotation(0.5, 3, "Z"))
    bpy.context.view_layer.update()
    settings().set_from(request)
    assert [row.object for row in rows() if not row.angles] == [front]
    assert [(row.angles, row.prompt) for row in rows() if row.object is None] == [("90,0", "the side")]
    assert settings().request() == request  # whatever the cameras see by now
    request.cameras = ["0.123,10.5:a", "0.123,10.5:b"]
    settings().set_from(request)
    assert [row.object for row in rows()] == [front, None] and settings().request() == request


def test_presets_leave_the_cameras_alone() -> None:
    camera(0, 0)
    bpy.ops.msd.camera_add()
    bpy.ops.msd.preset_add(name="placed")
    (path,) = Path(bpy.utils.user_resource("SCRIPTS")).rglob("placed.py")
    assert "camera" not in path.read_text()
    bpy.ops.script.execute_preset(filepath=str(path), menu_idname="MSD_PT_presets")
    assert followed() == ["0,0"]


def test_a_job_of_the_panel_follows_the_cameras(remote: LocalServer, tiny: dict[str, Any]) -> None:
    """To its end, and back into the panel."""
    camera(30, 10, "front")
    bpy.ops.msd.camera_add()
    rows()[0].prompt = "a blue door"
    pressed: Any = SimpleNamespace(set_cameras=lambda texts: taken.extend(texts))  # as the operator's, once invoked
    taken: list[str] = []
    RequestProperties.take_from(pressed, settings(), "cameras")
    assert taken == ["30,10:a blue door"]
    cameras = [{"name": "", "text": text} for text in taken]
    assert bpy.ops.msd.generate(prompt="a red house", cameras=cameras, **tiny) == {"FINISHED"}
    (record,) = bpy.context.scene.msd_jobs
    assert record.request.cameras == taken
    settings().cameras.clear()
    bpy.ops.msd.again(start=False)
    assert [(row.object.name, row.prompt) for row in rows()] == [("front", "a blue door")]
    with pytest.raises(RuntimeError, match="AZIMUTH,ELEVATION"):
        bpy.ops.msd.generate(prompt="a red house", cameras=[{"name": "", "text": "the front"}], **tiny)


def test_the_list_is_saved_with_the_file(tmp_path: Path) -> None:
    camera(30, 10, "front")
    bpy.ops.msd.camera_add()
    settings().cameras.add().text = "1,2:a door"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    assert not rows()
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    assert [(row.object and row.object.name, row.text) for row in rows()] == [("front", "30,10"), (None, "1,2:a door")]
