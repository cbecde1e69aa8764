# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that a headless job leaves."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bpy

from .client import Client, ClientError
from .generation import Generation
from .scene import add_stage


class BadInput(ValueError):
    """What was asked for cannot be done, in one sentence."""


_IMPORTERS = {".glb": "import_scene.gltf", ".gltf": "import_scene.gltf", ".obj": "wm.obj_import",
              ".ply": "wm.ply_import", ".stl": "wm.stl_import"}


def open_mesh(path: str | os.PathLike[str], name: str = "") -> Any:
    """Load a .blend or import a mesh file into the scene; its mesh object of this name, or its only one. Raises
    `BadInput`."""
    path = Path(path).expanduser().absolute()
    importer = _IMPORTERS.get(path.suffix.lower())
    if importer is None and path.suffix != ".blend":
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
        raise BadInput(f"The input {path} cannot be read: {str(error).strip()}") from None
    meshes = [item for item in bpy.context.scene.objects if item.type == "MESH" and name in ("", item.name)]
    if len(meshes) != 1:
        names = ", ".join(item.name for item in bpy.context.scene.objects if item.type == "MESH") or "none"
        raise BadInput(f"Name the object to work on; the meshes of {path.name} are: {names}.")
    return meshes[0]


class OutputError(RuntimeError):
    """Why a file could not be written, in one sentence."""


class Output:
    """Where the files go: NAME.blend, NAME.glb and, in the same folder, turntable.png and job.json."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises `BadInput` unless files can be written there; makes the folder."""
        self.blend = Path(path).expanduser().absolute()
        if self.blend.suffix != ".blend":
            raise BadInput(f"The output {self.blend.name!r} must end in .blend.")
        try:
            self.blend.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.blend.parent):
                pass
            if self.blend.exists():
                with open(self.blend, "r+b"):
                    pass
        except OSError as error:
            raise BadInput(f"The output {self.blend} cannot be written: {error.strerror}.") from None

    def save(self, generation: Generation, client: Client) -> None:
        """Write all that there is. Raises `OutputError` when the .blend cannot be written."""
        folder, job = self.blend.parent, generation.live.job
        record: dict[str, Any] = {}
        with self._whole(folder / "job.json") as path:
            if not self._download(client, job, "job.json", path):
                path.write_text("{}")
            record = json.loads(path.read_text())
            record["state"] = generation.live.state
            if generation.live.error:
                record["error"] = generation.live.error
            record["blender"] = generation.timing()
            path.write_text(json.dumps(record, indent=2) + "\n")
        assert generation.asset is not None
        if bpy.context.scene.camera is None:
            add_stage(generation.object)
        generation.asset.record(versions={**record.get("versions", {}), "blender": bpy.app.version_string})
        with self._whole(self.blend) as path:
            try:
                with _quiet():
                    bpy.ops.wm.save_as_mainfile(filepath=str(path), copy=True)
            except RuntimeError as error:
                raise OutputError(f"The output {self.blend} could not be saved: {error}") from None
        with self._whole(self.blend.with_suffix(".glb")) as path:
            if not self._download(client, job, "mesh.glb", path):
                _export_glb(generation.object, path)
        with self._whole(folder / "turntable.png") as path:
            self._download(client, job, "turntable.png", path)

    @contextmanager
    def _whole(self, path: Path) -> Iterator[Path]:
        """A temporary path beside `path` that takes its name when it was written whole."""
        part = path.with_name(f".{os.getpid()}-{path.name}")
        try:
            yield part
            if part.exists():
                os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _download(self, client: Client, job: Any, name: str, path: Path) -> bool:
        if job is None or name not in job.files:
            return False
        try:
            client.download(job.id, name, path)
        except ClientError:                 # the server is gone: what the scene holds is kept anyway
            path.unlink(missing_ok=True)
            return False
        return True


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
