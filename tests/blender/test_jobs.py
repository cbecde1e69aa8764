# SPDX-License-Identifier: GPL-3.0-or-later
"""Running jobs in Blender with a real server: edits, versions, killed processes, and an artist's other operations."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import bpy
import numpy as np
import pytest

import msd_blender
from msd_blender import history, jobs, materials, server_panel
from msd_blender.capture import read_positions
from msd_blender.client import Client
from msd_blender.connection import health_monitor, terminal_command
from msd_blender.live_job import running_jobs
from msd_blender.local_server import LocalServer, find
from msd_blender.protocol import FINISHED, PAUSED, RUNNING
from tests.blender.helpers import finish_jobs, start_job, update_until

ROOT = Path(__file__).parents[2]


def worker_state() -> str:
    """The state of the server's worker as the panel shows it."""
    health_monitor.refresh()
    while health_monitor.is_requesting:
        time.sleep(0.02)
    assert health_monitor.answer
    return health_monitor.answer.worker


def test_the_panel_knows_when_the_server_has_ended_its_work(remote: LocalServer, tiny: dict[str, Any]) -> None:
    live_job = start_job(tiny, iterations=12)
    update_until(lambda: live_job.session.state == RUNNING)
    assert worker_state() == "busy"
    finish_jobs()
    assert worker_state() == "idle"


def test_the_panel_says_why_no_job_can_run(remote: LocalServer) -> None:
    worker_state()
    assert health_monitor.answer
    sentence = "There is no Ray cluster: start one. Jobs wait for it."
    health_monitor.answer = replace(health_monitor.answer, problem=sentence)
    layout = MagicMock()
    layout.column.return_value = layout
    region = SimpleNamespace(width=4000)
    prefs = SimpleNamespace(system=SimpleNamespace(ui_scale=1.0))  # which is 0 without a window
    room = SimpleNamespace(preferences=prefs, scene=bpy.context.scene, region=region)
    server_panel.draw_server(layout, room)  # type: ignore[arg-type]
    said = [call.kwargs["text"] for call in layout.label.call_args_list]
    health_monitor.expire()
    assert sentence in said and "Ready" not in said


def test_an_extension_that_is_turned_off_forgets_the_server(remote: LocalServer) -> None:
    assert worker_state()
    msd_blender.unregister()
    msd_blender.register()
    assert health_monitor.answer is None and not health_monitor.problem


def test_versions_are_kept_restored_and_discarded(remote: LocalServer, tiny: dict[str, Any]) -> None:
    start_job(tiny)
    start_job(tiny, "a blue chair", seed=5)
    finish_jobs()
    first, second = bpy.context.scene.msd_jobs
    assert [item.state for item in (first, second)] == [FINISHED, FINISHED] and first.job != second.job
    made = first.object
    assert (made["msd_prompt"], second.object["msd_seed"], made["msd_server"]) == ("a red mushroom", 5, remote.url)
    assert first.picture and made.preview.image_size[0]
    before = read_positions(made.data)
    made.data.attributes["position"].data.foreach_set("vector", np.zeros(3 * len(made.data.vertices), np.float32))
    bpy.ops.msd.restore(key=first.key)
    np.testing.assert_array_equal(read_positions(made.data), before)
    assert made.data.name == made.data.materials[0].name == "a red mushroom" and not made.data.name.startswith(".")
    bpy.ops.msd.mark_asset(key=first.key)
    assert "seed 0" in made.asset_data.tags and made.asset_data.description == "a red mushroom"
    bpy.data.objects.remove(made)
    bpy.ops.msd.restore(key=first.key)  # deleted meanwhile: made again
    np.testing.assert_array_equal(read_positions(bpy.data.objects["a red mushroom"].data), before)
    bpy.ops.msd.discard(key=first.key)
    assert [item.name for item in bpy.data.objects] == ["a blue chair"] == [m.name for m in bpy.context.scene.msd_jobs]
    assert {mesh.name for mesh in bpy.data.meshes if mesh.users} == {"a blue chair", ".msd a blue chair"}


@pytest.mark.process
def test_the_server_is_started_shown_and_stopped(data: Path) -> None:
    assert bpy.ops.msd.server_start() == {"FINISHED"}
    while health_monitor.is_requesting:
        time.sleep(0.1)
    running = find(data)
    assert health_monitor.answer is not None and running is not None and health_monitor.answer.pid == running.pid
    bpy.ops.msd.server_log()
    assert "Serving on" in bpy.data.texts["msd server.log"].as_string()
    bpy.ops.msd.server_stop()
    while find(data) is not None:
        time.sleep(0.1)
    health_monitor.expire()
    while health_monitor.refresh():
        time.sleep(0.1)
    assert health_monitor.answer is None and not health_monitor.problem


