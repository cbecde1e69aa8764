# SPDX-License-Identifier: GPL-3.0-or-later
"""Where on the surface the texels of a mesh's textures lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ...geometry.mesh import Mesh
from ...rendering.rasterize import create
from ...rendering.textured import Charts

GUTTER = 64                                 # a given picture changes at most its edge / GUTTER beside a chart


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

    def image(self, values: Tensor) -> np.ndarray:
        """(H, W, …) of the atlas's (T, …)."""
        return values[self.texels].view(self.height, self.width, *values.shape[1:]).cpu().numpy()


class Atlas:
    """All textures of a mesh, texel by texel, and on the surface only where a face covers one.

    A texel has the place of the face that covers its centre; one that no face covers takes the nearest that is
    covered, so that mipmaps and bilinear reads find in the gutter what is inside. Where charts lie on each other, as
    mirrored halves do, the first and the last of them count, everywhere the same two.

    Attributes:
        tiles: one for each slot that a face has, in the slots' order.
        nearest: (T,) which of the N covered texels each texel shows.
        own: (N,) the covered texels themselves.
        triangle, weights: (N,) and (N, 3), the face of a covered texel and its barycentric coordinates there.
        second: (N,) which of the M rows of `second_triangle` and `second_weights` is the other place of a covered
            texel; -1 where it has none.
        written: (T,) bool: texels that are painted. Of a given picture, those on a chart and in its gutter.
    """

    def __init__(self, mesh: Mesh, sizes: dict[int, tuple[int, int]], device: torch.device):
        assert mesh.uvs is not None
        slots = slots_of(mesh)
        uvs = np.clip(np.nan_to_num(mesh.uvs.astype(np.float32)), 0, 1)
        self.uvs = torch.from_numpy(uvs.reshape(-1, 2)).to(device)          # (3 F, 2)
        self.slots = torch.from_numpy(slots).to(device).long()
        tiles, nearest, own, written, triangle, weights = [], [], [], [], [], []
        last_triangle, last_weights = [], []
        charts = torch.from_numpy(_charts(mesh.faces, uvs, slots))
        flat = torch.from_numpy(uvs.reshape(-1, 2))
        first = count = 0
        for slot in np.unique(slots).tolist():
            height, width = sizes[slot]
            tile = Tile(slot, first, height, width)
            faces = np.flatnonzero(slots == slot)
            covering, inside = _cover(flat, torch.from_numpy(faces), charts, (height, width))
            last, inside_last = _cover(flat, torch.from_numpy(faces), -charts, (height, width))
            covered = (covering >= 0).numpy()
            if covered.any():
                distance, place = ndimage.distance_transform_edt(~covered, return_indices=True)
                number = np.cumsum(covered.reshape(-1)) - 1
                nearest.append(count + number[place[0] * width + place[1]].reshape(-1))
                own.append(first + np.flatnonzero(covered))
                triangle.append(covering[covering >= 0])
                weights.append(inside[covering >= 0])
                last_triangle.append(last[covering >= 0])
                last_weights.append(inside_last[covering >= 0])
                near = distance <= max(2, max(height, width) // GUTTER)
            else:                           # all UVs at a point: one colour, that of the first face
                nearest.append(np.full(height * width, count))
                own.append(np.array([first]))
                triangle.append(torch.from_numpy(faces[:1]))
                weights.append(torch.full((1, 3), 1 / 3))
                last_triangle.append(triangle[-1])
                last_weights.append(weights[-1])
                near = np.ones((height, width), bool)
            given = f"texture.{slot}" in mesh.textures
            written.append((near if given else np.ones_like(near)).reshape(-1))
            tiles.append(tile)
            first += height * width
            count += len(triangle[-1])
        self.tiles: tuple[Tile, ...] = tuple(tiles)
        self.nearest = torch.from_numpy(np.concatenate(nearest).astype(np.int32)).to(device)
        self.own = torch.from_numpy(np.concatenate(own)).to(device)
        self.written = torch.from_numpy(np.concatenate(written)).to(device)
        own_triangle, other = torch.cat(triangle), torch.cat(last_triangle)
        self.triangle, self.weights = own_triangle.to(device), torch.cat(weights).to(device)
        shared = charts[other] != charts[own_triangle]
        self.second = torch.where(shared, shared.long().cumsum(dim=0) - 1, -1).to(device)
        self.second_triangle = other[shared].to(device)
        self.second_weights = torch.cat(last_weights)[shared].to(device)
        table = torch.zeros(int(slots.max()) + 1, 3, dtype=torch.long, device=device)
        for tile in tiles:
            table[tile.slot] = torch.tensor([tile.first, tile.height, tile.width])
        self._table = table

    def at(self, uv: Tensor, face: Tensor) -> Tensor:
        """(P,) texels of points of the surface: uv (P, 2) and face (P,)."""
        first, height, width = self._table[self.slots[face]].unbind(dim=1)
        column = (uv[:, 0] * width).long().clamp(min=0).minimum(width - 1)
        row = (uv[:, 1] * height).long().clamp(min=0).minimum(height - 1)
        return first + row * width + column

    def spread(self, values: Tensor, faces: Tensor) -> Tensor:
        """(N, C) at the covered texels, of (V, C) per-vertex values; faces (F, 3)."""
        return _spread(values, faces, self.triangle, self.weights)

    def spread_second(self, values: Tensor, faces: Tensor) -> Tensor:
        """(M, C) at the other places."""
        return _spread(values, faces, self.second_triangle, self.second_weights)

    def given(self, mesh: Mesh, kind: str, default: np.ndarray) -> Tensor:
        """(T, …) uint8: a mesh's pictures of one kind, `default` where a slot has none."""
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


def slots_of(mesh: Mesh) -> np.ndarray:
    """(F,) int32, all 0 where the mesh names none."""
    return np.zeros(len(mesh.faces), np.int32) if mesh.slots is None else mesh.slots


def _spread(values: Tensor, faces: Tensor, triangle: Tensor, weights: Tensor) -> Tensor:
    return (values[faces[triangle].long()] * weights[..., None]).sum(dim=1)


def _charts(faces: np.ndarray, uvs: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """(F,) int64 from 1 up: the chart of each face; what is folded over is another one."""
    charts = Charts.of(*(torch.from_numpy(np.ascontiguousarray(each)) for each in (faces, uvs, slots)))
    corners = charts.faces.numpy()
    start, end = corners[:, [0, 1]].ravel(), corners[:, [1, 2]].ravel()
    graph = sparse.coo_matrix((np.ones(len(start), bool), (start, end)), (len(charts.uvs),) * 2)
    return connected_components(graph, directed=False)[1][corners[:, 0]].astype(np.int64) + 1


def _cover(uvs: Tensor, own: Tensor, order: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """For each texel of one slot its face (H, W), -1 for none, and the place in it (H, W, 3), barycentric.

    order: (F,) of faces that cover the same texel, the lowest counts.
    """
    # A chart is a picture of the surface: rasterize the UVs, the charts one behind the other. On the CPU, once, at
    # any size, and with the same bytes everywhere.
    depth = 0.9 * (order / order.abs().max()).repeat_interleave(3)[:, None].to(uvs.dtype)
    clip = torch.cat([2 * uvs - 1, depth, torch.ones_like(depth)], dim=1)[None]
    corners = torch.arange(len(uvs), device=uvs.device, dtype=torch.int32).view(-1, 3)[own].contiguous()
    rast = create("cpu").rasterize(clip.contiguous(), corners, size)[0]
    hit = rast[..., 3] > 0
    face = torch.where(hit, own[(rast[..., 3].long() - 1).clamp(min=0)], -1)
    u, v = rast[..., 0], rast[..., 1]
    return face, torch.stack([u, v, 1 - u - v], dim=-1)
