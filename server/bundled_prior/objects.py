# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of procedural objects, which the bundled prior learns from (`shapes` has the objects, `captions` the words).

Objects are sphere-traced by numba (J. C. Hart, "Sphere tracing", 1996; the distances are I. Quilez's published closed
forms) under a random camera, light and flat background.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from ..priors.prompts import view_word
from ..rendering import shading
from ..rendering.cameras import DISTANCE, DISTANCE_JITTER, ELEVATION, FIELD_OF_VIEW, OBJECT_RADIUS, OVERHEAD
from .primitives import ARC, BOX, CONE, CYLINDER, DOME, GATE, LIMB, PRISM, SPHERE, TAPER, TORUS, WIDTH
from .shapes import COLOURS, FINISHES, FREQUENCY, METAL, NOUNS, Shape

RESOLUTION = 64
# The corpus's own, because the weights in `model/` were trained with them; jobs draw other shares and ranges
# (`rendering.cameras.OVERHEAD_SHARE`, `rendering.shading`).
OVERHEAD_SHARE = 0.18
LAMP_DIRECTION = (90.0, 60.0)  # degrees round the view axis, 90 is up: mean and standard deviation
SATURATION, VALUE = (0.3, 0.75), (0.3, 0.95)  # of coloured backgrounds


@njit(cache=True, fastmath=True)
def _part_distance(row, px, py, pz):
    kind = int(row[0])
    dx, dy, dz = px - row[4], py - row[5], pz - row[6]
    x = row[7] * dx + row[8] * dy + row[9] * dz
    y = row[10] * dx + row[11] * dy + row[12] * dz
    z = row[13] * dx + row[14] * dy + row[15] * dz
    a, b, c, e = row[16], row[17], row[18], row[19]
    if kind == SPHERE or kind == DOME:
        if a == b and b == c:
            d = math.sqrt(x * x + y * y + z * z) - a
        else:
            near = math.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
            slope = math.sqrt((x / a**2) ** 2 + (y / b**2) ** 2 + (z / c**2) ** 2)
            d = near * (near - 1) / slope if slope > 1e-9 else -min(a, b, c)
        return max(d, -z) if kind == DOME else d
    if kind == BOX:
        qx, qy, qz = abs(x) - a + e, abs(y) - b + e, abs(z) - c + e
        return math.sqrt(max(qx, 0) ** 2 + max(qy, 0) ** 2 + max(qz, 0) ** 2) + min(max(qx, max(qy, qz)), 0.0) - e
    if kind == CYLINDER:
        qr, qz = math.sqrt(x * x + y * y) - a + c, abs(z) - b + c
        return math.sqrt(max(qr, 0) ** 2 + max(qz, 0) ** 2) + min(max(qr, qz), 0.0) - c
    if kind == CONE:
        r = math.sqrt(x * x + y * y)
        ax, ay = r - min(r, a if z < 0 else b), abs(z) - c
        kx, ky = b - a, 2 * c
        t = min(max(((b - r) * kx + (c - z) * ky) / (kx * kx + ky * ky), 0.0), 1.0)
        bx, by = r - b + kx * t, z - c + ky * t
        s = -1.0 if bx < 0 and ay < 0 else 1.0
        return s * math.sqrt(min(ax * ax + ay * ay, bx * bx + by * by))
    if kind == TORUS:
        r = math.sqrt(x * x + y * y) - a
        return math.sqrt(r * r + z * z) - b
    if kind == PRISM:
        slope = (abs(x) * c + z * a - a * c) / math.sqrt(a * a + c * c)
        return max(max(slope, -z), abs(y) - b)
    if kind == LIMB:
        r, z = math.sqrt(x * x + y * y), z + c
        lean = (a - b) / (2 * c)
        up = math.sqrt(1 - lean * lean)
        along = z * up - r * lean
        if along < 0:
            return math.sqrt(r * r + z * z) - a
        if along > 2 * c * up:
            return math.sqrt(r * r + (z - 2 * c) ** 2) - b
        return r * up + z * lean - a
    if kind == ARC:
        sine, cosine = math.sin(c / a), math.cos(c / a)
        x = abs(x)
        along = x * sine + z * cosine if cosine * x > sine * z else math.sqrt(x * x + z * z)
        return math.sqrt(max(x * x + y * y + z * z + a * a - 2 * a * along, 0.0)) - b
    if kind == TAPER:
        f = b * e / a
        sx = (2 * c * (abs(x) - a) + (z + c) * (a - e)) / math.sqrt(4 * c * c + (a - e) ** 2)
        sy = (2 * c * (abs(y) - b) + (z + c) * (b - f)) / math.sqrt(4 * c * c + (b - f) ** 2)
        return max(max(sx, sy), abs(z) - c)
    if kind == GATE:
        outer = max(max(abs(x) - a, abs(y) - b), abs(z) - c)
        return max(outer, e - math.sqrt(x * x + (z + c) ** 2))
    r = math.sqrt(x * x + y * y)
    outer = max(r - a, abs(z) - b)
    inner = max(r - a + c, -z - b + c)
    return max(outer, -inner)


