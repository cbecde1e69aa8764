# SPDX-License-Identifier: GPL-3.0-or-later
"""Unwrapping, by exact arithmetic and by looking at the texture."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from server.evaluation.compare import ground_truth
from server.geometry.mesh import Mesh
from server.geometry.remeshing import connected_components, remesh
from server.geometry.uvs import missing_uvs, overlapping, stretch, unwrap
from server.rendering import rasterize


def drawn(split, uvs, size):
    """(size, size) the face that each texel's middle lies in, -1 for none."""
    clip = np.concatenate([2 * uvs - 1, np.zeros_like(uvs[:, :1]), np.ones_like(uvs[:, :1])], axis=1)
    rast = rasterize.create("cpu").rasterize(torch.from_numpy(clip)[None], torch.from_numpy(split), (size, size))
    return rast[0, ..., 3].int().numpy() - 1


@pytest.fixture(scope="module")
def rocket():
    shape = ground_truth("rocket", 49)
    return remesh(Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32)), 3000)


@pytest.mark.parametrize(("resolution", "padding"), [(256, 2), (1024, 8)])
def test_charts_keep_their_distance_and_their_shape(rocket, resolution, padding):
    source, split, uvs = unwrap(rocket.positions, rocket.faces, resolution, padding)
    np.testing.assert_array_equal(source[split], rocket.faces)
    assert uvs.min() >= 0 and uvs.max() <= 1 and not missing_uvs(uvs[split], len(split)).any()
    assert not overlapping(uvs[split]).any()
    angles, areas = stretch(rocket.positions, rocket.faces, uvs[split])
    assert np.median(angles) < 1.05 and np.percentile(angles, 99) < 1.5
    low, high = np.percentile(areas, [2, 98])
    assert 0.4 < low and high < 2

    size = 1024
    face = drawn(split, uvs, size)
    corners = uvs[split].astype(float)
    area = np.abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])).sum() / 2
    assert (face >= 0).mean() == pytest.approx(area, rel=0.01)  # overlapping charts would cover less
    assert area > 0.3
    chart = np.where(face >= 0, connected_components(split, len(uvs))[1][split[face, 0]], -1)
    reach = 2 * padding * size // resolution
    for each in np.unique(chart[chart >= 0]):
        rows, columns = np.nonzero(chart == each)
        near = chart[
            max(rows.min() - reach, 0) : rows.max() + reach, max(columns.min() - reach, 0) : columns.max() + reach
        ]
        away = ndimage.distance_transform_edt(near != each)
        gap = away[(near >= 0) & (near != each)].min(initial=reach) * resolution / size
        assert gap > padding - 1.5 * resolution / size


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_any_triangles_unwrap_without_overlap(seed):
    """Non-manifold, crossing, double and degenerate ones, anywhere and of any size."""
    rng = np.random.default_rng(seed)
    positions = (rng.normal(size=(9, 3)) * 10 ** rng.uniform(-4, 4) + 10 * rng.normal(size=3)).astype(np.float32)
    faces = rng.integers(0, 9, (25, 3)).astype(np.int32)
    source, split, uvs = unwrap(positions, faces)
    np.testing.assert_array_equal(source[split], faces)
    assert np.isfinite(uvs).all() and uvs.min() >= 0 and uvs.max() <= 1
    assert not overlapping(uvs[split]).any()
    a, b, c = (positions[faces[:, i]].astype(float) for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    whole = area > 0.01 * area.max()
    assert not missing_uvs(uvs[split], len(split))[whole].any()


def test_unwrapping_is_deterministic_and_nothing_unwraps_to_nothing(rocket):
    first, second = (unwrap(rocket.positions, rocket.faces)[2].tobytes() for _ in range(2))
    assert first == second
    source, split, uvs = unwrap(np.zeros((3, 3), np.float32), np.zeros((0, 3), np.int32))
    assert len(source) == len(split) == len(uvs) == 0


def test_a_large_mesh_is_unwrapped_in_parts_and_tells_how_far_it_is():
    sphere = trimesh.creation.icosphere(5)
    shares = []
    source, split, uvs = unwrap(
        np.asarray(sphere.vertices, np.float32), sphere.faces.astype(np.int32), report=shares.append
    )
    np.testing.assert_array_equal(source[split], sphere.faces)
    assert len(shares) > 8 and shares == sorted(shares) and shares[-1] == 1
    assert not missing_uvs(uvs[split], len(split)).any() and not overlapping(uvs[split]).any()
    assert connected_components(split, len(uvs))[0] < 40  # seams between parts, but no confetti
    angles, areas = stretch(sphere.vertices, sphere.faces, uvs[split])
    assert np.percentile(angles, 99) < 1.5 and np.percentile(areas, 2) > 0.5 and np.percentile(areas, 98) < 2


def test_more_charts_than_a_small_texture_has_room_for_still_fill_it():
    """Wider and wider gutters made the atlas larger and larger."""
    rng = np.random.default_rng(0)
    boxes = [trimesh.creation.box(rng.uniform(0.01, 0.1, 3)) for _ in range(300)]
    for box in boxes:
        box.apply_translation(rng.uniform(-1, 1, 3))
    mesh = trimesh.util.concatenate(boxes)
    source, split, uvs = unwrap(np.asarray(mesh.vertices, np.float32), mesh.faces.astype(np.int32), 128)
    corners = uvs[split].astype(float)
    covered = np.abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])).sum() / 2
    assert covered > 0.15 and not overlapping(uvs[split]).any() and uvs.max() <= 1


