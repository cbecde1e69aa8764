# SPDX-License-Identifier: GPL-3.0-or-later
"""Texture sampling on the CPU against hand-computed texels, another sampler and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from server.rendering.rasterize.texture import mip_sizes


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(*points):
    """(1, 1, N, 2) texture coordinates."""
    return torch.tensor(points, dtype=torch.float64).view(1, 1, -1, 2)


def plane(rasterizer, size, scale):
    """(uv, footprint) of a square that fills a picture and shows the texture `scale` (s, t) times."""
    corners = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    clip = torch.cat([corners, torch.zeros(4, 1), torch.ones(4, 1)], dim=1)[None]
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    uv = ((corners + 1) / 2 * torch.tensor(scale, dtype=torch.float64))[None]
    rast = rasterizer.rasterize(clip, faces, (size, size))
    return rasterizer.interpolate(uv, rast, faces), rasterizer.footprint(uv, rast, faces, clip, faces)


def checkerboard(size, square):
    index = torch.arange(size) // square
    return ((index[:, None] + index) % 2).double()[None, ..., None]


def test_texel_centres_from_the_bottom_left_and_both_boundaries(rasterizer):
    texture = torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=torch.float64)[None, ..., None]
    uv = at((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.5, 0.5), (0, 0.25), (1.5, 0.25), (-0.75, 0.25))
    assert rasterizer.texture(texture, uv).flatten().tolist() == [0, 1, 2, 1.5, 0.5, 0.5, 0]
    assert rasterizer.texture(texture, uv, boundary="clamp").flatten().tolist() == [0, 1, 2, 1.5, 0, 1, 0]
    with pytest.raises(ValueError, match="wrap or clamp"):
        rasterizer.texture(texture, uv, boundary="zero")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 9), st.integers(1, 9))
def test_clamped_pixels_equal_another_sampler(rasterizer, seed, height, width):
    texture, uv = random(2, height, width, 3, seed=seed), 3 * random(2, 5, 7, 2, seed=seed + 1) - 1
    theirs = F.grid_sample(texture.movedim(-1, 1), 2 * uv - 1, padding_mode="border", align_corners=False)
    torch.testing.assert_close(rasterizer.texture(texture, uv, boundary="clamp"), theirs.movedim(1, -1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 9), st.integers(1, 9))
def test_wrapped_pixels_equal_a_tiled_texture(rasterizer, seed, height, width):
    texture, uv = random(1, height, width, 2, seed=seed), random(2, 5, 7, 2, seed=seed + 1)
    tiled = texture.repeat(1, 3, 3, 1)
    torch.testing.assert_close(rasterizer.texture(texture, uv + 4), rasterizer.texture(tiled, (uv + 1) / 3))


def test_a_minified_checkerboard_gets_the_right_level(rasterizer):
    board = checkerboard(64, 4)
    # four texels a pixel: level 2, where a square is one texel
    assert torch.equal(rasterizer.texture(board, *plane(rasterizer, 16, (1, 1))), checkerboard(16, 1))
    # eight a pixel, along both axes or one: level 3, where all is gray
    for scale in [(2, 2), (2, 0.25), (0.25, 2)]:
        torch.testing.assert_close(
            rasterizer.texture(board, *plane(rasterizer, 16, scale)), torch.full((1, 16, 16, 1), 0.5).double()
        )
    # half way between the two levels, by the logarithm
    uv, footprint = plane(rasterizer, 16, (1, 1))
    between = rasterizer.texture(board, uv, footprint * math.sqrt(2))
    torch.testing.assert_close(between, 0.25 + 0.5 * checkerboard(16, 1))
    # magnified: the texture itself
    uv, footprint = plane(rasterizer, 16, (0.1, 0.1))
    assert torch.equal(rasterizer.texture(board, uv, footprint), rasterizer.texture(board, uv))
    # without mipmaps every pixel sees one square or the next
    assert rasterizer.texture(board, plane(rasterizer, 16, (1.9, 1.9))[0]).std() > 0.2


def test_mipmaps_end_at_an_odd_edge(rasterizer):
    assert mip_sizes(8, 2).tolist() == [[8, 2], [4, 1], [2, 1], [1, 1]]
    assert mip_sizes(12, 20).tolist() == [[12, 20], [6, 10], [3, 5]]
    assert mip_sizes(7, 8).tolist() == [[7, 8]]
    texture = random(1, 12, 20, 3)
    far = torch.full((1, 1, 1, 4), 1e6, dtype=torch.float64)
    small = F.avg_pool2d(texture.movedim(-1, 1), 4).movedim(1, -1)
    torch.testing.assert_close(
        rasterizer.texture(texture, at((0.3, 0.9)), far), rasterizer.texture(small, at((0.3, 0.9)))
    )


def test_what_is_no_coordinate_leaves_nothing_and_breaks_nothing(rasterizer):
    texture = random(1, 4, 4, 3).requires_grad_()
    uv = at((math.nan, 0.5), (0.5, math.inf), (-1e300, 0.5), (0.5, 0.5)).requires_grad_()
    footprint = torch.full((1, 1, 4, 4), math.nan, dtype=torch.float64)
    out = rasterizer.texture(texture, uv, footprint)
    assert not out[0, 0, :3].any() and out[0, 0, 3].all()
    out.sum().backward()
    assert texture.grad.isfinite().all() and uv.grad.isfinite().all()


def perspective():
    """(clip, faces, corner UVs, their faces): two triangles at a slant, with UVs of their own."""
    clip = torch.tensor(
        [[[-0.9, -0.8, 0.1, 1.0], [1.6, -1.5, 0.3, 2.0], [0.2, 2.4, 0.4, 3.0], [-2.2, 1.4, 0.5, 2.5]]],
        dtype=torch.float64,
    )
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    return clip, faces, 2 * random(1, 6, 2), torch.arange(6, dtype=torch.int32).view(2, 3)


def test_footprints_equal_differences_between_pixels(rasterizer):
    clip, faces, uv, uv_faces = perspective()
    rast = rasterizer.rasterize(clip, faces, (12, 20))
    footprint = rasterizer.footprint(uv, rast, uv_faces, clip, faces)
    assert not footprint[rast[..., 3] == 0].any()
    step = 1e-5
    for axis, edge in ((0, 20), (1, 12)):

        def moved(pixels, axis=axis, edge=edge):
            """The picture `pixels` to the right, or up: as the scene goes the other way."""
            shifted = clip.clone()
            shifted[..., axis] -= 2 * pixels / edge * clip[..., 3]
            return rasterizer.rasterize(shifted, faces, (12, 20))

        after, before = moved(step), moved(-step)
        inside = (after[..., 3] == rast[..., 3]) & (before[..., 3] == rast[..., 3]) & (rast[..., 3] > 0)
        slope = (rasterizer.interpolate(uv, after, uv_faces) - rasterizer.interpolate(uv, before, uv_faces)) / (
            2 * step
        )
        assert inside.sum() > 50
        torch.testing.assert_close(footprint[..., axis::2][inside], slope[inside], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("boundary", ["wrap", "clamp"])
@pytest.mark.parametrize("mipmapped", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_equal_central_differences(rasterizer, boundary, mipmapped, batch):
    texture, uv = random(batch, 8, 16, 3), 1.6 * random(2, 6, 7, 2, seed=1) - 0.3
    footprint = 0.2 * random(2, 6, 7, 4, seed=2) if mipmapped else None  # levels 0 to 2
    weight = random(2, 6, 7, 3, seed=3)

    def loss(texture, uv):
        return (rasterizer.texture(texture, uv, footprint, boundary) * weight).sum()

    texture.requires_grad_(), uv.requires_grad_()
    to_texture, to_uv = torch.autograd.grad(loss(texture, uv), [texture, uv])
    with torch.no_grad():
        for seed in range(3):
            d = random(*texture.shape, seed=seed) - 0.5
            numeric = float(loss(texture + 1e-6 * d, uv) - loss(texture - 1e-6 * d, uv)) / 2e-6
            assert float((to_texture * d).sum()) == pytest.approx(numeric, rel=1e-6)
            d = random(*uv.shape, seed=seed) - 0.5
            numeric = float(loss(texture, uv + 1e-7 * d) - loss(texture, uv - 1e-7 * d)) / 2e-7
            assert float((to_uv * d).sum()) == pytest.approx(numeric, rel=1e-4)


def test_single_precision_follows_double_and_the_same_bytes_come_again(rasterizer):
    uv, footprint = plane(rasterizer, 32, (3, 2))
    texture = random(1, 64, 32, 3)

    def run(dtype):
        leaf = texture.to(dtype).requires_grad_()
        out = rasterizer.texture(leaf, uv.to(dtype), footprint.to(dtype))
        (gradient,) = torch.autograd.grad(out.square().sum(), leaf)
        return out.detach(), gradient

    once, again, double = run(torch.float32), run(torch.float32), run(torch.float64)
    for a, b, c in zip(once, again, double):
        assert a.dtype == torch.float32 and torch.equal(a, b)
        torch.testing.assert_close(a.double(), c, atol=1e-4, rtol=1e-4)
