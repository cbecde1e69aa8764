# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples that use bpy, each in a process of its own, with the tiny model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSPECT = """
import sys, bpy
bpy.ops.wm.open_mainfile(filepath=sys.argv[1])
for object in bpy.data.objects:
    if object.type == "MESH":
        images = [image for image in bpy.data.images if image.packed_file]
        print("found", object.name, round(object.location.x, 3), object["msd_state"], len(images), sep="|")
"""


@pytest.fixture
def run(tmp_path, needs_bpy):
    """Run a Python command in the repository, with Blender's user files in a temporary folder; its output."""

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "BLENDER_USER_RESOURCES": str(tmp_path / "blender")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def options(server, tiny):
    return ["--server", server.url, "--model", tiny["model"], "--iterations", tiny["iterations"]]


def found(output):
    return [line.split("|")[1:] for line in output.splitlines() if line.startswith("found")]


def test_a_batch_of_prompts(run, options, tmp_path):
    blend = tmp_path / "batch.blend"
    run("-m", "examples.blender_batch", "a red mushroom", "a blue chair", "--output", blend, *options)
    meshes = found(run("-c", INSPECT, blend))
    assert sorted(each[:3] for each in meshes) == [
        ["a blue chair", "2.5", "finished"],
        ["a red mushroom", "0.0", "finished"],
    ]


def test_a_mesh_from_python_is_textured(run, options, tmp_path):
    blend = tmp_path / "crate.blend"
    output = run("-m", "examples.headless_texture", "--output", blend, *options)
    assert "4/4" in output
    assert found(run("-c", INSPECT, blend)) == [["Crate", "0.0", "finished", "2"]]  # base colour, roughness
    assert {"crate.glb", "turntable.png", "job.json"} <= {path.name for path in tmp_path.iterdir()}
