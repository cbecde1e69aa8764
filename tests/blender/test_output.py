# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that are read and written without a window, and the existing ones that are not replaced."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bpy
import pytest

from msd_blender import connection
from msd_blender.errors import InvalidInputError
from msd_blender.local_server import LocalServer
from msd_blender.output import Output, command_key, open_mesh
from tests.blender.command_line import ROOT, Run

pytestmark = pytest.mark.usefixtures("empty_scene")


def elsewhere(code: str) -> str:
    """The output of code in a Blender process of its own. (Its glTF add-on and PyTorch in one process deadlock.)"""
    code = "import bpy\nbpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)\n" + code
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout


def saved(path: Path) -> Path:
    """A .blend with a cube."""
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    return path


def settings(server: LocalServer, tiny: dict[str, Any]) -> list[str]:
    return ["--server", server.url, "--model", tiny["model"], "--iterations", "1", "--texture-size", "64"]


def test_an_input_is_never_written_over(server: LocalServer, tiny: dict[str, Any], tmp_path: Path) -> None:
    glb = tmp_path / "crate.glb"
    elsewhere(f"bpy.ops.mesh.primitive_cube_add()\nbpy.ops.export_scene.gltf(filepath={str(glb)!r})")
    before = glb.read_bytes()
    more = [*settings(server, tiny), "--overwrite", "--input", str(glb)]
    code, stderr = Run("a wooden crate", tmp_path / "crate.blend", *more, command="texture").end()
    assert code == 2 and f"{glb} would be written over, and it is the input: choose another --output." in stderr
    assert glb.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["crate.glb"]
    blend = saved(tmp_path / "crate.blend")
    (tmp_path / "hard.blend").hardlink_to(blend)
    (tmp_path / "soft.blend").symlink_to(blend)
    open_mesh(blend)
    for name in ("crate", "hard", "soft"):
        with pytest.raises(InvalidInputError, match="it is the input"):
            Output(tmp_path / f"{name}.blend", ["texture"], overwrite=True)


def test_what_the_open_file_is_made_of_is_read_too(tmp_path: Path) -> None:
    image = bpy.data.images.new("picture", 8, 8)
    image.filepath_raw, image.file_format = str(tmp_path / "turntable.png"), "PNG"
    image.save()
    with pytest.raises(InvalidInputError, match="turntable.png would be written over"):
        Output(tmp_path / "x.blend", ["generate"], overwrite=True)
    bpy.data.images.remove(image)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "open.blend"))
    with pytest.raises(InvalidInputError, match="open.blend would be written over"):
        Output(tmp_path / "open.blend", ["generate"], overwrite=True)
    open_mesh(saved(tmp_path / "crate.blend"))
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    Output(tmp_path / "crate.blend", ["generate"], overwrite=True)  # what is not open any more is free


