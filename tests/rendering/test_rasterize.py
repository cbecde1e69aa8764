# SPDX-License-Identifier: GPL-3.0-or-later
"""The rasterizers that draw on the CPU against hand-computed pixels, a brute-force oracle and finite differences."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_blender.protocol import RASTERIZERS
from server.rendering import cameras, rasterize
from server.rendering.rasterize.cpu import CpuRasterizer

cpu = rasterize.create("cpu")
TRIANGLE = torch.tensor([[0, 1, 2]], dtype=torch.int32)


def flat(corners, w=1.0):
    """(1, V, 4) clip positions of (x, y, z) in normalized device coordinates."""
    clip = torch.cat([torch.tensor(corners, dtype=torch.float64), torch.ones(len(corners), 1)], dim=1)
    return (clip * w)[None]


def oracle(clip, faces, height, width):
    """Barycentrics by solving three equations at every pixel: slow, plain, independent of the kernels."""
    rast = torch.zeros(1, height, width, 4, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            pixel = torch.tensor([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1, 1.0], dtype=torch.float64)
            best = math.inf
            for f, face in enumerate(faces.tolist()):
                corners = clip[0, face]
                matrix = corners[:, [0, 1, 3]].T
                if abs(torch.linalg.det(matrix)) < 1e-14:
                    continue
                b = torch.linalg.solve(matrix, pixel)
                z = float(b @ corners[:, 2])
                if (b >= 0).all() and b.sum() > 0 and -1 <= z <= 1 and z < best:
                    best = z
                    u, v = (b / b.sum())[:2].tolist()
                    rast[0, y, x] = torch.tensor([u, v, z, f + 1])
    return rast


def test_row_0_is_the_bottom_and_barycentrics_follow_the_corners(rasterizer):
    rast = rasterizer.rasterize(flat([[-1, -1, 0.5], [-0.5, -1, 0.5], [-1, -0.5, 0.5]]), TRIANGLE, (8, 8))
    assert rast[0, 0, 0, 3] == 1 and (rast[0, 2:, :, 3] == 0).all() and (rast[0, :, 2:, 3] == 0).all()
    # the first pixel's centre is an eighth in from the corner, a quarter of either leg
    assert rast[0, 0, 0].tolist() == pytest.approx([0.5, 0.25, 0.5, 1])


def test_the_nearer_triangle_wins_in_either_order(rasterizer):
    near, far = [[-1, -1, 0], [3, -1, 0], [-1, 3, 0]], [[-1, -1, 0.5], [3, -1, 0.5], [-1, 3, 0.5]]
    two = torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32)
    assert (rasterizer.rasterize(flat(near + far), two, (4, 4))[..., 3] == 1).all()
    assert (rasterizer.rasterize(flat(far + near), two, (4, 4))[..., 3] == 2).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_pixels_equal_the_oracle_also_behind_the_camera(rasterizer, seed):
    generator = torch.Generator().manual_seed(seed)
    clip = 2 * torch.rand(1, 15, 4, generator=generator, dtype=torch.float64) - 1  # w of both signs
    faces = torch.arange(15, dtype=torch.int32).view(5, 3)  # none shared: equal depths have no winner
    torch.testing.assert_close(rasterizer.rasterize(clip, faces, (7, 9)), oracle(clip, faces, 7, 9))


@pytest.mark.parametrize(
    "corners",
    [
        [[0, 0, 0], [0, 0, 0], [1, 1, 0]],  # no area
        [[5, 5, 0], [6, 5, 0], [5, 6, 0]],  # off the screen
        [[-1, -1, 2], [3, -1, 2], [-1, 3, 2]],  # beyond the far plane
    ],
)
def test_what_cannot_be_seen_leaves_nothing(rasterizer, corners):
    assert not rasterizer.rasterize(flat(corners), TRIANGLE, (4, 4)).any()


def test_no_triangles_and_one_pixel(rasterizer):
    nothing = torch.zeros(0, 3, dtype=torch.int32)
    assert not rasterizer.rasterize(flat([[0, 0, 0]]), nothing, (4, 4)).any()
    clip = flat([[-1, -1, 0], [3, -1, 0], [-1, 3, 0]])
    rast = rasterizer.rasterize(clip, TRIANGLE, (1, 1))
    assert rast[0, 0, 0, 3] == 1
    colour = torch.ones(1, 1, 1, 3, dtype=torch.float64)
    assert (rasterizer.antialias(colour, rast, clip, TRIANGLE) == 1).all()


def test_a_face_without_its_vertex_is_refused(rasterizer):
    for faces in (TRIANGLE, -TRIANGLE):
        with pytest.raises(ValueError, match="vertex"):
            rasterizer.rasterize(flat([[0, 0, 0]]), faces, (4, 4))


def scene(seed=0):
    """Two triangles in perspective, one before the other, off the pixel grid."""
    generator = torch.Generator().manual_seed(seed)
    clip = flat(
        [
            [-0.83, -0.71, 0.1],
            [0.87, -0.62, 0.2],
            [0.05, 0.79, 0.15],
            [-0.41, -0.93, 0.5],
            [0.96, 0.11, 0.6],
            [-0.67, 0.83, 0.55],
        ]
    )
    clip = clip * (1 + torch.rand(1, 6, 1, generator=generator, dtype=torch.float64))
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32)
    return clip, faces, torch.rand(1, 6, 3, generator=generator, dtype=torch.float64)


def difference(f, x, direction, step=1e-6):
    return float(f(x + step * direction) - f(x - step * direction)) / (2 * step)


def test_interpolation_gradients_equal_central_differences(rasterizer):
    clip, faces, colours = scene()
    weight = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # Pixels that stay in their triangle: coverage is not differentiable here, antialias is for that.
    ids = rasterizer.rasterize(clip, faces, (16, 16))[..., 3:]

    def loss(clip, colours):
        rast = rasterizer.rasterize(clip, faces, (16, 16))
        return (rasterizer.interpolate(colours, rast, faces) * weight * (rast[..., 3:] == ids)).sum()

    clip, colours = clip.requires_grad_(), colours.requires_grad_()
    to_clip, to_colours = torch.autograd.grad(loss(clip, colours), [clip, colours])
    with torch.no_grad():
        for k in range(3):
            d = torch.randn(clip.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
            assert float((to_clip * d).sum()) == pytest.approx(
                difference(lambda x: loss(x, colours), clip, d), rel=1e-4
            )
            d = torch.randn(colours.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
            assert float((to_colours * d).sum()) == pytest.approx(
                difference(lambda x: loss(clip, x), colours, d), rel=1e-6
            )


def test_antialias_gradients_equal_central_differences(rasterizer):
    clip, faces, colours = scene()
    weight = torch.rand(1, 24, 24, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rast = rasterizer.rasterize(clip, faces, (24, 24))
    picture = rasterizer.interpolate(colours, rast, faces)

    def loss(clip, picture):
        return (rasterizer.antialias(picture, rast, clip, faces) * weight).sum()

    clip, picture = clip.requires_grad_(), picture.requires_grad_()
    to_clip, to_picture = torch.autograd.grad(loss(clip, picture), [clip, picture])
    assert to_clip.abs().sum() > 0
    with torch.no_grad():
        for k in range(3):
            d = torch.randn(clip.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
            assert float((to_clip * d).sum()) == pytest.approx(
                difference(lambda x: loss(x, picture), clip, d), rel=1e-4
            )
            d = torch.randn(picture.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
            assert float((to_picture * d).sum()) == pytest.approx(
                difference(lambda x: loss(clip, x), picture, d), rel=1e-6
            )


@pytest.mark.parametrize("subdivisions, resolution", [(3, 64), (3, 128), (4, 64), (4, 128), (5, 64), (5, 128)])
def test_triangles_finer_than_a_pixel_keep_the_silhouettes_gradient(rasterizer, subdivisions, resolution):
    """d(area)/d(radius) of a sphere with 1,280 to 20,480 triangles, at least 95 % of the analytic value.

    In perspective its outline has the half-angle asin(r / distance).
    """
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
    vertices = torch.tensor(np.asarray(sphere.vertices), dtype=torch.float32)
    faces = torch.tensor(np.asarray(sphere.faces), dtype=torch.int32)
    radius, views = torch.tensor(0.7, requires_grad=True), cameras.orbit(4)
    clip = views.clip(vertices * radius)
    rast = rasterizer.rasterize(clip, faces, (resolution, resolution))
    cover = rasterizer.interpolate(torch.ones(1, len(vertices), 1), rast, faces)
    area = rasterizer.antialias(cover, rast, clip, faces).sum()
    (gradient,) = torch.autograd.grad(area, radius)

    r = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    outline = (r / 3).asin().tan() / math.tan(math.radians(20)) * resolution / 2
    exact = 4 * math.pi * outline**2
    (slope,) = torch.autograd.grad(exact, r)
    assert float(area.detach()) == pytest.approx(float(exact.detach()), rel=0.01)
    assert float(gradient) == pytest.approx(float(slope), rel=0.05)


def test_registry():
    assert type(rasterize.create("auto", "cpu")) is type(cpu)
    for name in ("warp", "cpu"):
        assert rasterize.name_of(rasterize.create(name, "cpu")) == name
    for name, device in (("nvdiffrast", "cpu"), ("warp", "mps")):
        with pytest.raises(ValueError, match="CUDA"):
            rasterize.create(name, device)
    with pytest.raises(ValueError, match="auto, nvdiffrast, warp or cpu"):
        rasterize.create("opengl")
    assert {"auto", *rasterize.BACKENDS} == set(RASTERIZERS)  # whose order saved .blend files keep


def test_a_rasterizer_is_added_by_one_line_of_the_registry(monkeypatch):
    """Whatever offers `is_available` and `create` will do, such as this one without antialiasing."""

    class Aliased(CpuRasterizer):
        def antialias(self, colour, rast, clip, faces):
            return colour

    backend = SimpleNamespace(is_available=lambda device: True, create=lambda device: Aliased())
    monkeypatch.setitem(rasterize.BACKENDS, "aliased", backend)
    aliased = rasterize.create("aliased", "cpu")
    clip = flat([[-0.5, -0.4, 0.5], [0.6, -0.5, 0.5], [0.1, 0.7, 0.5]])
    rast = aliased.rasterize(clip, TRIANGLE, (16, 16))
    cover = (rast[..., 3:] > 0).double()
    assert aliased.antialias(cover, rast, clip, TRIANGLE).unique().tolist() == [0, 1]
    assert len(cpu.antialias(cover, rast, clip, TRIANGLE).unique()) > 2
    with pytest.raises(ValueError, match="auto, nvdiffrast, warp, cpu or aliased"):
        rasterize.create("opengl")
