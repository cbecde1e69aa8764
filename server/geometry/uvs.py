# SPDX-License-Identifier: GPL-3.0-or-later
"""UV maps: unwrapping, and tests for missing, overlapping and stretched UVs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np
import xatlas
from numba import njit

from .remeshing import connected_components

TILE_TOLERANCE = 1e-3  # how far UVs may lie outside of a tile and still count as inside
_MAX_PACK_RESOLUTION = 1024  # texels along an edge; xatlas packs slowly above it
# xatlas needs 100 s for the charts of 80,000 faces at once, and 11 s for those of their parts.
_WHOLE = 8192  # faces that are unwrapped in one part
_PART = 2048  # faces of a part of a larger mesh
_CHART_TEXELS = 512  # to the mesh's length, while charts are made: xatlas rounds their edges to texels
_FILLED = 0.9  # of the square, by the charts' boxes and gutters
_LEAST_COVER = 0.2  # of the square, by the boxes alone; gutters are narrower where they would leave less


def unwrap(
    positions: np.ndarray,
    faces: np.ndarray,
    resolution: int = 1024,
    padding: int = 4,
    report: Callable[[float], None] = lambda share: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unwrap any triangles with xatlas, non-manifold ones too.

    Args:
        positions: (V, 3) float32. faces: (F, 3).
        resolution: of the texture, in texels along an edge.
        padding: least gutter between charts in texels at that resolution: bilinear sampling needs 2, and each mip
            level twice as many as the one before. Charts that are too many for it get less.
        report: called with the share of the work that is done, in [0, 1].
    Returns:
        (source vertex of each new vertex (N,) int64, faces (F, 3) int32 in the same order, UVs (N, 2) float32 in
        [0, 1] for a square texture, origin bottom left). No two faces overlap (see `overlapping`). A face without an
        area has none in UV space either.
    """
    if not len(faces):
        return np.zeros(0, np.int64), np.zeros((0, 3), np.int32), np.zeros((0, 2), np.float32)
    size = np.ptp(positions[np.unique(faces)], axis=0).max() or 1
    scaled = np.ascontiguousarray((positions - positions[faces[0, 0]]) / size, np.float32)
    parts = _parts(scaled, faces)
    alone = [np.zeros(len(part), bool) for part in parts]  # faces that become charts of their own
    charts = []
    with _Atlases() as atlases:
        for i, part in enumerate(parts):
            charts.append(_make_charts(atlases, scaled, faces[part], alone[i]))
            report((i + 1) / (len(parts) + 1))
        for _ in range(6):
            source, split, uvs = _pack(atlases, charts, parts, resolution, padding)
            overlap = overlapping(uvs[split])  # of slivers, by rounding
            if not overlap.any():
                break
            for i, part in enumerate(parts):
                if overlap[part].any():
                    alone[i] |= overlap[part]
                    charts[i] = _make_charts(atlases, scaled, faces[part], alone[i])
    report(1.0)
    return source, split, uvs


class _Atlases:
    """Makes atlases, and destroys each a moment after its last use: at once, xatlas can wait for a thread for ever.

    Its destructor wakes the threads without their lock, so that one which is about to fall asleep does not hear of it.
    """

    _REST = 0.05  # seconds until the threads sleep

    def __init__(self) -> None:
        self._used: deque[tuple[float, xatlas.Atlas]] = deque()

    def new(self) -> xatlas.Atlas:
        while self._used and time.monotonic() - self._used[0][0] > self._REST:
            self._used.popleft()
        return xatlas.Atlas()

    def retire(self, atlas: xatlas.Atlas) -> None:
        self._used.append((time.monotonic(), atlas))

    def __enter__(self) -> _Atlases:
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(self._REST)
        self._used.clear()


_Charts = tuple[np.ndarray, np.ndarray, np.ndarray]  # source vertices (N,), faces (F, 3), places (N, 2) in texels


