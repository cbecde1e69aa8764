# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's words before a job, its list of what runs, its history and its buttons, with a real server."""

from __future__ import annotations

import json
import math
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import bpy
import pytest
from mathutils import Euler, Vector

from msd_blender import cameras, forecast, history, job_panels, jobs, panels, server_jobs
from msd_blender.client import Client
from msd_blender.live_job import running_jobs
from msd_blender.local_server import LocalServer
from msd_blender.protocol import CANCELLED, FINISHED, JobRequest, to_dict
from tests.blender.helpers import finish_jobs, start_job, update_until


def settings() -> Any:
    return bpy.context.scene.msd


def records() -> list[Any]:
    return list(bpy.context.scene.msd_jobs)


def drawn(panel: Any) -> MagicMock:
    """The layout that a panel has drawn into; every part of it is the same."""
    layout = MagicMock()
    for part in ("row", "column", "box", "split", "grid_flow", "column_flow"):
        getattr(layout, part).return_value = layout
    region, prefs = SimpleNamespace(width=4000), SimpleNamespace(system=SimpleNamespace(ui_scale=1.0))
    context: Any = SimpleNamespace(
        scene=bpy.context.scene, preferences=prefs, region=region, object=bpy.context.object, space_data=None,
        active_object=bpy.context.active_object, selected_objects=bpy.context.selected_objects,
    )  # fmt: skip
    own = SimpleNamespace(layout=layout, names=getattr(panel, "names", ()))
    own._draw_variants = lambda *given: panel._draw_variants(own, *given)
    panel.draw(own, context)
    return layout


def said(layout: MagicMock) -> str:
    return " | ".join(call.kwargs.get("text", "") for call in layout.label.call_args_list)


def forecast_of(**values: Any) -> Any:
    """What the panel is told, once the answer is there; drawing itself does not wait."""
    for name, value in values.items():
        setattr(settings(), name, value)
    start, deadline = time.monotonic(), time.monotonic() + 60
    forecast.forecast(settings())
    assert time.monotonic() - start < 1
    wanted = json.dumps(to_dict(settings().request()))
    while forecast.monitor.answer is None or forecast.monitor.answer[0] != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        forecast.forecast(settings())
    return forecast.forecast(settings())


def test_words_and_time_before_the_start(remote: LocalServer, tiny: dict[str, Any]) -> None:
    assert forecast.forecast(settings()) is None  # nothing is asked of an empty prompt
    assert forecast_of(prompt="a red dragon").unknown == ["dragon"]
    assert "Not known: dragon" in said(drawn(panels.MSD_PT_generate))
    assert forecast_of(prompt="a red mushroom").unknown == []
    assert "Not known" not in said(drawn(panels.MSD_PT_generate))
    for name, value in {**tiny, "iterations": 3}.items():
        setattr(settings(), name, value)
    assert forecast_of(prompt="a red mushroom").seconds is None
    bpy.ops.msd.generate(prompt="a blue cube", model=tiny["model"], iterations=3)
    (record,) = records()
    update_until(lambda: forecast_of().seconds)  # the answer from before is shown until the new one is there
    assert forecast_of().seconds == pytest.approx(record.seconds, rel=1e-4)
    assert "as the last jobs" in said(drawn(panels.MSD_PT_generate))


def test_a_prompt_is_taken_from_the_examples(remote: LocalServer) -> None:
    bpy.ops.msd.prompt(text="a wooden table")
    assert settings().prompt == "a wooden table"
    layout = drawn(panels.MSD_MT_prompts)
    assert [call.kwargs["text"] for call in layout.operator.call_args_list] == list(panels._EXAMPLES)


def test_a_job_is_finished_now(remote: LocalServer, tiny: dict[str, Any]) -> None:
    live_job = start_job(tiny, iterations=3000)
    update_until(lambda: live_job.session.update_milliseconds)
    assert bpy.ops.msd.finish(key=live_job.request.client_key) == {"FINISHED"}
    assert live_job.session.pending_action == "finish"
    finish_jobs()
    (record,) = records()
    assert record.state == FINISHED and not record.kept and live_job.session.progress.iterations < 3000
    object = record.object
    assert record.faces == len(object.data.polygons) > 0 and object.data.uv_layers and record.result is not None
    assert bpy.context.view_layer.objects.active == object and object.select_get()


