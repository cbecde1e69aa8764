# SPDX-License-Identifier: GPL-3.0-or-later
"""The CPU backend's loops, compiled by numba. Positions are clip space; all geometry is in float64.

One thread: pictures are small, and a fixed order of additions makes every run give the same bytes.
"""

import math

import numpy as np
from numba import njit

MARGIN = 0.5 + 1e-6  # pixels from the left border of the first one in a box to the box
MAX_WALK = 32  # most triangles to cross on the way to a silhouette


@njit(cache=True, nogil=True)
def adjacency(faces, vertices):
    """(F, 3) face across the edge from corner k to corner k + 1; -1 at a border or a non-manifold edge."""
    count = len(faces)
    start = np.zeros(vertices + 1, np.int64)
    for f in range(count):
        for k in range(3):
            start[min(faces[f, k], faces[f, (k + 1) % 3]) + 1] += 1
    for v in range(vertices):
        start[v + 1] += start[v]
    fill = start[:-1].copy()
    slots = np.empty(3 * count, np.int64)
    for f in range(count):
        for k in range(3):
            low = min(faces[f, k], faces[f, (k + 1) % 3])
            slots[fill[low]] = 3 * f + k
            fill[low] += 1
    across = np.full((count, 3), -1, np.int64)
    for v in range(vertices):
        for i in range(start[v], start[v + 1]):
            f, k = slots[i] // 3, slots[i] % 3
            high = max(faces[f, k], faces[f, (k + 1) % 3])
            other, found = -1, 0
            for j in range(start[v], start[v + 1]):
                g, m = slots[j] // 3, slots[j] % 3
                if j != i and max(faces[g, m], faces[g, (m + 1) % 3]) == high:
                    other = g
                    found += 1
            if found == 1:
                across[f, k] = other
    return across


@njit(cache=True, nogil=True, inline="always")
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@njit(cache=True, nogil=True, inline="always")
def _corner(clip, b, v):
    """(x, y, w): the homogeneous 2D point of Olano and Greer 1997, which needs no near clipping."""
    return np.float64(clip[b, v, 0]), np.float64(clip[b, v, 1]), np.float64(clip[b, v, 3])


@njit(cache=True, nogil=True)
def rasterize(clip, faces, rast):
    """Fill rast (B, H, W, 4), given as zeros."""
    batch, height, width, _ = rast.shape
    depth = np.empty((height, width))
    for b in range(batch):
        depth[:] = np.inf
        for f in range(len(faces)):
            i, j, k = faces[f]
            p0, p1, p2 = _corner(clip, b, i), _corner(clip, b, j), _corner(clip, b, k)
            e0, e1, e2 = _cross(p1, p2), _cross(p2, p0), _cross(p0, p1)
            area = p0[0] * e0[0] + p0[1] * e0[1] + p0[2] * e0[2]
            if not abs(area) > 1e-14:
                continue
            x0, x1, y0, y1 = 0, width, 0, height
            if p0[2] > 1e-6 and p1[2] > 1e-6 and p2[2] > 1e-6:
                left = min(p0[0] / p0[2], p1[0] / p1[2], p2[0] / p2[2])
                right = max(p0[0] / p0[2], p1[0] / p1[2], p2[0] / p2[2])
                low = min(p0[1] / p0[2], p1[1] / p1[2], p2[1] / p2[2])
                high = max(p0[1] / p0[2], p1[1] / p1[2], p2[1] / p2[2])
                if not (right >= -1 and left <= 1 and high >= -1 and low <= 1):
                    continue  # written so that NaN corners are skipped, too
                # Pixels whose centres are inside, and by rounding almost so. Clamped first, because integers overflow.
                x0 = int(math.ceil((max(left, -1.0) + 1) * 0.5 * width - MARGIN))
                x1 = int(math.floor((min(right, 1.0) + 1) * 0.5 * width + MARGIN))
                y0 = int(math.ceil((max(low, -1.0) + 1) * 0.5 * height - MARGIN))
                y1 = int(math.floor((min(high, 1.0) + 1) * 0.5 * height + MARGIN))
            elif p0[2] <= 1e-6 and p1[2] <= 1e-6 and p2[2] <= 1e-6:
                continue
            z0, z1, z2 = np.float64(clip[b, i, 2]), np.float64(clip[b, j, 2]), np.float64(clip[b, k, 2])
            inverse = 1 / area
            for y in range(y0, y1):
                qy = (2 * y + 1) / height - 1
                for x in range(x0, x1):
                    qx = (2 * x + 1) / width - 1
                    b0 = (e0[0] * qx + e0[1] * qy + e0[2]) * inverse
                    if b0 < 0:
                        continue
                    b1 = (e1[0] * qx + e1[1] * qy + e1[2]) * inverse
                    if b1 < 0:
                        continue
                    b2 = (e2[0] * qx + e2[1] * qy + e2[2]) * inverse
                    total = b0 + b1 + b2  # 1 / w at the pixel
                    if b2 < 0 or not total > 0:
                        continue
                    z = z0 * b0 + z1 * b1 + z2 * b2
                    if -1 <= z <= 1 and z < depth[y, x]:
                        depth[y, x] = z
                        rast[b, y, x, 0] = b0 / total
                        rast[b, y, x, 1] = b1 / total
                        rast[b, y, x, 2] = z
                        rast[b, y, x, 3] = f + 1


