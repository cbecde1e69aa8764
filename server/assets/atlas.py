# SPDX-License-Identifier: GPL-3.0-or-later
"""The positions on a mesh's surface of its textures' texels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..geometry.mesh import Mesh
from ..geometry.uvs import move_to_unit_tile
from ..rendering.textures import UVCharts

REACH = 1.5  # texels beside a chart that a bilinear read can reach
TIE = 1e-6  # texels: two faces are equally near
GUTTER = 64  # beside a chart, a given texture changes at most its edge / GUTTER


@dataclass(frozen=True)
class Tile:
    """The texture of one slot: its texels are `first` to `first + height * width` of the atlas, row by row."""

    slot: int
    first: int
    height: int
    width: int

    @property
    def texels(self) -> slice:
        return slice(self.first, self.first + self.height * self.width)

    def image(self, values: Tensor) -> NDArray[np.generic]:
        """(H, W, …) of the atlas's (T, …)."""
        return values[self.texels].view(self.height, self.width, *values.shape[1:]).cpu().numpy()


class Atlas:
    """All textures of a mesh, texel by texel, with the point of the surface that each texel shows.

    A texel shows the face at its centre. Beside a chart it shows the nearest point of the chart's border, so that
    bilinear reads there see the border; farther off it shows the same as the nearest such texel, for mipmaps. Where
    charts overlap, as mirrored halves do, the first and the last chart count, everywhere the same two.

    Attributes:
        tiles: one for each slot that a face has, in the slots' order.
        nearest: (T,) index of the covered texel, one of N, that each texel shows.
        own: (N,) the covered texels themselves.
        triangle, weights: (N,) and (N, 3), the face of a covered texel and its barycentric coordinates there.
        second: (N,) row of `second_triangle` and `second_weights`, M each, with the other point that shares a covered
            texel; -1 where there is none.
        baked: (T,) bool: texels that change; of a given texture, those on a chart and in its gutter.
    """

    def __init__(self, mesh: Mesh, sizes: dict[int, tuple[int, int]], device: torch.device):
        assert mesh.uvs is not None
        slots = mesh.face_slots
        uvs = np.clip(np.nan_to_num(move_to_unit_tile(mesh.uvs.astype(np.float32))), 0, 1)
        self.uvs = torch.from_numpy(uvs.reshape(-1, 2)).to(device)  # (3 F, 2)
        self.slots = torch.from_numpy(slots).to(device).long()
        tiles, nearest, own, written, triangle, weights = [], [], [], [], [], []
        last_triangle, last_weights = [], []
        charts, corners = _charts(mesh.faces, uvs, slots), uvs.astype(np.float64)
        first = count = 0
        for slot in np.unique(slots).tolist():
            height, width = sizes[slot]
            tile = Tile(slot, first, height, width)
            faces = np.flatnonzero(slots == slot)
            (covering, last), (inside, inside_last) = _cover(corners, faces, charts, height, width)
            covered = covering >= 0
            distance, place = ndimage.distance_transform_edt(~covered, return_indices=True)
            number = np.cumsum(covered.reshape(-1)) - 1
            nearest.append(count + number[place[0] * width + place[1]].reshape(-1))
            own.append(first + np.flatnonzero(covered))
            triangle.append(covering[covered])
            weights.append(inside[covered])
            last_triangle.append(last[covered])
            last_weights.append(inside_last[covered])
            near = distance <= max(2, max(height, width) // GUTTER)
            given = f"texture.{slot}" in mesh.textures
            written.append((near if given else np.ones_like(near)).reshape(-1))
            tiles.append(tile)
            first += height * width
            count += len(triangle[-1])
        self.tiles: tuple[Tile, ...] = tuple(tiles)
        self.nearest = torch.from_numpy(np.concatenate(nearest).astype(np.int32)).to(device)
        self.own = torch.from_numpy(np.concatenate(own)).to(device)
        self.baked = torch.from_numpy(np.concatenate(written)).to(device)
        one, other = np.concatenate(triangle), np.concatenate(last_triangle)
        shared = charts[other] != charts[one]
        self.triangle = torch.from_numpy(one).to(device)
        self.weights = torch.from_numpy(np.concatenate(weights)).to(device)
        self.second = torch.from_numpy(np.where(shared, np.cumsum(shared) - 1, -1)).to(device)
        self.second_triangle = torch.from_numpy(other[shared]).to(device)
        self.second_weights = torch.from_numpy(np.concatenate(last_weights)[shared]).to(device)
        table = torch.zeros(int(slots.max()) + 1, 3, dtype=torch.long, device=device)
        for tile in tiles:
            table[tile.slot] = torch.tensor([tile.first, tile.height, tile.width])
        self._table = table

    def texels_at(self, uv: Tensor, face: Tensor) -> Tensor:
        """(P,) texels of points of the surface: uv (P, 2) and face (P,)."""
        first, height, width = self._table[self.slots[face]].unbind(dim=1)
        column = (uv[:, 0] * width).long().clamp(min=0).minimum(width - 1)
        row = (uv[:, 1] * height).long().clamp(min=0).minimum(height - 1)
        return first + row * width + column

    def interpolate(self, values: Tensor, faces: Tensor) -> Tensor:
        """(N, C) values at the covered texels, of (V, C) values at the vertices of faces (F, 3)."""
        return _interpolate(values, faces, self.triangle, self.weights)

    def interpolate_second(self, values: Tensor, faces: Tensor) -> Tensor:
        """(M, C) values at the other points of shared texels."""
        return _interpolate(values, faces, self.second_triangle, self.second_weights)

    def textures_of(self, mesh: Mesh, kind: str, default: NDArray[np.generic]) -> Tensor:
        """(T, …) uint8: a mesh's textures of one kind, `default` where a slot has none."""
        pictures = []
        for tile in self.tiles:
            picture = mesh.textures.get(f"{kind}.{tile.slot}")
            if picture is None:
                picture = np.broadcast_to(default, (tile.height * tile.width, *default.shape))
            elif picture.shape[:2] != (tile.height, tile.width):
                rows = (np.arange(tile.height) * picture.shape[0]) // tile.height
                columns = (np.arange(tile.width) * picture.shape[1]) // tile.width
                picture = picture[rows][:, columns]
            pictures.append(picture.reshape(-1, *default.shape))
        return torch.from_numpy(np.concatenate(pictures)).to(self.nearest.device)


def rebake(mesh: Mesh, uvs: NDArray[np.generic], size: int) -> Mesh:
    """The mesh with other UVs (F, 3, 2) and its base colour, roughness and metallic baked to them.

    Each new texture is square, `size` pixels an edge. Normal maps are left out, because their axes are those of the
    UVs, and so are masks.
    """
    made = replace(mesh, uvs=uvs, textures={})
    atlas = Atlas(made, {slot: (size, size) for slot in np.unique(mesh.face_slots).tolist()}, torch.device("cpu"))
    assert mesh.uvs is not None
    corners = torch.from_numpy(np.nan_to_num(mesh.uvs))[atlas.triangle]
    places = (corners * atlas.weights[..., None]).sum(dim=1).numpy() % 1
    for tile in atlas.tiles:
        u, v = places[atlas.nearest[tile.texels].numpy()].T
        for name in (f"{kind}.{tile.slot}" for kind in ("texture", "roughness", "metallic")):
            if (given := mesh.textures.get(name)) is not None:
                rows, columns = given.shape[:2]
                row, column = (v * rows).astype(int), (u * columns).astype(int)
                seen = given[row.clip(0, rows - 1), column.clip(0, columns - 1)]
                made.textures[name] = seen.reshape(size, size, *given.shape[2:])
    return made


def _interpolate(values: Tensor, faces: Tensor, triangle: Tensor, weights: Tensor) -> Tensor:
    corners = faces[triangle].long()
    one, two, three = (values[corners[:, k]] * weights[:, k, None] for k in range(3))
    return one + two + three


def _charts(faces: NDArray[np.generic], uvs: NDArray[np.generic], slots: NDArray[np.generic]) -> NDArray[np.int64]:
    """(F,) int64 from 1 up: the chart of each face; a part that is folded over is a chart of its own."""
    charts = UVCharts.from_faces(*(torch.from_numpy(np.ascontiguousarray(each)) for each in (faces, uvs, slots)))
    corners = charts.faces.numpy()
    start, end = corners[:, [0, 1]].ravel(), corners[:, [1, 2]].ravel()
    graph = sparse.coo_matrix((np.ones(len(start), bool), (start, end)), (len(charts.uvs),) * 2)
    charts_of_uvs: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    charts_of_faces: NDArray[np.int64] = charts_of_uvs[corners[:, 0]] + 1
    return charts_of_faces


@njit(cache=True, nogil=True)
def _cover(uvs, faces, order, height, width):  # type: ignore[no-untyped-def]
    """For each texel of one slot the faces that are nearest to its centre (2, H, W), -1 beyond `REACH` texels, and
    the places in them (2, H, W, 3), barycentric. Of those as near, inside ones mostly, the first and the last in
    `order` (F,) count.

    uvs: (F, 3, 2) float64. faces: (n,) those of the slot.
    """
    found = np.full((2, height, width), -1, np.int64)
    weights = np.zeros((2, height, width, 3), np.float32)
    distance = np.full((2, height, width), REACH)
    scale = np.array([width, height], np.float64)
    place = np.empty(3)
    for f in faces:
        t = uvs[f] * scale - 0.5  # texels' centres are whole numbers
        area = (t[1, 0] - t[0, 0]) * (t[2, 1] - t[0, 1]) - (t[1, 1] - t[0, 1]) * (t[2, 0] - t[0, 0])
        low_x, high_x = t[:, 0].min() - REACH, t[:, 0].max() + REACH
        low_y, high_y = t[:, 1].min() - REACH, t[:, 1].max() + REACH
        for y in range(max(0, math.ceil(low_y)), min(height - 1, math.floor(high_y)) + 1):
            for x in range(max(0, math.ceil(low_x)), min(width - 1, math.floor(high_x)) + 1):
                inside = area != 0
                for k in range(3):
                    i, j = (k + 1) % 3, (k + 2) % 3
                    side = (t[j, 0] - t[i, 0]) * (y - t[i, 1]) - (t[j, 1] - t[i, 1]) * (x - t[i, 0])
                    place[k] = side / area if area != 0 else 0.0
                    inside &= place[k] >= 0
                near = 0.0
                if not inside:
                    near = np.inf
                    for k in range(3):
                        i, j = (k + 1) % 3, (k + 2) % 3
                        ex, ey = t[j, 0] - t[i, 0], t[j, 1] - t[i, 1]
                        length = ex * ex + ey * ey
                        s = ((x - t[i, 0]) * ex + (y - t[i, 1]) * ey) / length if length > 0 else 0.0
                        s = min(max(s, 0.0), 1.0)
                        away = math.hypot(x - t[i, 0] - s * ex, y - t[i, 1] - s * ey)
                        if away < near:
                            near = away
                            place[i], place[j], place[k] = 1 - s, s, 0.0
                for last in range(2):
                    held, away = found[last, y, x], distance[last, y, x]
                    closer, tied = near < away - TIE, held >= 0 and near <= away + TIE
                    if closer or (tied and (order[f] > order[held] if last else order[f] < order[held])):
                        found[last, y, x], distance[last, y, x] = f, near
                        weights[last, y, x] = place
    return found, weights