def test_jobs_of_others_are_listed_with_their_places(remote: LocalServer, tiny: dict[str, Any]) -> None:
    with Client(remote.url, remote.token) as client:
        first = client.submit(JobRequest("their house", **{**tiny, "iterations": 3000}))
        mine = start_job(tiny, iterations=3000)
        update_until(lambda: mine.session.id)
        last = client.submit(JobRequest("their car", **{**tiny, "iterations": 3000}))

        def listed() -> list[str]:
            server_jobs.refresh()
            server_jobs._take_answer()
            return [job.id for job in server_jobs.others()]

        update_until(lambda: listed()[:2] == [first.id, last.id])
        own = server_jobs.find(mine.session.id)
        assert own is not None and (own.place, own.waits_for) == (1, "Another job runs.")
        text = said(drawn(job_panels.MSD_PT_jobs))
        assert "their house" in text and "Waiting 2" in text and "Place 1 in the queue. Another job runs." in text
        for job in (first, last):
            client.cancel(job.id)
    mine.session.cancel()
    finish_jobs()
    update_until(lambda: not listed())
    assert not job_panels.MSD_PT_jobs.poll(bpy.context)


def cube(x: float = 0.0, size: float = 2.0) -> Any:
    bpy.ops.mesh.primitive_cube_add(size=size, location=(x, 0, 0))
    bpy.context.view_layer.update()
    return bpy.context.object


def test_a_new_object_has_a_place_of_its_own(addon: Any) -> None:
    place = Vector((0, 0, 0))
    assert jobs.free_place(place) == place
    bpy.ops.mesh.primitive_plane_add(size=8, location=(0, 0, -1))  # a floor
    bpy.ops.mesh.primitive_cube_add(size=90)  # a room
    bpy.context.view_layer.update()
    assert jobs.free_place(place) == place
    cube()
    assert jobs.free_place(place) == Vector((2.5, 0, 0))
    cube(2.5)
    hidden = cube(5)
    assert jobs.free_place(place) == Vector((7.5, 0, 0))
    hidden.hide_set(True)
    assert jobs.free_place(place) == Vector((5, 0, 0))
    assert jobs.free_place(Vector((0, 0, 2))) == Vector((0, 0, 2))  # on top


def test_variants_stand_side_by_side_and_one_is_chosen(remote: LocalServer, tiny: dict[str, Any]) -> None:
    for seed in range(3):
        start_job(tiny, seed=seed)
    assert [job.location.x for job in running_jobs] == [0, 2.5, 5]
    finish_jobs()
    assert bpy.context.scene.cursor.location.x == 0
    start_job(tiny, "a blue chair")
    finish_jobs()
    first, second, third, other = records()
    assert history.variants_of(second) == [first, second, third] and history.variants_of(other) == [other]
    assert [job.request.seed for job in (first, second, third)] == [0, 1, 2]
    bpy.context.scene.msd_shown_job = 1  # a click
    assert bpy.context.scene.msd_job == 1 and bpy.context.view_layer.objects.active == second.object
    layout = drawn(job_panels.MSD_PT_history)
    shown = [call.kwargs.get("text") for call in layout.operator.call_args_list]
    assert {"#0", "#1", "#2"} <= set(shown)
    kept = second.object.name
    bpy.ops.msd.choose(key=second.key)
    assert [record.name for record in records()] == ["a red mushroom", "a blue chair"]
    assert {object.name for object in bpy.data.objects} == {kept, "a blue chair"}


