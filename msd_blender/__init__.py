# SPDX-License-Identifier: GPL-3.0-or-later
"""The Blender extension: submit jobs to the server, show them growing in the scene, send the artist's edits back.

Without bpy, so that threads and tests can use them outside of Blender:

    protocol            messages and arrays on the wire; the server imports it too, and `version`
    errors              the exceptions, each with one sentence for the user
    client              HTTP requests; reconnects a broken event stream
    local_server        finds, starts and stops a server process on this machine
    job_session         one job on the server, followed in threads; **retries a lost connection**
    pixels, thumbnails  texture bytes as Blender's floats, sRGB and linear; small pictures of a job's asset
    commands, __main__  the command line (imports bpy when it runs)
    version             the version number

With bpy, on the main thread only:

    connection          which server to use: preferences, online access, the health that the panel shows
    capture             mesh -> protocol arrays, before the job and for each edit
    nodes, materials    which image a shader shows; reading, replacing and writing that image
    attribute_transfer  new topology for a mesh, with the artist's attributes kept
    scene_object        protocol arrays -> mesh and textures; **detects an artist's edit**
    joined_objects      several objects as one mesh, and each one's share of what comes back
    live_job            a `JobSession` and its `SceneObject`; **sends an artist's edit**
    history             the record of each job in the .blend, and the versions of its objects
    jobs                the timer and the handlers (load, save, undo) that drive the live jobs
    undo                undo and redo while jobs run: **one record and one object for each job**
    server_jobs         all jobs that the server has under way
    forecast            what the server says of a job before it starts
    model_list          what the server has: lists to choose from, and sentences on what does not fit
    cameras             the cameras of the scene that jobs favour
    properties, operators, panels, presets      the settings of a job, and its start
    job_operators, job_panels                   what runs, and the history
    server_panel, preferences                   the server's state, and where it is
    layout, icons                               pieces of panels
    shipped/            the presets that come with it
    output, api         files of a job without a window; functions for scripts

An update goes server -> `JobSession` (threads) -> `jobs.tick` (timer) -> `LiveJob.update` -> `SceneObject.apply`.
An edit goes `LiveJob.send_edits` -> `SceneObject.has_edits`, `capture_edits` -> `JobSession.edit` -> server.

Importing this package needs no bpy; `register` does.
"""

from types import ModuleType

from .version import __version__ as __version__


def _modules() -> tuple[ModuleType, ...]:
    from . import (
        cameras,
        commands,
        forecast,
        history,
        icons,
        job_operators,
        job_panels,
        jobs,
        model_list,
        operators,
        panels,
        preferences,
        presets,
        properties,
        server_jobs,
        server_panel,
    )

    return (
        preferences,
        icons,
        cameras,
        properties,
        history,
        jobs,
        operators,
        job_operators,
        presets,
        model_list,
        server_jobs,
        forecast,
        panels,
        job_panels,
        server_panel,
        commands,
    )


def register() -> None:
    for module in _modules():
        module.register()


def unregister() -> None:
    for module in reversed(_modules()):
        module.unregister()