@njit(cache=True, fastmath=True)
def _distance(rows, x, y, z):
    nearest, best = 0, 1e9
    for i in range(rows.shape[0]):
        if rows[i, 16] > 0:
            d = _part_distance(rows[i], x, y, z)
            if d < best:
                nearest, best = i, d
    return best, nearest


@njit(cache=True)
def distances(rows, points):
    """Signed distance (N,), metres, of primitives (P, `primitives.WIDTH`) at points (N, 3)."""
    out = np.empty(points.shape[0])
    for i in range(points.shape[0]):
        out[i] = _distance(rows, points[i, 0], points[i, 1], points[i, 2])[0]
    return out


def signed_distance(noun: str, points: np.ndarray, seed: int | None = None) -> np.ndarray:
    """Signed distance (N,), metres, negative inside, of `noun` at points (N, 3).

    Middle proportions, or those of `seed`. Exact or an under-estimate outside (bounds at sharp edges of roof, cap
    and mug), so its zero set is exact.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must have shape (N, 3), not {points.shape}.")
    rng = None if seed is None else np.random.default_rng(seed)
    return distances(Shape.build(noun, rng).parts, np.ascontiguousarray(points))


@njit(cache=True)
def nearest_part(parts, points):
    """Index (N,) of the primitive of `parts` (P, `primitives.WIDTH`) that is nearest to each point (N, 3), metres."""
    out = np.empty(points.shape[0], np.int64)
    for i in range(points.shape[0]):
        out[i] = _distance(parts, points[i, 0], points[i, 1], points[i, 2])[1]
    return out


@njit(cache=True)
def _on_pattern(finish, x, y, z):
    """Whether a point of the object, in metres, has the second colour of a finish, an index of `FINISHES`."""
    if finish == 1:  # tilted, so that a table's top has stripes too
        across = (0.36 * x + 0.36 * y + 0.86 * z) / 0.27
        return across - math.floor(across) < 0.4
    if finish == 2:  # balls at the places of a body-centred lattice
        for shift in (0.0, 0.5):
            total = 0.0
            for v in (x, y, z):
                cell = v / 0.44 + shift + 0.21
                total += (cell - math.floor(cell) - 0.5) ** 2
            if total < 0.31**2:
                return True
        return False
    if finish == 3:
        return (math.floor(x / 0.23 + 0.31) + math.floor(y / 0.23 + 0.31) + math.floor(z / 0.23 + 0.31)) % 2 == 0
    rings = (math.hypot(x + 0.25, 0.6 * y + 0.1) + 0.04 * math.sin(5 * z + 2 * x)) / 0.24
    return rings - math.floor(rings) < 0.45


@njit(cache=True, fastmath=True)
def _trace(scene, eye, reach, dx, dy, dz):
    """The primitive that a ray meets, -1 for none, and the distance to it; the ray's direction is a unit vector."""
    middle = -(eye[0] * dx + eye[1] * dy + eye[2] * dz)
    chord = middle * middle - reach * reach + OBJECT_RADIUS * OBJECT_RADIUS
    if chord > 0:
        t, end = middle - math.sqrt(chord), middle + math.sqrt(chord)
        for _ in range(96):
            d, part = _distance(scene, eye[0] + t * dx, eye[1] + t * dy, eye[2] + t * dz)
            if d < 1e-3:
                return part, t
            t += 0.9 * d
            if t > end:
                break
    return -1, 0.0