def exact(s, t):
    """Do the interiors of two triangles meet: one clipped by the other, in fractions."""
    s, t = ([tuple(map(Fraction, map(float, p))) for p in each] for each in (s, t))

    def twice(p):
        return sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(p, p[1:] + p[:1]))

    if twice(s) < 0:
        s.reverse()
    if twice(s) == 0:
        return False
    for a, b in zip(s, s[1:] + s[:1]):

        def side(p, a=a, b=b):
            return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])

        clipped = []
        for p, q in zip(t, t[1:] + t[:1]):
            if side(p) >= 0:
                clipped.append(p)
            if side(p) * side(q) < 0:
                u = side(p) / (side(p) - side(q))
                clipped.append((p[0] + u * (q[0] - p[0]), p[1] + u * (q[1] - p[1])))
        t = clipped
        if not t:
            return False
    return twice(t) != 0


number = st.integers(0, 4).map(lambda n: n / 4) | st.integers(0, 2**24).map(lambda n: n / 2**24)
place = st.tuples(number, number)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(place, place, place), min_size=2, max_size=4))
def test_overlap_is_found_exactly(triangles):
    uvs = np.array(triangles, np.float32)
    expected = [any(exact(s, t) for j, t in enumerate(uvs) if i != j) for i, s in enumerate(uvs)]
    assert overlapping(uvs).tolist() == expected


def test_stretch_of_a_known_map():
    plane = trimesh.creation.box()
    positions, faces = np.asarray(plane.vertices, np.float32), np.asarray(plane.faces)
    corners = positions[faces]
    top = (corners[..., 2] > 0).all(axis=1)
    angles, areas = stretch(positions, faces[top], corners[top][..., :2] * (0.3, 0.1))
    np.testing.assert_allclose(angles, 3, rtol=1e-5)
    np.testing.assert_allclose(areas, 1, rtol=1e-5)
    assert len(stretch(positions, faces, np.zeros((len(faces), 3, 2)))[0]) == 0


def test_faces_without_uvs_are_told():
    good = [[0, 0], [1, 0], [0, 1]]
    uvs = np.array(
        [good, [[0.5, 0.5]] * 3, [[0, 0], [0.5, 0.5], [1, 1]], [[np.nan, 0], [1, 0], [0, 1]], good[::-1]], np.float32
    )
    assert missing_uvs(uvs, 5).tolist() == [False, True, True, True, False]
    assert missing_uvs(None, 2).tolist() == [True, True]
