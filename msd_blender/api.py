# SPDX-License-Identifier: GPL-3.0-or-later
"""Functions for scripts: each returns the object when its job is finished.

import bpy
from bl_ext.user_default.msd_blender import api       # in Blender; `from msd_blender import api` outside
mushroom = api.generate("a red mushroom", seed=3)
api.texture(bpy.data.objects["Cube"], "a wooden crate", maps=["roughness", "normal"])
api.refine(mushroom, "an old red mushroom", lock="stem", max_displacement=0.1)
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bpy

from .connection import connected_client, expand_path
from .errors import ClientError, GenerationError, InvalidInputError, InvalidMeshError, OutputError
from .live_job import LiveJob
from .materials import encode_image
from .output import Output, command_key, open_mesh
from .protocol import CANCELLED, PATHS, JobRequest, Progress, join_lora, picture_id, read_picture, split_lora

__all__ = [
    "BadInput",
    "GenerationError",
    "InvalidInputError",
    "InvalidMeshError",
    "JobRequest",
    "LiveJob",
    "Unfit",
    "follow",
    "generate",
    "open_mesh",
    "refine",
    "texture",
]

_FileName = str | os.PathLike[str]
BadInput, Unfit = InvalidInputError, InvalidMeshError  # former names, to be removed after 0.1


def generate(prompt: str, output: _FileName | None = None, **settings: Any) -> bpy.types.Object:
    """Make an object in the current scene from `prompt` and return it.

    Args:
        output: also save the scene as this .blend (with a camera and a sun if it has no camera), and beside it the
            asset as .glb, turntable.png and job.json. A file that was read is never written over. Another file that
            exists is replaced only if an earlier run with this prompt made it, or with `overwrite`.
        settings: the other fields of `protocol.JobRequest`, such as seed and guidance, and
            image_prompt: an image of Blender's or a PNG, JPEG or WebP file that the model follows, by an ip_adapter.
            server, token: the server's URL and token; "" finds or starts a server on this machine, and stops the one
                that it started.
            overwrite: True replaces files of other origin too.
            progress: called with each `Progress`; log: called with each line for the user.

    Raises ValueError for bad input and `GenerationError` when the job failed, each with one sentence. On failure and
    on KeyboardInterrupt, the last state that arrived stays in the scene and in `output`.
    """
    return _run("generate", None, prompt, output, **settings)


def texture(
    object: bpy.types.Object | Sequence[bpy.types.Object],
    prompt: str,
    output: _FileName | None = None,
    *,
    lock: str = "",
    **settings: Any,
) -> bpy.types.Object:
    """Paint a mesh object, whose vertices and UVs stay as they are, and return it.

    object: or several, which are painted as one, as they stand; the first is returned. lock: name of a vertex group;
    faces between its members keep their texture. The other arguments are those of `generate`.
    """
    return _run("texture", object, prompt, output, lock, **settings)


def refine(
    object: bpy.types.Object | Sequence[bpy.types.Object],
    prompt: str,
    output: _FileName | None = None,
    *,
    lock: str = "",
    **settings: Any,
) -> bpy.types.Object:
    """Paint a mesh object and move its vertices, and return it.

    object: as in `texture`; remesh takes one only. lock: name of a vertex group whose members do not move. settings:
    among them max_displacement (metres) and remesh. The other arguments are those of `generate`.
    """
    return _run("refine", object, prompt, output, lock, **settings)


def _run(
    mode: str,
    object: bpy.types.Object | Sequence[bpy.types.Object] | None,
    prompt: str,
    output: _FileName | None = None,
    lock: str = "",
    *,
    image_prompt: bpy.types.Image | _FileName | None = None,
    server: str = "",
    token: str = "",
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    log: Callable[[str], None] | None = None,
    **settings: Any,
) -> bpy.types.Object:
    picture: bytes | None = None
    if isinstance(image_prompt, bpy.types.Image):
        picture = encode_image(image_prompt)
    elif image_prompt:
        picture = read_picture(image_prompt)
    settings = {
        "client_key": uuid.uuid4().hex,
        "image_prompt": "" if picture is None else picture_id(picture),
        **settings,
    }
    request = JobRequest(prompt, mode=mode, **settings).validate(uploaded=False)
    objects: list[bpy.types.Object] = []
    if object is not None:
        objects = [object] if isinstance(object, bpy.types.Object) else list(object)
    if mode != "generate" and not objects:
        raise InvalidInputError("There is no object to work on: give one.")
    for each in objects:
        if each.type != "MESH":
            raise InvalidInputError(f"{each.name!r} is no mesh: convert it with Object > Convert > Mesh.")
    if request.remesh and len(objects) > 1:
        raise InvalidInputError("Remesh takes one object: give one, or leave out remesh.")

    def place(path: str) -> str:
        return expand_path(path, server) if server else str(Path(path).expanduser().absolute())

    for name in PATHS:
        if path := getattr(request, name):
            setattr(request, name, place(path))
    request.loras = [join_lora(place(file), weight) for file, weight in map(split_lora, request.loras)]
    files = Output(output, command_key(mode, prompt, *objects), overwrite) if output is not None else None
    try:
        with connected_client(server, token) as client:
            live_job = LiveJob(request, lambda: client, objects, lock, picture=picture)
            interrupted = False
            try:
                follow(live_job, progress, log)
            except KeyboardInterrupt:
                interrupted = True
                live_job.session.cancel()
                follow(live_job, None, log)
            if files and live_job.object:
                files.save(live_job, client)
            if interrupted:
                raise KeyboardInterrupt
    except (ClientError, OutputError) as error:
        raise GenerationError(str(error)) from None
    session = live_job.session
    if session.error or session.state == CANCELLED or live_job.object is None:
        failure = GenerationError(session.error or "The job was cancelled on the server.")
        failure.object = live_job.object
        raise failure
    return live_job.object


def follow(live_job: LiveJob, progress: Callable[[Progress], None] | None, log: Callable[[str], None] | None) -> None:
    """Update a job until its end. (Blender's timers do not run in background mode.)"""
    session, logged = live_job.session, 0
    continues = True
    while continues:
        session.wait(0.1)
        continues = live_job.update()
        if progress and session.progress:
            progress(session.progress)
        if log:
            for line in session.log[logged:]:
                log(line)
        logged = len(session.log)
