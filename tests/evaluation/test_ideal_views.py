# SPDX-License-Identifier: GPL-3.0-or-later
"""Priors that know the truth: their answers, and a job that is as good as its representation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from msd_blender.protocol import JobRequest
from server.evaluation.ideal_views import (
    ExactViews,
    Truth,
    WordViews,
    blurred,
    contrast_kept,
    detailed_picture,
    grating,
    held_out,
    likeness,
    make,
    shape_likeness,
    with_picture,
)
from server.geometry.mesh import Mesh
from server.optimize import Optimization, Settings


@pytest.fixture(scope="module")
def ball():
    shape = trimesh.creation.icosphere(2)
    return with_picture(Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32)), 256)


@pytest.mark.slow
@pytest.mark.parametrize("maps", [(), ("roughness",)])
def test_it_answers_with_the_same_cameras_lights_and_backgrounds(ball, maps):
    """A job on a grey object whose truth is grey has nothing to do."""
    grey = {"texture.0": np.full((64, 64, 3), 128, np.uint8), "roughness.0": np.full((64, 64), 128, np.uint8)}
    truth = Truth(replace(ball, textures=grey if maps else {"texture.0": grey["texture.0"]}))
    gaps = []

    class Watched(ExactViews):
        def denoise(self, x, sigma, condition=None):
            return condition.pictures[0]

        def condition(self, views, *rest):
            condition = super().condition(views, *rest)
            gaps.append((condition.pictures[0] - self.seen).abs().max().item())
            return condition

        def encode(self, images):
            latents = super().encode(images)
            if images.requires_grad:
                self.seen = latents.detach()
            return latents

    request = JobRequest("x", mode="texture", mesh="x", device="cpu", iterations=3, texture_size=64, maps=list(maps))
    given = replace(truth.mesh, textures={name: each for name, each in grey.items() if "roughness" in name and maps})
    settings = replace(Settings.of(request), snapshots=0, colour_levels=(5,))
    settings = settings.with_phases({"texture": replace(settings.texture, learning_rate=1e-6)})
    Optimization(request, lambda _: None, lambda: False, settings, mesh=given, prior=Watched(truth, 48)).run()
    assert len(gaps) == 3 and max(gaps) < 0.05  # of 3: half a grey level of a texture, under physical shading too


def test_pictures_of_a_word_are_averaged_by_their_likelihood(ball):
    prior = WordViews(Truth(ball), 16, count=3)
    assert {len(pictures) for pictures in prior._known.values()} == {3}
    front = prior._known["front"]

    class Front:
        azimuth, elevation = torch.tensor([2.0, -1.0]), torch.tensor([10.0, 20.0])

    condition = prior.condition(Front(), "")
    assert condition.pictures.shape == (3, 2, 3, 16, 16)
    near = prior.denoise(front[[1, 2]] + 0.01, torch.tensor([0.1, 0.1]), condition)
    torch.testing.assert_close(near, front[[1, 2]])
    far = prior.denoise(front[[1, 2]], torch.tensor([1e4, 1e4]), condition)
    torch.testing.assert_close(far, front.mean(dim=0).expand(2, -1, -1, -1), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_texture_is_worth_the_priors_pixels():
    """Lines four pixels apart: the grid of 65 points, whose cells are two pixels wide there, nearly loses them."""
    truth = Truth(grating(4, 128, 256))
    kept = {}
    for levels in (None, (5, 9, 17, 33, 64)):  # 64: not continued
        settings = Settings.of(JobRequest("x", iterations=60, mode="texture", mesh="x", texture_size=256))
        settings = settings.with_phases({"texture": replace(settings.texture, learning_rate=0.1)})
        if levels:
            settings = replace(settings, colour_levels=levels)
        made = make(ExactViews(truth, 128), "texture", settings, report=False, iterations=60, texture_size=256)
        kept[levels] = contrast_kept(truth, made.mesh, 128)
    coarse, fine = kept[(5, 9, 17, 33, 64)], kept[None]
    assert coarse < 0.33 and fine > 0.42, kept


def test_likeness_of_a_thing_with_itself_and_with_less():
    shape = trimesh.creation.icosphere(4)
    same = shape_likeness(shape, shape.copy())
    assert all(same[name] > 0.99 for name in same)
    larger = shape.copy().apply_scale(1.03)  # 1.5 % of the diameter away
    moved = shape_likeness(shape, larger)
    assert moved["F 1 %"] < 0.01 and moved["F 2 %"] > 0.99 and moved["normal consistency"] > 0.99
    truth = Truth(grating(8, 128, 256))
    flat = replace(truth.mesh, textures={"texture.0": np.full((256, 256, 3), 128, np.uint8)})
    assert contrast_kept(truth, truth.mesh, 128) == pytest.approx(1)
    assert contrast_kept(truth, flat, 128) == pytest.approx(0, abs=1e-3)
    real = held_out(truth, 32)
    assert likeness(real, real) == {"PSNR, dB": 100, "SSIM": 1}


def test_a_grating_has_the_period_that_was_asked_for():
    truth = Truth(grating(8, 128, 512))
    from server.rendering import cameras
    from server.rendering.shading import Lights

    views = cameras.orbit(1, 0.0)
    row = truth.picture(views, Lights.headlight(views), torch.full((1, 3), 0.5), 128)[0, 64, :, 0]
    inside = row[truth.covered(views, 128)[0, 64]]
    spectrum = torch.fft.rfft(inside - inside.mean(), n=4096).abs()
    assert 4096 / int(spectrum.argmax()) == pytest.approx(8, rel=0.02)


def test_less_resolution_keeps_the_mean():
    picture = detailed_picture(64)
    assert picture.min() >= 20 and picture.std() > 20
    for share in (2, 4, 8):
        assert blurred(picture, share).mean() == pytest.approx(picture.mean(), abs=1)
    assert blurred(picture, 8).std() < blurred(picture, 2).std() < picture.std()
