# SPDX-License-Identifier: GPL-3.0-or-later
"""The Laplacian preconditioner against dense algebra and finite differences."""

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from server.geometry.precondition import Preconditioner


def dense(faces, vertices, strength):
    adjacency = torch.zeros(vertices, vertices, dtype=torch.float64)
    for face in faces.tolist():
        for a, b in ((0, 1), (1, 2), (2, 0)):
            if face[a] != face[b]:
                adjacency[face[a], face[b]] = adjacency[face[b], face[a]] = 1
    return torch.eye(vertices).double() + strength * (adjacency.sum(dim=1).diag() - adjacency)


@st.composite
def meshes(draw):
    """Any triangles: isolated vertices, several components, non-manifold edges, degenerate faces."""
    vertices = draw(st.integers(1, 12))
    faces = draw(st.lists(st.tuples(*[st.integers(0, vertices - 1)] * 3), max_size=20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    locked = torch.tensor(draw(st.lists(st.booleans(), min_size=vertices, max_size=vertices)))
    return (
        torch.tensor(faces, dtype=torch.int32).view(-1, 3),
        locked,
        torch.randn(vertices, 3, generator=generator, dtype=torch.float64),
    )


@settings(max_examples=60, deadline=None)
@given(meshes(), st.floats(0, 100))
def test_it_is_the_dense_solve(mesh, strength):
    faces, locked, x = mesh
    matrix = dense(faces, len(x), strength)
    plain = Preconditioner(faces, len(x), strength)
    torch.testing.assert_close(plain.from_positions(x), matrix @ x)
    torch.testing.assert_close(plain.to_positions(x), torch.linalg.solve(matrix, x))

    u, free = torch.randn_like(x), ~locked
    expected = u.clone()
    expected[free] = torch.linalg.solve(matrix[free][:, free], u[free] - matrix[free][:, locked] @ u[locked])
    torch.testing.assert_close(Preconditioner(faces, len(x), strength, locked).to_positions(u), expected)


@settings(max_examples=20, deadline=None)
@given(meshes())
def test_the_gradient_is_that_of_finite_differences(mesh):
    faces, locked, x = mesh
    preconditioner = Preconditioner(faces, len(x), 19, locked)
    u = preconditioner.from_positions(x)
    weights = torch.randn_like(x)
    (grad,) = torch.autograd.grad((preconditioner.to_positions(u.requires_grad_()) * weights).sum(), u)
    steps = 1e-4 * torch.eye(u.numel(), dtype=torch.float64).view(-1, *u.shape)
    with torch.no_grad():
        slopes = torch.stack(
            [
                ((preconditioner.to_positions(u + step) - preconditioner.to_positions(u - step)) * weights).sum() / 2e-4
                for step in steps
            ]
        ).view_as(u)
    free = ~locked
    torch.testing.assert_close(grad[free], slopes[free], atol=1e-7, rtol=1e-6)
    assert not grad[locked].any()


@settings(max_examples=60, deadline=None)
@given(meshes())
def test_a_round_trip_in_float32_ends_where_it_began_and_locked_vertices_keep_their_bits(mesh):
    faces, locked, x = mesh
    x = x.float()
    preconditioner = Preconditioner(faces, len(x), 19, locked)
    u = preconditioner.from_positions(x).requires_grad_()
    optimizer = torch.optim.Adam([u], lr=0.1)
    back = preconditioner.to_positions(u)
    torch.testing.assert_close(back, x, atol=1e-4, rtol=0)
    for _ in range(3):
        optimizer.zero_grad()
        preconditioner.to_positions(u).square().sum().backward()
        optimizer.step()
    assert preconditioner.to_positions(u)[locked].detach().numpy().tobytes() == x[locked].numpy().tobytes()


def sphere():
    ball = trimesh.creation.icosphere(3)
    return torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces, dtype=torch.int32)


def test_the_same_input_gives_the_same_bytes():
    x, faces = sphere()
    results = []
    for _ in range(3):
        preconditioner = Preconditioner(faces, len(x))
        u = preconditioner.from_positions(x).requires_grad_()
        preconditioner.to_positions(u).cos().sum().backward()
        results.append((preconditioner.to_positions(u).detach().numpy().tobytes(), u.grad.numpy().tobytes()))
    assert len(set(results)) == 1


def roughness(x, faces):
    normals = np.asarray(trimesh.Trimesh(x.numpy(), faces.numpy(), process=False).face_normals)
    return float(1 - (normals * x.numpy()[faces.numpy()].mean(axis=1)).sum(axis=1).mean())


def test_a_noisy_gradient_makes_a_smooth_step_that_joins_the_locked_part():
    x, faces = sphere()
    locked = x[:, 2] < 0
    preconditioner = Preconditioner(faces, len(x), locked=locked)
    noise = 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        moved = preconditioner.to_positions(preconditioner.from_positions(x) + 20 * noise * ~locked[:, None])
    assert (moved - x).norm(dim=1).max() > 0.05  # it does move
    assert roughness(moved, faces) < 0.3 * roughness(x + noise, faces)
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]]]).long()
    joint = edges[locked[edges[:, 0]] & ~locked[edges[:, 1]]]
    step = (moved - x).norm(dim=1)
    assert step[joint[:, 1]].mean() < 0.5 * step[~locked].mean()


@pytest.mark.parametrize("vertices", [0, 4])
def test_without_faces_or_free_vertices_nothing_happens(vertices):
    x = torch.randn(vertices, 3)
    nothing = torch.zeros(0, 3, dtype=torch.int32)
    assert torch.equal(Preconditioner(nothing, vertices).to_positions(x), x)
    every = torch.ones(vertices, dtype=torch.bool)
    assert torch.equal(Preconditioner(nothing, vertices, locked=every).to_positions(x), x)