def test_the_history_is_searched(remote: LocalServer, tiny: dict[str, Any]) -> None:
    for prompt, seed in (("a red mushroom", 4), ("a blue chair", 5), ("a red chair", 14)):
        bpy.ops.msd.generate(prompt=prompt, seed=seed, model=tiny["model"], iterations=1)

    def found(words: str) -> list[str]:
        stub: Any = SimpleNamespace(filter_name=words, bitflag_filter_item=1)
        flags, order = job_panels.MSD_UL_jobs.filter_items(stub, bpy.context, bpy.context.scene, "msd_jobs")
        return [records()[i].name for i in sorted(range(3), key=lambda i: order[i]) if flags[i]]

    assert found("") == ["a red chair", "a blue chair", "a red mushroom"]
    assert found("CHAIR red") == ["a red chair"] and found("#4") == ["a red mushroom"] and not found("texture")
    assert found("generate finished blue") == ["a blue chair"]
    assert "Generate, seed 14" in said(drawn(job_panels.MSD_PT_history))


def test_the_viewports_side_is_told_in_angles() -> None:
    for azimuth, elevation in ((0, 0), (90, 0), (-135, 30), (20, -60)):
        camera = Euler((math.radians(90 - elevation), 0, math.radians(azimuth))).to_quaternion()
        assert cameras.angles(camera @ Vector((0, 0, 1))) == pytest.approx((azimuth, elevation), abs=1e-3)


def test_a_mask_is_painted(addon: Any) -> None:
    object = cube()
    assert bpy.ops.msd.paint_mask() == {"FINISHED"}
    assert object.mode == "WEIGHT_PAINT" and settings().lock == object.vertex_groups.active.name == "Mask"
    bpy.ops.msd.paint_mask()
    assert len(object.vertex_groups) == 1
    bpy.ops.object.mode_set(mode="OBJECT")


def test_several_meshes_are_painted_in_one_press(remote: LocalServer, tiny: dict[str, Any]) -> None:
    boxes = [cube(x) for x in (0, 3)]
    lamp = bpy.data.objects.new("Lamp", bpy.data.lights.new("Lamp", "POINT"))
    bpy.context.collection.objects.link(lamp)
    for object in (*boxes, lamp):
        object.select_set(True)
    bpy.context.view_layer.objects.active = boxes[0]
    settings().mode, settings().together = "texture", False
    assert "One job for each of 2 meshes" in said(drawn(panels.MSD_PT_generate))
    given = {**tiny, "iterations": 2, "texture_size": 64, "together": False}
    assert bpy.ops.msd.generate(mode="texture", prompt="a crate", **given) == {"FINISHED"}
    assert [record.state for record in records()] == [FINISHED] * 2
    assert [record.object for record in records()] == boxes and bpy.context.active_object == boxes[0]
    assert all(object["msd_prompt"] == "a crate" and object.data.materials[0] for object in boxes)
    del given["together"]
    jobs.start(JobRequest("a chest", **{**given, "mode": "texture", "iterations": 3000}), [boxes[1]])
    assert not bpy.ops.msd.generate.poll()
    running_jobs[0].session.cancel()
    finish_jobs()


def test_an_object_is_not_selected_while_the_artist_is_in_another_mode(
    remote: LocalServer, tiny: dict[str, Any]
) -> None:
    box = cube(4)
    live_job = start_job(tiny, iterations=40)
    bpy.ops.object.mode_set(mode="EDIT")
    update_until(lambda: live_job.session.update_milliseconds)
    assert bpy.context.view_layer.objects.active == box and box.mode == "EDIT"
    bpy.ops.object.mode_set(mode="OBJECT")
    live_job.session.cancel()
    finish_jobs()
    assert records()[0].state == CANCELLED
    assert bpy.ops.msd.show() == {"FINISHED"}
    assert bpy.context.view_layer.objects.active == records()[0].object


def test_the_panel_is_translated_into_no_language_by_half(addon: Any) -> None:
    """There are no translations: Blender would refuse these if the extension had registered any."""
    bpy.app.translations.register("msd_blender", {})
    bpy.app.translations.unregister("msd_blender")


def test_an_end_is_told_in_one_line(addon: Any) -> None:
    jobs.reports.append(("INFO", "Finished: a red mushroom (9,812 faces, 2:41)"))
    assert bpy.ops.msd.report() == {"FINISHED"} and not jobs.reports
    assert not bpy.ops.msd.report.poll()
