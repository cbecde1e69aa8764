# SPDX-License-Identifier: GPL-3.0-or-later
"""Penalties on a mesh: known values, any triangles, slopes as finite differences have them."""

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from server.geometry.regularize import edge_length, edges, laplacian, normal_consistency, offset

PENALTIES = {
    "normal_consistency": normal_consistency,
    "laplacian": laplacian,
    "edge_length": edge_length,
    "edge_length of its own": lambda x, faces: edge_length(x, faces, 0.3),
    "offset": lambda x, faces: offset(x, torch.zeros_like(x)),
    "offset beyond": lambda x, faces: offset(x, torch.ones_like(x), free=0.5),
}


def shape(make=trimesh.creation.box, **settings):
    made = make(**settings)
    return torch.tensor(np.asarray(made.vertices)), torch.tensor(np.asarray(made.faces), dtype=torch.int32)


def test_a_box_has_the_values_that_a_box_has():
    x, faces = shape()
    low, high = edges(faces, len(x))
    assert len(low) == 18 and bool((low < high).all())
    assert float(normal_consistency(x, faces)) == pytest.approx(12 / 18)
    lengths = torch.tensor([1.0] * 12 + [2**0.5] * 6)
    mean = lengths.mean()
    assert float(edge_length(x, faces)) == pytest.approx(float((lengths / mean - 1).square().mean()))
    assert float(edge_length(x, faces, (x[low] - x[high]).norm(dim=1))) == pytest.approx(0)
    assert float(offset(x + torch.tensor([0, 3.0, 4.0]), x)) == pytest.approx(25)
    assert float(offset(x + torch.tensor([0, 3.0, 4.0]), x, free=3)) == pytest.approx(4)
    neighbours = [torch.cat([high[low == i], low[high == i]]) for i in range(8)]
    expected = torch.stack([x[i] - x[near].mean(dim=0) for i, near in enumerate(neighbours)])
    assert float(laplacian(x, faces)) == pytest.approx(float(expected.square().sum(dim=1).mean()))


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


# `edge_length` holds its own mean fixed, so its slope is not all of its change.
SLOPED = {name: penalty for name, penalty in PENALTIES.items() if penalty is not edge_length}


@pytest.mark.parametrize("penalty", SLOPED.values(), ids=SLOPED)
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_slopes_are_those_of_finite_differences(penalty, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    faces = torch.stack([torch.randperm(6, generator=generator)[:3] for _ in range(8)])  # vertex 6 is alone
    assert torch.autograd.gradcheck(lambda x: penalty(x, faces), (x,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_nothing_costs_nothing_and_a_point_has_finite_slopes(penalty):
    assert penalty(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32)) == 0
    point = torch.zeros(4, 3, requires_grad=True)
    penalty(point, torch.tensor([[0, 1, 2], [2, 1, 3], [3, 3, 3]])).backward()
    assert bool(point.grad.isfinite().all())


@pytest.mark.parametrize("penalty", [normal_consistency, laplacian, edge_length])
def test_descending_makes_a_noisy_sphere_rounder(penalty):
    x, faces = shape(trimesh.creation.icosphere, subdivisions=2)
    noise = 0.03 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = (x + noise).requires_grad_()
    optimizer = torch.optim.Adam([moved], lr=0.003)
    first = penalty(moved.detach(), faces)
    for _ in range(30):
        optimizer.zero_grad()
        penalty(moved, faces).backward()
        optimizer.step()
    assert penalty(moved.detach(), faces) < 0.5 * first
