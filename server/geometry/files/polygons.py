# SPDX-License-Identifier: GPL-3.0-or-later
"""Polygons into triangles: fans where a fan covers them, else a constrained Delaunay triangulation."""

from __future__ import annotations

import numpy as np

from .common import Warn

FLAT = 1e-6  # the sine of a turn under which a corner is straight
EMPTY = 1e-12  # of its extent squared: the area under which a polygon has none


def triangulate(corners: np.ndarray, counts: np.ndarray, name: str, warn: Warn) -> tuple[np.ndarray, np.ndarray]:
    """(the corners of each triangle (T, 3), numbered through; the polygon of each triangle (T,)), in their order.

    corners: (C, 3) place of each corner, polygon after polygon; counts: (P,) corners of each polygon. Concave
    polygons keep their notches, and holes that a bridge of two edges joins to the outline stay holes. A polygon
    that crosses itself becomes a fan, and one with fewer than three corners nothing; both are said of the file
    `name`.
    """
    corners, counts = corners.astype(np.float64), np.asarray(counts, np.int64)
    with np.errstate(all="ignore"):  # places that are not finite make fans
        normals, bent = _bends(corners, counts)
    first = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(len(counts)), counts)
    bends = np.bincount(owner[bent], minlength=len(counts))
    # A polygon with one corner that is straight or turns inward is seen whole from there.
    apex = np.zeros(len(counts), np.int64)
    single = bent & ((bends == 1) & (counts > 3))[owner]
    apex[owner[single]] = np.flatnonzero(single) - first[owner[single]]
    cut, crossing = {}, 0
    for polygon in np.flatnonzero((bends > 1) & (counts > 3)).tolist():
        own = slice(first[polygon], first[polygon] + counts[polygon])
        found = _delaunay(corners[own], normals[polygon])
        if found is not None:
            cut[polygon] = found + first[polygon]
        elif np.linalg.norm(normals[polygon]) > EMPTY * np.square(np.ptp(corners[own], axis=0)).sum():
            crossing += 1
    if crossing:
        warn(
            f"{name} has polygons that cross themselves ({crossing:,}), which become fans of triangles: "
            "triangulate them yourself if that looks wrong."
        )
    if few := int((counts < 3).sum()):
        warn(f"{name} has faces with fewer than three corners ({few:,}), which are left out.")
    fanned = np.where(np.isin(np.arange(len(counts)), list(cut)), 0, np.maximum(counts - 2, 0))
    polygons = np.repeat(np.arange(len(counts)), fanned)
    step = np.arange(len(polygons)) - np.repeat(np.cumsum(fanned) - fanned, fanned)
    spoke = apex[polygons, None] + np.stack([np.zeros_like(step), step + 1, step + 2], axis=1)
    triangles = first[polygons, None] + spoke % np.maximum(counts, 1)[polygons, None]
    triangles = np.concatenate([triangles, *cut.values()])
    polygons = np.concatenate([polygons, *(np.full(len(found), polygon) for polygon, found in cut.items())])
    order = np.argsort(polygons, kind="stable")
    return triangles[order], polygons[order]


def _bends(corners: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(each polygon's normal (P, 3), as long as twice its area; whether each corner is not convex (C,))."""
    first = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(len(counts)), counts)
    after, before = np.arange(1, len(corners) + 1), np.arange(-1, len(corners) - 1)
    some = counts > 0
    after[(first + counts - 1)[some]], before[first[some]] = first[some], (first + counts - 1)[some]
    local = corners - corners[first[owner]]
    areas = np.cross(local, local[after])
    normals = np.stack([np.bincount(owner, areas[:, axis], len(counts)) for axis in range(3)], axis=1)
    edges = corners[after] - corners
    lengths = np.linalg.norm(edges, axis=1)
    turns = (np.cross(edges[before], edges) * normals[owner]).sum(axis=1)
    return normals, turns <= FLAT * lengths[before] * lengths * np.linalg.norm(normals, axis=1)[owner]


def _delaunay(corners: np.ndarray, normal: np.ndarray) -> np.ndarray | None:
    """(T, 3) triangles of one polygon (C, 3), seen along the axis that its normal is nearest to.

    None where its outline crosses itself or encloses nothing.
    """
    import gpytoolbox

    if not np.isfinite(corners).all() or not np.isfinite(normal).all():
        return None
    axis = int(np.abs(normal).argmax())
    plane = [(axis + 1) % 3, (axis + 2) % 3][:: 1 if normal[axis] > 0 else -1]
    places, corner, index = np.unique(corners, axis=0, return_index=True, return_inverse=True)
    index = index.reshape(-1)
    # An edge that is passed twice, there and back, is a bridge to a hole, or a spike: no border.
    edges = np.sort(np.stack([index, np.roll(index, -1)], axis=1), axis=1)
    edges, times = np.unique(edges[edges[:, 0] != edges[:, 1]], axis=0, return_counts=True)
    used, edges = np.unique(edges[times % 2 == 1], return_inverse=True)
    flat = places[used][:, plane]
    extent = np.ptp(flat, axis=0).max() if len(flat) else 0.0
    if not 0 < extent < np.inf:
        return None
    try:
        vertices, faces = gpytoolbox.triangulate_polygon(
            (flat - flat[0]) / extent, edges.reshape(-1, 2), q=0.0, steiner=False
        )
    except ValueError:
        return None
    return corner[used][faces] if len(vertices) == len(used) and len(faces) else None
