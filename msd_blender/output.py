# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a job without a window: reads the input mesh, writes the .blend, .glb, turntable and record."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import bpy
from mathutils import Vector

from . import nodes
from .client import Client
from .errors import ClientError, InvalidInputError, OutputError
from .live_job import LiveJob
from .protocol import Job

_IMPORTERS: dict[str, Callable[..., object]] = {
    ".glb": bpy.ops.import_scene.gltf,
    ".gltf": bpy.ops.import_scene.gltf,
    ".obj": bpy.ops.wm.obj_import,
    ".ply": bpy.ops.wm.ply_import,
    ".stl": bpy.ops.wm.stl_import,
}
_DISK_FULL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_source_files: dict[int, Path] = {}  # session_uid of an object -> the file that it was read from


def open_mesh(path: str | os.PathLike[str], name: str = "") -> bpy.types.Object:
    """Open a .blend, or import a mesh file into the scene, and return its mesh object of this name, or its only one.

    Raises `InvalidInputError`.
    """
    path = Path(path).expanduser().absolute()
    importer = _IMPORTERS.get(path.suffix.lower())
    if importer is None and path.suffix.lower() != ".blend":
        raise InvalidInputError(f"The input {path.name!r} must end in .blend, {', '.join(_IMPORTERS)}.")
    if not path.is_file():
        raise InvalidInputError(f"There is no file {path}.")
    try:
        with _silenced_stdout():
            if importer is None:
                bpy.ops.wm.open_mainfile(filepath=str(path))
            else:
                importer(filepath=str(path))
    except RuntimeError as error:
        raise InvalidInputError(f"The input {path} cannot be read: {_last_line(error)}") from None
    meshes = [object for object in bpy.context.scene.objects if object.type == "MESH"]
    # Importers add hidden helpers, such as the display shape of a bone.
    visible = [object for object in meshes if object.visible_get() and object.data.polygons] or meshes
    found = [object for object in meshes if object.name == name] if name else visible
    if len(found) != 1:
        names = ", ".join(object.name for object in visible) or "none"
        raise InvalidInputError(f"Name the object to work on; the meshes of {path.name} are: {names}.")
    if found[0].mode != "OBJECT":  # the file was saved in another mode
        bpy.context.view_layer.objects.active = found[0]
        bpy.ops.object.mode_set(mode="OBJECT")
    _source_files[found[0].session_uid] = path
    return found[0]


def files_in_use() -> list[Path]:
    """The files that the open data was read from: inputs, the .blend, its images and libraries."""
    present = {object.session_uid for object in bpy.data.objects}
    inputs = [path for uid, path in _source_files.items() if uid in present]
    return inputs + [Path(path) for path in (bpy.data.filepath, *bpy.utils.blend_paths(absolute=True)) if path]


def command_key(mode: str, prompt: str, *objects: bpy.types.Object) -> list[str]:
    """The same for two runs of one command, whose settings may differ: the mode, the prompt, and the objects that are
    worked on, each with its file."""
    read_from = ((str(_source_files.get(each.session_uid, bpy.data.filepath)), each.name) for each in objects)
    return [mode, prompt, *itertools.chain.from_iterable(read_from)]