@njit(cache=True, nogil=True)
def rasterize_backward(clip, faces, rast, grad, grad_clip):
    """Add the gradient of u and v to grad_clip (B, V, 4), float64."""
    batch, height, width, _ = rast.shape
    for b in range(batch):
        for y in range(height):
            qy = (2 * y + 1) / height - 1
            for x in range(width):
                f = int(rast[b, y, x, 3]) - 1
                gu, gv = np.float64(grad[b, y, x, 0]), np.float64(grad[b, y, x, 1])
                if f < 0 or (gu == 0 and gv == 0):
                    continue
                q = ((2 * x + 1) / width - 1, qy, 1.0)
                i, j, k = faces[f]
                p0, p1, p2 = _corner(clip, b, i), _corner(clip, b, j), _corner(clip, b, k)
                c0, c1, c2 = _cross(p0, q), _cross(p1, q), _cross(p2, q)
                n0 = p1[0] * c2[0] + p1[1] * c2[1] + p1[2] * c2[2]
                n1 = p2[0] * c0[0] + p2[1] * c0[1] + p2[2] * c0[2]
                n2 = p0[0] * c1[0] + p0[1] * c1[1] + p0[2] * c1[2]
                total = n0 + n1 + n2
                if total == 0:
                    continue
                u, v = n0 / total, n1 / total
                mean = gu * u + gv * v
                g0, g1, g2 = (gu - mean) / total, (gv - mean) / total, -mean / total
                for a in range(3):
                    d = 3 if a == 2 else a
                    grad_clip[b, i, d] += g2 * c1[a] - g1 * c2[a]
                    grad_clip[b, j, d] += g0 * c2[a] - g2 * c0[a]
                    grad_clip[b, k, d] += g1 * c0[a] - g0 * c1[a]


@njit(cache=True, nogil=True)
def interpolate(attributes, rast, faces, out):
    batch, height, width, _ = rast.shape
    for b in range(batch):
        s = b if len(attributes) > 1 else 0
        for y in range(height):
            for x in range(width):
                f = int(rast[b, y, x, 3]) - 1
                if f >= 0:
                    u, v = rast[b, y, x, 0], rast[b, y, x, 1]
                    i, j, k = faces[f]
                    for c in range(attributes.shape[2]):
                        out[b, y, x, c] = (
                            u * attributes[s, i, c] + v * attributes[s, j, c] + (1 - u - v) * attributes[s, k, c]
                        )


