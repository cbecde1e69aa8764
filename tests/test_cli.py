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
from PIL import Image

from msd_blender.local_server import find
from msd_blender.protocol import FILES

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly_and_soon(start_server, tmp_path, number, two_seconds):
    server = start_server(tmp_path)
    deadline = time.monotonic() + 60
    while len(family := psutil.Process(server.process.pid).children(recursive=True)) < 2:
        assert time.monotonic() < deadline, "no worker and resource tracker"
        time.sleep(0.05)
    asked = time.monotonic()
    server.process.send_signal(number)
    server.process.wait(60)
    assert time.monotonic() - asked < two_seconds
    assert server.process.returncode == 0 and "Traceback" not in server.said(), server.said()
    # A zombie has ended: that nobody has reaped it yet is not the server's doing.
    while any(process.status() != psutil.STATUS_ZOMBIE for process in psutil.wait_procs(family, timeout=0.1)[1]):
        assert time.monotonic() - asked < two_seconds
    assert not (tmp_path / "server.json").exists()


def test_a_server_that_was_killed_leaves_nothing_in_the_way(start_server, tmp_path):
    first = start_server(tmp_path)
    first.process.kill()
    first.process.wait()
    assert find(tmp_path) is None
    (tmp_path / ".server.json").touch(mode=0o666)  # as if killed while it wrote
    (tmp_path / "server.json").unlink()
    second = start_server(tmp_path)
    found = find(tmp_path)
    assert found and found.pid == second.process.pid and (tmp_path / "server.json").stat().st_mode & 0o777 == 0o600
    assert second.stop() == 0