class Output:
    """The files of one run: NAME.blend, NAME.glb and, in the same folder, turntable.png and job.json.

    A file that was read is never written over. Another file that exists is replaced only if an earlier run of the same
    command made it and nobody changed it since, or with `overwrite`. To know that, the "results" in job.json have the
    SHA-256 and the command of each file. turntable.png and job.json may be of another command, because all runs in a
    folder share these names.

    Args:
        path: of the .blend; its folder is made.
        command: the `command_key` of this run.

    Raises `InvalidInputError` unless the files can be written.
    """

    def __init__(self, path: str | os.PathLike[str], command: list[str], overwrite: bool = False) -> None:
        self.blend, self.command = Path(path).expanduser().absolute(), command
        self._written: set[Path] = set()
        if self.blend.suffix.lower() != ".blend":
            raise InvalidInputError(f"The output {self.blend.name!r} must end in .blend.")
        self.glb, folder = self.blend.with_suffix(".glb"), self.blend.parent
        self.turntable, self.job_json = folder / "turntable.png", folder / "job.json"
        in_use = files_in_use()
        for file in (self.blend, self.glb, self.turntable, self.job_json):
            if any(_is_same_file(file, other) for other in in_use):
                raise InvalidInputError(f"{file} would be written over, and it is the input: choose another --output.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            if self.blend.exists():
                with open(self.blend, "r+b"):
                    pass
            results = self._results()
            for file in (self.blend, self.glb, self.turntable, self.job_json):
                if os.path.lexists(file) and not overwrite and not self._is_from_same_command(file, results):
                    raise InvalidInputError(
                        f"{file} is there already, and no earlier run of this command has made it as it "
                        "is: choose another --output, or add --overwrite."
                    )
        except OSError as error:
            raise InvalidInputError(f"The output {self.blend} cannot be written: {error.strerror}.") from None

    def _results(self) -> dict[str, Any]:
        """The results of earlier runs in the folder's job.json; {} where another program wrote it."""
        try:
            results = json.loads(self.job_json.read_text(encoding="utf-8"))["results"]
            return results if isinstance(results, dict) else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}

    def _is_from_same_command(self, file: Path, results: dict[str, Any]) -> bool:
        """Whether an earlier run of this command made the file as it is."""
        if file == self.job_json:
            return bool(results)
        known = results.get(file.name)
        return (
            isinstance(known, dict)
            and known.get("sha256") == _sha256(file)
            and (file == self.turntable or known.get("command") == self.command)
        )

    def save(self, live_job: LiveJob, client: Client) -> None:
        """Write the files. Raises `OutputError` when one of them could not be written."""
        session, scene_object, object = live_job.session, live_job.scene_object, live_job.object
        assert scene_object is not None and object is not None
        results = {name: known for name, known in self._results().items() if (self.blend.parent / name).is_file()}
        content: dict[str, Any] = {}
        with self._atomic_write(self.job_json) as path:
            if self._download(client, session.job, "job.json", path):
                content = json.loads(path.read_text(encoding="utf-8"))
        content["state"] = session.state
        if session.error:
            content["error"] = session.error
        content["blender"] = live_job.timing()
        if bpy.context.scene.camera is None:
            add_camera_and_light(object)
        scene_object.set_properties(versions={**content.get("versions", {}), "blender": bpy.app.version_string})
        try:
            with self._atomic_write(self.blend) as path:
                _save_blend(path)
            with self._atomic_write(self.glb) as path:
                if not self._download(client, session.job, "mesh.glb", path):
                    _export_glb(object, path)
            with self._atomic_write(self.turntable) as path:
                self._download(client, session.job, "turntable.png", path)
        finally:
            made = [file for file in (self.blend, self.glb, self.turntable) if file in self._written]
            results |= {file.name: {"sha256": _sha256(file), "command": self.command} for file in made}
            with self._atomic_write(self.job_json) as path:
                path.write_text(json.dumps({**content, "results": results}, indent=2) + "\n", encoding="utf-8")

    @contextmanager
    def _atomic_write(self, path: Path) -> Iterator[Path]:
        """A temporary path beside `path`, which replaces it in one step at the end of the context. A symbolic link is
        kept, and its target replaced. Raises `OutputError`."""
        target = Path(os.path.realpath(path))
        part = target.with_name(f".{os.getpid()}-{target.stem}{target.suffix.lower()}")
        try:
            yield part
            if part.exists():
                os.replace(part, target)
                self._written.add(path)
        except (OSError, RuntimeError) as error:
            raise OutputError(f"{path} could not be written: {_failure_reason(part.parent, error)}.") from None
        finally:
            for leftover in (part, part.with_name(part.name + "@")):  # Blender writes to the second one first
                with suppress(OSError):
                    leftover.unlink(missing_ok=True)

    def _download(self, client: Client, job: Job | None, name: str, path: Path) -> bool:
        """Download a job's file to `path`; False where the job has no such file, or the server is lost. Raises OSError
        when the disk is full."""
        if job is None or name not in job.files:
            return False
        try:
            client.download(job.id, name, path)
        except ClientError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _DISK_FULL_ERRORS:
                raise error.__cause__ from None
            path.unlink(missing_ok=True)  # the scene is saved even so
            return False
        return True


def add_camera_and_light(object: bpy.types.Object) -> None:
    """Add a camera that sees the whole object, a sun and a grey world, so that the scene can be rendered."""
    scene = bpy.context.scene
    corners = [object.matrix_world @ Vector(corner) for corner in object.bound_box]
    centre = sum(corners, Vector()) / 8
    radius = max((corner - centre).length for corner in corners) or 1.0
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    back = Vector((0.55, -1.0, 0.5)).normalized()  # from the front right and above
    camera.location = centre + back * radius * 1.15 / math.sin(camera.data.angle_y / 2)
    camera.rotation_euler = back.to_track_quat("Z", "Y").to_euler()
    sun = bpy.data.objects.new("Sun", bpy.data.lights.new("Sun", "SUN"))
    sun.data.energy = 3.0
    sun.rotation_euler = (math.radians(40), math.radians(10), math.radians(35))
    for each in (camera, sun):
        scene.collection.objects.link(each)
    scene.camera = camera
    scene.world = bpy.data.worlds.new("World")
    nodes.ensure_nodes(scene.world)
    scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.4, 0.4, 0.4, 1.0)
    scene.view_settings.view_transform = "Standard"  # renders base colours unchanged


def _is_same_file(path: Path, other: Path) -> bool:
    """Whether two paths name one file, also through links and in file systems that ignore letter case."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is not there
        return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _failure_reason(folder: Path, error: Exception) -> str:
    """Why a file could not be written. Blender reports a full disk as a missing file, so a test file is written."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(64):
                file.write(bytes(1 << 20))
    except OSError as refused:
        return refused.strerror or str(refused)
    return _last_line(error).removesuffix(".")


def _last_line(error: Exception) -> str:
    """The message of a failed operator, without the traceback of an operator written in Python."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Location:")]
    return lines[-1].strip().removeprefix("Error: ") if lines else type(error).__name__


def _save_blend(path: Path) -> None:
    """Save the scene. Raises RuntimeError, also for a file that a full disk has cut, which Blender 5.2 calls saved."""
    with _silenced_stdout():
        bpy.ops.wm.save_as_mainfile(filepath=str(path), copy=True)
        try:
            with bpy.data.libraries.load(str(path)):
                pass
        except OSError as error:
            raise RuntimeError("only a part of it could be written") from error


def _export_glb(object: bpy.types.Object, path: Path) -> None:
    for each in bpy.context.scene.objects:
        each.select_set(each == object)
    with _silenced_stdout():
        bpy.ops.export_scene.gltf(filepath=str(path), export_format="GLB", use_selection=True)


@contextmanager
def _silenced_stdout() -> Iterator[None]:
    """Keep Blender's messages off the terminal: they would name the temporary file."""
    sys.stdout.flush()
    stdout, devnull = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(devnull)
