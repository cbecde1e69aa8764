# SPDX-License-Identifier: GPL-3.0-or-later
"""Cameras, light and pictures follow the conventions that both sides rely on."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.geometry.field import Field
from server.geometry.marching import marching_tetrahedra
from server.rendering import cameras
from server.rendering.colour import linear_to_srgb, srgb_to_linear
from server.rendering.normals import vertex_normals
from server.rendering.render import render, turntable
from server.rendering.shading import Lights, backgrounds
from server.rendering.volume import march


def test_azimuth_0_is_in_front_and_90_on_the_right():
    front, right = cameras.orbit(4, elevation=0).position[:2]
    torch.testing.assert_close(front, torch.tensor([0.0, -3.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(right, torch.tensor([3.0, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_projection_of_known_points():
    clip = cameras.orbit(1, elevation=0).clip(torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, 0, 0.5]]))[0]
    ndc = clip[:, :2] / clip[:, 3:]
    half = 0.5 / (3 * math.tan(math.radians(20)))
    torch.testing.assert_close(ndc, torch.tensor([[0, 0], [half, 0], [0, half]]), atol=1e-6, rtol=0)


@given(st.integers(0, 2**31 - 1))
def test_rays_hit_what_the_projection_says(seed):
    views = cameras.sample(2, torch.Generator().manual_seed(seed))
    origin, direction = views.rays(8)
    points = origin[:, None, None] + 2.5 * direction
    for b in range(2):
        clip = views.clip(points[b].reshape(-1, 3))[b].view(8, 8, 4)
        pixel = (torch.arange(8) + 0.5) / 4 - 1
        torch.testing.assert_close(clip[..., 0] / clip[..., 3], pixel.expand(8, 8), atol=1e-4, rtol=0)
        torch.testing.assert_close(clip[..., 1] / clip[..., 3], pixel[:, None].expand(8, 8), atol=1e-4, rtol=0)


def test_sampled_cameras_stand_evenly_round_the_object():
    azimuth = cameras.sample(64, torch.Generator().manual_seed(0)).azimuth % (2 * math.pi)
    assert azimuth.sort().values.diff().max() < 2 * 2 * math.pi / 64 + 1e-4


def test_srgb_round_trip_and_its_gradient_at_black():
    x = torch.linspace(0, 1, 101, requires_grad=True)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(x)), x, atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(linear_to_srgb(x).sum(), x)
    assert gradient.isfinite().all()


def test_backgrounds_are_colours():
    colours = backgrounds(1000, torch.Generator().manual_seed(0))
    assert colours.min() >= 0 and colours.max() <= 1
    assert 0.6 < (colours.std(dim=1) < 1e-6).float().mean() < 0.8  # greys


def ball():
    grid = Field((25,), radius=0.6).grid().detach()
    grid[:, 1:] = torch.tensor([4.0, -4.0, -4.0]).view(1, 3, 1, 1, 1)
    return grid


def test_volume_and_mesh_of_one_field_look_alike(rasterizer):
    generator = torch.Generator().manual_seed(0)
    grid, views = ball(), cameras.orbit(2)
    lights = Lights.headlight(views)
    grey = torch.full((2, 3), 0.5)
    colour, alpha = march(10 * grid, views, lights, 48, 96, 200.0, generator)
    positions, faces = marching_tetrahedra(grid[0, 0])
    red = torch.tensor([[0.98, 0.02, 0.02]]).expand(len(positions), -1)
    solid = render(rasterizer, positions, faces, red, views, lights, grey, 48)
    assert ((colour + (1 - alpha) * 0.5) - solid).abs().mean() < 0.02


def test_fog_has_gradients_in_empty_space():
    grid = ball().requires_grad_()
    views = cameras.orbit(2)
    _, alpha = march(grid, views, Lights.headlight(views), 16, 32, 10.0, torch.Generator().manual_seed(0))
    alpha.sum().backward()
    assert grid.grad is not None and (grid.grad[0, 0][grid[0, 0] < -0.5] > 0).any()


def test_views_of_a_fog_may_be_rendered_one_by_one():
    views = cameras.orbit(3)
    lights = Lights.headlight(views).under_sky(torch.Generator().manual_seed(1))

    def images_and_gradient(one_by_one):
        grid, generator = ball().requires_grad_(), torch.Generator().manual_seed(0)
        images = march(grid, views, lights, 16, 32, 10.0, generator, one_by_one)
        sum((image * image).sum() for image in images).backward()
        return images, grid.grad, generator.get_state()

    (images, gradient, state), (again, other, after) = images_and_gradient(False), images_and_gradient(True)
    assert all(torch.equal(one, two) for one, two in zip(images, again)) and torch.equal(state, after)
    torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-5)


def test_normals_of_a_ball_point_outward():
    positions, faces = marching_tetrahedra(ball()[0, 0])
    assert ((vertex_normals(positions, faces) * positions).sum(dim=1) > 0).all()


def test_turntable_shows_the_object_in_every_view(rasterizer):
    positions, faces = marching_tetrahedra(ball()[0, 0])
    red = torch.tensor([[250, 5, 5]], dtype=torch.uint8).expand(len(positions), -1)
    picture = turntable(rasterizer, positions.numpy(), faces.numpy(), red.numpy(), size=32)
    assert picture.shape == (32, 256, 3)
    centres = picture[16, 16::32].astype(int)
    assert (centres[:, 0] > centres[:, 1] + 100).all()
    assert picture[0, 0] == pytest.approx([191] * 3, abs=1)


def test_lights_come_from_the_cameras_side():
    views = cameras.sample(100, torch.Generator().manual_seed(0))
    lights = Lights.sample(views, torch.Generator().manual_seed(1))
    cosine = (lights.direction * views.position / views.distance[:, None]).sum(dim=1)
    assert cosine.min() > math.cos(math.radians(51))
