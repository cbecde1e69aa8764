# SPDX-License-Identifier: GPL-3.0-or-later
"""The artist's mesh, edits, locks and paint against a real server, from bpy to bpy."""

from __future__ import annotations

from typing import Any

import bpy
import numpy as np
import pytest

from msd_blender import api, jobs, materials
from msd_blender.capture import read_positions
from msd_blender.live_job import running_jobs
from msd_blender.local_server import LocalServer
from msd_blender.pixels import to_byte_pixels
from msd_blender.protocol import FINISHED, PAUSED
from tests.blender.helpers import artist_state, finish_jobs, start_job, update_until


def crate() -> bpy.types.Object:
    """A cube of quads with UVs, cut finer."""
    bpy.ops.mesh.primitive_grid_add(x_subdivisions=2, y_subdivisions=2)
    bpy.data.objects.remove(bpy.context.object)
    bpy.ops.mesh.primitive_cube_add(size=1)
    object = bpy.context.object
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.mesh.subdivide(number_cuts=3)
    bpy.ops.object.mode_set(mode="OBJECT")
    object.data.materials.append(bpy.data.materials.new("paint"))
    object["mine"] = 7
    return object


def test_texture_leaves_the_mesh_alone(remote: LocalServer, tiny: dict[str, Any]) -> None:
    object = crate()
    before = artist_state(object)
    assert (
        api.texture(object, "a wooden crate", server=remote.url, maps=["roughness", "normal"], texture_size=64, **tiny)
        == object
    )
    assert artist_state(object) == before and object["msd_mode"] == "texture"
    for kind in ("texture", "roughness", "normal"):
        image = materials.image_of(object.data.materials[0], kind)
        assert image.packed_file and tuple(image.size) == (64, 64)


def test_refine_moves_what_is_not_locked(remote: LocalServer, tiny: dict[str, Any]) -> None:
    object = crate()
    before, polygons = read_positions(object.data), len(object.data.polygons)
    low = before[:, 2] < 0
    object.vertex_groups.new(name="lock").add(np.flatnonzero(low).tolist(), 1.0, "REPLACE")
    api.refine(object, "a wooden crate", server=remote.url, lock="lock", max_displacement=0.05, **tiny)
    after = read_positions(object.data)
    np.testing.assert_array_equal(after[low], before[low])
    moved = np.linalg.norm(after - before, axis=1)
    assert moved[~low].any() and moved.max() <= 0.0501 and len(object.data.polygons) == polygons


def test_a_shape_that_was_moved_and_locked_stays_there(remote: LocalServer, tiny: dict[str, Any]) -> None:
    live_job = start_job(tiny, iterations=10)
    session = live_job.session
    update_until(lambda: live_job.object is not None and len(live_job.object.data.vertices) > 20)
    bpy.ops.msd.pause()
    update_until(lambda: session.state == PAUSED)
    jobs.tick()
    object = live_job.object
    mine = read_positions(object.data)
    third = mine[:, 2] > np.quantile(mine[:, 2], 2 / 3)
    mine[third, 2] += 0.3
    object.data.attributes["position"].data.foreach_set("vector", mine.ravel())
    object.vertex_groups.new(name="lock").add(np.flatnonzero(third).tolist(), 1.0, "REPLACE")
    bpy.context.scene.msd_jobs[0].lock = "lock"
    bpy.ops.msd.resume()
    finish_jobs()
    assert session.state == FINISHED and session.snapshot is not None and session.snapshot.edits == 1, session.error
    after = read_positions(object.data)
    distance = np.array([np.abs(after - each).sum(1).min() for each in mine])
    assert distance[third].max() < 1e-5 and distance[~third].max() > 1e-4


def test_a_lock_that_is_chosen_while_it_runs_holds_from_then_on(remote: LocalServer, tiny: dict[str, Any]) -> None:
    object = crate()
    low = read_positions(object.data)[:, 2] < 0
    object.vertex_groups.new(name="low").add(np.flatnonzero(low).tolist(), 1.0, "REPLACE")
    request = api.JobRequest("a wooden crate", mode="refine", **{**tiny, "iterations": 100})
    live_job = jobs.start(request, [object])
    session = live_job.session
    update_until(lambda: session.snapshot is not None and session.snapshot.iteration > 0)
    before = read_positions(object.data)
    bpy.context.scene.msd_jobs[0].lock = "low"
    finish_jobs()
    assert session.state == FINISHED and session.snapshot is not None and session.snapshot.edits == 1, session.error
    after = read_positions(object.data)
    np.testing.assert_allclose(after[low], before[low], atol=1e-6)
    assert np.abs(after[~low] - before[~low]).max() > 1e-4


def test_two_jobs_do_not_work_on_one_mesh(remote: LocalServer, tiny: dict[str, Any]) -> None:
    object = crate()
    twin = bpy.data.objects.new("twin", object.data)
    bpy.context.collection.objects.link(twin)
    request = api.JobRequest("a wooden crate", mode="refine", **{**tiny, "iterations": 100})
    jobs.start(request, [object])
    with pytest.raises(ValueError, match="mesh of 'twin' already"):
        jobs.start(api.JobRequest("a crate", mode="refine", **tiny), [twin])
    bpy.ops.msd.discard()


def test_a_painted_patch_stays_as_it_is(remote: LocalServer, tiny: dict[str, Any]) -> None:
    object = crate()
    request = api.JobRequest("a wooden crate", texture_size=64, **{**tiny, "iterations": 30})
    request.mode = "texture"
    live_job = jobs.start(request, [object])
    session = live_job.session

    def image() -> Any:
        return materials.image_of(object.data.materials[0], "texture")

    update_until(lambda: session.snapshot is not None and image() is not None)
    bpy.ops.msd.pause()
    update_until(lambda: session.state == PAUSED)
    jobs.tick()
    pixels = materials.read_pixels(image()).reshape(64, 64, 4)
    pixels[20:30, 10:40, :3] = (1, 0, 1)
    image().pixels.foreach_set(pixels.ravel())
    bpy.ops.msd.resume()
    finish_jobs()
    assert session.state == FINISHED and session.snapshot is not None and session.snapshot.edits == 1, session.error
    after = materials.read_tile(image())[..., :3]
    assert (after[20:30, 10:40] == (255, 0, 255)).all()
    assert not (after[40:] == to_byte_pixels(pixels, 64, 64)[40:, :, :3]).all()


@pytest.fixture(autouse=True)
def _no_edit_left() -> None:
    assert not running_jobs