@pytest.mark.process
def test_a_command_replaces_its_own_results_and_nothing_else(
    server: LocalServer, tiny: dict[str, Any], tmp_path: Path
) -> None:
    blend, more = tmp_path / "chair.blend", settings(server, tiny)
    blend.with_suffix(".glb").write_text("mine")
    code, stderr = Run("a blue chair", blend, *more).end()
    assert code == 2 and "chair.glb is there already" in stderr and "--overwrite" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["chair.glb"]
    code, stderr = Run("a blue chair", blend, *more, "--overwrite").end()
    assert code == 0, stderr
    first = blend.read_bytes()
    code, stderr = Run("a blue chair", blend, *more, "--seed", "5").end()
    assert code == 0 and blend.read_bytes() != first, stderr
    code, stderr = Run("a table", tmp_path / "table.blend", *more).end()  # shares turntable.png and job.json
    assert code == 0, stderr
    results = json.loads((tmp_path / "job.json").read_text())["results"]
    assert results.keys() == {"chair.blend", "chair.glb", "table.blend", "table.glb", "turntable.png"}
    assert all(
        known["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name, known in results.items()
    )
    assert Output(blend, command_key("generate", "a blue chair"))  # still known
    for other in (command_key("generate", "a table"), command_key("texture", "a blue chair")):
        with pytest.raises(InvalidInputError, match="chair.blend is there already"):
            Output(blend, other)
    with open(blend, "ab") as file:
        file.write(b"an artist's work")
    with pytest.raises(InvalidInputError, match="chair.blend is there already"):
        Output(blend, command_key("generate", "a blue chair"))


@pytest.mark.parametrize("content", ["", "[]", "null", '{"results": 3}', '{"results": {"x.glb": 3}}', "\0"])
def test_a_record_of_somebody_else_is_kept(content: str, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(content)
    (tmp_path / "x.glb").write_text("mine")
    with pytest.raises(InvalidInputError, match="is there already"):
        Output(tmp_path / "x.blend", ["generate"])


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real.blend").write_text("earlier")
    (tmp_path / "x.blend").symlink_to(tmp_path / "far" / "real.blend")
    files = Output(tmp_path / "x.blend", ["generate"], overwrite=True)
    with files._atomic_write(files.blend) as part:
        part.write_text("new")
    assert (tmp_path / "x.blend").is_symlink() and (tmp_path / "far" / "real.blend").read_text() == "new"


def test_letter_case_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(tmp_path / "a.blend").rename(tmp_path / "A.BLEND")
    assert open_mesh("~/A.BLEND").name == "Cube"
    bpy.ops.wm.ply_export(filepath=str(tmp_path / "b.ply"))
    (tmp_path / "b.ply").rename(tmp_path / "B.Ply")
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    assert len(open_mesh("~/B.Ply").data.polygons) == 6
    files = Output("~/new/X.Blend", ["generate"])
    assert files.blend == tmp_path / "new" / "X.Blend" and files.glb.name == "X.glb"
    with files._atomic_write(files.blend) as part:
        bpy.ops.wm.save_as_mainfile(filepath=str(part), copy=True)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["X.Blend"]
    assert (
        connection.expand_path("~/models")
        == connection.expand_path("~/models", "http://127.0.0.1:1")
        == f"{tmp_path}/models"
    )
    assert connection.expand_path("~/models", "https://far.example") == "~/models"  # its own home, not ours


def test_a_file_saved_in_edit_mode_is_taken(tmp_path: Path) -> None:
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "x.blend"))
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    object = open_mesh(tmp_path / "x.blend")
    assert object.mode == "OBJECT" and len(object.data.polygons) == 6


def test_helpers_of_an_importer_are_no_meshes(tmp_path: Path) -> None:
    printed = elsewhere(f"""
bpy.ops.mesh.primitive_cube_add()
cube = bpy.context.object
bpy.ops.object.armature_add()
cube.parent = bpy.context.object
cube.modifiers.new("Armature", "ARMATURE").object = cube.parent
cube.vertex_groups.new(name="Bone").add(range(8), 1, "REPLACE")
bpy.ops.export_scene.gltf(filepath={str(tmp_path / "x.glb")!r})
bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
from msd_blender.output import open_mesh
print("found", open_mesh({str(tmp_path / "x.glb")!r}).name, len(bpy.data.meshes))
""")
    assert "found Cube 2" in printed


def test_a_full_disk_is_called_so(tmp_path: Path) -> None:
    printed = elsewhere(f"""
import resource
from msd_blender.errors import OutputError
from msd_blender.output import Output, _export_glb, _save_blend
bpy.ops.mesh.primitive_uv_sphere_add(segments=99, ring_count=99)
files = Output({str(tmp_path / "x.blend")!r}, ["generate"])
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for path, write in ((files.blend, _save_blend),
                    (files.glb, lambda part: _export_glb(bpy.context.object, part))):
    try:
        with files._atomic_write(path) as part:
            write(part)
    except OutputError as error:
        print("said", error)
""")
    lines = [line for line in printed.splitlines() if line.startswith("said")]
    assert lines == [f"said {tmp_path / name} could not be written: File too large." for name in ("x.blend", "x.glb")]
    assert not list(tmp_path.iterdir())
