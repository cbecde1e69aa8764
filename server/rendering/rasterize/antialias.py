# SPDX-License-Identifier: GPL-3.0-or-later
"""The antialiasing of the CPU backend's kernels in plain PyTorch, for any device and any rasterizer.

Blending follows Laine et al. 2020, section 3.6: where neighbouring pixels see different triangles, a silhouette edge of
the nearer one divides the space between their centres. Their rule searches for that edge on the visible triangle only,
which seldom has it where triangles are finer than a pixel; this one walks over the mesh from there to the silhouette.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels import MAX_WALK

# Walks that have ended are dropped after these numbers of steps only, because the host waits for the device each time.
COMPACT_AFTER = (2, 8, MAX_WALK)


@dataclass(frozen=True)
class _Pairs:
    """P pairs of neighbouring pixels that see different triangles; every field is (P,).

    near, far: pixels, numbered through all views. face: the triangle that the near one sees, in `view`.
    along: the axis from one to the other, 0 for x. The near one's centre has the coordinates `centre` on that axis and
    `level` on the other, in normalized device coordinates; `step` leads from it to the far one's.
    """

    view: Tensor
    near: Tensor
    far: Tensor
    face: Tensor
    along: Tensor
    centre: Tensor
    level: Tensor
    step: Tensor

    def __getitem__(self, index: Tensor) -> _Pairs:
        return _Pairs(*(getattr(self, field.name)[index] for field in fields(self)))


def antialias(colour: Tensor, rast: Tensor, clip: Tensor, faces: Tensor) -> Tensor:
    """As `Rasterizer.antialias`, with its geometry in float64. The host waits for the device four times."""
    if not len(faces):
        return colour
    pairs = _pairs(rast)
    start, end = _silhouettes(pairs, rast.shape[1], rast.shape[2], clip.detach().double(), faces.long())
    hit = (start >= 0).nonzero()[:, 0]
    pairs, start, end = pairs[hit], start[hit], end[hit]

    corners = clip.double().reshape(-1, 4)
    one, other = (corners.index_select(0, pairs.view * clip.shape[1] + each) for each in (start, end))
    one, other = (each[:, :2] / each[:, 3:] for each in (one, other))
    one, other = (torch.where(pairs.along[:, None] == 0, each, each.flip(1)) for each in (one, other))
    t = _crossing(one, other, pairs).clamp(min=0).to(colour.dtype)[:, None]
    # Beyond the middle the near surface covers part of the far pixel, before it the reverse.
    target = torch.where(t.detach()[:, 0] > 0.5, pairs.far, pairs.near)
    pixels = colour.reshape(-1, colour.shape[-1])
    difference = pixels.index_select(0, pairs.near) - pixels.index_select(0, pairs.far)
    return pixels.index_add(0, target, (t - 0.5) * difference).view_as(colour)


def _crossing(one: Tensor, other: Tensor, pairs: _Pairs) -> Tensor:
    """The part of the way from near to far at which the edge between two points (P, …, 2) crosses it.

    Their coordinates are those along the pair's axis and across it.
    """
    shape = (-1, *[1] * (one.ndim - 2))
    centre, level, step = (each.view(shape) for each in (pairs.centre, pairs.level, pairs.step))
    above, below = one[..., 1] - level, other[..., 1] - level
    return (one[..., 0] + (other[..., 0] - one[..., 0]) * above / (above - below) - centre) / step


def _pairs(rast: Tensor) -> _Pairs:
    _, height, width, _ = rast.shape
    seen, depth = rast[..., 3], rast[..., 2].reshape(-1)
    differ = torch.cat([(seen[:, :, :-1] != seen[:, :, 1:]).flatten(), (seen[:, :-1] != seen[:, 1:]).flatten()])
    number = differ.nonzero()[:, 0]
    beside = seen[:, :, :-1].numel()  # pairs along x, which come first
    along = (number >= beside).long()
    number = number - along * beside
    rows, columns = height - along, width - 1 + along
    view, y, x = number // (rows * columns), number // columns % rows, number % columns
    here = (view * height + y) * width + x
    there = here + 1 + along * (width - 1)
    seen = seen.reshape(-1)
    here_is_near = (seen[there] == 0) | ((seen[here] > 0) & (depth[here] <= depth[there]))
    near, far = torch.where(here_is_near, here, there), torch.where(here_is_near, there, here)
    x = (2 * (near % width) + 1).double() / width - 1
    y = (2 * (near // width % height) + 1).double() / height - 1
    step = (4 * here_is_near.double() - 2) / _extent(along, height, width)
    return _Pairs(
        view,
        near,
        far,
        seen[near].long() - 1,
        along,
        torch.where(along == 0, x, y),
        torch.where(along == 0, y, x),
        step,
    )


def _extent(along: Tensor, height: int, width: int) -> Tensor:
    """Pixels of the picture along each axis in `along`, 0 for x."""
    return width + along * (height - width)


def _silhouettes(pairs: _Pairs, height: int, width: int, clip: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """The corners (P,) between which the silhouette edge of each pair lies; -1 where it meets none.

    Each walk leaves its triangle by the edge that it crosses last, until an edge borders nothing or the next triangle
    turns the other way: `_silhouette` of `kernels`, for all pairs at once.
    """
    vertices = clip.shape[1]
    points, w = (clip[..., :2] / clip[..., 3:]).reshape(-1, 2), clip[..., 3].reshape(-1)
    homogeneous = torch.cat([clip[..., :2], clip[..., 3:]], dim=2).reshape(-1, 3)
    across = adjacency(faces, vertices)

    def corners(view: Tensor, face: Tensor) -> Tensor:
        return view[:, None] * vertices + faces[face]

    def facing(view: Tensor, face: Tensor) -> Tensor:
        a, b, c = homogeneous[corners(view, face)].unbind(dim=1)
        return (a * torch.linalg.cross(b, c)).sum(dim=1) > 0

    start, end = torch.full_like(pairs.face, -1), torch.full_like(pairs.face, -1)
    walks, number = pairs, torch.arange(len(pairs.face), device=clip.device)
    face, came, front = walks.face, torch.full_like(walks.face, -1), facing(walks.view, walks.face)
    for done, drop in zip((0, *COMPACT_AFTER), COMPACT_AFTER):
        alive = torch.ones_like(front)
        for _ in range(done, drop):
            index = corners(walks.view, face)
            here = points[index]
            here = torch.where(walks.along[:, None, None] == 0, here, here.flip(2))
            there = here.roll(-1, 1)
            t = _crossing(here, there, walks)
            level, neighbours = walks.level[:, None], across[face]
            crossed = ((here[..., 1] - level <= 0) != (there[..., 1] - level <= 0)) & ~t.isnan()
            crossed &= (neighbours != came[:, None]) | (came[:, None] < 0)
            best, k = t.masked_fill(~crossed, -torch.inf).max(dim=1, keepdim=True)
            going = alive & (best[:, 0] > -torch.inf) & (best[:, 0] <= 1) & (w[index] > 1e-6).all(dim=1)
            other = neighbours.gather(1, k)[:, 0]
            outline = (other < 0) | (facing(walks.view, other.clamp(min=0)) != front)
            # An edge belongs to the pairs across it, rows or columns, or its gradient would count twice.
            run, rise = (here - there).abs().gather(1, k[..., None].expand(-1, 1, 2))[:, 0].unbind(dim=1)
            run = run * _extent(walks.along, height, width)
            rise = rise * _extent(1 - walks.along, height, width)
            steep = (run < rise) | ((run == rise) & (walks.along == 0))
            hit = going & outline & steep
            one, next = (faces[face].gather(1, each)[:, 0] for each in (k, (k + 1) % 3))
            start.index_copy_(0, number, torch.where(hit, one, start[number]))
            end.index_copy_(0, number, torch.where(hit, next, end[number]))
            alive = going & ~outline
            came, face = torch.where(alive, face, came), torch.where(alive, other, face)
        if drop == MAX_WALK or not len(rest := alive.nonzero()[:, 0]):
            break
        walks, number, face, came, front = walks[rest], number[rest], face[rest], came[rest], front[rest]
    return start, end


def adjacency(faces: Tensor, vertices: int) -> Tensor:
    """(F, 3) int64 face across the edge from corner k to corner k + 1; -1 at a border or a non-manifold edge.

    faces: (F, 3) int64, corners below `vertices`.
    """
    ends = torch.stack([faces, faces.roll(-1, 1)], dim=2).view(-1, 2)
    key, order = (ends.amin(dim=1) * vertices + ends.amax(dim=1)).sort(stable=True)
    again = F.pad(key[1:] == key[:-1], (0, 1))  # the next edge is the same one
    first = again & ~again.roll(1) & ~again.roll(-1)  # of two that are the same, and no more
    partner = torch.where(first, order.roll(-1), torch.where(first.roll(1), order.roll(1), torch.full_like(order, -1)))
    across = torch.empty_like(order).index_copy(0, order, partner.div(3, rounding_mode="floor"))
    return across.view(-1, 3)
