# SPDX-License-Identifier: GPL-3.0-or-later
"""The colour's grids, dense and sparse: the same function, in little memory."""

import pytest
import torch
import torch.nn.functional as F

from server.assets.colour_grid import ColourGrid, levels_for, levels_within
from server.assets.sparse_grid import SparseGrid, corners
from server.geometry.field import grid_points, sample


def sphere(count, seed=0, radius=0.8):
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return radius * F.normalize(points, dim=1)


def pair(edge, points, channels=3, ahead=False):
    """A dense grid of random values, and a sparse one with the same values where it has any."""
    dense = torch.randn(1, channels, *(edge,) * 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    sparse = SparseGrid(edge, channels, points.split(100), ahead=ahead)
    places = grid_points(edge).reshape(-1, 3)
    near = torch.zeros(edge**3, len(sparse.values))
    for row, weight in corners(places, sparse.blocks, sparse.rows, edge):
        near[torch.arange(edge**3), row] += weight
    with torch.no_grad():
        sparse.values.copy_(near.round().T @ dense[0].reshape(channels, -1).T)
    return dense, sparse


@pytest.mark.parametrize("edge", [5, 9, 14, 17])
def test_a_sparse_grid_is_the_dense_one_at_its_points(edge):
    points = torch.cat([sphere(150), torch.tensor([[1.0, 1, 1], [-1, -1, -1], [0, 0, 0], [3, 0, 0]])])
    dense, sparse = pair(edge, points)
    assert len(sparse.values) < edge**3
    torch.testing.assert_close(sparse(points), sample(dense, points), atol=1e-5, rtol=1e-5)
    grad = torch.randn(len(points), 3, generator=torch.Generator().manual_seed(2))
    sparse(points).backward(grad)
    sample(dense, points).backward(grad)
    assert sparse.values.grad.sum() == pytest.approx(float(dense.grad.sum()), abs=1e-3)
    torch.testing.assert_close(
        sparse.values.grad.square().sum(), dense.grad.square().sum(), atol=1e-3, rtol=1e-4
    )  # the same numbers in another order


def test_other_devices_get_the_kernels_numbers():
    points = sphere(300)
    _, sparse = pair(17, points)
    grad = torch.randn(300, 3, generator=torch.Generator().manual_seed(2))
    sparse(points).backward(grad)
    read, added = torch.zeros(300, 3), torch.zeros_like(sparse.values)
    for row, weight in corners(points, sparse.blocks, sparse.rows, 17):
        read += weight[:, None] * sparse.values.detach()[row]
        added.index_add_(0, row, weight[:, None] * grad)
    torch.testing.assert_close(sparse(points), read)
    torch.testing.assert_close(sparse.values.grad, added)


def test_it_is_zero_away_from_the_surface():
    _, sparse = pair(17, sphere(300))
    assert not sparse(torch.zeros(1, 3)).any() and not sparse(torch.ones(1, 3)).any()


def test_slopes_ahead_of_the_surface_are_those_of_the_dense_grid():
    points = sphere(100)
    dense, sparse = pair(17, points, ahead=True)
    for axis in torch.eye(3):
        shifted = points + axis / 17  # not beyond half a cell
        torch.testing.assert_close(sparse(shifted), sample(dense, shifted), atol=1e-5, rtol=1e-5)


def test_memory_grows_with_the_surface_not_with_the_cube():
    points = sphere(200_000)
    counts = [len(SparseGrid(edge, 1, [points]).values) for edge in (65, 129)]
    assert counts[1] < 4.5 * counts[0] and counts[1] < 0.06 * 129**3


def test_levels_follow_the_priors_pixels_and_the_textures_texels():
    base = (5, 9, 17, 33, 65)
    assert levels_for(base, 32) == levels_for(base, 64) == base
    assert levels_for(base, 128) == (*base, 129, 257)
    assert levels_for(base, 256) == (*base, 129, 257, 513)
    assert levels_for(base, 8192)[-1] == 1025
    assert levels_for((5, 9), 512) == (5, 9)  # of a caller who wants few
    assert levels_within((*base, 129, 257), 2 / 128) == (*base, 129, 257)
    assert levels_within((*base, 129, 257), 2 / 100) == (*base, 129)
    assert levels_within(base, 1.0) == base


def test_finest_grids_learn_slowly_whatever_the_prior():
    """The bundled prior's rates, and those of the same grids in pixels for another."""
    small = ColourGrid((5, 9, 17, 33, 65), 3)
    assert [group["lr_scale"] for group in small.param_groups()] == [1, 1, 1, 17 / 33, 17 / 65]
    large = ColourGrid((5, 9, 17, 33, 65, 129, 257), 3, surface=[sphere(10)])
    rates = [group["lr_scale"] for group in large.param_groups()]
    assert rates[:5] == [1] * 5 and rates[5:] == pytest.approx([17 / 33, 17 / 65], rel=0.02)
    assert sum(parameter.numel() for group in large.param_groups() for parameter in group["params"]) == sum(
        parameter.numel() for parameter in large.parameters()
    )


def test_coarse_grids_start_with_the_fields_colours():
    grid = ColourGrid((5, 65, 129), 4, surface=[sphere(10)])
    field = torch.randn(1, 3, 9, 9, 9, generator=torch.Generator().manual_seed(0))
    grid.start_from(field)
    points = sphere(10)
    torch.testing.assert_close(grid(points)[:, :3], sample(field, points), atol=0.02, rtol=0.02)


def test_heights_of_fine_cells_are_small():
    """A logit of height is as steep on every grid."""
    points = sphere(200)
    grid = ColourGrid((5, 65, 257), 4, surface=[points], heights=True)
    torch.nn.init.ones_(grid.fine[0].values)
    torch.testing.assert_close(grid(points), torch.tensor([[1, 1, 1, 0.25]]).expand(200, -1))


@pytest.mark.parametrize("edge", [2, 5, 33])
def test_dense_grids_are_read_as_pytorch_reads_them(edge):
    points = torch.cat([sphere(200), sphere(50, radius=1.4), torch.eye(3), -torch.eye(3), torch.zeros(1, 3)])
    grids = [torch.randn(1, 4, *(edge,) * 3, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    grad = torch.randn(len(points), 4, generator=torch.Generator().manual_seed(4))
    results = []
    for grid, read in zip(grids, (sample, reference)):
        grid.requires_grad_()
        values = read(grid, points)
        values.backward(grad)
        results.append((values.detach(), grid.grad))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def reference(grid, points):
    return F.grid_sample(grid, points[None, None, None], align_corners=True, padding_mode="border")[0, :, 0, 0].T


def test_a_point_that_is_no_number_reads_a_value_of_the_border():
    assert sample(torch.ones(1, 1, 5, 5, 5), torch.full((1, 3), torch.nan)).item() == 1