@njit(cache=True, nogil=True)
def interpolate_backward(attributes, rast, faces, grad, grad_attributes, grad_rast):
    batch, height, width, _ = rast.shape
    for b in range(batch):
        s = b if len(attributes) > 1 else 0
        for y in range(height):
            for x in range(width):
                f = int(rast[b, y, x, 3]) - 1
                if f >= 0:
                    u, v = rast[b, y, x, 0], rast[b, y, x, 1]
                    i, j, k = faces[f]
                    for c in range(attributes.shape[2]):
                        g = grad[b, y, x, c]
                        grad_attributes[s, i, c] += g * u
                        grad_attributes[s, j, c] += g * v
                        grad_attributes[s, k, c] += g * (1 - u - v)
                        grad_rast[b, y, x, 0] += g * (attributes[s, i, c] - attributes[s, k, c])
                        grad_rast[b, y, x, 1] += g * (attributes[s, j, c] - attributes[s, k, c])


@njit(cache=True, nogil=True)
def _facing(clip, faces, b, f):
    i, j, k = faces[f]
    p0, p1, p2 = _corner(clip, b, i), _corner(clip, b, j), _corner(clip, b, k)
    e = _cross(p1, p2)
    return p0[0] * e[0] + p0[1] * e[1] + p0[2] * e[2] > 0


@njit(cache=True, nogil=True)
def _silhouette(clip, faces, across, b, face, along, x, y, sign, height, width):
    """The silhouette edge met on the way from a pixel's centre to its neighbour's.

    From the triangle seen at pixel (x, y), walk over the mesh in direction `sign` along axis `along`
    (0 is x) to the first edge that borders nothing or a triangle that faces the other way. Where triangles
    are finer than a pixel, the silhouette is seldom an edge of the visible triangle itself.

    Returns (from corner, to corner, t), t in [0, 1] the part of the way; corners -1 where there is none.
    """
    centre = (2 * x + 1) / width - 1 if along == 0 else (2 * y + 1) / height - 1
    level = (2 * y + 1) / height - 1 if along == 0 else (2 * x + 1) / width - 1
    step = sign * 2 / (width if along == 0 else height)
    front = _facing(clip, faces, b, face)
    came = -1
    for _ in range(MAX_WALK):
        best, leave = -np.inf, -1
        for k in range(3):
            i, j = faces[face, k], faces[face, (k + 1) % 3]
            wi, wj = np.float64(clip[b, i, 3]), np.float64(clip[b, j, 3])
            if wi <= 1e-6 or wj <= 1e-6:
                return -1, -1, 0.0
            if came >= 0 and across[face, k] == came:
                continue
            si, sj = clip[b, i, 1 - along] / wi - level, clip[b, j, 1 - along] / wj - level
            if (si <= 0) != (sj <= 0):
                ai, aj = clip[b, i, along] / wi, clip[b, j, along] / wj
                t = (ai + (aj - ai) * si / (si - sj) - centre) / step
                if t > best:
                    best, leave = t, k
        if leave < 0 or best > 1:
            return -1, -1, 0.0
        other = across[face, leave]
        if other < 0 or _facing(clip, faces, b, other) != front:
            # An edge belongs to the pairs across it, rows or columns, or its gradient would count twice.
            i, j = faces[face, leave], faces[face, (leave + 1) % 3]
            run = abs(clip[b, i, along] / clip[b, i, 3] - clip[b, j, along] / clip[b, j, 3])
            rise = abs(clip[b, i, 1 - along] / clip[b, i, 3] - clip[b, j, 1 - along] / clip[b, j, 3])
            run, rise = (run * width, rise * height) if along == 0 else (run * height, rise * width)
            if run > rise or (run == rise and along == 1):
                return -1, -1, 0.0
            return faces[face, leave], faces[face, (leave + 1) % 3], max(best, 0.0)
        came, face = face, other
    return -1, -1, 0.0


@njit(cache=True, nogil=True, inline="always")
def _same(rast, b, y, x, along):
    """Whether pixel (x, y) and the next along an axis see the same, or there is no next."""
    if along == 0:
        return x + 1 >= rast.shape[2] or rast[b, y, x, 3] == rast[b, y, x + 1, 3]
    return y + 1 >= rast.shape[1] or rast[b, y, x, 3] == rast[b, y + 1, x, 3]


