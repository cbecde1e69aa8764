# SPDX-License-Identifier: GPL-3.0-or-later
"""Polygons into triangles."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.geometry.files.polygons import triangulate
from tests.geometry.foreign import CORNERS, FRAME, XYZ, U, area, areas, ply, read, usd, usd_mesh


def turned(outline, seed=0):
    """(C, 3) of a (C, 2) outline in another plane."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return np.pad(np.array(outline, float), ((0, 0), (0, 1))) @ turn.T


def cut(outline):
    corners = np.array(outline, float)
    corners = np.pad(corners, ((0, 0), (0, 3 - corners.shape[1])))
    said = []
    triangles, polygons = triangulate(corners, np.array([len(corners)]), "a.obj", said.append)
    assert (polygons == 0).all() and ((triangles >= 0) & (triangles < len(corners))).all()
    return corners, triangles, said


def test_triangles_and_convex_polygons_become_fans():
    counts = [3, 5, 4]
    rings = [
        np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
        for turn in (2 * np.pi * np.arange(count) / count for count in counts)
    ]
    triangles, polygons = triangulate(np.concatenate(rings), np.array(counts), "", None)
    assert triangles.tolist() == [[0, 1, 2], [3, 4, 5], [3, 5, 6], [3, 6, 7], [8, 9, 10], [8, 10, 11]]
    assert polygons.tolist() == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    "outline, whole",
    [
        (U, 7),
        (FRAME, 12),
        ([(0, 0), (2, 1), (0, 2), (0.5, 1)], 1.5),
        ([(0, 0), (0.5, 1), (0, 2), (2, 1)], 1.5),
        ([(0, 0), (1, 0), (2, 0), (2, 2), (0, 2)], 4),
        ([(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2)], 4),
        ([(0, 0), (1, 1e-9), (2, 0), (2, 2), (1, 2 - 1e-9), (0, 2)], 4),
        ([(0, 0), (2, 0), (2, 0), (2, 2), (0, 2)], 4),
        ([(0, 0), (2, 0), (2, 2), (0, 2), (0, 0)], 4),
        ([(0, 0), (2, 0), (3, 0), (2, 0), (2, 2), (0, 2)], 4),
        ([(0, 0), (2, 0), (2, 2), (1, 0), (0, 2)], 2),
    ],
)
def test_a_polygon_is_covered_once(outline, whole):
    for each in (
        np.array(outline, float),
        turned(outline),
        1e-20 * turned(outline, 1),
        1e15 * turned(outline, 2),
        turned(outline)[::-1],
    ):
        corners, triangles, said = cut(each)
        parts, scale = areas(corners, triangles), np.ptp(corners, axis=0).max() / np.ptp(outline, axis=0).max()
        assert np.linalg.norm(parts.sum(axis=0)) == pytest.approx(np.linalg.norm(parts, axis=1).sum(), rel=1e-6)
        assert np.linalg.norm(parts, axis=1).sum() == pytest.approx(whole * scale**2, rel=0.9) and not said
    corners, triangles, _ = cut(outline)
    assert abs(areas(corners, triangles).sum(axis=0)[2]) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    "outline",
    [
        [(0, 0), (1, 0), (2, 0), (3, 0)],
        [(0, 0)] * 4,
        [(0, 0), (1, 0), (np.nan, 1), (0, 1), (0.5, 0.5)],
        [(0, 0), (1e308, 0), (1e308, 1e308), (5e307, 1e307), (3e307, 1e307), (0, 1e308)],
    ],
)
def test_a_polygon_without_an_area_keeps_its_corners(outline):
    _, triangles, said = cut(outline)
    assert set(triangles.reshape(-1)) == set(range(len(outline))) and not said


def test_a_polygon_that_crosses_itself_is_said():
    _, triangles, said = cut([(0, 0), (1, 1), (1, 0), (0, 1.5)])
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3]] and len(said) == 1 and "cross themselves (1)" in said[0]


def test_a_warped_concave_polygon_keeps_its_notch():
    corners = np.array([(x, y, 0.2 * np.sin(3 * x + y)) for x, y in U])
    corners, triangles, said = cut(corners)
    assert np.abs(areas(corners, triangles)[:, 2]).sum() == pytest.approx(7) and not said


@settings(max_examples=150, deadline=None)
@given(st.integers(4, 40), st.integers(0, 2**32 - 1))
def test_any_outline_that_does_not_cross_itself_is_covered_once(count, seed):
    random = np.random.default_rng(seed)
    turn = 2 * np.pi * (np.arange(count) + random.uniform(0, 0.9, count)) / count
    outline = random.uniform(0.1, 1, count)[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    whole = np.cross(outline, np.roll(outline, -1, axis=0)).sum() / 2
    if np.diff(np.append(turn, turn[0] + 2 * np.pi)).max() >= np.pi:
        return  # the middle is outside: it may cross itself
    corners, triangles, said = cut(outline)
    parts = areas(corners, triangles)[:, 2]
    assert len(triangles) == count - 2 and (parts > -1e-12).all() and parts.sum() == pytest.approx(whole) and not said


@pytest.mark.parametrize("suffix", ["obj", "ascii.ply", "binary.ply", "usda"])
def test_a_concave_polygon_beside_others(tmp_path, suffix):
    """Each reader: a U, a triangle and a frame with a hole."""
    outlines = [U, [(9, 0), (10, 0), (9, 2)], FRAME]
    points = [(x, y, 0) for outline in outlines for x, y in outline]
    counts, index = [len(outline) for outline in outlines], list(range(len(points)))
    faces = np.split(np.array(index), np.cumsum(counts)[:-1])
    path = tmp_path / f"a.{suffix}"
    if suffix == "obj":
        path.write_text(
            "".join(f"v {x} {y} {z}\n" for x, y, z in points)
            + "".join("f " + " ".join(str(i + 1) for i in face) + "\n" for face in faces)
        )
    elif suffix == "usda":
        pytest.importorskip("pxr")
        usd(path, usd_mesh(points, counts, index))
    else:
        binary = suffix == "binary.ply"
        path.write_bytes(
            ply(
                f"element vertex {len(points)}",
                *XYZ,
                f"element face {len(faces)}",
                CORNERS,
                form="binary_big_endian" if binary else "ascii",
            )
            + (
                b"".join(struct.pack(">3f", *point) for point in points)
                + b"".join(struct.pack(f">B{len(face)}i", len(face), *face) for face in faces)
                if binary
                else "".join(f"{x} {y} {z}\n" for x, y, z in points).encode()
                + "".join(" ".join(map(str, (len(face), *face))) + "\n" for face in faces).encode()
            )
        )
    mesh, said = read(path)
    assert area(mesh) == pytest.approx(7 + 1 + 12) and not said
    assert np.abs(areas(mesh.positions, mesh.faces).sum(axis=0)).max() == pytest.approx(20)