@pytest.mark.process
def test_a_server_that_is_stopped_stays_so_until_it_is_started(data: Path, tiny: dict[str, Any]) -> None:
    live_job = start_job(tiny, iterations=3000)
    session = live_job.session
    update_until(lambda: session.progress is not None)
    bpy.ops.msd.server_stop()
    update_until(lambda: "was stopped" in session.connection_error)
    until = time.monotonic() + 3
    update_until(lambda: time.monotonic() > until)
    assert find(data) is None and running_jobs == [live_job]
    bpy.ops.msd.server_start()
    update_until(lambda: not session.connection_error and session.state == RUNNING)
    session.cancel()
    finish_jobs()
    bpy.ops.msd.server_stop()


def test_a_terminal_runs_the_server_or_where_there_is_none_its_installer(addon: Any, tmp_path: Path) -> None:
    addon.place, addon.folder, addon.python, addon.data = "LOCAL", str(ROOT), sys.executable, str(tmp_path / "my jobs")
    serve = ["-m", "server", "serve", "--port", "0", "--data", str(tmp_path / "my jobs")]
    assert terminal_command() == ([sys.executable, *serve], ROOT)
    addon.limits_cores, addon.cores = True, 3
    assert terminal_command() == ([sys.executable, *serve, "--cores", "3"], ROOT)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "install.py").touch()
    addon.folder = str(tmp_path / "new")
    assert terminal_command() == ([sys.executable, str(tmp_path / "new" / "install.py")], tmp_path / "new")
    addon.folder, addon.python = str(tmp_path), ""
    with pytest.raises(RuntimeError, match="There is no server in .*: run `make setup` or install.py there"):
        bpy.ops.msd.server_terminal()


def test_presets_keep_settings_and_leave_the_task(addon: Any) -> None:
    settings = bpy.context.scene.msd
    settings.prompt, settings.maps, settings.diversity = "a chair", {"normal", "metallic"}, 2.5
    bpy.ops.msd.preset_add(name="mine")
    (path,) = Path(bpy.utils.user_resource("SCRIPTS")).rglob("mine.py")
    settings.prompt, settings.maps, settings.diversity = "a table", set(), 0
    bpy.ops.script.execute_preset(filepath=str(path), menu_idname="MSD_PT_presets")
    assert (settings.prompt, settings.maps, settings.diversity) == ("a table", {"normal", "metallic"}, 2.5)


def test_presets_are_shipped_and_what_they_set_can_be_asked_for(addon: Any) -> None:
    settings = bpy.context.scene.msd
    settings.prompt = "a chair"
    (folder,) = [path for path in bpy.utils.preset_paths("msd") if "shipped" in path]
    found = sorted(Path(folder).glob("*.py"))
    assert [path.stem for path in found] == [
        "Draft",
        "Game_Prop",
        "Hard_Surface",
        "Hero_Asset",
        "Stylized",
        "Texture_Only",
    ]
    asked = []
    for path in found:
        settings.mode = "generate"
        bpy.ops.script.execute_preset(filepath=str(path), menu_idname="MSD_PT_presets")
        asked.append(settings.request())
    assert [request.mode for request in asked] == ["generate"] * 5 + ["texture"]
    assert len({repr(request) for request in asked}) == 6 and asked[3].maps == ["roughness", "metallic", "normal"]
    assert asked[0].iterations == 160 and asked[0].maps == [] and asked[0].symmetry == "" and not asked[4].flat


def test_undo_takes_the_object_and_the_job_brings_it_back(remote: LocalServer, tiny: dict[str, Any]) -> None:
    bpy.ops.ed.undo_push(message="before")
    live_job = start_job(tiny, iterations=3000)
    update_until(lambda: live_job.object is not None)
    bpy.ops.ed.undo_push(message="the artist's own")
    bpy.ops.ed.undo()
    assert not bpy.data.objects and len(bpy.context.scene.msd_jobs) == 1  # its start is a step of its own
    update_until(lambda: live_job.object is not None)
    assert len(bpy.data.objects) == 1 and running_jobs == [live_job]


def test_again_brings_the_settings_back(remote: LocalServer, tiny: dict[str, Any]) -> None:
    start_job(tiny, negative_prompt="blue", maps=["normal"], symmetry="x", elevation=[-10, 40], seed=9)
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
    assert not running_jobs and not bpy.context.scene.msd_jobs


def test_an_edit_is_sent_and_nothing_older_overwrites_it(remote: LocalServer, tiny: dict[str, Any]) -> None:
    live_job = start_job(tiny, iterations=400)
    session = live_job.session
    update_until(lambda: live_job.object is not None and len(live_job.object.data.vertices) > 20)
    bpy.ops.msd.pause()
    update_until(lambda: session.state == PAUSED)
    object = live_job.object
    mine = read_positions(object.data)
    third = np.arange(len(mine)) < len(mine) // 3
    mine[third, 2] += 0.3
    object.data.attributes["position"].data.foreach_set("vector", mine.ravel())
    object.vertex_groups.new(name="lock").add(np.flatnonzero(third).tolist(), 1.0, "REPLACE")
    bpy.context.scene.msd_jobs[0].lock = "lock"
    bpy.ops.msd.resume()
    assert session.edit_pending
    update_until(lambda: not session.edit_pending)
    assert not session.edit_error and Client(remote.url).job(session.id).edits == 1
    np.testing.assert_array_equal(read_positions(object.data), mine)
    update_until(lambda: session.snapshot is not None and session.snapshot.edits == 1)
    assert live_job.scene_object is not None and live_job.scene_object.captured.arrays["locked"].sum() == third.sum()

    item = bpy.context.scene.msd_jobs[0]
    item.prompt = "a blue mushroom"
    update_until(lambda: not session.edit_pending)
    assert Client(remote.url).job(session.id).request.prompt == object["msd_prompt"] == "a blue mushroom"
    bpy.ops.msd.stop()
    finish_jobs()
    assert item.state == "cancelled" and item.object == object


