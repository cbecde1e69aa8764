# SPDX-License-Identifier: GPL-3.0-or-later
"""For scripts: each function returns the object when it is done.

import bpy
from bl_ext.user_default.msd_blender import api       # in Blender; `from msd_blender import api` outside
mushroom = api.generate("a red mushroom", seed=3)
api.texture(bpy.data.objects["Cube"], "a wooden crate", maps=["roughness", "normal"])
api.refine(mushroom, "an old red mushroom", lock="stem", max_displacement=0.1)
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .capture import Unfit
from .client import ClientError
from .connection import connected, typed
from .generation import Generation
from .output import BadInput, Output, OutputError, command, open_mesh
from .protocol import CANCELLED, JobRequest, Progress

__all__ = ["BadInput", "Generation", "GenerationError", "Unfit", "follow", "generate", "open_mesh", "refine", "texture"]

FileName = str | os.PathLike[str]


class GenerationError(RuntimeError):
    """Why there is no finished asset, in one sentence. `object` is the last state that arrived, or None."""

    object: Any = None


def generate(prompt: str, output: FileName | None = None, **settings: Any) -> Any:
    """Make an object in the current scene from `prompt` and return it.

    settings: the other fields of `protocol.JobRequest`, such as seed and guidance, and
        server, token: its URL; "" finds or starts one on this machine (and stops the one it started).
        progress, log: called with what arrives.
    output: also save the file as this .blend (with a camera and a sun if the scene has no camera), and beside it
        the asset as .glb, turntable.png and job.json. Nothing that was read is written over; what else is there is
        replaced where an earlier run with this prompt made it, and otherwise only with
        overwrite: True.

    Raises ValueError for bad input, `GenerationError` when the job failed, both one sentence. On failure and
    on KeyboardInterrupt, what was reached stays in the scene and in `output`.
    """
    return _run("generate", None, prompt, output, **settings)


def texture(object: Any, prompt: str, output: FileName | None = None, *, lock: str = "", **settings: Any) -> Any:
    """Paint a mesh object, whose vertices and UVs stay as they are, and return it.

    lock: name of a vertex group; what lies between its members keeps its texture. The rest as `generate`.
    """
    return _run("texture", object, prompt, output, lock, **settings)


def refine(object: Any, prompt: str, output: FileName | None = None, *, lock: str = "", **settings: Any) -> Any:
    """Paint a mesh object and move its vertices, and return it.

    lock: name of a vertex group whose members do not move. settings: among them max_displacement and remesh. The
    rest as `generate`.
    """
    return _run("refine", object, prompt, output, lock, **settings)


def _run(
    mode: str,
    object: Any,
    prompt: str,
    output: FileName | None = None,
    lock: str = "",
    *,
    server: str = "",
    token: str = "",
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    log: Callable[[str], None] | None = None,
    **settings: Any,
) -> Any:
    request = JobRequest(prompt, mode=mode, **{"client_key": uuid.uuid4().hex, **settings}).validate(uploaded=False)
    if object is not None and object.type != "MESH":
        raise BadInput(f"{object.name!r} is no mesh: convert it with Object > Convert > Mesh.")
    if request.model:
        request.model = typed(request.model, server) if server else str(Path(request.model).expanduser().absolute())
    files = Output(output, command(mode, prompt, object), overwrite) if output is not None else None
    try:
        with connected(server, token) as client:
            generation = Generation(request, lambda: client, object, lock)
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
    except (ClientError, OutputError) as error:
        raise GenerationError(str(error)) from None
    live = generation.live
    if live.error or live.state == CANCELLED or generation.object is None:
        failure = GenerationError(live.error or "The job was cancelled on the server.")
        failure.object = generation.object
        raise failure
    return generation.object


def follow(
    generation: Generation, progress: Callable[[Progress], None] | None, log: Callable[[str], None] | None
) -> None:
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
