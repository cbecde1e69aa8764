# SPDX-License-Identifier: GPL-3.0-or-later
"""Cleaning the meshes that marching tetrahedra make, of objects with known shape."""

import igl
import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from server.bundled_prior import shapes
from server.evaluation.compare import compare_shapes, ground_truth
from server.geometry.marching import marching_tetrahedra
from server.geometry.mesh import Mesh, edge_counts
from server.geometry.mesh_quality import self_intersecting_faces
from server.geometry.remeshing import TARGET_FACES, connected_components, remesh, remove_small_components


def raw(noun, edge=33):
    """As *generate* has it, with slivers and colours, of `edge` points along an edge; there it is 49."""
    shape = ground_truth(noun, edge)
    positions = np.asarray(shape.vertices, np.float32)
    return Mesh(positions, np.asarray(shape.faces, np.int32), (127.5 * (positions + 1)).round().astype(np.uint8))


def quality(mesh):
    """Of each triangle: 1 equilateral, 0 degenerate."""
    corners = mesh.positions[mesh.faces].astype(float)
    edges = corners - corners[:, [1, 2, 0]]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2
    return 4 * np.sqrt(3) * area / np.square(edges).sum(axis=(1, 2))


def as_trimesh(mesh):
    return trimesh.Trimesh(mesh.positions, mesh.faces, process=False)


def distance(points, mesh):
    squared, _, _ = igl.point_mesh_squared_distance(
        np.asarray(points, float), mesh.positions.astype(float), mesh.faces.astype(np.int64)
    )
    return np.sqrt(squared.max())


@pytest.mark.parametrize("target", [1500, None])
@pytest.mark.parametrize("noun", ["mushroom", "rocket"])
def test_a_cleaned_object_is_whole_well_shaped_and_near(noun, target):
    mesh = raw(noun)
    made = remesh(mesh, target)
    assert abs(len(made.faces) / (target or TARGET_FACES) - 1) < 0.1
    assert edge_counts(made.faces)[1] == 0 and as_trimesh(made).is_winding_consistent
    assert as_trimesh(made).euler_number == as_trimesh(mesh).euler_number
    assert as_trimesh(made).volume == pytest.approx(as_trimesh(mesh).volume, rel=0.03)
    assert len(np.unique(made.positions, axis=0)) == len(made.positions)
    assert len(np.unique(made.faces)) == len(made.positions)
    assert not self_intersecting_faces(made.positions, made.faces).any()
    assert quality(made).min() > 0.3 and np.median(quality(made)) > 0.9 and np.median(quality(mesh)) < 0.85
    edge = np.linalg.norm(made.positions[made.faces[:, 0]] - made.positions[made.faces[:, 1]], axis=1).mean()
    assert distance(made.positions, mesh) < 1e-4  # each vertex lies on the surface
    assert distance(mesh.positions, made) < 1.2 * edge  # and nothing of the surface is lost
    # colours are a linear function of the place, which interpolation keeps
    np.testing.assert_allclose(made.colours, 127.5 * (made.positions + 1), atol=1.01)


def test_the_same_mesh_gives_the_same_bytes():
    mesh = raw("donut")
    a, b = remesh(mesh, 1500).arrays(), remesh(mesh, 1500).arrays()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("noun", shapes.NOUNS)
def test_cleaning_costs_no_likeness(noun, request):
    if noun != "chair" and not request.config.getoption("--long"):
        pytest.skip("only with --long")
    mesh = raw(noun, 49)
    assert (
        compare_shapes(as_trimesh(remesh(mesh)), noun).f_score > compare_shapes(as_trimesh(mesh), noun).f_score - 0.02
    )


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_any_field_cleans_to_a_closed_manifold(seed):
    """Blobs, tunnels, hollows and floaters at random."""
    noise = torch.randn(1, 1, 9, 9, 9, generator=torch.Generator().manual_seed(seed))
    field = torch.nn.functional.interpolate(noise, size=(15,) * 3, mode="trilinear", align_corners=True)[0, 0]
    positions, faces = marching_tetrahedra(field)
    made = remesh(Mesh(positions.numpy(), faces.numpy()), 2000)
    assert edge_counts(made.faces)[1] == 0 and quality(made).min() > 0
    assert igl.is_vertex_manifold(made.faces.astype(np.int64))[0]
    assert len(np.unique(made.positions, axis=0)) == len(made.positions)


def balls(*balls_):
    """Spheres (centre along X, radius, orientation) as one mesh."""
    parts = []
    for centre, radius, sign in balls_:
        ball = trimesh.creation.icosphere(2, radius)
        ball.apply_translation([centre, 0, 0])
        if sign < 0:
            ball.invert()
        parts.append(ball)
    whole = trimesh.util.concatenate(parts)
    return Mesh(np.asarray(whole.vertices, np.float32), np.asarray(whole.faces, np.int32))


def test_floaters_and_hollows_go_and_large_parts_stay():
    mesh = balls((0, 0.5, 1), (2, 0.3, 1), (4, 0.1, 1), (0, 0.3, -1))
    kept = remove_small_components(mesh)
    assert connected_components(kept.faces, len(kept.positions))[0] == 2 and kept.positions[:, 0].max() < 3
    assert as_trimesh(kept).volume == pytest.approx(as_trimesh(balls((0, 0.5, 1), (2, 0.3, 1))).volume)
    assert remove_small_components(kept) is kept
    locked = np.zeros(len(mesh.positions), np.uint8)
    locked[np.flatnonzero(mesh.positions[:, 0] > 3.5)[0]] = 1
    kept = remove_small_components(Mesh(mesh.positions, mesh.faces, locked=locked))
    assert connected_components(kept.faces, len(kept.positions))[0] == 3 and kept.locked.sum() == 1


def test_what_is_locked_keeps_its_bits():
    ball = balls((0, 0.7, 1))
    locked = (ball.positions[:, 2] < 0).astype(np.uint8)
    mesh = Mesh(ball.positions, ball.faces, locked=locked)
    made = remesh(mesh, 4000)
    assert len(made.faces) > 3 * len(ball.faces)
    assert made.positions[made.locked > 0].tobytes() == ball.positions[locked > 0].tobytes()

    def between(mesh):
        return {
            tuple(map(tuple, np.sort(corners, axis=0)))
            for corners in mesh.positions[mesh.faces[mesh.locked[mesh.faces].all(axis=1)]]
        }

    assert between(mesh) == between(made)


def test_an_open_border_stays():
    ball = balls((0, 0.7, 1))
    cut = ball.faces[(ball.positions[ball.faces][..., 2] > 0).any(axis=1)]
    mesh = remove_small_components(Mesh(ball.positions, cut))

    def border(mesh):
        return {tuple(p) for p in mesh.positions[np.unique(as_trimesh(mesh).outline().referenced_vertices)]}

    assert border(remesh(mesh, 1000)) == border(mesh)


def test_nothing_stays_nothing_and_what_is_not_manifold_is_refused():
    nothing = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    assert len(remesh(nothing).faces) == 0
    fan = Mesh(np.eye(5, 3, dtype=np.float32), np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]], np.int32))
    with pytest.raises(ValueError, match="mend them"):
        remesh(fan)