@njit(cache=True, nogil=True)
def _pair(rast, clip, faces, across, b, y, x, along):
    """(near y, near x, far y, far x, corner, corner, t) of two neighbours along an axis that see different faces."""
    _, height, width, _ = rast.shape
    y2, x2 = (y, x + 1) if along == 0 else (y + 1, x)
    here, there = int(rast[b, y, x, 3]), int(rast[b, y2, x2, 3])
    near_here = there == 0 or (here > 0 and rast[b, y, x, 2] <= rast[b, y2, x2, 2])
    if near_here:
        i, j, t = _silhouette(clip, faces, across, b, here - 1, along, x, y, 1, height, width)
        return y, x, y2, x2, i, j, t
    i, j, t = _silhouette(clip, faces, across, b, there - 1, along, x2, y2, -1, height, width)
    return y2, x2, y, x, i, j, t


@njit(cache=True, nogil=True)
def antialias(colour, rast, clip, faces, across, out):
    """out starts as a copy of colour."""
    batch, height, width, channels = colour.shape
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                for along in range(2):
                    if _same(rast, b, y, x, along):
                        continue
                    ny, nx, fy, fx, i, j, t = _pair(rast, clip, faces, across, b, y, x, along)
                    if i < 0:
                        continue
                    # Beyond the middle the near surface covers part of the far pixel, before it the reverse.
                    ty, tx = (fy, fx) if t > 0.5 else (ny, nx)
                    for c in range(channels):
                        out[b, ty, tx, c] += (t - 0.5) * (colour[b, ny, nx, c] - colour[b, fy, fx, c])


@njit(cache=True, nogil=True)
def antialias_backward(colour, rast, clip, faces, across, grad, grad_colour, grad_clip):
    """grad_colour starts as a copy of grad; grad_clip is float64."""
    batch, height, width, channels = colour.shape
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                for along in range(2):
                    if _same(rast, b, y, x, along):
                        continue
                    ny, nx, fy, fx, i, j, t = _pair(rast, clip, faces, across, b, y, x, along)
                    if i < 0:
                        continue
                    ty, tx = (fy, fx) if t > 0.5 else (ny, nx)
                    gt = 0.0
                    for c in range(channels):
                        g = grad[b, ty, tx, c]
                        gt += g * (colour[b, ny, nx, c] - colour[b, fy, fx, c])
                        grad_colour[b, ny, nx, c] += (t - 0.5) * g
                        grad_colour[b, fy, fx, c] -= (t - 0.5) * g
                    if gt == 0 or t <= 0:
                        continue
                    # t = (crossing - centre) / step; the crossing is where the edge meets the row or column.
                    level = (2 * y + 1) / height - 1 if along == 0 else (2 * x + 1) / width - 1
                    step = 2.0 / (width if along == 0 else height)
                    if nx > fx or ny > fy:
                        step = -step
                    wi, wj = np.float64(clip[b, i, 3]), np.float64(clip[b, j, 3])
                    ai, aj = clip[b, i, along] / wi, clip[b, j, along] / wj
                    si, sj = clip[b, i, 1 - along] / wi - level, clip[b, j, 1 - along] / wj - level
                    r = si / (si - sj)
                    g = gt / step
                    slope = (aj - ai) / (si - sj)
                    gai, gaj = g * (1 - r), g * r
                    gsi, gsj = g * slope * (1 - r), g * slope * r
                    grad_clip[b, i, along] += gai / wi
                    grad_clip[b, i, 1 - along] += gsi / wi
                    grad_clip[b, i, 3] -= (gai * ai + gsi * (si + level)) / wi
                    grad_clip[b, j, along] += gaj / wj
                    grad_clip[b, j, 1 - along] += gsj / wj
                    grad_clip[b, j, 3] -= (gaj * aj + gsj * (sj + level)) / wj
