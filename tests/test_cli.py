# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m server`` and its signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import trimesh

from msd_blender.local_server import find

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly_and_soon(start_server, tmp_path, number):
    server = start_server(tmp_path)
    deadline = time.monotonic() + 10
    while len(family := psutil.Process(server.process.pid).children(recursive=True)) < 2:
        assert time.monotonic() < deadline, "no worker and resource tracker"
        time.sleep(0.05)
    asked = time.monotonic()
    server.process.send_signal(number)
    server.process.wait(10)
    assert time.monotonic() - asked < 2.5
    assert server.process.returncode == 0 and "Traceback" not in server.said(), server.said()
    # A zombie has ended: that nobody has reaped it yet is not the server's doing.
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in psutil.wait_procs(family, timeout=1)[1])
    assert not (tmp_path / "server.json").exists()


def test_a_server_that_was_killed_leaves_nothing_in_the_way(start_server, tmp_path):
    first = start_server(tmp_path)
    first.process.kill()
    first.process.wait()
    assert find(tmp_path) is None
    (tmp_path / ".server.json").touch(mode=0o666)       # as if killed while it wrote
    (tmp_path / "server.json").unlink()
    second = start_server(tmp_path)
    assert second.url != first.url and (tmp_path / "server.json").stat().st_mode & 0o777 == 0o600
    assert second.stop() == 0


def test_interrupting_generate_keeps_the_last_state(tiny, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "generate", "a red mushroom", "--output", str(tmp_path), "--model",
         tiny["model"], "--iterations", "2000"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    while "/2000" not in (line := process.stderr.readline()):
        assert line, "it ended before it made progress"
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in said, said
    assert json.loads((tmp_path / "job.json").read_text())["state"] == "cancelled"
    glb = (tmp_path / "mesh.glb").read_bytes()
    assert glb[:4] == b"glTF" and int.from_bytes(glb[8:12], "little") == len(glb)


def test_interrupting_generate_while_it_loads(tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "server", "generate", "a red mushroom", "--output",
                                str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr and "Loading" in process.stderr.readline()
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 130 and said.strip().splitlines()[-1] == "Interrupted.", said


def test_a_mesh_from_a_file_is_painted_and_comes_in_other_formats(tiny, tmp_path):
    given, made = tmp_path / "ball.ply", tmp_path / "out"
    trimesh.creation.icosphere(1, 5.0).export(given)
    command = [sys.executable, "-m", "server", "texture", "a red apple", "--input", str(given), "--output", str(made),
               "--format", "obj", "ply", "--texture-size", "64", "--model", tiny["model"], "--iterations", "2"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert {"mesh.glb", "mesh.obj", "mesh.ply", "texture.png", "job.json"} <= {path.name for path in made.iterdir()}
    before, after = trimesh.load(given, force="mesh"), trimesh.load(made / "mesh.ply", force="mesh")
    np.testing.assert_array_equal(np.unique(after.vertices, axis=0), np.unique(before.vertices, axis=0))
    assert len(after.faces) == len(before.faces)


@pytest.mark.parametrize("changes, says", [
    (["--input", "{}/none.ply"], "cannot be read"), (["--input", "{}/mesh.fbx"], "no known format"),
    (["--input", "{}/mesh.ply", "--format", "docx"], "no known format")])
def test_what_cannot_be_painted_is_one_sentence(tmp_path, changes, says):
    trimesh.creation.box().export(tmp_path / "mesh.ply")
    (tmp_path / "mesh.fbx").touch()
    command = [sys.executable, "-m", "server", "refine", "a box", "--output", str(tmp_path / "out"),
               *(each.format(tmp_path) for each in changes)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 1 and says in said.stderr and "Traceback" not in said.stderr
