# SPDX-License-Identifier: GPL-3.0-or-later
"""Gradients of whole pictures against central differences, and of all that is odd: ties, slivers, no pixels."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from server.rendering import cameras
from server.rendering.rasterize.antialias import antialias


def double(views):
    return cameras.Cameras(*(each.double() for each in (views.azimuth, views.elevation, views.distance, views.fov)))


def tensors(shape):
    return torch.tensor(np.asarray(shape.vertices)), torch.tensor(np.asarray(shape.faces), dtype=torch.int32)


def error(ours, numeric):
    """Of a gradient as a vector: one entry alone may be the small rest of large ones that cancel."""
    return float((ours - numeric).norm() / numeric.norm())


def numeric_gradient(loss, x, directions, step):
    with torch.no_grad():
        return torch.stack([(loss(x + step * d) - loss(x - step * d)) / (2 * step) for d in directions])


SHAPES = {
    "ball": trimesh.creation.icosphere(subdivisions=3, radius=0.7),
    "fine ball": trimesh.creation.icosphere(subdivisions=5, radius=0.7),
    "torus": trimesh.creation.torus(0.6, 0.25),
    "box": trimesh.creation.box((0.9, 0.8, 0.7)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "coloured, size, rule",
    [*((coloured, size, None) for coloured in (False, True) for size in (64, 128)), (True, 64, antialias)],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_through_silhouettes_gradients_equal_central_differences(rasterizer, shape, coloured, size, rule):
    """Pictures drawn anew on either side, so that triangles come and go; relative error at most 5e-2."""
    positions, faces = tensors(SHAPES[shape])
    even = torch.tensor([0.9, 0.6, 0.3], dtype=torch.float64).expand_as(positions)
    colours = (0.5 + 0.5 * positions / positions.abs().max() if coloured else even)[None].contiguous()
    weight = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = F.interpolate(weight, size=(size, size), mode="bicubic").movedim(1, -1)
    views, blend = double(cameras.orbit(4)), rule or rasterizer.antialias

    def loss(positions):
        clip = views.clip(positions).contiguous()
        rast = rasterizer.rasterize(clip, faces, (size, size))
        return (blend(rasterizer.interpolate(colours, rast, faces), rast, clip, faces) * weight).sum()

    axes = [axis.expand_as(positions) for axis in torch.eye(3, dtype=torch.float64)]
    motions = [*axes, *(torch.linalg.cross(axis, positions) for axis in axes), positions]  # move, turn, scale
    if shape == "box":  # and every corner by itself
        motions += [one.view_as(positions) for one in torch.eye(positions.numel(), dtype=torch.float64)]
    leaf = positions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    ours = torch.stack([(gradient * motion).sum() for motion in motions])
    numeric = numeric_gradient(loss, positions, motions, 1 / size)
    assert error(ours[:7], numeric[:7]) < 0.05
    if shape == "box":
        assert error(ours[7:], numeric[7:]) < 0.05


def slanted(seed):
    """(clip, faces) of two triangles in perspective that do not share a corner."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.tensor(
        [
            [-0.9, -0.8, 0.1],
            [0.9, -0.7, 0.2],
            [0.1, 0.8, 0.15],
            [-0.5, -0.9, 0.5],
            [0.95, 0.2, 0.6],
            [-0.7, 0.85, 0.55],
        ],
        dtype=torch.float64,
    )
    clip = F.pad(clip + 0.1 * torch.rand(6, 3, generator=generator, dtype=torch.float64), (0, 1), value=1.0)
    return (
        (1 + torch.rand(1, 6, 1, generator=generator, dtype=torch.float64)) * clip,
        torch.arange(6, dtype=torch.int32).view(2, 3),
    )


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.booleans(), st.booleans())
def test_away_from_edges_gradients_equal_central_differences(rasterizer, seed, mirrored, behind):
    """Positions, UVs and texels through rasterize, interpolate and texture; also seen from the back, and with a
    corner behind the camera. Relative error at most 1e-2."""
    generator = torch.Generator().manual_seed(seed)
    clip, faces = slanted(seed)
    if mirrored:
        faces = faces.flip(1).contiguous()
    if behind:
        clip[0, 2] *= -0.5
    uv = torch.rand(1, 6, 2, generator=generator, dtype=torch.float64)
    texture = torch.rand(1, 4, 4, 3, generator=generator, dtype=torch.float64)
    weight = torch.rand(1, 16, 16, 3, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        rast = rasterizer.rasterize(clip, faces, (16, 16))
        footprint = rasterizer.footprint(uv, rast, faces, clip, faces)
        place = (rasterizer.interpolate(uv, rast, faces) * 4 - 0.5) % 1
        level = 4 * footprint.square().view(1, 16, 16, 2, 2).sum(dim=(-1, -2)).sqrt()
        # Pixels that keep their triangle, away from the kinks between texels; of one mipmap, as those have kinks too.
        kept = (rast[..., 3] > 0) & (level < 1) & ((place - 0.5).abs() < 0.49).all(dim=-1)
        kept = kept & (rast[..., :2] > 0.001).all(dim=-1) & (rast[..., :2].sum(dim=-1) < 0.999)
    assume(kept.sum() >= 10)

    def loss(clip, uv, texture):
        rast = rasterizer.rasterize(clip, faces, (16, 16))
        seen = rasterizer.texture(texture, rasterizer.interpolate(uv, rast, faces), footprint)
        return (seen * weight * kept[..., None]).sum()

    leaves = [each.clone().requires_grad_() for each in (clip, uv, texture)]
    gradients = torch.autograd.grad(loss(*leaves), leaves)
    for k, gradient in enumerate(gradients):
        basis = [one.view_as(leaves[k]) for one in torch.eye(gradient.numel(), dtype=torch.float64)]
        numeric = numeric_gradient(
            lambda x, k=k: loss(*(x if i == k else each for i, each in enumerate(leaves))),
            leaves[k].detach(),
            basis,
            1e-7,
        )
        assert error(gradient.flatten(), numeric) < 0.01


def everything(rasterizer, clip, faces, size=(8, 8)):
    """One picture with every operation; its gradients to (clip, attributes, texture), all finite."""
    attributes = torch.rand(1, clip.shape[1], 2, generator=torch.Generator().manual_seed(0), dtype=clip.dtype)
    texture = torch.rand(1, 4, 4, 3, generator=torch.Generator().manual_seed(1), dtype=clip.dtype)
    leaves = [each.clone().requires_grad_() for each in (clip, attributes, texture)]
    rast = rasterizer.rasterize(leaves[0], faces, size)
    uv = rasterizer.interpolate(leaves[1], rast, faces)
    seen = rasterizer.texture(leaves[2], uv, rasterizer.footprint(leaves[1], rast, faces, leaves[0], faces))
    picture = rasterizer.antialias(torch.where(rast[..., 3:] > 0, seen, 0.5), rast, leaves[0], faces)
    assert picture.isfinite().all()
    picture.square().sum().backward()
    gradients = [each.grad for each in leaves]
    assert all(each.isfinite().all() for each in gradients)
    return rast, picture.detach(), gradients


def test_no_triangles_no_gradient(rasterizer):
    _, picture, gradients = everything(rasterizer, slanted(0)[0], torch.zeros(0, 3, dtype=torch.int32))
    assert (picture == 0.5).all() and not any(each.any() for each in gradients)


def test_a_picture_of_one_pixel(rasterizer):
    rast, _, (to_clip, _, to_texture) = everything(rasterizer, *slanted(0), size=(1, 1))
    assert rast[0, 0, 0, 3] > 0 and to_clip.any() and to_texture.any()


def test_of_two_triangles_in_one_place_the_first_is_seen_and_has_the_gradient(rasterizer):
    clip, faces = slanted(0)
    clip[0, 3:] = clip[0, :3]
    rast, _, (to_clip, to_attributes, _) = everything(rasterizer, clip, faces)
    assert (rast[..., 3] <= 1).all() and (rast[..., 3] == 1).any()
    assert to_attributes[0, :3].any() and not to_attributes[0, 3:].any() and not to_clip[0, 3:].any()


def test_a_pixel_on_a_shared_edge_is_drawn_once_and_none_is_missed(rasterizer):
    corners = torch.tensor([[-1, -1, 0, 1], [1, -1, 0, 1], [1, 1, 0, 1], [-1, 1, 0, 1]], dtype=torch.float64)[None]
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)  # the diagonal goes through pixels' centres
    rast, _, _ = everything(rasterizer, corners, faces)
    assert (rast[..., 3] > 0).all() and (rast[0, range(8), range(8), 3] == 1).all()


