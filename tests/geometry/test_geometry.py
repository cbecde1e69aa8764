# SPDX-License-Identifier: GPL-3.0-or-later
"""Fields, their meshes, clean-up, unwrapping and files, against shapes with known truth."""

import math

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from server.geometry.field import Field, grid_points, sample, smooth
from server.geometry.marching import marching_tetrahedra
from server.geometry.mesh import Mesh, edge_counts
from server.geometry.occupancy import bridge_gaps, remove_floaters
from server.geometry.uvs import unwrap


def solid(values):
    positions, faces = marching_tetrahedra(values)
    return trimesh.Trimesh(positions.detach().numpy(), faces.numpy(), process=False)


def torus(n=40):
    p = grid_points(n)
    return 0.25 - ((p[..., :2].norm(dim=-1) - 0.55) ** 2 + p[..., 2] ** 2).sqrt()


def test_a_torus_keeps_its_hole_volume_and_orientation():
    mesh = solid(torus())
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.euler_number == 0
    assert mesh.volume == pytest.approx(2 * math.pi**2 * 0.55 * 0.25**2, rel=0.02)  # positive: outward


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_any_signs_give_a_closed_manifold(seed):
    positions, faces = marching_tetrahedra(torch.randn(7, 7, 7, generator=torch.Generator().manual_seed(seed)))
    assert edge_counts(faces.numpy())[1] == 0
    areas = trimesh.Trimesh(positions.numpy(), faces.numpy(), process=False).area_faces
    assert positions.abs().max() < 1 and areas.min() > 0


def test_the_volume_grows_with_the_field_as_its_area_says():
    """d(volume)/d(offset) of a signed distance is the area: the vertices' gradient is right in sign and size."""
    field = torus().double()
    offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
    positions, faces = marching_tetrahedra(field + offset)
    corners = positions[faces.long()]
    volume = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6
    (slope,) = torch.autograd.grad(volume, offset)
    assert float(slope) == pytest.approx(4 * math.pi**2 * 0.55 * 0.25, rel=0.02)


def test_an_empty_field_has_an_empty_mesh():
    positions, faces = marching_tetrahedra(-torch.ones(5, 5, 5))
    assert positions.shape == (0, 3) and faces.shape == (0, 3)


def test_sampling_a_linear_field_is_exact():
    points = 1.8 * torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.9
    grid = grid_points(6).movedim(-1, 0)[None]
    torch.testing.assert_close(sample(grid, points), points, atol=1e-6, rtol=0)


def test_smoothing_keeps_the_sum_and_the_axes_and_ends_what_alternates():
    point = torch.zeros(1, 2, 7, 7, 7)
    point[0, 0, 2, 3, 4], point[0, 1, 3, 3, 3] = 1, 2
    wide = smooth(point)
    assert wide.sum(dim=(2, 3, 4)).flatten().tolist() == [1, 2]
    assert wide[0, 0, 2, 3, 4] == 1 / 8 and wide[0, 0, 1, 3, 4] == 1 / 16 and wide[0, 0, 2, 4, 5] == 1 / 32
    signs = (-1.0) ** torch.arange(7)
    assert smooth(signs.view(1, 1, 1, 7, 1).expand(1, 1, 7, 7, 7))[:, :, :, 1:-1].abs().max() == 0


def test_levels_add_up_and_refining_keeps_the_colours():
    field = Field((3, 5, 9))
    with torch.no_grad():
        for grid in field.grids:
            grid[:, 1:] = 1.0
    torch.testing.assert_close(field.grid()[:, 1:], torch.full((1, 3, 9, 9, 9), 3.0))
    finer = field.refined((5, 17), torch.zeros(1, 1, 17, 17, 17))
    torch.testing.assert_close(finer.grid()[:, 1:], torch.full((1, 3, 17, 17, 17), 3.0))
    assert not finer.grid()[:, :1].any()


def test_floaters_go_and_large_parts_stay():
    inside = np.zeros((20, 20, 20), bool)
    inside[2:10, 2:10, 2:10] = inside[12:18, 12:18, 12:18] = True
    kept = inside.copy()
    inside[18, 2, 2] = True
    np.testing.assert_array_equal(remove_floaters(inside), kept)
    assert not remove_floaters(np.zeros((3, 3, 3), bool)).any()


@pytest.mark.parametrize(("gap", "parts"), [(1, 1), (3, 1), (5, 2)])
def test_a_gap_between_two_parts_is_bridged_where_it_is_narrow(gap, parts):
    inside = np.zeros((30, 30, 30), bool)
    inside[2:12, 11:19, 11:19] = True  # a stem
    inside[12 + gap : 12 + gap + 6, 4:26, 4:26] = True  # under its cap
    made = bridge_gaps(inside)
    assert ndimage.label(made)[1] == parts and not (inside & ~made).any()
    added = made & ~inside
    assert not added[:11].any()  # a fillet at most
    assert not added[:, :9].any() and not added[:, 21:].any() and not added[..., :9].any()


def test_what_hangs_together_stays_as_it_is_and_floaters_are_left_alone():
    table = np.zeros((20, 20, 20), bool)
    table[12:15, 2:18, 2:18] = True
    for y in (5, 8):  # legs two points apart, and a crumb between
        table[2:12, y : y + 1, 9:12] = True
    np.testing.assert_array_equal(bridge_gaps(table), table)
    table[4, 6, 16] = True
    np.testing.assert_array_equal(bridge_gaps(table), table)


@pytest.fixture
def mesh():
    positions, faces = marching_tetrahedra(torus(20))
    colours = (255 * (positions + 1) / 2).byte()
    return Mesh(positions.numpy(), faces.numpy(), colours.numpy())


def test_unwrapped_charts_lie_in_the_unit_square_without_overlap(mesh):
    source, faces, uvs = unwrap(mesh.positions, mesh.faces)
    np.testing.assert_array_equal(source[faces], mesh.faces)
    assert uvs.min() >= 0 and uvs.max() <= 1
    a, b, c = (uvs[faces][:, k] for k in range(3))
    areas = np.abs(np.linalg.det(np.stack([b - a, c - a], axis=1))) / 2
    from server.rendering import rasterize

    clip = np.concatenate([2 * uvs - 1, np.zeros_like(uvs[:, :1]), np.ones_like(uvs[:, :1])], axis=1)
    rast = rasterize.create("cpu").rasterize(torch.from_numpy(clip)[None], torch.from_numpy(faces), (512, 512))
    covered = float((rast[..., 3] > 0).float().mean())
    assert areas.sum() == pytest.approx(covered, rel=0.05)  # overlapping charts would cover less


def test_it_stands_on_the_ground(mesh):
    grounded = mesh.on_ground()
    assert grounded.positions[:, 2].min() == 0
    np.testing.assert_allclose(grounded.positions + grounded.ground_offset, mesh.positions, atol=1e-6)
