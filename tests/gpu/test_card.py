# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs on a card, with each rasterizer: `make gpu-check`."""

import json
import math

import numpy as np
import pytest
import torch
import trimesh

from msd_blender.protocol import JobRequest
from server.evaluation.text_to_3d import measure_job
from server.optimize import generate, is_out_of_memory, release
from server.rendering import cameras, rasterize
from tests.optimize.jobs import JOBS, request_of, stop_and_go_on
from tests.rendering.test_warp import assert_close, drawn, scene

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(params=["cpu", "warp", "nvdiffrast"])
def rasterizer(request):
    if request.param == "nvdiffrast":
        pytest.importorskip("nvdiffrast.torch", reason="nvdiffrast is not installed")
    return request.param


def test_auto_is_not_the_cpus():
    assert rasterize.name_of(rasterize.create("auto", "cuda")) in ("warp", "nvdiffrast")


@pytest.mark.parametrize("size", [(13, 17), (200, 150)])
def test_warp_draws_the_cpus_triangles_every_time_and_the_host_does_not_wait(size):
    """The same bytes twice, and those of the CPU; other pictures and gradients to 1e-5 of the largest number."""
    warp, same = rasterize.create("warp", "cuda"), rasterize.create("warp", "cpu")
    rasterize.warm_up(warp, "cuda")
    for seed in range(50):
        clip, faces = scene(seed)
        expected, their_gradients = drawn(same, clip, faces, size)
        clip, faces = clip.cuda(), faces.cuda()
        torch.cuda.set_sync_debug_mode("error")
        try:
            rast, again = (warp.rasterize(clip, faces, size) for _ in range(2))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(rast, again)
        ours, gradients = drawn(warp, clip, faces, size)
        assert torch.equal(ours[0].cpu(), expected[0])
        assert_close([each.cpu() for each in (*ours, *gradients)], [*expected, *their_gradients])


def test_a_million_triangles_and_one_that_fills_the_picture():
    """At 2,048 px, where a thread for each triangle would draw four million pixels alone."""
    warp, shape = rasterize.create("warp", "cuda"), trimesh.creation.icosphere(subdivisions=8)
    corners = torch.tensor([[-9.0, -9, 3, 3], [9, -9, 3, 3], [0, 12, 2.9, 3]])
    clip = torch.cat(
        [cameras.orbit(2).clip(torch.tensor(np.asarray(shape.vertices)).float()), corners.expand(2, 3, 4)], 1
    )
    faces = torch.tensor(np.asarray(shape.faces)).int()
    faces = torch.cat([faces, torch.tensor([[0, 1, 2]]).int() + len(shape.vertices)]).cuda()
    rast = warp.rasterize(clip.cuda(), faces, (2048, 2048))
    assert torch.equal(rast.cpu(), rasterize.create("warp", "cpu").rasterize(clip, faces.cpu(), (2048, 2048)))


@pytest.mark.parametrize("job", JOBS)
def test_a_job_pauses_resumes_and_writes_every_file(rasterizer, tiny, tmp_path, job):
    request, mesh = request_of(job, tiny["model"], rasterizer=rasterizer, device="cuda")
    stop_and_go_on(request, mesh, tmp_path)
    record = json.loads((tmp_path / "job.json").read_text())
    assert record["state"] == "finished" and record["device"] == "cuda" and record["rasterizer"] == rasterizer


def test_the_bundled_prior_makes_what_the_prompt_says(rasterizer, tmp_path, capsys):
    generate(
        JobRequest("a red mushroom", rasterizer=rasterizer, device="cuda"),
        tmp_path,
        lambda message: None,
        lambda: False,
    )
    row = measure_job(tmp_path, "red", "mushroom")
    with capsys.disabled():
        print(
            f"\n{rasterizer}: {row['iterations'] / row['seconds']:.1f} iterations/s, F-score {row['f_score']:.3f}, "
            f"noun {row['noun']:.0%}, colour {row['colour']:.0%}"
        )
    assert row["noun"] >= 0.75 and row["colour"] >= 0.75 and row["f_score"] >= 0.85


@pytest.mark.parametrize("subdivisions, resolution", [(3, 64), (4, 64), (5, 128), (5, 512)])
def test_a_spheres_silhouette_gradient_arrives(rasterizer, subdivisions, resolution):
    sphere, drawn = trimesh.creation.icosphere(subdivisions=subdivisions), rasterize.create(rasterizer, "cuda")
    vertices = torch.tensor(np.asarray(sphere.vertices), dtype=torch.float32, device="cuda")
    faces = torch.tensor(np.asarray(sphere.faces), dtype=torch.int32, device="cuda")
    radius = torch.tensor(0.7, device="cuda", requires_grad=True)
    clip = cameras.orbit(2, device="cuda").clip(vertices * radius)
    rast = drawn.rasterize(clip, faces, (resolution, resolution))
    cover = drawn.interpolate(torch.ones(1, len(vertices), 1, device="cuda"), rast, faces)
    (gradient,) = torch.autograd.grad(drawn.antialias(cover, rast, clip, faces).sum(), radius)
    r = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    outline = (r / 3).asin().tan() / math.tan(math.radians(20)) * resolution / 2
    (slope,) = torch.autograd.grad(2 * math.pi * outline**2, r)
    assert float(gradient) == pytest.approx(float(slope), rel=0.05)


def test_memory_is_given_back(tiny, tmp_path):
    generate(JobRequest("a red mushroom", device="cuda", **tiny), tmp_path, lambda message: None, lambda: False)
    release()
    assert torch.cuda.memory_reserved() < 64 << 20


def test_a_card_that_is_full_says_so_in_words_that_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
    assert is_out_of_memory(caught.value)
