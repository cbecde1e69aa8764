# SPDX-License-Identifier: GPL-3.0-or-later
"""Live jobs at the bpy surface, with a real server: edits, versions, deaths, and whatever an artist does meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import pytest

import msd_blender
from msd_blender import history, jobs, materials
from msd_blender.capture import positions
from msd_blender.client import Client
from msd_blender.connection import watch
from msd_blender.local_server import LocalServer, find, stop
from msd_blender.protocol import FINISHED, PAUSED, RUNNING, JobRequest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def addon() -> Iterator[Any]:
    """The extension, enabled in an empty file; its preferences."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    entry = bpy.context.preferences.addons.new()
    entry.module = "msd_blender"
    msd_blender.register()
    yield entry.preferences
    msd_blender.unregister()
    bpy.context.preferences.addons.remove(entry)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("msd-")]


@pytest.fixture
def remote(addon: Any, server: LocalServer) -> LocalServer:
    addon.place, addon.url = "URL", server.url
    return server


@pytest.fixture
def data(addon: Any, tmp_path: Path) -> Iterator[Path]:
    """The data folder of a local server that jobs start themselves."""
    addon.place, addon.data, addon.keep = "LOCAL", str(tmp_path / "data"), True
    addon.folder, addon.python = str(ROOT), sys.executable
    yield tmp_path / "data"
    if (running := find(tmp_path / "data")) is not None:
        stop(running)


def pump(until: Callable[[], object], seconds: float = 200) -> None:
    """Be the timer, which the background has not."""
    deadline = time.monotonic() + seconds
    while not until():
        jobs.tick()
        assert time.monotonic() < deadline, [(each.live.state, each.live.error) for each in jobs.generations]
        time.sleep(0.02)


def finish() -> None:
    pump(lambda: not jobs.generations)


def start(tiny: dict[str, Any], prompt: str = "a red mushroom", **settings: Any) -> jobs.Generation:
    return jobs.start(JobRequest(prompt, **{**tiny, **settings}))


def ask() -> str:
    """What the panel says of the server's worker."""
    watch.look()
    while watch.asking:
        time.sleep(0.02)
    assert watch.health
    return watch.health.worker


def test_the_panel_knows_when_the_server_has_ended_its_work(remote: LocalServer, tiny: dict[str, Any]) -> None:
    generation = start(tiny, iterations=12)
    pump(lambda: generation.live.state == RUNNING)
    assert ask() == "busy"
    finish()
    assert ask() == "idle"


def test_versions_are_kept_restored_and_discarded(remote: LocalServer, tiny: dict[str, Any]) -> None:
    start(tiny)
    start(tiny, "a blue chair", seed=5)
    finish()
    first, second = bpy.context.scene.msd_jobs
    assert [item.state for item in (first, second)] == [FINISHED, FINISHED] and first.job != second.job
    made = first.object
    assert (made["msd_prompt"], second.object["msd_seed"], made["msd_server"]) == ("a red mushroom", 5, remote.url)
    assert first.picture and made.preview.image_size[0]
    before = positions(made.data)
    made.data.attributes["position"].data.foreach_set("vector", np.zeros(3 * len(made.data.vertices), np.float32))
    bpy.ops.msd.restore(key=first.key)
    np.testing.assert_array_equal(positions(made.data), before)
    assert made.data.name == made.data.materials[0].name == "a red mushroom" and not made.data.name.startswith(".")
    bpy.ops.msd.mark_asset(key=first.key)
    assert "seed 0" in made.asset_data.tags and made.asset_data.description == "a red mushroom"
    bpy.data.objects.remove(made)
    bpy.ops.msd.restore(key=first.key)  # deleted meanwhile: made again
    np.testing.assert_array_equal(positions(bpy.data.objects["a red mushroom"].data), before)
    bpy.ops.msd.discard(key=first.key)
    assert [item.name for item in bpy.data.objects] == ["a blue chair"] == [m.name for m in bpy.context.scene.msd_jobs]
    assert {mesh.name for mesh in bpy.data.meshes if mesh.users} == {"a blue chair", ".msd a blue chair"}


@pytest.mark.process
def test_the_server_is_started_shown_and_stopped(data: Path) -> None:
    assert bpy.ops.msd.server_start() == {"FINISHED"}
    while watch.asking:
        time.sleep(0.1)
    running = find(data)
    assert watch.health is not None and running is not None and watch.health.pid == running.pid
    bpy.ops.msd.server_log()
    assert "Serving on" in bpy.data.texts["msd server.log"].as_string()
    bpy.ops.msd.server_stop()
    while find(data) is not None:
        time.sleep(0.1)
    watch.again()
    while watch.look():
        time.sleep(0.1)
    assert watch.health is None and not watch.problem


def test_presets_keep_settings_and_leave_the_task(addon: Any) -> None:
    settings = bpy.context.scene.msd
    settings.prompt, settings.maps, settings.diversity = "a chair", {"normal", "metallic"}, 2.5
    bpy.ops.msd.preset_add(name="mine")
    (path,) = Path(bpy.utils.user_resource("SCRIPTS")).rglob("mine.py")
    settings.prompt, settings.maps, settings.diversity = "a table", set(), 0
    bpy.ops.script.execute_preset(filepath=str(path), menu_idname="MSD_PT_presets")
    assert (settings.prompt, settings.maps, settings.diversity) == ("a table", {"normal", "metallic"}, 2.5)