def test_an_edit_that_is_refused_waits_for_the_artist(remote: LocalServer, tiny: dict[str, Any]) -> None:
    live_job = start_job(tiny, iterations=400)
    session = live_job.session
    update_until(lambda: live_job.object is not None and len(live_job.object.data.vertices) > 20)
    mesh = live_job.object.data
    mine = read_positions(mesh)
    mine[0] = np.nan  # no server takes that
    mesh.attributes["position"].data.foreach_set("vector", mine.ravel())
    jobs.tick()
    update_until(lambda: session.state == PAUSED)
    assert "finite" in session.edit_error and np.isnan(read_positions(mesh)).any()
    bpy.ops.msd.resume()
    update_until(lambda: np.isfinite(read_positions(mesh)).all() and session.state == RUNNING)
    assert not session.edit_error
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
live_job = jobs.start(JobRequest("a red mushroom", **{ {**tiny, "iterations": 12}!r}))
while not live_job.session.id or {{seconds}} > 0 and live_job.object is None:
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
        assert len(running_jobs) == 1
        session = running_jobs[0].session
        finish_jobs()
        (item,) = bpy.context.scene.msd_jobs
        assert (item.state, session.error) == (FINISHED, "") and session.snapshot is not None
        (made,) = bpy.data.objects
        np.testing.assert_array_equal(read_positions(made.data), session.snapshot.arrays["positions"])
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "x.blend"))  # from then, before it had finished
    finish_jobs()
    assert bpy.context.scene.msd_jobs[0].state == FINISHED and len(bpy.data.objects) == 1


@pytest.mark.process
@pytest.mark.long
def test_a_server_that_is_killed_is_waited_for(
    data: Path, tiny: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    draw = random.Random(1)
    for _ in range(20 if request.config.getoption("--long") else 1):
        live_job = start_job(tiny, iterations=10)
        session = live_job.session
        update_until(lambda session=session: session.progress is not None and session.progress.iteration >= 1)  # type: ignore[misc]
        deadline = time.monotonic() + draw.random() * 3
        update_until(lambda deadline=deadline: time.monotonic() > deadline)  # type: ignore[misc]
        running = find(data)
        assert running is not None
        os.killpg(running.pid, signal.SIGKILL)
        finish_jobs()
        assert (session.state, session.error, session.connection_error) == (FINISHED, "", "")
        assert session.snapshot is not None
        np.testing.assert_array_equal(read_positions(live_job.object.data), session.snapshot.arrays["positions"])
        assert len([o for o in bpy.data.objects if o.get("msd_key") == live_job.request.client_key]) == 1


@pytest.mark.process
def test_a_job_that_ended_without_blender_and_server_is_found(data: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    live_job = start_job(tiny)
    update_until(lambda: live_job.session.id)
    jobs.tick()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "x.blend"))
    key = live_job.request.client_key
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    assert not running_jobs
    running = find(data)
    assert running is not None
    with Client(running.url, running.token) as client:
        update_until(lambda: client.job(live_job.session.id).ended)
    os.killpg(running.pid, signal.SIGKILL)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "x.blend"))
    finish_jobs()
    (item,) = bpy.context.scene.msd_jobs
    assert (item.state, item.key) == (FINISHED, key) and item.object.data.polygons
    assert materials.image_of(item.object.data.materials[0], "texture").packed_file


# Operations of an artist while a job runs. Each takes the job's object, or None.


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
    if object and object.mode == "OBJECT":  # Blender's Delete refuses in other modes
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
        for waiting in [each for each in running_jobs if each.waits_for_object]:  # its object was deleted
            jobs.discard(history.find_record(waiting.request.client_key))
        if not running_jobs:
            start_job(tiny, iterations=3000)
        live_job = running_jobs[0]
        session = live_job.session
        seen = len(session.update_milliseconds)
        object = live_job.object
        busy = object is not None and object.mode != "OBJECT"
        update_until(
            lambda: (
                session not in [each.session for each in running_jobs]
                or busy
                or live_job.waits_for_object
                or len(session.update_milliseconds) > seen
                and live_job.object is not None
            )
        )
        operation(live_job.object)
        for _ in range(3):
            jobs.tick()
            time.sleep(0.02)
        for each in list(running_jobs):
            assert not each.session.error, (operation, each.session.error)
    for item in list(bpy.context.scene.msd_jobs):
        jobs.discard(item)
    jobs.detach_all()
    assert all(not history.find_record(each.request.client_key) for each in running_jobs)