@njit(cache=True, parallel=True, fastmath=True)
def _render(rows, eyes, lights, ambient, diffuse, backgrounds, tangent, size, samples):
    """Pictures uint8 (N, size, size, 3) and depths float32 (N, size, size): of the nearest sample along the view."""
    count = eyes.shape[0]
    out, depths = np.empty((count, size, size, 3), np.uint8), np.full((count, size, size), np.inf, np.float32)
    fine = size * samples
    for n in prange(count):
        eye, scene = eyes[n], rows[n]
        reach = math.sqrt(eye[0] ** 2 + eye[1] ** 2 + eye[2] ** 2)
        fx, fy, fz = -eye[0] / reach, -eye[1] / reach, -eye[2] / reach
        across = math.sqrt(fx * fx + fy * fy)
        rx, ry = fy / across, -fx / across
        ux, uy, uz = ry * fz, -rx * fz, rx * fy - ry * fx
        for row in range(size):
            for column in range(size):
                total = np.zeros(3)
                for sub in range(samples * samples):
                    sx = (2 * (column * samples + sub % samples + 0.5) / fine - 1) * tangent
                    sy = (1 - 2 * (row * samples + sub // samples + 0.5) / fine) * tangent
                    dx, dy, dz = fx + sx * rx + sy * ux, fy + sx * ry + sy * uy, fz + sy * uz
                    length = math.sqrt(dx * dx + dy * dy + dz * dz)
                    dx, dy, dz = dx / length, dy / length, dz / length
                    hit, t = _trace(scene, eye, reach, dx, dy, dz)
                    if hit < 0:
                        for k in range(3):
                            total[k] += backgrounds[n, k]
                        continue
                    depths[n, row, column] = min(depths[n, row, column], t / length)
                    x, y, z, h = eye[0] + t * dx, eye[1] + t * dy, eye[2] + t * dz, 1e-3
                    one = scene[hit]
                    nx = _part_distance(one, x + h, y, z) - _part_distance(one, x - h, y, z)
                    ny = _part_distance(one, x, y + h, z) - _part_distance(one, x, y - h, z)
                    nz = _part_distance(one, x, y, z + h) - _part_distance(one, x, y, z - h)
                    norm = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
                    facing = (nx * lights[n, 0] + ny * lights[n, 1] + nz * lights[n, 2]) / norm
                    shade = ambient[n] + diffuse[n] * max(facing, 0.0)
                    finish = int(one[20])
                    paint = 21 if 0 < finish < METAL and _on_pattern(finish, x, y, z) else 1
                    spark = 0.0
                    if finish >= METAL:  # Blinn's highlight, and for metal a bright sky above a dark ground
                        nx, ny, nz = nx / norm, ny / norm, nz / norm
                        hx, hy, hz = lights[n, 0] - dx, lights[n, 1] - dy, lights[n, 2] - dz
                        half = math.sqrt(hx * hx + hy * hy + hz * hz)
                        spark = 0.8 * max((nx * hx + ny * hy + nz * hz) / half, 0.0) ** 30
                        if finish == METAL:
                            up = dz - 2 * (nx * dx + ny * dy + nz * dz) * nz
                            sky = min(max(4 * up + 0.6, 0.0), 1.0)
                            shade = 0.4 * shade + 0.1 + 1.1 * sky
                    for k in range(3):
                        v = min(one[paint + k] * shade + spark, 1.0)
                        total[k] += 12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055
                for k in range(3):
                    out[n, row, column, k] = int(255 * total[k] / (samples * samples) + 0.5)
    return out, depths


def camera_position(azimuth: float, elevation: float, distance: float = DISTANCE) -> np.ndarray:
    """Where a camera that looks at the origin stands, (3,) metres; degrees, azimuth 0 is the front (-Y), 90 is +X."""
    a, e = math.radians(azimuth), math.radians(elevation)
    return distance * np.array([math.sin(a) * math.cos(e), -math.cos(a) * math.cos(e), math.sin(e)])


def _background(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    while True:
        if rng.random() < 1 - shading.COLOURED_SHARE:
            flat = np.full(3, rng.uniform(*shading.GREYS))
        else:
            flat = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*SATURATION), rng.uniform(*VALUE)))
        if np.abs(flat - colour).max() > 0.25:
            return flat


