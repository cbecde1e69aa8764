# SPDX-License-Identifier: GPL-3.0-or-later
"""Counts of what is unclean, on meshes where they are known."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from server.geometry.mesh import Mesh, degenerate_faces
from server.geometry.mesh_quality import flipped_faces, quality_report, self_intersecting_faces


def mesh_of(*shapes):
    whole = trimesh.util.concatenate(shapes) if len(shapes) > 1 else shapes[0]
    return Mesh(np.asarray(whole.vertices, np.float32), np.asarray(whole.faces, np.int32))


def ball(x=0.0, subdivisions=2):
    shape = trimesh.creation.icosphere(subdivisions)
    shape.apply_translation([x, 0, 0])
    return shape


def test_a_clean_mesh_has_nothing_to_report():
    found = quality_report(mesh_of(ball()))
    assert found == {
        "vertices": 162,
        "faces": 320,
        "edges": 480,
        "components": 1,
        "non_manifold_edges": 0,
        "degenerate_faces": 0,
        "duplicate_vertices": 0,
        "self_intersecting_share": 0.0,
    }


def test_two_balls_cross_where_they_meet_and_not_where_they_are_apart():
    assert not self_intersecting_faces(*arrays(mesh_of(ball(), ball(2.1)))).any()
    turned = ball().apply_transform(trimesh.transformations.rotation_matrix(0.3, [1, 2, 3], [0, 0, 0]))
    turned.apply_translation([1, 0, 0])
    both = mesh_of(ball(), turned)
    hit = self_intersecting_faces(*arrays(both))
    x = both.positions[both.faces].mean(axis=1)[:, 0]
    assert 0.03 < hit.mean() < 0.3 and np.abs(x[hit] - 0.5).max() < 0.2
    assert not self_intersecting_faces(*arrays(mesh_of(ball(), ball().apply_scale(0.5)))).any()  # one inside the other


def arrays(mesh):
    return mesh.positions, mesh.faces


def test_dirt_is_counted():
    shape = mesh_of(ball())
    seam = np.concatenate([shape.positions, shape.positions[:2], [[9, 9, 9]]]).astype(np.float32)
    faces = np.concatenate([shape.faces[1:], [[0, 0, 1], [0, 1, 2]]]).astype(np.int32)
    found = quality_report(Mesh(seam, faces))
    assert found["duplicate_vertices"] == 2 and found["degenerate_faces"] == 1 and found["components"] == 1
    assert found["non_manifold_edges"] > 0

    inward = shape.positions.copy()
    inward[7] *= -0.5  # a vertex pushed through the opposite wall's inside
    start = quality_report(replace(shape, positions=inward), shape)
    assert start["flipped_faces"] >= 5 and quality_report(shape, shape)["flipped_faces"] == 0


def test_uvs_are_in_the_report_and_slots_do_not_overlap_each_other():
    shape = mesh_of(ball(subdivisions=1))
    uvs = shape.positions[shape.faces][..., :2] / 2 + 0.5  # seen from above: the halves lie on each other
    found = quality_report(replace(shape, uvs=uvs))
    assert found["uv_overlap_share"] > 0.85 and found["uv_angle_stretch"] > 1.2
    above = (shape.positions[shape.faces].mean(axis=1)[:, 2] > 0).astype(np.int32)
    assert quality_report(replace(shape, uvs=uvs, slots=above))["uv_overlap_share"] < 0.4


def test_thin_faces_are_degenerate_at_any_size():
    sliver = np.array([[0, 0, 0], [1, 0, 0], [0.5, 1e-8, 0], [0.5, 1e-3, 0]])
    for size in (1e-6, 1, 1e6):
        assert degenerate_faces(sliver * size, np.array([[0, 1, 2], [0, 1, 3], [0, 1, 1]])).tolist() == [
            True,
            False,
            True,
        ]


def test_a_turn_is_no_flip_until_a_right_angle():
    box = mesh_of(trimesh.creation.box())
    for degrees, share in ((80, 0), (100, 2 / 3)):
        turn = trimesh.transformations.rotation_matrix(np.radians(degrees), [0, 0, 1])[:3, :3]
        assert flipped_faces(box.positions, box.positions @ turn.T, box.faces).mean() == share


def test_nothing_is_clean():
    found = quality_report(Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)))
    assert found["faces"] == found["components"] == found["self_intersecting_share"] == 0


def exact(places, s, t):
    """Crossing of two faces without a common corner, in fractions."""

    def volume(a, b, c, d):
        u, v, w = ([Fraction(int(p[i])) - Fraction(int(a[i])) for i in range(3)] for p in (b, c, d))
        return (
            u[0] * (v[1] * w[2] - v[2] * w[1]) + u[1] * (v[2] * w[0] - v[0] * w[2]) + u[2] * (v[0] * w[1] - v[1] * w[0])
        )

    for face, other in ((s, t), (t, s)):
        a, b, c = (places[i] for i in face)
        for k in range(3):
            p, q = other[k], other[(k + 1) % 3]
            if p in face or q in face:
                continue
            p, q = places[p], places[q]
            signs = {x > 0 for x in (volume(p, q, a, b), volume(p, q, b, c), volume(p, q, c, a))}
            touches = 0 in (volume(p, q, a, b), volume(p, q, b, c), volume(p, q, c, a))
            if volume(a, b, c, p) * volume(a, b, c, q) < 0 and len(signs) == 1 and not touches:
                return True
    return False


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=4, max_size=8, unique=True), st.data())
def test_crossing_is_found_exactly(places, data):
    corner = st.integers(0, len(places) - 1)
    faces = data.draw(st.lists(st.tuples(corner, corner, corner), min_size=2, max_size=5))
    expected = [any(exact(places, s, t) for j, t in enumerate(faces) if i != j) for i, s in enumerate(faces)]
    assert self_intersecting_faces(np.array(places, np.float32), np.array(faces)).tolist() == expected
