# SPDX-License-Identifier: GPL-3.0-or-later
"""The CPU backend's texture loops, compiled by numba: footprints, mipmaps, bilinear and trilinear sampling.

All levels of a texture lie in one array (B, texels, C), the finest first; `sizes` (levels, 2) are their heights
and widths. As in `kernels`, one thread adds up in a fixed order.
"""

import math

import numpy as np
from numba import njit

from .kernels import _corner, _cross


def mip_sizes(height, width):
    """(levels, 2): halved while both edges are even or 1, as Laine et al. 2020 build their stack."""
    sizes = [(height, width)]
    while (height, width) != (1, 1) and all(edge == 1 or edge % 2 == 0 for edge in (height, width)):
        height, width = max(1, height // 2), max(1, width // 2)
        sizes.append((height, width))
    return np.array(sizes, np.int64)


@njit(cache=True, nogil=True)
def footprint(attributes, rast, attribute_faces, clip, faces, out):
    """Fill out (B, H, W, 2C) with (dA/dX, dA/dY) of each attribute A, pixels as the unit."""
    batch, height, width, _ = rast.shape
    for b in range(batch):
        s = b if len(attributes) > 1 else 0
        for y in range(height):
            qy = (2 * y + 1) / height - 1
            for x in range(width):
                f = int(rast[b, y, x, 3]) - 1
                if f < 0:
                    continue
                qx = (2 * x + 1) / width - 1
                i, j, k = faces[f]
                p0, p1, p2 = _corner(clip, b, i), _corner(clip, b, j), _corner(clip, b, k)
                e0, e1, e2 = _cross(p1, p2), _cross(p2, p0), _cross(p0, p1)
                # u = e0.q / sum(e.q), and so on: the edge functions are linear in the pixel q = (x, y, 1).
                sx, sy = e0[0] + e1[0] + e2[0], e0[1] + e1[1] + e2[1]
                total = sx * qx + sy * qy + e0[2] + e1[2] + e2[2]
                if total == 0:
                    continue
                u, v = rast[b, y, x, 0], rast[b, y, x, 1]
                px, py = 2 / (width * total), 2 / (height * total)
                ux, uy = (e0[0] - u * sx) * px, (e0[1] - u * sy) * py
                vx, vy = (e1[0] - v * sx) * px, (e1[1] - v * sy) * py
                i, j, k = attribute_faces[f]
                for c in range(attributes.shape[2]):
                    du = attributes[s, i, c] - attributes[s, k, c]
                    dv = attributes[s, j, c] - attributes[s, k, c]
                    out[b, y, x, 2 * c] = du * ux + dv * vx
                    out[b, y, x, 2 * c + 1] = du * uy + dv * vy


@njit(cache=True, nogil=True, inline="always")
def _finer_texels(fine, sizes, m, y, x):
    """The texels of level m - 1 under texel (x, y) of level m; along an edge of 1 the same one twice."""
    height, width = sizes[m - 1]
    ny, nx = min(height, 2), min(width, 2)
    low = fine + ny * y * width + nx * x
    high = low + (ny - 1) * width
    return low, low + nx - 1, high, high + nx - 1


@njit(cache=True, nogil=True)
def build_mips(levels, sizes):
    """Fill every level after the first with the means of the one before, 2 x 2 texels at a time."""
    fine = 0
    for m in range(1, len(sizes)):
        coarse = fine + sizes[m - 1, 0] * sizes[m - 1, 1]
        for b in range(len(levels)):
            for y in range(sizes[m, 0]):
                for x in range(sizes[m, 1]):
                    i, j, k, n = _finer_texels(fine, sizes, m, y, x)
                    to = coarse + y * sizes[m, 1] + x
                    for c in range(levels.shape[2]):
                        levels[b, to, c] = 0.25 * (
                            (levels[b, i, c] + levels[b, j, c]) + (levels[b, k, c] + levels[b, n, c])
                        )
        fine = coarse


@njit(cache=True, nogil=True)
def build_mips_backward(grad, sizes):
    """Add the gradient of every level to the one before it."""
    coarse = 0
    for m in range(len(sizes) - 1):
        coarse += sizes[m, 0] * sizes[m, 1]
    for m in range(len(sizes) - 1, 0, -1):
        fine = coarse - sizes[m - 1, 0] * sizes[m - 1, 1]
        for b in range(len(grad)):
            for y in range(sizes[m, 0]):
                for x in range(sizes[m, 1]):
                    i, j, k, n = _finer_texels(fine, sizes, m, y, x)
                    of = coarse + y * sizes[m, 1] + x
                    for c in range(grad.shape[2]):
                        g = 0.25 * grad[b, of, c]
                        grad[b, i, c] += g
                        grad[b, j, c] += g
                        grad[b, k, c] += g
                        grad[b, n, c] += g
        coarse = fine


@njit(cache=True, nogil=True, inline="always")
def _mip_level(footprints, b, y, x, highest):
    """log2 of the longer axis of the pixel's footprint, in texels of the first level; in [0, highest]."""
    sx, sy, tx, ty = footprints[b, y, x]
    half, cross = 0.5 * (sx * sx + sy * sy + tx * tx + ty * ty), sx * ty - sy * tx
    # The larger singular value of the Jacobian, squared.
    longest = half + math.sqrt(max(half * half - cross * cross, 0.0))
    if not longest > 1:
        return 0.0
    return min(0.5 * math.log2(longest), float(highest))


@njit(cache=True, nogil=True, inline="always")
def _bilinear_texels(coordinate, edge, wrap):
    """Along one axis: (first texel, second texel, weight of the second, 1 where the weight has a slope)."""
    if wrap:
        place = (coordinate - math.floor(coordinate)) * edge - 0.5
        first = int(math.floor(place))
        return first % edge, (first + 1) % edge, place - first, 1.0
    place = coordinate * edge - 0.5
    if not 0 < place < edge - 1:
        end = 0 if place <= 0 else edge - 1
        return end, end, 0.0, 0.0
    first = int(place)
    return first, first + 1, place - first, 1.0


@njit(cache=True, nogil=True)
def sample(levels, sizes, uv, footprints, wrap, out):
    """Fill out (B, H, W, C), given as zeros. `footprints` (B, H, W, 4) are in texels; unused with one level."""
    batch, height, width, channels = out.shape
    for b in range(batch):
        s = b if len(levels) > 1 else 0
        for y in range(height):
            for x in range(width):
                if not (abs(uv[b, y, x, 0]) < 1e9 and abs(uv[b, y, x, 1]) < 1e9):
                    continue
                level = _mip_level(footprints, b, y, x, len(sizes) - 1) if len(sizes) > 1 else 0.0
                start = 0
                for m in range(len(sizes)):
                    weight = 1 - abs(level - m)
                    if weight > 0:
                        rows, columns = sizes[m]
                        x0, x1, fx, _ = _bilinear_texels(uv[b, y, x, 0], columns, wrap)
                        y0, y1, fy, _ = _bilinear_texels(uv[b, y, x, 1], rows, wrap)
                        low, high = start + y0 * columns, start + y1 * columns
                        for c in range(channels):
                            bottom = levels[s, low + x0, c] + fx * (levels[s, low + x1, c] - levels[s, low + x0, c])
                            top = levels[s, high + x0, c] + fx * (levels[s, high + x1, c] - levels[s, high + x0, c])
                            out[b, y, x, c] += weight * (bottom + fy * (top - bottom))
                    start += sizes[m, 0] * sizes[m, 1]


@njit(cache=True, nogil=True)
def sample_backward(levels, sizes, uv, footprints, wrap, grad, grad_levels, grad_uv):
    batch, height, width, channels = grad.shape
    for b in range(batch):
        s = b if len(levels) > 1 else 0
        for y in range(height):
            for x in range(width):
                if not (abs(uv[b, y, x, 0]) < 1e9 and abs(uv[b, y, x, 1]) < 1e9):
                    continue
                level = _mip_level(footprints, b, y, x, len(sizes) - 1) if len(sizes) > 1 else 0.0
                start = 0
                for m in range(len(sizes)):
                    weight = 1 - abs(level - m)
                    if weight > 0:
                        rows, columns = sizes[m]
                        x0, x1, fx, slope_x = _bilinear_texels(uv[b, y, x, 0], columns, wrap)
                        y0, y1, fy, slope_y = _bilinear_texels(uv[b, y, x, 1], rows, wrap)
                        low, high = start + y0 * columns, start + y1 * columns
                        gx = gy = 0.0
                        for c in range(channels):
                            g = weight * grad[b, y, x, c]
                            if g == 0:
                                continue
                            t00, t01 = levels[s, low + x0, c], levels[s, low + x1, c]
                            t10, t11 = levels[s, high + x0, c], levels[s, high + x1, c]
                            gx += g * ((1 - fy) * (t01 - t00) + fy * (t11 - t10))
                            gy += g * ((1 - fx) * (t10 - t00) + fx * (t11 - t01))
                            grad_levels[s, low + x0, c] += g * (1 - fx) * (1 - fy)
                            grad_levels[s, low + x1, c] += g * fx * (1 - fy)
                            grad_levels[s, high + x0, c] += g * (1 - fx) * fy
                            grad_levels[s, high + x1, c] += g * fx * fy
                        grad_uv[b, y, x, 0] += gx * columns * slope_x
                        grad_uv[b, y, x, 1] += gy * rows * slope_y
                    start += sizes[m, 0] * sizes[m, 1]