def random_light(rng: np.random.Generator, eye: np.ndarray) -> np.ndarray:
    """Unit vector (3,) to a lamp at infinity, up to `LAMP_TILT` off the camera, mostly above it."""
    forward = eye / np.linalg.norm(eye)
    right = np.cross((0, 0, 1), forward)
    right /= np.linalg.norm(right)
    tilt, way = math.radians(rng.uniform(0, shading.LAMP_TILT)), math.radians(rng.normal(*LAMP_DIRECTION))
    aside = math.cos(way) * right + math.sin(way) * np.cross(forward, right)
    return math.cos(tilt) * forward + math.sin(tilt) * aside


@dataclass(frozen=True)
class Scene:
    """One picture's content.

    parts: (P, `primitives.WIDTH`), painted. eye, light: (3,), the camera's place and the unit vector to the lamp.
    ambient, diffuse: as `rendering.shading.Lights`. background: (3,) sRGB. view: one of `priors.prompts.VIEWS`.
    """

    parts: np.ndarray
    eye: np.ndarray
    light: np.ndarray
    ambient: float
    diffuse: float
    background: np.ndarray
    view: str


def scene(
    colour: str,
    noun: str,
    rng: np.random.Generator,
    angles: np.ndarray | None = None,
    vary: bool = True,
    finish: str = "plain",
) -> Scene:
    """A random scene of a noun.

    angles: azimuth and elevation in degrees, random by default. vary: draw the proportions too, otherwise the middle.
    """
    paint = shade(colour, rng)
    parts = Shape.build(noun, rng if vary else None).painted(paint, finish)
    return seen(parts, paint, rng, angles)


def shade(colour: str, rng: np.random.Generator | None) -> np.ndarray:
    """A random shade (3,), sRGB, of a colour's word, gray for none; without a generator its own."""
    own = np.array(COLOURS[colour or "gray"])
    return np.clip(own + rng.normal(0, 0.02, 3), 0.02, 0.98) if rng else own


def seen(parts: np.ndarray, paint: np.ndarray, rng: np.random.Generator, angles: np.ndarray | None = None) -> Scene:
    """A random scene of painted parts, as `scene`, on a background that differs from the colour `paint` (3,), sRGB."""
    high = rng.uniform(*OVERHEAD) if rng.random() < OVERHEAD_SHARE else rng.uniform(*ELEVATION)
    azimuth, elevation = (rng.uniform(0, 360), high) if angles is None else angles
    eye = camera_position(azimuth, elevation, DISTANCE + rng.uniform(-DISTANCE_JITTER, DISTANCE_JITTER))
    return Scene(
        parts,
        eye,
        random_light(rng, eye),
        rng.uniform(*shading.AMBIENT),
        rng.uniform(*shading.DIFFUSE),
        _background(rng, paint),
        view_word(azimuth, elevation),
    )


def render(scenes: list[Scene], size: int = RESOLUTION) -> np.ndarray:
    """Pictures uint8 (N, size, size, 3), sRGB, top row first; the same scenes give the same bytes."""
    return _draw(scenes, size, samples=2)[0]


def render_depth(scenes: list[Scene], size: int = RESOLUTION) -> np.ndarray:
    """Depths float32 (N, size, size) of the pixels' centres, metres along the view, top row first; inf is background.

    The pixels are those of `render`.
    """
    return _draw(scenes, size, samples=1)[1]


def _draw(scenes: list[Scene], size: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.zeros((len(scenes), max(len(each.parts) for each in scenes), WIDTH))
    for target, each in zip(rows, scenes):
        target[: len(each.parts)] = each.parts
    eyes, lights, flats = (
        np.array([getattr(each, name) for each in scenes]) for name in ("eye", "light", "background")
    )
    ambient, diffuse = (np.array([getattr(each, name) for each in scenes]) for name in ("ambient", "diffuse"))
    pair: tuple[np.ndarray, np.ndarray] = _render(
        rows, eyes, lights, ambient, diffuse, flats, math.tan(math.radians(FIELD_OF_VIEW / 2)), size, samples
    )
    return pair


def sample_labels(count: int, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """`count` random (colour, noun, finish): nouns by `FREQUENCY`, colours uniform, three in four plain."""
    weight = np.array([FREQUENCY[n] for n in NOUNS])
    nouns = rng.choice(list(NOUNS), count, p=weight / weight.sum())
    patterned = rng.random(count) < 0.25
    finishes = np.where(patterned, rng.choice(FINISHES[1:], count), FINISHES[0])
    return list(zip(rng.choice(list(COLOURS), count).tolist(), nouns.tolist(), finishes.tolist()))
