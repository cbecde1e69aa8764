# SPDX-License-Identifier: GPL-3.0-or-later
"""Undo, redo and other operations while jobs run: one record and one object for each job, and the job goes on."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import pytest

from msd_blender import jobs, materials
from msd_blender.capture import read_positions
from msd_blender.client import Client
from msd_blender.errors import InvalidMeshError
from msd_blender.live_job import LiveJob, find_live_job_on, running_jobs
from msd_blender.local_server import LocalServer
from msd_blender.protocol import CANCELLED, PAUSED, RUNNING, JobRequest
from tests.blender.helpers import finish_jobs, update_until
from tests.blender.node_trees import cube, material, picture, shown

LONG = 3000  # iterations of a job that does not end by itself


def select(object: Any) -> None:
    bpy.ops.object.select_all(action="DESELECT")
    object.select_set(True)
    bpy.context.view_layer.objects.active = object


def delete(object: Any) -> None:
    select(object)
    bpy.ops.object.delete()
    bpy.ops.ed.undo_push(message="Delete")  # Blender itself pushes it for a key or a menu


def start_job(tiny: dict[str, Any], object: Any = None, **settings: Any) -> LiveJob:
    return jobs.start(JobRequest("a red mushroom", **{**tiny, **settings}), [object] if object else [])


def growing(tiny: dict[str, Any], object: Any = None, **settings: Any) -> LiveJob:
    live_job = start_job(tiny, object, iterations=LONG, **settings)
    update_until(lambda: live_job.session.update_milliseconds)
    return live_job


def image_of(object: Any) -> Any:
    return materials.image_of(object.material_slots[0].material, "texture")


def records() -> list[Any]:
    return [record for scene in bpy.data.scenes for record in scene.msd_jobs]


def objects_of(key: str) -> list[Any]:
    return [object for object in bpy.data.objects if object.get("msd_key") == key and object.users_scene]


def check_one_of_each() -> None:
    """Each running job has one record, and one object unless that was deleted; no object has a job without a record."""
    keys = [record.key for record in records()]
    assert len(set(keys)) == len(keys)
    assert {job.request.client_key for job in running_jobs} <= set(keys)
    for record in records():
        objects = objects_of(record.key)
        assert len(objects) <= 1 and (record.object is None or not objects or objects == [record.object])
    for live_job in running_jobs:
        assert live_job.waits_for_object or live_job.session.snapshot is None or live_job.object is not None


def test_a_start_is_a_step_and_what_undo_takes_comes_back(remote: LocalServer, tiny: dict[str, Any]) -> None:
    box = cube()
    bpy.ops.ed.undo_push(message="the cube")
    live_job = growing(tiny)
    key, session = live_job.request.client_key, live_job.session
    name, delete_name = live_job.object.name, box.name
    delete(box)
    bpy.ops.ed.undo()
    jobs.tick()
    assert delete_name in bpy.data.objects and [o.name for o in objects_of(key)] == [name]
    check_one_of_each()
    bpy.ops.ed.redo()
    jobs.tick()
    assert delete_name not in bpy.context.scene.objects and [o.name for o in objects_of(key)] == [name]
    check_one_of_each()
    bpy.ops.ed.undo()  # the deletion
    bpy.ops.ed.undo()  # the start
    assert not records()
    jobs.tick()
    (record,) = records()
    assert (record.key, record.job, record.server) == (key, session.id, remote.url)
    assert objects_of(key) == [record.object] == [live_job.object] and len(record.object.data.vertices)
    seen = len(session.update_milliseconds)
    update_until(lambda: len(session.update_milliseconds) > seen)
    assert running_jobs == [live_job] and session.state == RUNNING
    check_one_of_each()


def test_undo_keeps_no_pointer_to_an_object_that_no_step_has(remote: LocalServer, tiny: dict[str, Any]) -> None:
    """The steps before and after have the same collection, and the object is made after both: Blender once crashed."""
    things = bpy.data.collections.new("Things")
    bpy.context.scene.collection.children.link(things)
    layer = bpy.context.view_layer
    layer.active_layer_collection = layer.layer_collection.children["Things"]
    live_job = start_job(tiny, iterations=LONG)
    bpy.context.scene["mine"] = 1
    bpy.ops.ed.undo_push(message="the artist's own")
    for step in (bpy.ops.ed.undo, bpy.ops.ed.redo):  # both take away what is in neither of the steps
        update_until(lambda: live_job.object is not None)
        assert live_job.object.name in bpy.data.collections["Things"].objects
        step()
        assert not bpy.data.collections["Things"].objects.keys() and not bpy.data.objects.keys()
        chosen = bpy.context.preferences
        assert not chosen.view.show_developer_ui and not chosen.experimental.use_undo_legacy
        jobs.tick()
        check_one_of_each()
    update_until(lambda: live_job.object is not None)
    check_one_of_each()


def test_a_job_waits_though_its_object_goes_again_before_the_server_has_answered(
    remote: LocalServer, tiny: dict[str, Any]
) -> None:
    live_job = growing(tiny)
    session = live_job.session
    bpy.ops.ed.undo_push(message="something")
    delete(live_job.object)
    update_until(lambda: session.state == PAUSED)
    for step in (bpy.ops.ed.undo, bpy.ops.ed.redo):
        step()
        jobs.tick()
    waited = time.monotonic() + 3
    update_until(lambda: time.monotonic() > waited)
    assert session.state == PAUSED and live_job.waits_for_object
    bpy.ops.ed.undo()
    update_until(lambda: session.state == RUNNING and live_job.object is not None)
    session.pause()
    update_until(lambda: session.state == PAUSED)
    for step in (bpy.ops.ed.redo, bpy.ops.ed.undo):
        step()
        jobs.tick()
    waited = time.monotonic() + 3
    update_until(lambda: time.monotonic() > waited)
    assert session.state == PAUSED and not live_job.waits_for_object  # it was the artist who paused it


def test_a_deleted_object_waits_for_undo(remote: LocalServer, tiny: dict[str, Any]) -> None:
    live_job = growing(tiny)
    session = live_job.session
    bpy.ops.ed.undo_push(message="something")
    delete(live_job.object)
    update_until(lambda: session.state == PAUSED)
    assert live_job.waits_for_object and not objects_of(live_job.request.client_key) and len(records()) == 1
    bpy.ops.ed.undo()
    update_until(lambda: session.state == RUNNING)
    assert live_job.object == records()[0].object and not live_job.waits_for_object
    bpy.ops.ed.redo()
    update_until(lambda: session.state == PAUSED)
    assert live_job.waits_for_object
    bpy.ops.msd.resume(key=live_job.request.client_key)  # made anew
    update_until(lambda: session.state == RUNNING)
    assert live_job.object == records()[0].object and len(live_job.object.data.vertices)
    check_one_of_each()


def test_undo_takes_a_paint_job_back_to_the_artists_mesh_and_on(remote: LocalServer, tiny: dict[str, Any]) -> None:
    object = cube(material("wood", picture("wood", 9)))
    bpy.ops.ed.undo_push(message="the cube")
    live_job = growing(tiny, object, mode="texture", texture_size=64)
    key = live_job.request.client_key
    assert image_of(object)["msd_key"] == key
    bpy.ops.ed.undo()
    (object,) = bpy.context.scene.objects
    assert not records() and "msd_key" not in image_of(object)
    jobs.tick()
    (record,) = records()
    assert record.object == object == live_job.object and shown(record.before.materials[0]) == 9
    assert image_of(object)["msd_key"] == key
    bpy.ops.msd.discard(key=key)
    (object,) = bpy.context.scene.objects
    assert shown(object.material_slots[0].material) == 9 and not records()


def test_undo_after_the_end_keeps_the_jobs_state(remote: LocalServer, tiny: dict[str, Any]) -> None:
    live_job = growing(tiny)
    bpy.ops.ed.undo_push(message="something")
    key = live_job.request.client_key
    bpy.ops.msd.stop(key=key)
    finish_jobs()
    (record,) = records()
    kept = read_positions(record.object.data)
    assert (record.state, record.kept) == (CANCELLED, True) and record.result
    bpy.ops.ed.undo()
    (record,) = records()
    assert (record.state, record.kept, record.result) == (CANCELLED, True, None)
    assert objects_of(key) == [record.object]
    bpy.ops.msd.resume()  # the panel's "Fetch the Result"
    finish_jobs()
    (record,) = records()
    np.testing.assert_array_equal(read_positions(record.object.data), kept)
    assert record.result and objects_of(key) == [record.object]


def test_a_duplicate_is_the_artists_own(remote: LocalServer, tiny: dict[str, Any]) -> None:
    live_job = growing(tiny)
    select(live_job.object)
    bpy.ops.object.duplicate()
    copy = bpy.context.object
    name = copy.name
    jobs.tick()
    assert "msd_key" not in copy
    bpy.ops.scene.new(type="FULL_COPY")
    jobs.tick()
    check_one_of_each()
    bpy.ops.msd.discard(key=live_job.request.client_key)
    assert name in bpy.data.objects and not records() and not running_jobs


def test_undo_of_a_new_prompt_gives_the_old_one(remote: LocalServer, tiny: dict[str, Any]) -> None:
    live_job = growing(tiny)
    (record,) = records()
    bpy.ops.ed.undo_push(message="something")
    record.prompt = "a blue mushroom"
    bpy.ops.ed.undo_push(message="the prompt")
    assert live_job.object.name == record.name == "a blue mushroom"
    bpy.ops.ed.undo()
    jobs.tick()
    assert live_job.request.prompt == "a red mushroom" == live_job.object.name == records()[0].name
    job = live_job.session.id
    with Client(remote.url, remote.token) as client:
        update_until(lambda: not live_job.session.edit_pending)
        assert client.job(job).request.prompt == "a red mushroom"


# Random sequences of an artist's operations.


class Artist:
    """Operations on an object and a job that are drawn at random, each with the step that Blender makes of it."""

    def __init__(self, seed: int, tiny: dict[str, Any], file: Path) -> None:
        self.draw, self.tiny, self.file = random.Random(seed), tiny, file

    def object(self) -> Any:
        return self.draw.choice(list(bpy.context.scene.objects) or [None])

    def generate(self) -> None:
        if len(running_jobs) < 2:
            start_job(self.tiny, iterations=self.draw.choice([4, LONG]))

    def texture(self) -> None:
        meshes = [o for o in bpy.context.scene.objects if o.data.polygons and o.mode == "OBJECT"]
        if meshes and len(running_jobs) < 2 and not find_live_job_on(object := self.draw.choice(meshes)):
            with suppress(InvalidMeshError):  # without UVs
                start_job(self.tiny, object, mode="texture", texture_size=64, iterations=self.draw.choice([4, LONG]))

    def edit(self) -> None:
        if (object := self.object()) is not None and len(object.data.vertices):
            select(object)
            bpy.ops.object.mode_set(mode="EDIT")
            bpy.ops.mesh.select_all(action="SELECT")
            bpy.ops.transform.translate(value=(0.1, 0, 0))
            self.update(2)
            bpy.ops.object.mode_set(mode="OBJECT")
            self.push("Edit")

    def undo(self) -> None:
        if bpy.ops.ed.undo.poll():
            bpy.ops.ed.undo()

    def redo(self) -> None:
        if bpy.ops.ed.redo.poll():
            bpy.ops.ed.redo()

    def delete(self) -> None:
        if (object := self.object()) is not None:
            delete(object)

    def duplicate(self) -> None:
        if (object := self.object()) is not None:
            select(object)
            bpy.ops.object.duplicate(linked=self.draw.random() < 0.3)
            self.push("Duplicate")

    def rename(self) -> None:
        if (object := self.object()) is not None:
            object.name = f"mine {self.draw.randrange(9)}"
            self.push("Rename")

    def save(self) -> None:
        bpy.ops.wm.save_as_mainfile(filepath=str(self.file))

    def reopen(self) -> None:
        if self.file.exists():
            bpy.ops.wm.open_mainfile(filepath=str(self.file))

    def job(self, name: str, **settings: Any) -> None:
        if records():
            bpy.context.scene.msd_job = self.draw.randrange(len(records()))
            with suppress(RuntimeError):  # reported to the artist, as of a job that has ended
                getattr(bpy.ops.msd, name)(key=self.draw.choice(records()).key, **settings)
            self.push(name)

    def pause(self) -> None:
        self.job("pause")

    def resume(self) -> None:
        self.job("resume")

    def keep(self) -> None:
        self.job("stop")

    def discard(self) -> None:
        self.job("discard")

    def restore(self) -> None:
        self.job("restore")

    def push(self, name: str) -> None:
        bpy.ops.ed.undo_push(message=name)

    def update(self, count: int) -> None:
        for _ in range(count):
            jobs.tick()
            time.sleep(0.01)


OPERATIONS = (
    *("generate", "texture", "undo", "undo", "redo", "delete", "edit") * 2,
    *("duplicate", "rename", "save", "reopen", "pause", "resume", "keep", "discard", "restore"),
)


@pytest.mark.long
def test_whatever_is_undone_each_job_has_one_record_and_one_object(
    remote: LocalServer,
    tiny: dict[str, Any],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for seed in range(300 if request.config.getoption("--long") else 5):
        bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
        bpy.ops.ed.undo_push(message="new file")
        artist, done = Artist(seed, tiny, tmp_path / f"{seed}.blend"), []
        artist.generate()
        for name in artist.draw.choices(OPERATIONS, k=12):
            artist.update(artist.draw.choice([1, 5, 20]))
            done.append(name)
            getattr(artist, name)()
            artist.update(1)
            try:
                check_one_of_each()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, {done}: {error}") from error
        assert "Traceback" not in "".join(capfd.readouterr()), f"seed {seed}, {done}"
        for live_job in running_jobs:
            live_job.session.cancel()
        finish_jobs()
        check_one_of_each()
        assert all(record.ended or record.error for record in records()), f"seed {seed}, {done}"