def test_interrupting_generate_keeps_the_last_state(tiny, tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "server",
            "generate",
            "a red mushroom",
            "--output",
            str(tmp_path),
            "--model",
            tiny["model"],
            "--iterations",
            "2000",
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    while "/2000" not in (line := process.stderr.readline()):
        assert line, "it ended before it made progress"
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130 and "Traceback" not in said, said
    assert json.loads((tmp_path / "job.json").read_text())["state"] == "cancelled"
    glb = (tmp_path / "mesh.glb").read_bytes()
    assert glb[:4] == b"glTF" and int.from_bytes(glb[8:12], "little") == len(glb)


def test_interrupting_generate_while_it_loads(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "generate", "a red mushroom", "--output", str(tmp_path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr and "Loading" in process.stderr.readline()
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130 and said.strip().splitlines()[-1] == "Interrupted.", said


def test_a_mesh_from_a_file_is_painted_and_comes_in_other_formats(tiny, tmp_path):
    given, made = tmp_path / "ball.ply", tmp_path / "out"
    trimesh.creation.icosphere(1, 5.0).export(given)
    command = [
        sys.executable,
        "-m",
        "server",
        "texture",
        "a red apple",
        "--input",
        str(given),
        "--output",
        str(made),
        "--format",
        "obj",
        "ply",
        "--texture-size",
        "64",
        "--model",
        tiny["model"],
        "--iterations",
        "2",
    ]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert {"mesh.glb", "mesh.obj", "mesh.ply", "texture.png", "job.json"} <= {path.name for path in made.iterdir()}
    record = json.loads((made / "job.json").read_text())
    assert (record["input"], record["request"]["mesh"]) == (str(given), "")
    before, after = trimesh.load(given, force="mesh"), trimesh.load(made / "mesh.ply", force="mesh")
    np.testing.assert_array_equal(np.unique(after.vertices, axis=0), np.unique(before.vertices, axis=0))
    assert len(after.faces) == len(before.faces)


@pytest.mark.parametrize(
    "changes, says",
    [
        (["--input", "{}/none.ply"], "cannot be read"),
        (["--input", "{}/mesh.fbx"], "no known format"),
        (["--input", "{}/mesh.ply", "--format", "docx"], "no known format"),
        (["--input", "{}/lines.obj"], "lines (1), which are left out"),
    ],
)
def test_a_mesh_that_cannot_be_painted_is_refused_in_one_sentence(tmp_path, changes, says):
    trimesh.creation.box().export(tmp_path / "mesh.ply")
    (tmp_path / "mesh.fbx").touch()
    (tmp_path / "lines.obj").write_text("v 0 0 0\nv 1 0 0\nl 1 2\n")
    command = [
        sys.executable,
        "-m",
        "server",
        "refine",
        "a box",
        "--output",
        str(tmp_path / "out"),
        *(each.format(tmp_path) for each in changes),
    ]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 1 and says in said.stderr and "Traceback" not in said.stderr


def server(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "server", *map(str, arguments)],
        capture_output=True,
        text=True,
        **{"cwd": ROOT, **options},
    )


def crate(folder, mesh="crate.obj", library="wood.mtl", picture="wood.png"):
    """Write an OBJ with an MTL and a picture beside it; return the files' contents by name."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4), (200, 100, 50)).save(folder / picture)
    (folder / library).write_text(f"newmtl wood\nmap_Kd {picture}\n")
    (folder / mesh).write_text(
        f"mtllib {library}\nusemtl wood\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"
        "vt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\nf 1/1 3/2 4/3\nf 1/1 4/2 2/3\nf 2/1 4/2 3/3\n"
    )
    return contents(folder)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("names", "link", "format", "kept"),
    [
        ({"mesh": "mesh.obj"}, None, ["--format", "obj"], "mesh.obj"),
        ({"library": "mesh.mtl"}, None, ["--format", "obj"], "mesh.mtl"),
        ({"picture": "texture.png"}, None, [], "texture.png"),
        ({}, os.link, [], "mesh.glb"),
        ({}, os.symlink, [], "job.json"),
    ],
)
def test_no_input_file_is_written_over(tmp_path, names, link, format, kept):
    """The mesh, its MTL, its picture, under a second name as well; not with --overwrite either."""
    out = tmp_path / "out"
    crate(out, **names)
    mesh = out / names.get("mesh", "crate.obj")
    if link:
        link(mesh, out / kept)
    (tmp_path / "link").symlink_to(out)
    before = contents(out)
    said = server(
        "texture",
        "a crate",
        "--input",
        mesh,
        *format,
        "--output",
        tmp_path / "link",
        "--iterations",
        "1",
        "--overwrite",
    )
    assert said.returncode == 1 and contents(out) == before
    assert said.stderr.splitlines()[-1] == (
        f"Error: {tmp_path / 'link' / kept} would be written over, and it is the input: choose another --output."
    )


def test_only_results_of_the_same_command_are_replaced(tiny, tmp_path):
    given, out = tmp_path / "given", tmp_path / "out"
    before = crate(given)
    command = [
        "texture",
        "a crate",
        "--input",
        given / "crate.obj",
        "--output",
        out,
        "--iterations",
        "1",
        "--texture-size",
        "64",
        "--model",
        tiny["model"],
    ]
    out.mkdir()
    (out / "mesh.glb").write_text("mine")
    (out / "notes.txt").write_text("mine too")
    said = server(*command)
    assert said.returncode == 1 and f"{out / 'mesh.glb'} is there already" in said.stderr
    assert "--overwrite" in said.stderr and (out / "mesh.glb").read_text() == "mine"
    for arguments in (["--overwrite"], []):  # the second time it is a result of this command
        said = server(*command, *arguments)
        assert said.returncode == 0, said.stderr
        assert (out / "mesh.glb").read_bytes()[:4] == b"glTF"
    assert {path.name for path in out.iterdir()} == {*FILES, "notes.txt"}
    said = server("refine", *command[1:])
    assert said.returncode == 1 and "is there already, and is no result of this command" in said.stderr
    assert contents(given) == before


def test_the_home_folder_is_meant_by_a_tilde(tiny, tmp_path):
    home = tmp_path / "home"
    crate(home)
    (home / "model").symlink_to(tiny["model"])
    said = server(
        "texture",
        "a crate",
        "--input=~/crate.obj",
        "--output=~/out",
        "--model=~/model",
        "--iterations=1",
        "--texture-size=64",
        cwd=tmp_path,
        env=os.environ | {"HOME": str(home), "PYTHONPATH": str(ROOT)},
    )
    assert said.returncode == 0, said.stderr
    assert (home / "out" / "mesh.glb").is_file() and not (tmp_path / "~").exists()
    said = server("doctor", "--models=~nobody-of-this-name/model")
    assert said.returncode == 2 and "no home folder" in said.stderr and "Traceback" not in said.stderr


OWN_MOUNTS = ["unshare", "--map-root-user", "--mount", "sh", "-c"]


@pytest.mark.skipif(
    subprocess.run([*OWN_MOUNTS, "mount -t tmpfs none /mnt"], capture_output=True).returncode,
    reason="no disk of one's own can be mounted here",
)
@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("16k", "The disk of {} is full: make room there, or choose another folder."),
        ("80k", "The disk is full: make room, or choose another folder."),
    ],
)
def test_a_full_disk_is_called_one(tiny, tmp_path, size, says):
    """Before the job, or where its files have no room; then none is left in parts."""
    command = (
        f"mount -t tmpfs -o size={size} none {tmp_path} && {sys.executable} -m server generate 'a crate' "
        f"--output {tmp_path} --iterations 1 --model {tiny['model']}; echo $?; ls -A {tmp_path}"
    )
    said = subprocess.run([*OWN_MOUNTS, command], cwd=ROOT, capture_output=True, text=True)
    assert said.stderr.splitlines()[-1] == f"Error: {says.format(tmp_path)}"
    assert said.stdout == "1\n"


def test_the_cores_are_those_of_the_flag_and_waiting_threads_sleep():
    code = (
        "from server import cores; cores.share(1); import torch, os; print(torch.get_num_threads(), dict(os.environ))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_"))}
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert said.stdout.startswith("1 ") and "'OMP_WAIT_POLICY': 'PASSIVE'" in said.stdout, said.stderr
    refused = subprocess.run(
        [sys.executable, "-m", "server", "serve", "--cores", "0"], cwd=ROOT, capture_output=True, text=True
    )
    assert refused.returncode == 2 and "argument --cores: '0' is no number from 1 to 1024" in refused.stderr
