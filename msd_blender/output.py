# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that a headless job leaves."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import bpy

from .client import Client, ClientError
from .generation import Generation
from .scene import add_stage


class BadInput(ValueError):
    """What was asked for cannot be done, in one sentence."""


_IMPORTERS = {
    ".glb": "import_scene.gltf",
    ".gltf": "import_scene.gltf",
    ".obj": "wm.obj_import",
    ".ply": "wm.ply_import",
    ".stl": "wm.stl_import",
}


def open_mesh(path: str | os.PathLike[str], name: str = "") -> Any:
    """Load a .blend or import a mesh file into the scene; its mesh object of this name, or its only one. Raises
    `BadInput`."""
    path = Path(path).expanduser().absolute()
    importer = _IMPORTERS.get(path.suffix.lower())
    if importer is None and path.suffix.lower() != ".blend":
        raise BadInput(f"The input {path.name!r} must end in .blend, {', '.join(_IMPORTERS)}.")
    if not path.is_file():
        raise BadInput(f"There is no file {path}.")
    try:
        with _quiet():
            if importer is None:
                bpy.ops.wm.open_mainfile(filepath=str(path))
            else:
                group, operator = importer.split(".")
                getattr(getattr(bpy.ops, group), operator)(filepath=str(path))
    except RuntimeError as error:
        raise BadInput(f"The input {path} cannot be read: {_last_line(error)}") from None
    meshes = [item for item in bpy.context.scene.objects if item.type == "MESH"]
    # Importers leave helpers that nobody sees, such as the shape of a bone.
    seen = [item for item in meshes if item.visible_get() and item.data.polygons] or meshes
    found = [item for item in meshes if item.name == name] if name else seen
    if len(found) != 1:
        names = ", ".join(item.name for item in seen) or "none"
        raise BadInput(f"Name the object to work on; the meshes of {path.name} are: {names}.")
    if found[0].mode != "OBJECT":  # as the file was saved
        bpy.context.view_layer.objects.active = found[0]
        bpy.ops.object.mode_set(mode="OBJECT")
    _opened[found[0].session_uid] = path
    return found[0]


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_opened: dict[int, Path] = {}  # the file that each object came from, by its session_uid


def files_read() -> list[Path]:
    """The files that what is open came from: inputs, the .blend, and its images and libraries."""
    there = {item.session_uid for item in bpy.data.objects}
    inputs = [path for uid, path in _opened.items() if uid in there]
    return inputs + [Path(path) for path in (bpy.data.filepath, *bpy.utils.blend_paths(absolute=True)) if path]


def command(mode: str, prompt: str, object: Any = None) -> list[str]:
    """What says whether two runs are of the same command: the mode, the prompt, and the object that is worked on with
    the file that it came from. Settings may differ."""
    if object is None:
        return [mode, prompt]
    return [mode, prompt, str(_opened.get(object.session_uid, bpy.data.filepath)), object.name]


class OutputError(RuntimeError):
    """Why a file could not be written, in one sentence."""


