# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures of a mesh: degenerate, non-manifold and self-intersecting faces, stretch and overlap of its UVs."""

from __future__ import annotations

import numpy as np
from numba import njit

from .mesh import Mesh, degenerate_faces, edge_counts
from .normals import area_normals
from .remeshing import connected_components
from .uvs import missing_uvs, overlapping, stretch

MAX_FACES_FOR_PAIRS = 300_000  # tests of pairs of faces take too long above it

Quality = dict[str, int | float | list[float] | None]


def quality_report(mesh: Mesh, start: Mesh | None = None) -> Quality:
    """Counts and shares for job.json.

    Shares of faces that intersect or overlap another are None for a mesh of more than `MAX_FACES_FOR_PAIRS` faces.
    UV measures are there for meshes with UVs, and "flipped_faces" with a `start`, the mesh before it was worked on,
    that has the same faces.
    """
    positions, faces = mesh.positions, mesh.faces
    edges, irregular = edge_counts(faces)
    few = len(faces) <= MAX_FACES_FOR_PAIRS
    used = len(np.unique(faces))
    found: Quality = {
        "vertices": len(positions),
        "faces": len(faces),
        "edges": edges,
        "components": connected_components(faces, len(positions))[0] - (len(positions) - used),
        "non_manifold_edges": irregular,
        "degenerate_faces": int(degenerate_faces(positions, faces).sum()),
        "duplicate_vertices": len(positions) - len(np.unique(positions, axis=0)),
        "self_intersecting_share": _share(self_intersecting_faces(positions, faces)) if few else None,
    }
    if start is not None and np.array_equal(start.faces, faces):
        found["flipped_faces"] = int(flipped_faces(start.positions, positions, faces).sum())
    if mesh.uvs is not None:
        angles, areas = stretch(positions, faces, mesh.uvs)
        slots = np.zeros(len(faces), np.int32) if mesh.slots is None else mesh.slots
        found["faces_without_uvs"] = int(missing_uvs(mesh.uvs, len(faces)).sum())
        found["uv_overlap_share"] = (
            _share(np.concatenate([overlapping(mesh.uvs[slots == slot]) for slot in np.unique(slots)]))
            if few and len(faces)
            else None
        )
        if len(angles):
            found["uv_angle_stretch"] = round(float(np.mean(angles)), 4)
            found["uv_area_stretch"] = [round(float(value), 4) for value in np.percentile(areas, [1, 99])]
    return found


def flipped_faces(before: np.ndarray, after: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F,) bool: faces whose normal turned by more than a right angle between positions (V, 3)."""
    return (area_normals(before, faces) * area_normals(after, faces)).sum(axis=1) < 0


def self_intersecting_faces(positions: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F,) bool: faces of which an edge pierces another face's interior, or whose interior another's edge pierces.

    Faces that touch or overlap in one plane do not count. Vertices at one place are one vertex.
    """
    hit = np.zeros(len(faces), bool)
    if len(faces):
        places, index = np.unique(positions, axis=0, return_inverse=True)
        corners = np.ascontiguousarray(index.reshape(-1)[faces], np.int64)
        places = np.ascontiguousarray(places, np.float64)
        axis = int(np.argmax(np.ptp(places, axis=0)))
        order = np.argsort(places[corners][..., axis].min(axis=1), kind="stable")
        _sweep(places, corners, order, axis, hit)
    return hit


def _share(mask: np.ndarray) -> float:
    return round(float(mask.mean()), 6) if len(mask) else 0.0


@njit(cache=True)
def _tetrahedron_volume(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
    """Six times the signed volume of a tetrahedron."""
    bx, by, bz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    cx, cy, cz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    dx, dy, dz = d[0] - a[0], d[1] - a[1], d[2] - a[2]
    return bx * (cy * dz - cz * dy) + by * (cz * dx - cx * dz) + bz * (cx * dy - cy * dx)


@njit(cache=True)
def _pierces(places: np.ndarray, p: int, q: int, face: np.ndarray) -> bool:
    """Whether the segment from p to q passes through the face's interior."""
    for corner in face:
        if corner == p or corner == q:
            return False
    a, b, c = places[face[0]], places[face[1]], places[face[2]]
    start, end = _tetrahedron_volume(a, b, c, places[p]), _tetrahedron_volume(a, b, c, places[q])
    if start * end >= 0:
        return False
    u = _tetrahedron_volume(places[p], places[q], a, b)
    v = _tetrahedron_volume(places[p], places[q], b, c)
    w = _tetrahedron_volume(places[p], places[q], c, a)
    return (u > 0 and v > 0 and w > 0) or (u < 0 and v < 0 and w < 0)


@njit(cache=True)
def _sweep(places: np.ndarray, faces: np.ndarray, order: np.ndarray, axis: int, hit: np.ndarray) -> None:
    """Mark the intersecting faces by sweep and prune along an axis."""
    count = len(faces)
    low, high = np.empty((count, 3)), np.empty((count, 3))
    for i in range(count):
        a, b, c = places[faces[i, 0]], places[faces[i, 1]], places[faces[i, 2]]
        for k in range(3):
            low[i, k] = min(a[k], b[k], c[k])
            high[i, k] = max(a[k], b[k], c[k])
    for n in range(count):
        i = order[n]
        for m in range(n + 1, count):
            j = order[m]
            if low[j, axis] > high[i, axis]:
                break
            if (
                (hit[i] and hit[j])
                or low[j, 0] > high[i, 0]
                or low[i, 0] > high[j, 0]
                or low[j, 1] > high[i, 1]
                or low[i, 1] > high[j, 1]
                or low[j, 2] > high[i, 2]
                or low[i, 2] > high[j, 2]
            ):
                continue
            for k in range(3):
                if _pierces(places, faces[i, k], faces[i, (k + 1) % 3], faces[j]) or _pierces(
                    places, faces[j, k], faces[j, (k + 1) % 3], faces[i]
                ):
                    hit[i] = hit[j] = True
