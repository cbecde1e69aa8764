# SPDX-License-Identifier: GPL-3.0-or-later
"""Regularizers: known values, any triangles, gradients as finite differences have them."""

import math

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from server.geometry.field import grid_points
from server.geometry.regularize import bending, binary_entropy, normal_consistency, total_variation


def shape(make=trimesh.creation.box, **settings):
    made = make(**settings)
    return torch.tensor(np.asarray(made.vertices)), torch.tensor(np.asarray(made.faces), dtype=torch.int32)


def test_regularizers_of_a_field_are_zero_where_they_should_be():
    linear = grid_points(5)[..., 0][None, None]
    assert bending(linear) < 1e-10 < total_variation(linear)
    assert binary_entropy(torch.tensor([0.0, 1.0])) < 0.01
    assert float(binary_entropy(torch.tensor([0.5]))) == pytest.approx(math.log(2))


def test_of_a_boxs_18_edges_12_turn_by_90_degrees_and_6_are_diagonals_of_its_flat_sides():
    assert float(normal_consistency(*shape())) == pytest.approx(12 / 18)


def test_normals_of_open_and_non_manifold_meshes():
    x = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.float64)
    flat = torch.tensor([[0, 1, 2], [1, 3, 2]])
    assert float(normal_consistency(x, flat)) == pytest.approx(0)
    turned = torch.tensor([[0, 1, 2], [1, 2, 3]])  # the second seen from its back
    assert float(normal_consistency(x, turned)) == pytest.approx(0)
    bent = torch.tensor([[0, 1, 2], [0, 4, 1]])
    assert float(normal_consistency(x, bent)) == pytest.approx(1)
    three = torch.cat([flat, torch.tensor([[2, 1, 4]])])  # all edges have one face, or three
    assert float(normal_consistency(x, three)) == 0
    assert float(normal_consistency(x, three[:1])) == 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_gradients_are_those_of_finite_differences(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    faces = torch.stack([torch.randperm(6, generator=generator)[:3] for _ in range(8)])  # vertex 6 is alone
    assert torch.autograd.gradcheck(lambda x: normal_consistency(x, faces), (x,), eps=1e-7, atol=1e-5)


def test_an_empty_mesh_is_consistent_and_a_point_has_finite_gradients():
    assert normal_consistency(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32)) == 0
    point = torch.zeros(4, 3, requires_grad=True)
    normal_consistency(point, torch.tensor([[0, 1, 2], [2, 1, 3], [3, 3, 3]])).backward()
    assert bool(point.grad.isfinite().all())


def test_descending_makes_a_noisy_sphere_rounder():
    x, faces = shape(trimesh.creation.icosphere, subdivisions=2)
    noise = 0.03 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = (x + noise).requires_grad_()
    optimizer = torch.optim.Adam([moved], lr=0.003)
    first = normal_consistency(moved.detach(), faces)
    for _ in range(30):
        optimizer.zero_grad()
        normal_consistency(moved, faces).backward()
        optimizer.step()
    assert normal_consistency(moved.detach(), faces) < 0.5 * first
