# SPDX-License-Identifier: GPL-3.0-or-later
"""The Warp backend's kernels, from which NVIDIA Warp compiles the same arithmetic for CUDA and for the CPU.

A thread is a pixel, a triangle of a view, a texel or an edge. Pictures are (P, …) pixels, numbered through all views,
and clip space is (B V) corners. Geometry is in float64, as in the CPU backend: an edge through a pixel's centre is on
the same side for both triangles that share it.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import warp as wp

from .kernels import MAX_WALK

wide = wp.float64
point = wp.types.vector(3, wide)

EMPTY = 2**63 - 1  # of `nearest`: no triangle
ID_BITS = wp.constant(wp.int64(24))  # ids that float32 holds exactly; 39 bits are left for the depth
DEPTHS = wp.constant(wide(2.0**38 - 1.0))  # steps of half the depth range
TILE = wp.constant(8)  # pixels along an edge
BEHIND = wp.constant(wide(1e-6))  # w of a corner that is not before the camera
WALK = wp.constant(MAX_WALK)

ZERO = wp.constant(wide(0.0))
ONE = wp.constant(wide(1.0))
HALF = wp.constant(wide(0.5))
MARGIN = wp.constant(wide(0.5 + 1e-6))


@wp.func
def homogeneous(corner: Any):
    """(x, y, w): the homogeneous 2D point of Olano and Greer 1997, which needs no near clipping."""
    return point(wide(corner[0]), wide(corner[1]), wide(corner[3]))


@wp.func
def centre(pixel: int, pixels: int):
    """In normalized device coordinates."""
    return wide(2 * pixel + 1) / wide(pixels) - ONE


@wp.func
def bounds(p0: point, p1: point, p2: point, height: int, width: int):
    """(left, bottom, right, top) pixels that may see a triangle, the last two exclusive; all 0 where none does."""
    box = wp.vec4i(0, 0, 0, 0)
    if wp.abs(wp.dot(p0, wp.cross(p1, p2))) > wide(1e-14):
        if p0[2] > BEHIND and p1[2] > BEHIND and p2[2] > BEHIND:
            left = wp.min(wp.min(p0[0] / p0[2], p1[0] / p1[2]), p2[0] / p2[2])
            right = wp.max(wp.max(p0[0] / p0[2], p1[0] / p1[2]), p2[0] / p2[2])
            low = wp.min(wp.min(p0[1] / p0[2], p1[1] / p1[2]), p2[1] / p2[2])
            high = wp.max(wp.max(p0[1] / p0[2], p1[1] / p1[2]), p2[1] / p2[2])
            if right >= -ONE and left <= ONE and high >= -ONE and low <= ONE:  # not so with NaN
                # Pixels whose centres are inside, and by rounding almost so. Clamped first, because integers overflow.
                box = wp.vec4i(
                    int(wp.ceil((wp.max(left, -ONE) + ONE) * HALF * wide(width) - MARGIN)),
                    int(wp.ceil((wp.max(low, -ONE) + ONE) * HALF * wide(height) - MARGIN)),
                    int(wp.floor((wp.min(right, ONE) + ONE) * HALF * wide(width) + MARGIN)),
                    int(wp.floor((wp.min(high, ONE) + ONE) * HALF * wide(height) + MARGIN)),
                )
        elif p0[2] > BEHIND or p1[2] > BEHIND or p2[2] > BEHIND:
            box = wp.vec4i(0, 0, width, height)
    return box


@wp.func
def draw(
    p0: point,
    p1: point,
    p2: point,
    depths: point,
    box: wp.vec4i,
    face: int,
    first: int,
    height: int,
    width: int,
    nearest: wp.array(dtype=wp.int64),
):
    """Of every pixel in the box, keep the nearest triangle; of two at one depth, the lower id."""
    e0 = wp.cross(p1, p2)
    e1 = wp.cross(p2, p0)
    e2 = wp.cross(p0, p1)
    inverse = ONE / wp.dot(p0, e0)
    for y in range(box[1], box[3]):
        qy = centre(y, height)
        for x in range(box[0], box[2]):
            qx = centre(x, width)
            b0 = (e0[0] * qx + e0[1] * qy + e0[2]) * inverse
            if not b0 < ZERO:
                b1 = (e1[0] * qx + e1[1] * qy + e1[2]) * inverse
                if not b1 < ZERO:
                    b2 = (e2[0] * qx + e2[1] * qy + e2[2]) * inverse
                    if not b2 < ZERO and b0 + b1 + b2 > ZERO:
                        z = depths[0] * b0 + depths[1] * b1 + depths[2] * b2
                        if z >= -ONE and z <= ONE:
                            depth = wp.int64((z + ONE) * DEPTHS)
                            wp.atomic_min(nearest, first + y * width + x, (depth << ID_BITS) | wp.int64(face))


@wp.func
def facing(clip: wp.array(dtype=Any), first: int, corners: wp.vec3i):
    p0 = homogeneous(clip[first + corners[0]])
    p1 = homogeneous(clip[first + corners[1]])
    p2 = homogeneous(clip[first + corners[2]])
    return wp.dot(p0, wp.cross(p1, p2)) > ZERO


@wp.func
def silhouette(
    clip: wp.array(dtype=Any),
    first: int,
    faces: wp.array(dtype=wp.vec3i),
    across: wp.array(dtype=wp.vec3i),
    seen: int,
    along: int,
    x: int,
    y: int,
    sign: int,
    height: int,
    width: int,
):
    """(from corner, to corner, t) of the silhouette edge met on the way from a pixel's centre to its neighbour's.

    From the triangle seen at pixel (x, y), walk over the mesh in direction `sign` along axis `along`
    (0 is x) to the first edge that borders nothing or a triangle that faces the other way. Where triangles
    are finer than a pixel, the silhouette is seldom an edge of the visible triangle itself.
    t in [0, 1] is the part of the way; corners are -1 where there is no edge.
    """
    here = centre(x, width)
    level = centre(y, height)
    step = wide(2 * sign) / wide(width)
    if along == 1:
        here = centre(y, height)
        level = centre(x, width)
        step = wide(2 * sign) / wide(height)
    other_axis = 1 - along
    face = seen
    front = facing(clip, first, faces[face])
    came = int(-1)
    start = int(-1)
    end = int(-1)
    t = wide(0.0)
    walking = int(0)
    while walking < WALK:
        walking += 1
        corners = faces[face]
        neighbours = across[face]
        c0 = homogeneous(clip[first + corners[0]])
        c1 = homogeneous(clip[first + corners[1]])
        c2 = homogeneous(clip[first + corners[2]])
        best = wide(-wp.inf)
        leave = int(-1)
        if c0[2] > BEHIND and c1[2] > BEHIND and c2[2] > BEHIND:
            s0 = c0[other_axis] / c0[2] - level
            s1 = c1[other_axis] / c1[2] - level
            s2 = c2[other_axis] / c2[2] - level
            a0 = c0[along] / c0[2]
            a1 = c1[along] / c1[2]
            a2 = c2[along] / c2[2]
            if (s0 <= ZERO) != (s1 <= ZERO) and (came < 0 or neighbours[0] != came):
                crossing = (a0 + (a1 - a0) * s0 / (s0 - s1) - here) / step
                if crossing > best:
                    best = crossing
                    leave = 0
            if (s1 <= ZERO) != (s2 <= ZERO) and (came < 0 or neighbours[1] != came):
                crossing = (a1 + (a2 - a1) * s1 / (s1 - s2) - here) / step
                if crossing > best:
                    best = crossing
                    leave = 1
            if (s2 <= ZERO) != (s0 <= ZERO) and (came < 0 or neighbours[2] != came):
                crossing = (a2 + (a0 - a2) * s2 / (s2 - s0) - here) / step
                if crossing > best:
                    best = crossing
                    leave = 2
        if leave < 0 or best > ONE:
            walking = WALK
        else:
            other = neighbours[leave]
            outline = other < 0
            if not outline:
                outline = facing(clip, first, faces[other]) != front
            if outline:
                walking = WALK
                # An edge belongs to the pairs across it, rows or columns, or its gradient would count twice.
                i = corners[leave]
                j = corners[(leave + 1) % 3]
                pi = homogeneous(clip[first + i])
                pj = homogeneous(clip[first + j])
                run = wp.abs(pi[0] / pi[2] - pj[0] / pj[2]) * wide(width)
                rise = wp.abs(pi[1] / pi[2] - pj[1] / pj[2]) * wide(height)
                if (along == 0 and run <= rise) or (along == 1 and rise < run):
                    start = i
                    end = j
                    t = wp.max(best, ZERO)
            else:
                came = face
                face = other
    return start, end, t


@wp.func
def pair(
    rast: wp.array(dtype=Any),
    clip: wp.array(dtype=Any),
    vertices: int,
    faces: wp.array(dtype=wp.vec3i),
    across: wp.array(dtype=wp.vec3i),
    pixel: int,
    along: int,
    height: int,
    width: int,
):
    """(near, far, sign, from corner, to corner, t) of a pixel and the next along an axis.

    near, far: pixels. sign: 1 where the near one comes first. Corners, numbered through all views, are -1 where both
    see the same or no silhouette edge is between them.
    """
    near = pixel
    far = pixel
    sign = int(1)
    start = int(-1)
    end = int(-1)
    t = wide(0.0)
    x = pixel % width
    y = (pixel // width) % height
    if (along == 0 and x + 1 < width) or (along == 1 and y + 1 < height):
        far = pixel + 1
        if along == 1:
            far = pixel + width
        here = rast[pixel]
        there = rast[far]
        if here[3] != there[3]:
            face = int(here[3]) - 1
            if int(here[3]) == 0 or (int(there[3]) > 0 and here[2] > there[2]):
                sign = int(-1)
                near = far
                far = pixel
                face = int(there[3]) - 1
                x = near % width
                y = (near // width) % height
            first = pixel // (width * height) * vertices
            start, end, t = silhouette(clip, first, faces, across, face, along, x, y, sign, height, width)
            if start >= 0:
                start += first
                end += first
    return near, far, sign, start, end, t


@wp.func
def texels(coordinate: wide, edge: int, wrap: int):
    """Along one axis: (first texel, second texel, weight of the second, 1 where the weight has a slope)."""
    place = coordinate * wide(edge) - HALF
    if wrap == 1:
        place = (coordinate - wp.floor(coordinate)) * wide(edge) - HALF
    elif not (place > ZERO and place < wide(edge - 1)):
        place = wide(edge - 1)
        if not coordinate * wide(edge) - HALF > ZERO:
            place = ZERO
        return int(place), int(place), ZERO, ZERO
    first = int(wp.floor(place))
    return (first + edge) % edge, (first + 1) % edge, place - wide(first), ONE


@wp.func
def mip_level(footprint: Any, highest: int):
    """log2 of the longer axis of the pixel's footprint, in texels of the first level; in [0, highest]."""
    sx = wide(footprint[0])
    sy = wide(footprint[1])
    tx = wide(footprint[2])
    ty = wide(footprint[3])
    half = HALF * (sx * sx + sy * sy + tx * tx + ty * ty)
    cross = sx * ty - sy * tx
    # The larger singular value of the Jacobian, squared.
    longest = half + wp.sqrt(wp.max(half * half - cross * cross, ZERO))
    level = ZERO
    if longest > ONE:
        level = wp.min(HALF * wp.log2(longest), wide(highest))
    return level