def test_undo_takes_the_object_and_the_job_brings_it_back(remote: LocalServer, tiny: dict[str, Any]) -> None:
    bpy.ops.ed.undo_push(message="before")
    generation = start(tiny, iterations=3000)
    pump(lambda: generation.object is not None)
    bpy.ops.ed.undo_push(message="the artist's own")
    bpy.ops.ed.undo()
    assert not bpy.data.objects and not bpy.context.scene.msd_jobs
    pump(lambda: generation.object is not None)
    assert len(bpy.data.objects) == 1 and jobs.generations == [generation]
    bpy.ops.object.select_all(action="DESELECT")
    _delete(generation.object)  # that is by intent
    pump(lambda: not jobs.generations)
    assert not bpy.context.scene.objects
    pump(lambda: Client(remote.url).job(generation.live.id).state == "cancelled")


def test_again_brings_the_settings_back(remote: LocalServer, tiny: dict[str, Any]) -> None:
    start(tiny, negative_prompt="blue", maps=["normal"], symmetry="x", elevation=[-10, 40], seed=9)
    bpy.context.scene.msd.prompt = "something else"
    assert bpy.ops.msd.again(start=False) == {"FINISHED"}
    request = bpy.context.scene.msd.request()
    assert (
        request.prompt,
        request.negative_prompt,
        request.maps,
        request.symmetry,
        request.elevation,
        request.seed,
        request.iterations,
    ) == ("a red mushroom", "blue", ["normal"], "x", [-10, 40], 9, tiny["iterations"])
    bpy.ops.msd.discard()
    assert not jobs.generations and not bpy.context.scene.msd_jobs


def test_an_edit_is_sent_and_nothing_older_overwrites_it(remote: LocalServer, tiny: dict[str, Any]) -> None:
    generation = start(tiny, iterations=400)
    live = generation.live
    pump(lambda: generation.object is not None and len(generation.object.data.vertices) > 20)
    bpy.ops.msd.pause()
    pump(lambda: live.state == PAUSED)
    object = generation.object
    mine = positions(object.data)
    third = np.arange(len(mine)) < len(mine) // 3
    mine[third, 2] += 0.3
    object.data.attributes["position"].data.foreach_set("vector", mine.ravel())
    object.vertex_groups.new(name="lock").add(np.flatnonzero(third).tolist(), 1.0, "REPLACE")
    bpy.context.scene.msd_jobs[0].lock = "lock"
    bpy.ops.msd.resume()
    assert live.editing
    pump(lambda: not live.editing)
    assert not live.refused and Client(remote.url).job(live.id).edits == 1
    np.testing.assert_array_equal(positions(object.data), mine)
    pump(lambda: live.snapshot is not None and live.snapshot.edits == 1)
    assert generation.asset is not None and generation.asset.source.arrays["locked"].sum() == third.sum()

    item = bpy.context.scene.msd_jobs[0]
    item.prompt = "a blue mushroom"
    pump(lambda: not live.editing)
    assert Client(remote.url).job(live.id).request.prompt == object["msd_prompt"] == "a blue mushroom"
    bpy.ops.msd.stop()
    finish()
    assert item.state == "cancelled" and item.object == object


def test_an_edit_that_is_refused_waits_for_the_artist(remote: LocalServer, tiny: dict[str, Any]) -> None:
    generation = start(tiny, iterations=400)
    live = generation.live
    pump(lambda: generation.object is not None and len(generation.object.data.vertices) > 20)
    mesh = generation.object.data
    mine = positions(mesh)
    mine[0] = np.nan  # no server takes that
    mesh.attributes["position"].data.foreach_set("vector", mine.ravel())
    jobs.tick()
    pump(lambda: live.state == PAUSED)
    assert "finite" in live.refused and np.isnan(positions(mesh)).any()
    bpy.ops.msd.resume()
    pump(lambda: np.isfinite(positions(mesh)).all() and live.state == RUNNING)
    assert not live.refused
    bpy.ops.msd.discard()


