# SPDX-License-Identifier: GPL-3.0-or-later
"""The antialiasing rule in PyTorch gives the pictures and the gradients of the CPU backend's kernels."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from server.rendering import cameras
from server.rendering.rasterize import kernels
from server.rendering.rasterize.antialias import adjacency, antialias


def both(rasterizer, clip, faces, size, colour=None):
    """Pictures and gradients to (clip, colour) of the kernels and of the rule in PyTorch."""
    generator = torch.Generator().manual_seed(0)
    rast = rasterizer.rasterize(clip, faces, size).detach()
    if colour is None:
        colour = torch.rand(len(clip), *size, 3, generator=generator, dtype=clip.dtype)
    weight = torch.rand(colour.shape, generator=generator, dtype=clip.dtype)
    found = []
    for rule in (rasterizer.antialias, antialias):
        leaves = [each.detach().clone().requires_grad_() for each in (clip, colour)]
        picture = rule(leaves[1], rast, leaves[0], faces)
        gradients = torch.autograd.grad((picture * weight).sum(), leaves, allow_unused=True)
        found.append(
            [
                picture.detach(),
                *(torch.zeros_like(leaf) if each is None else each for leaf, each in zip(leaves, gradients)),
            ]
        )
    return found


def assert_same(found, tolerance=1e-9):
    for ours, theirs in zip(*found):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours, theirs, atol=tolerance * scale, rtol=tolerance)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 30), st.booleans())
def test_random_triangles(rasterizer, seed, count, behind):
    """Crossing, folded and repeated ones, in several views, some corners behind the camera."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.cat(
        [
            4 * torch.rand(2, 12, 3, generator=generator, dtype=torch.float64) - 2,
            torch.rand(2, 12, 1, generator=generator, dtype=torch.float64) + (-0.2 if behind else 0.3),
        ],
        2,
    )
    faces = torch.randint(12, (count, 3), generator=generator, dtype=torch.int32)
    assert_same(both(rasterizer, clip, faces, (13, 17)))


BALL = trimesh.creation.icosphere(subdivisions=3, radius=0.7)
SHAPES = {
    "ball": BALL,
    "fine ball": trimesh.creation.icosphere(subdivisions=5, radius=0.7),
    "torus": trimesh.creation.torus(0.6, 0.25),
    "box": trimesh.creation.box((0.9, 0.8, 0.7)),
    "open": trimesh.Trimesh(BALL.vertices, BALL.faces[BALL.triangles_center[:, 2] > 0]),
    "two": trimesh.util.concatenate(
        [trimesh.creation.box((0.5,) * 3), trimesh.creation.icosphere(2, 0.4).apply_translation([0.3, 0.2, 0.1])]
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_meshes(rasterizer, shape, dtype, tolerance):
    clip = cameras.orbit(3).clip(torch.tensor(np.asarray(SHAPES[shape].vertices), dtype=dtype))
    faces = torch.tensor(np.asarray(SHAPES[shape].faces), dtype=torch.int32)
    assert_same(both(rasterizer, clip, faces, (48, 64)), tolerance)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_pictures_of_one_row_or_column(rasterizer, size):
    clip = cameras.orbit(2).clip(torch.tensor(np.asarray(SHAPES["box"].vertices)))
    assert_same(both(rasterizer, clip, torch.tensor(np.asarray(SHAPES["box"].faces), dtype=torch.int32), size))


def test_nothing_leaves_the_picture_as_it_is():
    clip, faces = torch.zeros(1, 0, 4), torch.zeros(0, 3, dtype=torch.int32)
    colour = torch.rand(1, 4, 4, 3)
    assert torch.equal(antialias(colour, torch.zeros(1, 4, 4, 4), clip, faces), colour)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 40))
def test_adjacency_is_the_kernels(seed, count):
    faces = torch.randint(9, (count, 3), generator=torch.Generator().manual_seed(seed))
    expected = kernels.adjacency(faces.int().numpy(), 9)
    np.testing.assert_array_equal(adjacency(faces, 9).numpy(), expected)


@pytest.mark.parametrize("subdivisions, resolution", [(3, 64), (3, 128), (4, 64), (5, 64), (5, 512)])
def test_a_spheres_silhouette_gradient_arrives(rasterizer, subdivisions, resolution):
    """d(area)/d(radius), at least 95 % of the analytic value; its outline has the half-angle asin(r / distance)."""
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
    vertices = torch.tensor(np.asarray(sphere.vertices), dtype=torch.float32)
    faces = torch.tensor(np.asarray(sphere.faces), dtype=torch.int32)
    radius, views = torch.tensor(0.7, requires_grad=True), cameras.orbit(2)
    clip = views.clip(vertices * radius)
    rast = rasterizer.rasterize(clip, faces, (resolution, resolution))
    cover = rasterizer.interpolate(torch.ones(1, len(vertices), 1), rast, faces)
    (gradient,) = torch.autograd.grad(antialias(cover, rast, clip, faces).sum(), radius)
    r = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    outline = (r / 3).asin().tan() / math.tan(math.radians(20)) * resolution / 2
    (slope,) = torch.autograd.grad(2 * math.pi * outline**2, r)
    assert float(gradient) == pytest.approx(float(slope), rel=0.05)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.one_of(st.floats(-2, 2), st.sampled_from([0.0, 1e30, math.inf, -math.inf, math.nan, 1e-300])),
        min_size=32,
        max_size=32,
    ),
    st.lists(st.integers(0, 7), min_size=18, max_size=18),
)
def test_whatever_the_corners_are_pictures_and_gradients_are_numbers(rasterizer, values, corners):
    clip = torch.tensor(values, dtype=torch.float64).view(1, 8, 4)
    found = both(rasterizer, clip, torch.tensor(corners, dtype=torch.int32).view(6, 3), (8, 8))
    assert all(each.isfinite().all() for each in found[1])
    torch.testing.assert_close(found[1][0], found[0][0])


def test_gradients_to_a_colour_of_any_stride(rasterizer):
    clip = cameras.orbit(1).clip(torch.tensor(np.asarray(SHAPES["ball"].vertices)))
    faces = torch.tensor(np.asarray(SHAPES["ball"].faces), dtype=torch.int32)
    colour = torch.rand(1, 3, 16, 16, dtype=torch.float64).movedim(1, -1)
    assert_same(both(rasterizer, clip, faces, (16, 16), colour))
    assert F.mse_loss(both(rasterizer, clip, faces, (16, 16), colour)[1][0], colour) > 0
