# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m msd_blender`` as a user runs it: its files, messages and exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import bpy
import pytest

from msd_blender.local_server import LocalServer
from tests.blender.command_line import Run

pytestmark = pytest.mark.process


def check_glb(path: Path) -> None:
    data = path.read_bytes()
    assert data[:4] == b"glTF" and int.from_bytes(data[8:12], "little") == len(data)


def open_blend(path: Path) -> bpy.types.Object:
    bpy.ops.wm.open_mainfile(filepath=str(path))
    (made,) = (object for object in bpy.data.objects if object.type == "MESH")
    assert len(made.data.polygons) and not made.data.validate()
    return made


def test_a_prompt_becomes_files(tmp_path: Path) -> None:
    blend = tmp_path / "new" / "mushroom.blend"
    code, stderr = Run("a red mushroom", blend, "--iterations", "8", "--seed", "3").end()
    assert code == 0, stderr
    assert {path.name for path in blend.parent.iterdir()} == {
        "mushroom.blend",
        "mushroom.glb",
        "turntable.png",
        "job.json",
    }
    assert "100%" in stderr and str(blend) in stderr

    made = open_blend(blend)
    assert made.name == "a red mushroom" and made["msd_seed"] == 3 and made["msd_prompt"] == "a red mushroom"
    assert made["msd_state"] == "finished" and "torch" in made["msd_versions"]
    assert made.data.uv_layers and made.data.color_attributes.active_color.name == "Color"
    assert bpy.data.images[made.name].packed_file and bpy.context.scene.camera
    check_glb(blend.with_suffix(".glb"))
    record = json.loads((blend.parent / "job.json").read_text())
    assert record["blender"]["updates"] >= 2 and record["blender"]["main_thread_ms"]["median"] > 0
    assert record["request"]["seed"] == 3 and record["state"] == "finished"


@pytest.mark.parametrize("command", ["texture", "refine"])
def test_a_mesh_file_is_worked_on(command: str, server: LocalServer, tiny: dict[str, Any], tmp_path: Path) -> None:
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.mesh.primitive_uv_sphere_add()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "in.blend"))
    more = [
        "--server",
        server.url,
        "--model",
        tiny["model"],
        "--iterations",
        str(tiny["iterations"]),
        "--input",
        str(tmp_path / "in.blend"),
    ]
    code, stderr = Run("a crate", tmp_path / "out.blend", *more, command=command).end()
    assert code == 2 and "Cube, Sphere" in stderr
    code, stderr = Run("a crate", tmp_path / "out.blend", *more, "--object", "Cube", command=command).end()
    assert code == 0, stderr
    check_glb(tmp_path / "out.glb")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "out.blend"))
    made = bpy.data.objects["Cube"]
    assert made["msd_mode"] == command and made["msd_state"] == "finished" and len(made.data.polygons) == 6
    assert "msd_mode" not in bpy.data.objects["Sphere"]


def test_interrupt_keeps_the_last_state(tmp_path: Path) -> None:
    blend = tmp_path / "mushroom.blend"
    run = Run("a red mushroom", blend, "--iterations", "40")
    run.wait_for_progress()
    run.process.send_signal(signal.SIGINT)
    code, stderr = run.end()
    assert code == 130, stderr
    assert open_blend(blend)["msd_state"] == "cancelled"
    check_glb(blend.with_suffix(".glb"))
    assert json.loads((tmp_path / "job.json").read_text())["state"] == "cancelled"


def test_a_server_that_dies_costs_nothing_that_arrived(tmp_path: Path) -> None:
    blend = tmp_path / "mushroom.blend"
    run = Run("a red mushroom", blend, "--iterations", "40")
    run.wait_for_progress()
    for pid, command in run.processes().items():
        if " serve " in command:
            os.kill(pid, signal.SIGKILL)
    code, stderr = run.end()
    assert code == 1 and stderr.strip().splitlines()[-1].startswith("Error: The server at")
    assert open_blend(blend)["msd_state"] == "failed"
    check_glb(blend.with_suffix(".glb"))


@pytest.mark.parametrize(
    "prompt, output, sentence",
    [
        ("  ", "x.blend", "prompt is empty"),
        ("mushroom " * 1200, "x.blend", "10,800 characters"),
        ("a red mushroom", "file/x.blend", "cannot be written"),
        ("a red mushroom", "x.obj", "must end in .blend"),
    ],
)
def test_bad_input_is_refused_before_work_starts(prompt: str, output: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, stderr = Run(prompt, tmp_path / output).end()
    assert code == 2 and sentence in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_mesh_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for name, sentence in (("none.glb", "There is no file"), ("x.txt", "must end in"), ("bad.obj", "meshes of")):
        if name == "bad.obj":
            (tmp_path / name).write_text("no mesh")
        code, stderr = Run("a crate", tmp_path / "x.blend", "--input", str(tmp_path / name), command="texture").end()
        assert code == 2 and sentence in stderr, stderr


def test_an_unreachable_server_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        code, stderr = Run(
            "a red mushroom", tmp_path / "x.blend", "--server", f"http://127.0.0.1:{taken.getsockname()[1]}"
        ).end()
    assert code == 1 and "No server answers" in stderr


def test_a_wrong_model_is_refused_and_saved_work_stays(server: LocalServer, tmp_path: Path) -> None:
    blend = tmp_path / "x.blend"
    blend.write_bytes(b"earlier work")
    for model in (tmp_path / "missing", tmp_path):
        code, stderr = Run("a red mushroom", blend, "--server", server.url, "--model", str(model), "--overwrite").end()
        assert code == 1 and str(model) in stderr, stderr
    assert blend.read_bytes() == b"earlier work"
