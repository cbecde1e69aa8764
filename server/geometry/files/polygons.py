# SPDX-License-Identifier: GPL-3.0-or-later
"""Triangulation of polygons: triangle fans where a fan covers them, else constrained Delaunay triangulation."""

from __future__ import annotations

import numpy as np

from .common import Warn

STRAIGHT = 1e-6  # a corner whose turn has a sine below it is straight
NO_AREA = 1e-12  # a polygon with less area, of its extent squared, has none


def triangulate(corners: np.ndarray, counts: np.ndarray, name: str, warn: Warn) -> tuple[np.ndarray, np.ndarray]:
    """Triangulate polygons, concave ones and those with holes too.

    A hole is joined to the outline by a bridge, an edge that is passed there and back. A polygon that crosses itself
    becomes a triangle fan, and one with fewer than three corners is dropped, both with a warning.

    Args:
        corners: (C, 3) the position of each corner, polygon after polygon. counts: (P,) corners of each polygon.
        name: of the file, for warnings.
    Returns:
        (the corners of each triangle (T, 3), which count `corners`; the polygon of each triangle (T,), ascending).
    """
    corners, counts = corners.astype(np.float64), np.asarray(counts, np.int64)
    with np.errstate(all="ignore"):  # positions that are not finite make fans
        normals, reflex = _reflex_corners(corners, counts)
    first = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(len(counts)), counts)
    reflex_counts = np.bincount(owner[reflex], minlength=len(counts))
    # A fan from its only straight or reflex corner covers a polygon.
    apex = np.zeros(len(counts), np.int64)
    single = reflex & ((reflex_counts == 1) & (counts > 3))[owner]
    apex[owner[single]] = np.flatnonzero(single) - first[owner[single]]
    cut, crossing = {}, 0
    for polygon in np.flatnonzero((reflex_counts > 1) & (counts > 3)).tolist():
        own = slice(first[polygon], first[polygon] + counts[polygon])
        found = _delaunay(corners[own], normals[polygon])
        if found is not None:
            cut[polygon] = found + first[polygon]
        elif np.linalg.norm(normals[polygon]) > NO_AREA * np.square(np.ptp(corners[own], axis=0)).sum():
            crossing += 1
    if crossing:
        warn(
            f"{name} has polygons that cross themselves ({crossing:,}), which become fans of triangles: "
            "triangulate them yourself if that looks wrong."
        )
    if few := int((counts < 3).sum()):
        warn(f"{name} has faces with fewer than three corners ({few:,}), which are left out.")
    fan_sizes = np.where(np.isin(np.arange(len(counts)), list(cut)), 0, np.maximum(counts - 2, 0))
    polygons = np.repeat(np.arange(len(counts)), fan_sizes)
    step = np.arange(len(polygons)) - np.repeat(np.cumsum(fan_sizes) - fan_sizes, fan_sizes)
    spoke = apex[polygons, None] + np.stack([np.zeros_like(step), step + 1, step + 2], axis=1)
    triangles = first[polygons, None] + spoke % np.maximum(counts, 1)[polygons, None]
    triangles = np.concatenate([triangles, *cut.values()])
    polygons = np.concatenate([polygons, *(np.full(len(found), polygon) for polygon, found in cut.items())])
    order = np.argsort(polygons, kind="stable")
    return triangles[order], polygons[order]


def _reflex_corners(corners: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(each polygon's normal (P, 3), as long as twice its area; whether each corner is straight or reflex (C,))."""
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
    return normals, turns <= STRAIGHT * lengths[before] * lengths * np.linalg.norm(normals, axis=1)[owner]


def _delaunay(corners: np.ndarray, normal: np.ndarray) -> np.ndarray | None:
    """(T, 3) triangles of one polygon (C, 3), projected along the axis that is nearest to its normal.

    None where its outline crosses itself or has no area.
    """
    import gpytoolbox

    if not np.isfinite(corners).all() or not np.isfinite(normal).all():
        return None
    axis = int(np.abs(normal).argmax())
    plane = [(axis + 1) % 3, (axis + 2) % 3][:: 1 if normal[axis] > 0 else -1]
    places, corner, index = np.unique(corners, axis=0, return_index=True, return_inverse=True)
    index = index.reshape(-1)
    # An edge that is passed there and back is a bridge to a hole or a spike, and no border.
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