@cache
def kernels(real: type) -> SimpleNamespace:
    """The kernels for pictures of float32 or of float64, `real`, by name; they are compiled together."""
    vec2, vec4 = wp.types.vector(2, real), wp.types.vector(4, real)
    module = wp.get_module(f"{__name__}_{real.__name__}")
    # Fused, the two products of an edge would be rounded differently for the two triangles that share it.
    module.options |= {"fuse_fp": False, "enable_backward": False}
    kernel = wp.kernel(module=module)

    @kernel
    def rasterize(
        clip: wp.array(dtype=vec4),
        faces: wp.array(dtype=wp.vec3i),
        height: int,
        width: int,
        large: int,
        nearest: wp.array(dtype=wp.int64),
        queue: wp.array2d(dtype=wp.int64),
        total: wp.array(dtype=wp.int64),
    ):
        """A thread draws a triangle of a view; one that may cover more than `large` pixels goes to the queue instead.

        queue (B, F): the number of tiles before a large triangle, and its id. total (B,): of large triangles and of
        tiles, in one number, so that one addition gives both and the queue is in the order of its tiles.
        """
        b, f = wp.tid()
        corners = faces[f]
        vertices = clip.shape[0] // total.shape[0]
        first = b * vertices
        if wp.min(corners) >= 0 and wp.max(corners) < vertices:
            a0 = clip[first + corners[0]]
            a1 = clip[first + corners[1]]
            a2 = clip[first + corners[2]]
            p0 = homogeneous(a0)
            p1 = homogeneous(a1)
            p2 = homogeneous(a2)
            box = bounds(p0, p1, p2, height, width)
            columns = box[2] - box[0]
            rows = box[3] - box[1]
            if columns > 0 and rows > 0:
                if columns * rows <= large:
                    z = point(wide(a0[2]), wide(a1[2]), wide(a2[2]))
                    draw(p0, p1, p2, z, box, f, b * height * width, height, width, nearest)
                else:
                    tiles = ((columns + TILE - 1) // TILE) * ((rows + TILE - 1) // TILE)
                    before = wp.atomic_add(total, b, (wp.int64(tiles) << ID_BITS) | wp.int64(1))
                    place = int(before & ((wp.int64(1) << ID_BITS) - wp.int64(1)))
                    queue[b, place] = ((before >> ID_BITS) << ID_BITS) | wp.int64(f)

    @kernel
    def rasterize_large(
        clip: wp.array(dtype=vec4),
        faces: wp.array(dtype=wp.vec3i),
        height: int,
        width: int,
        workers: int,
        nearest: wp.array(dtype=wp.int64),
        queue: wp.array2d(dtype=wp.int64),
        total: wp.array(dtype=wp.int64),
    ):
        """The tiles of the queue, dealt to a fixed number of threads, so that the host need not know how many."""
        b, worker = wp.tid()
        mask = (wp.int64(1) << ID_BITS) - wp.int64(1)
        count = int(total[b] & mask)
        tiles = total[b] >> ID_BITS
        first = b * (clip.shape[0] // total.shape[0])
        tile = wp.int64(worker)
        while tile < tiles:
            low = int(0)  # the last of the queue that begins at this tile or before
            high = count
            while high - low > 1:
                middle = (low + high) // 2
                if queue[b, middle] >> ID_BITS <= tile:
                    low = middle
                else:
                    high = middle
            entry = queue[b, low]
            f = int(entry & mask)
            corners = faces[f]
            a0 = clip[first + corners[0]]
            a1 = clip[first + corners[1]]
            a2 = clip[first + corners[2]]
            p0 = homogeneous(a0)
            p1 = homogeneous(a1)
            p2 = homogeneous(a2)
            box = bounds(p0, p1, p2, height, width)
            columns = (box[2] - box[0] + TILE - 1) // TILE
            place = int(tile - (entry >> ID_BITS))
            x = box[0] + place % columns * TILE
            y = box[1] + place // columns * TILE
            part = wp.vec4i(x, y, wp.min(x + TILE, box[2]), wp.min(y + TILE, box[3]))
            z = point(wide(a0[2]), wide(a1[2]), wide(a2[2]))
            draw(p0, p1, p2, z, part, f, b * height * width, height, width, nearest)
            tile += wp.int64(workers)

    @kernel
    def resolve(
        clip: wp.array(dtype=vec4),
        vertices: int,
        faces: wp.array(dtype=wp.vec3i),
        height: int,
        width: int,
        nearest: wp.array(dtype=wp.int64),
        rast: wp.array(dtype=vec4),
    ):
        p = wp.tid()
        key = nearest[p]
        if key != wp.int64(EMPTY):
            f = int(key & ((wp.int64(1) << ID_BITS) - wp.int64(1)))
            corners = faces[f]
            first = p // (height * width) * vertices
            a0 = clip[first + corners[0]]
            a1 = clip[first + corners[1]]
            a2 = clip[first + corners[2]]
            p0 = homogeneous(a0)
            p1 = homogeneous(a1)
            p2 = homogeneous(a2)
            e0 = wp.cross(p1, p2)
            e1 = wp.cross(p2, p0)
            e2 = wp.cross(p0, p1)
            qx = centre(p % width, width)
            qy = centre((p // width) % height, height)
            inverse = ONE / wp.dot(p0, e0)
            b0 = (e0[0] * qx + e0[1] * qy + e0[2]) * inverse
            b1 = (e1[0] * qx + e1[1] * qy + e1[2]) * inverse
            b2 = (e2[0] * qx + e2[1] * qy + e2[2]) * inverse
            total = b0 + b1 + b2  # 1 / w at the pixel
            z = wide(a0[2]) * b0 + wide(a1[2]) * b1 + wide(a2[2]) * b2
            rast[p] = vec4(real(b0 / total), real(b1 / total), real(z), real(f + 1))

    @kernel
    def rasterize_backward(
        clip: wp.array(dtype=vec4),
        vertices: int,
        faces: wp.array(dtype=wp.vec3i),
        height: int,
        width: int,
        rast: wp.array(dtype=vec4),
        grad: wp.array(dtype=vec4),
        grad_clip: wp.array(dtype=point),
    ):
        """Add the gradient of u and v to that of (x, y, w)."""
        p = wp.tid()
        f = int(rast[p][3]) - 1
        gu = wide(grad[p][0])
        gv = wide(grad[p][1])
        if f >= 0 and (gu != ZERO or gv != ZERO):
            q = point(centre(p % width, width), centre((p // width) % height, height), ONE)
            first = p // (height * width) * vertices
            corners = faces[f]
            p0 = homogeneous(clip[first + corners[0]])
            p1 = homogeneous(clip[first + corners[1]])
            p2 = homogeneous(clip[first + corners[2]])
            c0 = wp.cross(p0, q)
            c1 = wp.cross(p1, q)
            c2 = wp.cross(p2, q)
            n0 = wp.dot(p1, c2)
            n1 = wp.dot(p2, c0)
            n2 = wp.dot(p0, c1)
            total = n0 + n1 + n2
            if total != ZERO:
                mean = gu * n0 / total + gv * n1 / total
                g0 = (gu - mean) / total
                g1 = (gv - mean) / total
                g2 = -mean / total
                wp.atomic_add(grad_clip, first + corners[0], g2 * c1 - g1 * c2)
                wp.atomic_add(grad_clip, first + corners[1], g0 * c2 - g2 * c0)
                wp.atomic_add(grad_clip, first + corners[2], g1 * c0 - g0 * c1)

    @kernel
    def interpolate(
        attributes: wp.array3d(dtype=real),
        rast: wp.array(dtype=vec4),
        faces: wp.array(dtype=wp.vec3i),
        view: int,
        out: wp.array2d(dtype=real),
    ):
        """view: pixels of one, or 0 where all views have the same attributes."""
        p = wp.tid()
        r = rast[p]
        f = int(r[3]) - 1
        if f >= 0:
            s = int(0)
            if view > 0:
                s = p // view
            corners = faces[f]
            w = real(1.0) - r[0] - r[1]
            for c in range(attributes.shape[2]):
                out[p, c] = (
                    r[0] * attributes[s, corners[0], c]
                    + r[1] * attributes[s, corners[1], c]
                    + w * attributes[s, corners[2], c]
                )

    @kernel
    def interpolate_backward(
        attributes: wp.array3d(dtype=real),
        rast: wp.array(dtype=vec4),
        faces: wp.array(dtype=wp.vec3i),
        view: int,
        grad: wp.array2d(dtype=real),
        grad_attributes: wp.array3d(dtype=real),
        grad_rast: wp.array(dtype=vec4),
    ):
        p = wp.tid()
        r = rast[p]
        f = int(r[3]) - 1
        if f >= 0:
            s = int(0)
            if view > 0:
                s = p // view
            corners = faces[f]
            w = real(1.0) - r[0] - r[1]
            gu = real(0.0)
            gv = real(0.0)
            for c in range(attributes.shape[2]):
                g = grad[p, c]
                if g != real(0.0):
                    last = attributes[s, corners[2], c]
                    gu += g * (attributes[s, corners[0], c] - last)
                    gv += g * (attributes[s, corners[1], c] - last)
                    wp.atomic_add(grad_attributes, s, corners[0], c, g * r[0])
                    wp.atomic_add(grad_attributes, s, corners[1], c, g * r[1])
                    wp.atomic_add(grad_attributes, s, corners[2], c, g * w)
            grad_rast[p] = vec4(gu, gv, real(0.0), real(0.0))

    @kernel
    def footprint(
        attributes: wp.array3d(dtype=real),
        rast: wp.array(dtype=vec4),
        attribute_faces: wp.array(dtype=wp.vec3i),
        clip: wp.array(dtype=vec4),
        vertices: int,
        faces: wp.array(dtype=wp.vec3i),
        height: int,
        width: int,
        out: wp.array2d(dtype=real),
    ):
        """(dA/dX, dA/dY) of each attribute A, pixels as the unit."""
        p = wp.tid()
        r = rast[p]
        f = int(r[3]) - 1
        if f >= 0:
            view = p // (height * width)
            first = view * vertices
            corners = faces[f]
            p0 = homogeneous(clip[first + corners[0]])
            p1 = homogeneous(clip[first + corners[1]])
            p2 = homogeneous(clip[first + corners[2]])
            e0 = wp.cross(p1, p2)
            e1 = wp.cross(p2, p0)
            e2 = wp.cross(p0, p1)
            # u = e0.q / sum(e.q), and so on: the edge functions are linear in the pixel q = (x, y, 1).
            e = e0 + e1 + e2
            total = e[0] * centre(p % width, width) + e[1] * centre((p // width) % height, height) + e[2]
            if total != ZERO:
                u = wide(r[0])
                v = wide(r[1])
                px = wide(2.0) / (wide(width) * total)
                py = wide(2.0) / (wide(height) * total)
                s = wp.min(view, attributes.shape[0] - 1)
                own = attribute_faces[f]
                for c in range(attributes.shape[2]):
                    last = attributes[s, own[2], c]
                    du = wide(attributes[s, own[0], c] - last)
                    dv = wide(attributes[s, own[1], c] - last)
                    out[p, 2 * c] = real(du * ((e0[0] - u * e[0]) * px) + dv * ((e1[0] - v * e[0]) * px))
                    out[p, 2 * c + 1] = real(du * ((e0[1] - u * e[1]) * py) + dv * ((e1[1] - v * e[1]) * py))

    @kernel
    def halve(levels: wp.array3d(dtype=real), fine: int, coarse: int, height: int, width: int):
        """Fill a mip level, which starts at texel `coarse`, with the means of the one before, which starts at `fine`.

        height, width: of the finer one.
        """
        b, y, x = wp.tid()
        ny = wp.min(height, 2)
        nx = wp.min(width, 2)
        low = fine + ny * y * width + nx * x
        high = low + (ny - 1) * width
        to = coarse + y * wp.max(width // 2, 1) + x
        for c in range(levels.shape[2]):
            levels[b, to, c] = real(0.25) * (
                (levels[b, low, c] + levels[b, low + nx - 1, c]) + (levels[b, high, c] + levels[b, high + nx - 1, c])
            )

    @kernel
    def halve_backward(grad: wp.array3d(dtype=real), fine: int, coarse: int, height: int, width: int):
        b, y, x = wp.tid()
        ny = wp.min(height, 2)
        nx = wp.min(width, 2)
        low = fine + ny * y * width + nx * x
        high = low + (ny - 1) * width
        of = coarse + y * wp.max(width // 2, 1) + x
        for c in range(grad.shape[2]):
            g = real(0.25) * grad[b, of, c]
            grad[b, low, c] = grad[b, low, c] + g
            grad[b, low + nx - 1, c] = grad[b, low + nx - 1, c] + g
            grad[b, high, c] = grad[b, high, c] + g
            grad[b, high + nx - 1, c] = grad[b, high + nx - 1, c] + g

    @kernel
    def sample(
        levels: wp.array3d(dtype=real),
        count: int,
        rows: int,
        columns: int,
        uv: wp.array(dtype=vec2),
        footprints: wp.array(dtype=vec4),
        view: int,
        wrap: int,
        out: wp.array2d(dtype=real),
    ):
        """footprints are in texels, and unused with one level; view: as in `interpolate`."""
        p = wp.tid()
        u = wide(uv[p][0])
        v = wide(uv[p][1])
        if wp.abs(u) < wide(1e9) and wp.abs(v) < wide(1e9):
            s = int(0)
            if view > 0:
                s = p // view
            level = wide(0.0)
            if count > 1:
                level = mip_level(footprints[p], count - 1)
            start = int(0)
            height = rows
            width = columns
            for m in range(count):
                weight = ONE - wp.abs(level - wide(m))
                if weight > ZERO:
                    x0, x1, fx, slope_x = texels(u, width, wrap)
                    y0, y1, fy, slope_y = texels(v, height, wrap)
                    low = start + y0 * width
                    high = start + y1 * width
                    for c in range(levels.shape[2]):
                        bottom = wide(levels[s, low + x0, c]) + fx * wide(
                            levels[s, low + x1, c] - levels[s, low + x0, c]
                        )
                        top = wide(levels[s, high + x0, c]) + fx * wide(
                            levels[s, high + x1, c] - levels[s, high + x0, c]
                        )
                        out[p, c] = real(wide(out[p, c]) + weight * (bottom + fy * (top - bottom)))
                start += height * width
                height = wp.max(height // 2, 1)
                width = wp.max(width // 2, 1)

    @kernel
    def sample_backward(
        levels: wp.array3d(dtype=real),
        count: int,
        rows: int,
        columns: int,
        uv: wp.array(dtype=vec2),
        footprints: wp.array(dtype=vec4),
        view: int,
        wrap: int,
        grad: wp.array2d(dtype=real),
        grad_levels: wp.array3d(dtype=real),
        grad_uv: wp.array(dtype=vec2),
    ):
        p = wp.tid()
        u = wide(uv[p][0])
        v = wide(uv[p][1])
        if wp.abs(u) < wide(1e9) and wp.abs(v) < wide(1e9):
            s = int(0)
            if view > 0:
                s = p // view
            level = wide(0.0)
            if count > 1:
                level = mip_level(footprints[p], count - 1)
            gu = wide(0.0)
            gv = wide(0.0)
            start = int(0)
            height = rows
            width = columns
            for m in range(count):
                weight = ONE - wp.abs(level - wide(m))
                if weight > ZERO:
                    x0, x1, fx, slope_x = texels(u, width, wrap)
                    y0, y1, fy, slope_y = texels(v, height, wrap)
                    low = start + y0 * width
                    high = start + y1 * width
                    gx = wide(0.0)
                    gy = wide(0.0)
                    for c in range(levels.shape[2]):
                        g = weight * wide(grad[p, c])
                        if g != ZERO:
                            t00 = levels[s, low + x0, c]
                            t01 = levels[s, low + x1, c]
                            t10 = levels[s, high + x0, c]
                            t11 = levels[s, high + x1, c]
                            gx += g * ((ONE - fy) * wide(t01 - t00) + fy * wide(t11 - t10))
                            gy += g * ((ONE - fx) * wide(t10 - t00) + fx * wide(t11 - t01))
                            wp.atomic_add(grad_levels, s, low + x0, c, real(g * (ONE - fx) * (ONE - fy)))
                            wp.atomic_add(grad_levels, s, low + x1, c, real(g * fx * (ONE - fy)))
                            wp.atomic_add(grad_levels, s, high + x0, c, real(g * (ONE - fx) * fy))
                            wp.atomic_add(grad_levels, s, high + x1, c, real(g * fx * fy))
                    gu += gx * wide(width) * slope_x
                    gv += gy * wide(height) * slope_y
                start += height * width
                height = wp.max(height // 2, 1)
                width = wp.max(width // 2, 1)
            grad_uv[p] = vec2(real(gu), real(gv))

    @kernel
    def antialias(
        colour: wp.array2d(dtype=real),
        rast: wp.array(dtype=vec4),
        clip: wp.array(dtype=vec4),
        vertices: int,
        faces: wp.array(dtype=wp.vec3i),
        across: wp.array(dtype=wp.vec3i),
        height: int,
        width: int,
        out: wp.array2d(dtype=real),
    ):
        """out starts as a copy of colour."""
        p = wp.tid()
        for along in range(2):
            near, far, sign, i, j, t = pair(rast, clip, vertices, faces, across, p, along, height, width)
            if i >= 0:
                # Beyond the middle the near surface covers part of the far pixel, before it the reverse.
                target = near
                if t > HALF:
                    target = far
                for c in range(colour.shape[1]):
                    wp.atomic_add(out, target, c, real((t - HALF) * wide(colour[near, c] - colour[far, c])))

    @kernel
    def antialias_backward(
        colour: wp.array2d(dtype=real),
        rast: wp.array(dtype=vec4),
        clip: wp.array(dtype=vec4),
        vertices: int,
        faces: wp.array(dtype=wp.vec3i),
        across: wp.array(dtype=wp.vec3i),
        height: int,
        width: int,
        grad: wp.array2d(dtype=real),
        grad_colour: wp.array2d(dtype=real),
        grad_clip: wp.array(dtype=point),
    ):
        """grad_colour starts as a copy of grad; grad_clip is that of (x, y, w)."""
        p = wp.tid()
        for along in range(2):
            near, far, sign, i, j, t = pair(rast, clip, vertices, faces, across, p, along, height, width)
            if i >= 0:
                target = near
                if t > HALF:
                    target = far
                gt = wide(0.0)
                for c in range(colour.shape[1]):
                    g = grad[target, c]
                    gt += wide(g) * wide(colour[near, c] - colour[far, c])
                    part = real((t - HALF) * wide(g))
                    wp.atomic_add(grad_colour, near, c, part)
                    wp.atomic_add(grad_colour, far, c, -part)
                if gt != ZERO and t > ZERO:
                    # t = (crossing - centre) / step; the crossing is where the edge meets the row or column.
                    level = centre((p // width) % height, height)
                    step = wide(2 * sign) / wide(width)
                    if along == 1:
                        level = centre(p % width, width)
                        step = wide(2 * sign) / wide(height)
                    other_axis = 1 - along
                    pi = homogeneous(clip[i])
                    pj = homogeneous(clip[j])
                    ai = pi[along] / pi[2]
                    aj = pj[along] / pj[2]
                    si = pi[other_axis] / pi[2] - level
                    sj = pj[other_axis] / pj[2] - level
                    r = si / (si - sj)
                    ga = gt / step
                    gs = ga * (aj - ai) / (si - sj)
                    # Of x / w, y / w and the w of both, along the axis and across it.
                    gi = point(ga, gs, -(ga * ai + gs * (si + level)))
                    gj = point(ga, gs, -(ga * aj + gs * (sj + level)))
                    if along == 1:
                        gi = point(gs, ga, gi[2])
                        gj = point(gs, ga, gj[2])
                    wp.atomic_add(grad_clip, i, gi * ((ONE - r) / pi[2]))
                    wp.atomic_add(grad_clip, j, gj * (r / pj[2]))

    made = {name: each for name, each in locals().items() if isinstance(each, wp.Kernel)}
    return SimpleNamespace(**made)