def test_both_sides_are_the_same_picture_with_the_same_gradient(rasterizer):
    clip, faces = slanted(0)
    _, front, front_gradients = everything(rasterizer, clip, faces)
    _, back, back_gradients = everything(rasterizer, clip, faces.flip(1).contiguous())
    torch.testing.assert_close(front, back)
    for a, b in zip(front_gradients, back_gradients):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("move", [(5.0, 0.0, 0.0, 0.0), (0.0, 0.0, -8.0, 0.0), (0.0, 0.0, 0.0, -4.0)])
def test_off_the_screen_before_the_near_plane_and_behind_the_camera_nothing_is_seen(rasterizer, move):
    clip, faces = slanted(0)
    rast, _, gradients = everything(rasterizer, clip + torch.tensor(move, dtype=torch.float64), faces)
    assert not rast.any() and not any(each.any() for each in gradients)


@pytest.mark.parametrize(("far", "seen"), [(1e3, 12), (1e19, 12), (1e30, 12), (math.inf, 0), (math.nan, 0)])
def test_a_corner_may_be_farther_than_an_integer_reaches(rasterizer, far, seen):
    clip = torch.tensor([[[-0.5, 0.25, 0, 1], [0.5, 0.25, 0, 1], [0, far, 0, 1]]], dtype=torch.float64)
    rast = rasterizer.rasterize(clip, torch.tensor([[0, 1, 2]], dtype=torch.int32), (8, 8))
    assert int((rast[..., 3] > 0).sum()) == seen


ODD = st.sampled_from([0.0, -0.0, 1e-300, 1e30, -1e30, math.inf, -math.inf, math.nan, 1e-7])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-2, 2), ODD), min_size=32, max_size=32),
    st.lists(st.integers(0, 7), min_size=18, max_size=18),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_whatever_the_corners_are_pictures_and_gradients_are_numbers(rasterizer, values, corners, dtype):
    """Slivers, folds, shared and repeated corners, w of both signs, infinities."""
    clip = torch.tensor(values, dtype=torch.float64).view(1, 8, 4).to(dtype)
    everything(rasterizer, clip, torch.tensor(corners, dtype=torch.int32).view(6, 3))
