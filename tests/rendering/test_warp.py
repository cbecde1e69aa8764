# SPDX-License-Identifier: GPL-3.0-or-later
"""The Warp rasterizer beside the CPU backend and the oracle in PyTorch, and its kernels compiled for CUDA without one.

All that a rasterizer must do is in the other files of this folder, whose tests run on both backends.
"""

import subprocess
import sys

import pytest
import torch
import warp as wp

from server.rendering import cameras, rasterize
from server.rendering.rasterize.warp import WarpRasterizer, kernels
from tests.rendering.test_antialias import SHAPES
from tests.rendering.test_gradients import tensors
from tests.rendering.test_rasterize import oracle

cpu, warp = rasterize.create("cpu"), WarpRasterizer()
by_tiles = WarpRasterizer(large=1)  # as on CUDA, where many threads share a large triangle


def scene(seed, even=False):
    """(clip (2, 12, 4), faces (up to 24, 3)) of crossing, folded and repeated triangles; in some of the scenes corners
    are behind the camera, or on pixels' centres. even: all at one depth."""
    generator = torch.Generator().manual_seed(seed)
    place = 4 * torch.rand(2, 12, 3, generator=generator) - 2
    w = torch.rand(2, 12, 1, generator=generator) + (-0.2 if seed % 3 == 0 else 0.3)
    if seed % 4 == 0:
        place, w = (place * 8).round() / 8, torch.ones_like(w)
    if even:
        place[..., 2] = 0.25
    faces = torch.randint(12, (1 + seed % 24, 3), generator=generator, dtype=torch.int32)
    return torch.cat([w * place, w], dim=2), faces


def drawn(rasterizer, clip, faces, size=(13, 17)):
    """[rast, texels, picture] and the gradients to [clip, colours, texture]."""
    generator = torch.Generator().manual_seed(0)
    leaves = [clip, torch.rand(1, clip.shape[1], 3, generator=generator), torch.rand(1, 8, 4, 3, generator=generator)]
    leaves = [each.to(clip.device).clone().requires_grad_() for each in leaves]
    rast = rasterizer.rasterize(leaves[0], faces, size)
    colour = rasterizer.interpolate(leaves[1], rast, faces)
    footprint = rasterizer.footprint(leaves[1][..., :2].detach(), rast, faces, leaves[0], faces)
    seen = rasterizer.texture(leaves[2], colour[..., :2], footprint) + colour
    picture = rasterizer.antialias(seen, rast, leaves[0], faces)
    weight = torch.rand(picture.shape, generator=generator).to(clip.device)
    return [rast.detach(), seen.detach(), picture.detach()], torch.autograd.grad((picture * weight).sum(), leaves)


def assert_close(ours, theirs):
    """To 1e-5 of the largest number, because one of a gradient may be the rest of larger ones that cancel."""
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, float(b.abs().max())), rtol=1e-5)


def same_triangles(rast, theirs):
    """Where both see the same one. Elsewhere two are at one depth, by rounding: of those the lower id is in `rast`."""
    same = rast[..., 3] == theirs[..., 3]
    torch.testing.assert_close(rast[..., 2], theirs[..., 2], atol=1e-6, rtol=0)
    assert (rast[~same][:, 3] < theirs[~same][:, 3]).all()
    return same


@pytest.mark.slow
@pytest.mark.parametrize("group", range(4))
def test_200_scenes_are_the_cpu_backends(group):
    """The same bytes of `rasterize`; pictures and gradients to 1e-5."""
    whole = 0
    for seed in range(50 * group, 50 * group + 50):
        clip, faces = scene(seed)
        theirs, their_gradients = drawn(cpu, clip, faces)
        for rasterizer in (warp, by_tiles):
            ours, gradients = drawn(rasterizer, clip, faces)
            if same_triangles(ours[0], theirs[0]).all():
                whole += 1
                assert torch.equal(ours[0], theirs[0]), seed
                assert_close([*ours, *gradients], [*theirs, *their_gradients])
    assert whole >= 80  # of 100


@pytest.mark.slow
def test_200_scenes_are_the_oracles():
    """Solved at every pixel in float64."""
    for seed in range(200):
        clip, faces = scene(seed)
        clip, size = clip[:1].double(), (5, 7)
        rast, expected = warp.rasterize(clip, faces, size), oracle(clip, faces, *size)
        same = same_triangles(rast, expected)
        torch.testing.assert_close(rast[same], expected[same], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rasterizer", [warp, by_tiles])
def test_of_triangles_at_one_depth_the_first_is_seen(rasterizer):
    """Whatever rounding says: the depths that are compared have 39 bits."""
    for seed in range(20):
        clip, faces = scene(seed, even=True)
        rast = rasterizer.rasterize(clip, faces, (13, 17))
        for f in range(len(faces)):
            alone = rasterizer.rasterize(clip, faces[f : f + 1], (13, 17))[..., 3] > 0
            assert (rast[..., 3][alone] > 0).all() and (rast[..., 3][alone] <= f + 1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_bytes_come_again(shape):
    positions, faces = tensors(SHAPES[shape])
    clip = cameras.orbit(3).clip(positions.float())
    once, again = (drawn(warp, clip, faces, (48, 64)) for _ in range(2))
    for a, b in zip([*once[0], *once[1]], [*again[0], *again[1]]):
        assert torch.equal(a, b)


def test_a_triangle_that_fills_the_picture_is_drawn_by_tiles():
    """Among small ones, in two views, so that the queue has tiles of several triangles."""
    positions, faces = tensors(SHAPES["fine ball"])
    corners = torch.tensor([[-9.0, -9, 3, 3], [9, -9, 3, 3], [0, 12, 2.9, 3], [-1, -1, -1, 1], [1, 0, 0.2, 1]])
    clip = torch.cat([cameras.orbit(2).clip(positions.float()), corners.expand(2, 5, 4)], dim=1)
    large = torch.tensor([[0, 1, 2], [3, 1, 4]], dtype=torch.int32) + len(positions)
    faces = torch.cat([large[:1], faces, large[1:]])
    expected = cpu.rasterize(clip, faces, (200, 150))
    for limit in (1, 16, 256, 10_000):
        assert torch.equal(WarpRasterizer(limit).rasterize(clip, faces, (200, 150)), expected)


def test_more_triangles_than_float32_can_name_are_refused():
    faces = torch.zeros(1, 3, dtype=torch.int32).expand(1 << 24, 3)
    with pytest.raises(ValueError, match="16,777,215 triangles"):
        warp.rasterize(torch.ones(1, 1, 4), faces, (4, 4))


@pytest.mark.slow
@pytest.mark.parametrize("capability", [75, 89, 120])
def test_the_kernels_compile_for_cuda_without_a_card_or_a_toolkit(capability, tmp_path):
    module = kernels(torch.float32).rasterize.module
    (binary,) = wp.compile_aot_module(module, arch=capability, module_dir=tmp_path, use_ptx=False)
    assert binary.suffix == ".cubin" and binary.read_bytes().startswith(b"\x7fELF")


@pytest.mark.process
def test_nothing_is_imported_or_printed_before_it_is_asked_for():
    code = """
import sys
from server.rendering import rasterize
rasterize.create("auto", "cpu")
assert "warp" not in sys.modules
rasterize.warm_up(rasterize.create("warp", "cpu"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout and "initialized" not in done.stderr