def _parts(positions: np.ndarray, faces: np.ndarray) -> list[np.ndarray]:
    """The faces' numbers in parts that lie together: halves of halves along their longest axis."""
    if len(faces) <= _WHOLE:
        return [np.arange(len(faces))]
    middles = positions[faces].mean(axis=1)
    parts, large = [], [np.arange(len(faces))]
    while large:
        part = large.pop()
        if len(part) <= _PART:
            parts.append(np.sort(part))
            continue
        axis = np.ptp(middles[part], axis=0).argmax()
        order = np.argsort(middles[part, axis], kind="stable")
        large += [part[order[len(part) // 2 :]], part[order[: len(part) // 2]]]
    return parts


def _make_charts(atlases: _Atlases, positions: np.ndarray, faces: np.ndarray, alone: np.ndarray) -> _Charts:
    """Charts without overlaps, beside each other. `alone` (F,) bool gains the faces that no other way unwraps."""
    used, faces = np.unique(faces, return_inverse=True)
    positions, faces = positions[used], faces.reshape(-1, 3)
    chart, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    pack.texels_per_unit, pack.padding = _CHART_TEXELS, 1
    for attempt in range(10):
        atlas = atlases.new()
        groups = [np.flatnonzero(~alone)] if not alone.all() else []
        groups += list(np.flatnonzero(alone)[:, None])
        for group in groups:
            atlas.add_mesh(positions, faces[group].astype(np.uint32))
        atlas.generate(chart_options=chart, pack_options=pack)
        source, split, uvs = _gather(atlas, groups, [used] * len(groups))
        atlases.retire(atlas)
        overlap = overlapping(uvs[split])
        if not overlap.any():
            break
        if attempt < 3:
            chart.max_cost /= 4  # smaller, flatter charts
        else:
            alone |= overlap
    return source, split, uvs


def _pack(atlases: _Atlases, charts: list[_Charts], parts: list[np.ndarray], resolution: int, padding: int) -> _Charts:
    """All charts on one square, as `unwrap` returns them."""
    boxes = np.concatenate([_boxes(split, places) for _, split, places in charts])
    pack = xatlas.PackOptions()
    size = min(resolution, _MAX_PACK_RESOLUTION)
    pack.padding = gutter = int(np.ceil(padding * size / resolution))
    filled = _FILLED
    while (scale := _scale(boxes, size, gutter, filled))[1] < _LEAST_COVER:
        size *= 2
    while True:
        pack.texels_per_unit = scale[0]
        atlas = atlases.new()
        for _, split, places in charts:
            atlas.add_uv_mesh(places, split.astype(np.uint32))
        atlas.generate(pack_options=pack)
        edge = max(atlas.width, atlas.height, 1)
        atlases.retire(atlas)
        filled *= 0.99 * (size / edge) ** 2
        scale = _scale(boxes, size, gutter, filled)
        if edge <= size or scale[1] < _LEAST_COVER / 2:
            break
    source, split, uvs = _gather(atlas, parts, [given for given, _, _ in charts])
    return source, split, (uvs / edge).astype(np.float32)


def _boxes(split: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(C, 2) width and height, a texel at least, of each chart of the faces (F, 3) at places (N, 2)."""
    count, owner = connected_components(split, len(places))
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, owner, places)
    np.maximum.at(high, owner, places)
    return np.maximum(high - low, 1)


def _scale(boxes: np.ndarray, size: int, gutter: int, filled: float) -> tuple[float, float]:
    """(the scale at which the boxes with their gutters fill that share of a square, the share of the boxes alone)."""
    # The sum of (scale width + gutter) (scale height + gutter) is a quadratic polynomial.
    area = float(boxes.prod(axis=1).sum())
    half = gutter * float(boxes.sum()) / 2
    left = max(filled * size**2 - len(boxes) * gutter**2, size**2 / 100)
    scale = (np.sqrt(half**2 + area * left) - half) / area
    return scale, scale**2 * area / size**2


def _gather(atlas: xatlas.Atlas, groups: list[np.ndarray], vertices: list[np.ndarray]) -> _Charts:
    """The atlas's meshes as one, each with its group of faces; `vertices` are the numbers of each one's vertices."""
    split = np.empty((sum(map(len, groups)), 3), np.int32)
    sources, places, count = [], [], 0
    for i, group in enumerate(groups):
        source, corners, uvs = atlas[i]
        split[group] = corners.astype(np.int64) + count
        sources.append(vertices[i][source])
        places.append(uvs)
        count += len(source)
    size = np.array([atlas.width, atlas.height])
    return np.concatenate(sources).astype(np.int64), split, (np.concatenate(places) * size).astype(np.float32)


def missing_uvs(uvs: np.ndarray | None, faces: int) -> np.ndarray:
    """(F,) bool: faces whose UVs (F, 3, 2) cannot hold a texture, because they are not finite or have no area.

    True for all of the `faces` (a number) where `uvs` is None.
    """
    if uvs is None:
        return np.ones(faces, bool)
    finite = np.isfinite(uvs).all(axis=(1, 2))
    a, b, c = (np.where(finite[:, None], uvs[:, i], 0).astype(np.float64) for i in range(3))
    return ~finite | (np.abs(_cross(b - a, c - a)) / 2 < 1e-12)  # a millionth of a square's edge


def move_to_unit_tile(uvs: np.ndarray) -> np.ndarray:
    """UVs (F, 3, 2) with each face that lies in another tile of a repeated texture moved to the unit square.

    It shows the same there. Faces that cross a tile's border stay where they are.
    """
    low = np.floor(np.where(np.isfinite(uvs), uvs, 0).min(axis=1, keepdims=True) + TILE_TOLERANCE)
    moved = uvs - low
    outside = ((uvs < 0) | (uvs > 1)).any(axis=(1, 2)) & ~outside_unit_tile(moved)
    return np.where(outside[:, None, None], moved, uvs).astype(uvs.dtype)


def outside_unit_tile(uvs: np.ndarray) -> np.ndarray:
    """(F,) bool: faces whose UVs (F, 3, 2) leave the unit square."""
    outside: np.ndarray = np.any((uvs < -TILE_TOLERANCE) | (uvs > 1 + TILE_TOLERANCE), axis=(1, 2))
    return outside


def stretch(positions: np.ndarray, faces: np.ndarray, uvs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stretch of the map from the surface to UV space, of the N faces that have an area in both.

    The singular values of its Jacobian are those of Sander et al. 2001, "Texture Mapping Progressive Meshes".

    Args:
        positions: (V, 3). faces: (F, 3). uvs: (F, 3, 2).
    Returns:
        angles: (N,) the ratio of the larger to the smaller singular value, 1 for a similarity.
        areas: (N,) the face's texel density by area over the map's mean, 1 where all texels are equally large.
    """
    p, q = positions[faces].astype(np.float64), uvs.astype(np.float64)
    a, b = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    long = np.linalg.norm(a, axis=1)
    area = np.linalg.norm(np.cross(a, b), axis=1)
    flat = np.abs(_cross(q[:, 1] - q[:, 0], q[:, 2] - q[:, 0]))
    some = (area > 1e-12 * area.max(initial=0)) & (flat > 0)
    a, b, q, long, area, flat = (each[some] for each in (a, b, q, long, area, flat))
    # Coordinates in the face's plane, its first edge along x, and then the map's Jacobian.
    x, y = (a * b).sum(axis=1) / long, area / long
    columns = np.stack(
        [
            (q[:, 1] - q[:, 0]) / long[:, None],
            ((q[:, 2] - q[:, 0]) - (q[:, 1] - q[:, 0]) * (x / long)[:, None]) / y[:, None],
        ],
        axis=2,
    )
    values = np.linalg.svd(columns, compute_uv=False)
    scale = flat / area
    return values[:, 0] / values[:, 1], scale / (flat.sum() / max(area.sum(), 1e-30))


def overlapping(uvs: np.ndarray) -> np.ndarray:
    """(F,) bool: faces whose interior in UVs (F, 3, 2) float32 meets another face's; touching is no overlap.

    Exact for multiples of 2⁻²⁴, as all float32 in [½, 1] are: differences and their products fit into float64.
    """
    corners = np.ascontiguousarray(uvs, np.float64)
    hit = np.zeros(len(corners), bool)
    if len(corners):
        low = corners[..., 0].min(axis=1)
        _sweep(corners, np.argsort(low, kind="stable"), hit)
    return hit


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


@njit(cache=True)
def _side(t: np.ndarray, i: int, p: np.ndarray) -> float:
    """Twice the signed area of edge i of the triangle t and the point p."""
    a, b = t[i], t[(i + 1) % 3]
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])


@njit(cache=True)
def _apart(s: np.ndarray, t: np.ndarray) -> bool:
    """Whether an edge of the triangle s separates it from t."""
    for i in range(3):
        own = _side(s, i, s[(i + 2) % 3])
        if own == 0:
            return True  # no interior
        outside = True
        for j in range(3):
            side = _side(s, i, t[j])
            if side != 0 and (side > 0) == (own > 0):
                outside = False
        if outside:
            return True
    return False


@njit(cache=True)
def _sweep(uvs: np.ndarray, order: np.ndarray, hit: np.ndarray) -> None:
    """Mark the overlapping triangles by sweep and prune along the first axis."""
    count = len(uvs)
    low, high = np.empty((count, 2)), np.empty((count, 2))
    for i in range(count):
        for k in range(2):
            low[i, k] = min(uvs[i, 0, k], uvs[i, 1, k], uvs[i, 2, k])
            high[i, k] = max(uvs[i, 0, k], uvs[i, 1, k], uvs[i, 2, k])
    for n in range(count):
        i = order[n]
        for m in range(n + 1, count):
            j = order[m]
            if low[j, 0] >= high[i, 0]:
                break
            if low[j, 1] >= high[i, 1] or low[i, 1] >= high[j, 1] or (hit[i] and hit[j]):
                continue
            if not _apart(uvs[i], uvs[j]) and not _apart(uvs[j], uvs[i]):
                hit[i] = hit[j] = True