class Output:
    """Where the files go: NAME.blend, NAME.glb and, in the same folder, turntable.png and job.json.

    Nothing that was read is written over. Anything else that is there is replaced only where an earlier run of the
    same command made it and nobody changed it since, or with `overwrite`. job.json says which: its "results" have the
    SHA-256 and the command of each file. turntable.png and job.json, whose names all runs in a folder share, may be
    of another command.

    Args:
        path: of the .blend.
        command: the mode, the prompt and, where there is one, the object that is worked on and its file.

    Raises `BadInput` unless the files can be written; makes the folder.
    """

    def __init__(self, path: str | os.PathLike[str], command: list[str], overwrite: bool = False) -> None:
        self.blend, self.command = Path(path).expanduser().absolute(), command
        self._made: set[Path] = set()
        if self.blend.suffix.lower() != ".blend":
            raise BadInput(f"The output {self.blend.name!r} must end in .blend.")
        self.glb, folder = self.blend.with_suffix(".glb"), self.blend.parent
        self.picture, self.record = folder / "turntable.png", folder / "job.json"
        read = files_read()
        for file in (self.blend, self.glb, self.picture, self.record):
            if any(_same_file(file, other) for other in read):
                raise BadInput(f"{file} would be written over, and it is the input: choose another --output.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            if self.blend.exists():
                with open(self.blend, "r+b"):
                    pass
            results = self._results()
            for file in (self.blend, self.glb, self.picture, self.record):
                if os.path.lexists(file) and not overwrite and not self._is_ours(file, results):
                    raise BadInput(
                        f"{file} is there already, and no earlier run of this command has made it as it "
                        "is: choose another --output, or add --overwrite."
                    )
        except OSError as error:
            raise BadInput(f"The output {self.blend} cannot be written: {error.strerror}.") from None

    def _results(self) -> dict[str, Any]:
        """What the folder's job.json says of earlier results; {} where it is not one of ours."""
        try:
            results = json.loads(self.record.read_text(encoding="utf-8"))["results"]
            return results if isinstance(results, dict) else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}

    def _is_ours(self, file: Path, results: dict[str, Any]) -> bool:
        if file == self.record:
            return bool(results)
        known = results.get(file.name)
        return (
            isinstance(known, dict)
            and known.get("sha256") == _sha256(file)
            and (file == self.picture or known.get("command") == self.command)
        )

    def save(self, generation: Generation, client: Client) -> None:
        """Write all that there is. Raises `OutputError` when something could not be written."""
        job = generation.live.job
        results = {name: known for name, known in self._results().items() if (self.blend.parent / name).is_file()}
        record: dict[str, Any] = {}
        with self._whole(self.record) as path:
            if self._download(client, job, "job.json", path):
                record = json.loads(path.read_text())
        record["state"] = generation.live.state
        if generation.live.error:
            record["error"] = generation.live.error
        record["blender"] = generation.timing()
        assert generation.asset is not None
        if bpy.context.scene.camera is None:
            add_stage(generation.object)
        generation.asset.record(versions={**record.get("versions", {}), "blender": bpy.app.version_string})
        try:
            with self._whole(self.blend) as path:
                with _quiet():
                    bpy.ops.wm.save_as_mainfile(filepath=str(path), copy=True)
            with self._whole(self.glb) as path:
                if not self._download(client, job, "mesh.glb", path):
                    _export_glb(generation.object, path)
            with self._whole(self.picture) as path:
                self._download(client, job, "turntable.png", path)
        finally:
            made = [file for file in (self.blend, self.glb, self.picture) if file in self._made]
            results |= {file.name: {"sha256": _sha256(file), "command": self.command} for file in made}
            with self._whole(self.record) as path:
                path.write_text(json.dumps({**record, "results": results}, indent=2) + "\n", encoding="utf-8")

    @contextmanager
    def _whole(self, path: Path) -> Iterator[Path]:
        """A temporary path beside `path` that takes its name when it was written whole; a link stays one. Raises
        `OutputError`."""
        target = Path(os.path.realpath(path))
        part = target.with_name(f".{os.getpid()}-{target.stem}{target.suffix.lower()}")
        try:
            yield part
            if part.exists():
                os.replace(part, target)
                self._made.add(path)
        except (OSError, RuntimeError) as error:
            raise OutputError(f"{path} could not be written: {_reason(part.parent, error)}.") from None
        finally:
            for left in (part, part.with_name(part.name + "@")):  # the second is Blender's
                with suppress(OSError):
                    left.unlink(missing_ok=True)

    def _download(self, client: Client, job: Any, name: str, path: Path) -> bool:
        if job is None or name not in job.files:
            return False
        try:
            client.download(job.id, name, path)
        except ClientError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
                raise error.__cause__ from None
            path.unlink(missing_ok=True)  # the server is gone: what the scene holds is kept anyway
            return False
        return True


def _same_file(path: Path, other: Path) -> bool:
    """Whether two paths lead to one file, through links and whatever letters the file system takes for the same."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is not there
        return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(folder: Path, error: Exception) -> str:
    """Why a file was not written. Blender calls a full disk a missing file, so the disk itself is asked."""
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
    """What a failed operator of Blender's says, without the traceback of a Python one."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Location:")]
    return lines[-1].strip().removeprefix("Error: ") if lines else type(error).__name__


def _export_glb(object: Any, path: Path) -> None:
    for item in bpy.context.scene.objects:
        item.select_set(item == object)
    with _quiet():
        bpy.ops.export_scene.gltf(filepath=str(path), export_format="GLB", use_selection=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Blender's own words, which name the temporary file, off the terminal."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
