# SPDX-License-Identifier: GPL-3.0-or-later
"""For scripts: `generate` makes an object and returns when it is done.

    import bpy
    from bl_ext.user_default.msd_blender import api       # in Blender; `from msd_blender import api` outside
    mushroom = api.generate("a red mushroom", seed=3)
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import bpy

from .client import Client, ClientError
from .connection import connected
from .live import Live
from .protocol import CANCELLED, JobRequest, Progress, Snapshot
from .scene import Asset, Gone, add_stage


class BadInput(ValueError):
    """What was asked for cannot be done, in one sentence."""


class GenerationError(RuntimeError):
    """Why there is no finished asset, in one sentence. `object` is the last state that arrived, or None."""

    object: Any = None


class Generation:
    """A job that grows an object in the current scene. Call `step` on the main thread until it is False."""

    def __init__(self, request: JobRequest, connect: Callable[[], Client]) -> None:
        self.live = Live(request, connect)
        self.asset: Asset | None = None

    def step(self) -> bool:
        """Take in what arrived; at the end, complete the object. False once there is nothing more to do."""
        try:
            if self.live.pump(self._apply):
                return True
        except (Gone, ValueError) as error:
            self.live.error = str(error)
            self.live.cancel()
        if self.asset is not None:
            with suppress(Gone):
                self.asset.finish(job=self.live.job.id if self.live.job else "", state=self.live.state)
        return False

    @property
    def object(self) -> Any:
        """The bpy object, None before the first snapshot or after its deletion."""
        try:
            return self.asset.object if self.asset else None
        except Gone:
            return None

    def timing(self) -> dict[str, Any]:
        """Updates that reached the scene, and the main thread's milliseconds for each."""
        times = sorted(self.live.milliseconds)
        result: dict[str, Any] = {"version": bpy.app.version_string, "updates": len(times)}
        if times:
            at = min(len(times) - 1, round(0.99 * (len(times) - 1)))
            result["main_thread_ms"] = {"median": round(statistics.median(times), 3), "p99": round(times[at], 3)}
        return result

    def _apply(self, snapshot: Snapshot) -> bool:
        if self.asset is None:
            self.asset = Asset(self.live.request)
        return self.asset.apply(snapshot)


def generate(prompt: str, output: str | os.PathLike[str] | None = None, *, server: str = "", token: str = "",
             progress: Callable[[Progress], None] | None = None, log: Callable[[str], None] | None = None,
             **settings: Any) -> Any:
    """Make an object in the current scene from `prompt` and return it.

    settings: the other fields of `protocol.JobRequest`, such as seed and guidance. server: its URL; "" finds
    or starts one on this machine (and stops the one it started). output: also save the file as this .blend
    (with a camera and a sun if the scene has no camera), and beside it the asset as .glb, turntable.png and
    job.json. progress, log: called with what arrives.

    Raises ValueError for bad input, `GenerationError` when the job failed, both one sentence. On failure and
    on KeyboardInterrupt, what was reached stays in the scene and in `output`.
    """
    request = JobRequest(prompt, **settings).validate()
    if request.model and not server:
        request.model = str(Path(request.model).expanduser().absolute())
    files = Output(output) if output is not None else None
    try:
        with connected(server, token) as client:
            generation = Generation(request, lambda: client)
            interrupted = False
            try:
                follow(generation, progress, log)
            except KeyboardInterrupt:
                interrupted = True
                generation.live.cancel()
                follow(generation, None, log)
            if files and generation.object:
                files.save(generation, client)
            if interrupted:
                raise KeyboardInterrupt
    except ClientError as error:
        raise GenerationError(str(error)) from None
    live = generation.live
    if live.error or live.state == CANCELLED or generation.object is None:
        failure = GenerationError(live.error or "The job was cancelled on the server.")
        failure.object = generation.object
        raise failure
    return generation.object


def follow(generation: Generation, progress: Callable[[Progress], None] | None,
           log: Callable[[str], None] | None) -> None:
    """Step until the end. (Blender's timers do not run in the background, so this pumps itself.)"""
    live, shown = generation.live, 0
    more = True
    while more:
        live.wait(0.1)
        more = generation.step()
        if progress and live.progress:
            progress(live.progress)
        if log:
            for line in live.log[shown:]:
                log(line)
        shown = len(live.log)


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
        """Write all that there is. Raises `GenerationError` when the .blend cannot be written."""
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
                raise GenerationError(f"The output {self.blend} could not be saved: {error}") from None
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