@pytest.mark.long
def test_a_file_finds_its_job_again(
    remote: LocalServer, tiny: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Blender is killed while a job runs, after it saved; another one opens the file."""
    code = f"""
import os, time, bpy, msd_blender
bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
entry = bpy.context.preferences.addons.new(); entry.module = "msd_blender"
msd_blender.register()
from msd_blender import jobs
from msd_blender.protocol import JobRequest
entry.preferences.place, entry.preferences.url = "URL", {remote.url!r}
generation = jobs.start(JobRequest("a red mushroom", **{ {**tiny, "iterations": 12}!r}))
while not generation.live.id or {{seconds}} > 0 and generation.object is None:
    jobs.tick(); time.sleep(0.02)
jobs.tick()
bpy.ops.wm.save_as_mainfile(filepath={str(tmp_path / "x.blend")!r})
print("saved", flush=True)
while True:
    jobs.tick(); time.sleep(0.02)
"""
    draw = random.Random(2)
    for _ in range(20 if request.config.getoption("--long") else 1):
        seconds = draw.choice([0, draw.random() * 4])
        process = subprocess.Popen(
            [sys.executable, "-c", code.replace("{seconds}", str(seconds))], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout and any("saved" == line.strip() for line in process.stdout)
        time.sleep(seconds)
        process.kill()
        process.wait()
        bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "x.blend"))
        assert len(jobs.generations) == 1
        live = jobs.generations[0].live
        finish()
        (item,) = bpy.context.scene.msd_jobs
        assert (item.state, live.error) == (FINISHED, "") and live.snapshot is not None
        (made,) = bpy.data.objects
        np.testing.assert_array_equal(positions(made.data), live.snapshot.arrays["positions"])
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "x.blend"))  # from then, before it had finished
    finish()
    assert bpy.context.scene.msd_jobs[0].state == FINISHED and len(bpy.data.objects) == 1


@pytest.mark.process
@pytest.mark.long
def test_a_server_that_is_killed_is_waited_for(
    data: Path, tiny: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    draw = random.Random(1)
    for _ in range(20 if request.config.getoption("--long") else 1):
        generation = start(tiny, iterations=10)
        live = generation.live
        pump(lambda live=live: live.progress is not None and live.progress.iteration >= 1)  # type: ignore[misc]
        deadline = time.monotonic() + draw.random() * 3
        pump(lambda deadline=deadline: time.monotonic() > deadline)  # type: ignore[misc]
        running = find(data)
        assert running is not None
        os.killpg(running.pid, signal.SIGKILL)
        finish()
        assert (live.state, live.error, live.lost) == (FINISHED, "", "")
        assert live.snapshot is not None
        np.testing.assert_array_equal(positions(generation.object.data), live.snapshot.arrays["positions"])
        assert len([o for o in bpy.data.objects if o.get("msd_key") == generation.request.client_key]) == 1


@pytest.mark.process
def test_a_job_that_ended_without_blender_and_server_is_found(data: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    generation = start(tiny)
    pump(lambda: generation.live.id)
    jobs.tick()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "x.blend"))
    key = generation.request.client_key
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    assert not jobs.generations
    running = find(data)
    assert running is not None
    with Client(running.url, running.token) as client:
        pump(lambda: client.job(generation.live.id).ended)
    os.killpg(running.pid, signal.SIGKILL)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "x.blend"))
    finish()
    (item,) = bpy.context.scene.msd_jobs
    assert (item.state, item.key) == (FINISHED, key) and item.object.data.polygons
    assert materials.image_of(item.object.data.materials[0], "texture").packed_file


# What an artist does while a job runs. Each takes the live object, or None.


def _undo(object: Any) -> None:
    bpy.ops.ed.undo_push(message="something")
    bpy.ops.ed.undo_push(message="something else")
    bpy.ops.ed.undo()


def _redo(object: Any) -> None:
    _undo(object)
    bpy.ops.ed.redo()


def _new_file(object: Any) -> None:
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)


def _delete(object: Any) -> None:
    if object:
        with bpy.context.temp_override(selected_objects=[object], active_object=object):
            bpy.ops.object.delete()


def _rename(object: Any) -> None:
    if object:
        object.name = object.data.name = "another"


def _scene(object: Any) -> None:
    bpy.ops.scene.new(type="EMPTY")


def _mode(name: str) -> Callable[[Any], None]:
    def change(object: Any) -> None:
        if object and object.name in bpy.context.view_layer.objects and len(object.data.vertices):
            bpy.context.view_layer.objects.active = object
            bpy.ops.object.mode_set(mode="OBJECT" if object.mode != "OBJECT" else name)

    return change


def _disable(object: Any) -> None:
    msd_blender.unregister()
    msd_blender.register()


OPERATIONS = [_undo, _redo, _new_file, _delete, _rename, _scene, _mode("EDIT"), _mode("SCULPT"), _disable]


@pytest.mark.long
def test_whatever_an_artist_does_is_safe(
    remote: LocalServer, tiny: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    draw = random.Random(0)
    more = 50 - len(OPERATIONS) if request.config.getoption("--long") else 0
    order = [*OPERATIONS, *draw.choices(OPERATIONS, k=more)]
    draw.shuffle(order)
    for operation in order:
        if not jobs.generations:
            start(tiny, iterations=3000)
        generation = jobs.generations[0]
        live = generation.live
        seen = len(live.milliseconds)
        object = generation.object
        busy = object is not None and object.mode != "OBJECT"
        pump(
            lambda: (
                live not in [each.live for each in jobs.generations]
                or busy
                or len(live.milliseconds) > seen
                and generation.object is not None
            )
        )
        operation(generation.object)
        for _ in range(3):
            jobs.tick()
            time.sleep(0.02)
        for each in list(jobs.generations):
            assert not each.live.error, (operation, each.live.error)
    for item in list(bpy.context.scene.msd_jobs):
        jobs.discard(item)
    jobs.leave()
    assert all(not history.of_key(each.request.client_key) for each in jobs.generations)
