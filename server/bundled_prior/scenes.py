# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects of descriptions: built, painted, put together, and seen."""

from __future__ import annotations

import numpy as np

from ..geometry.colour import linear_to_srgb
from . import objects
from . import primitives as sdf
from .descriptions import SUPPORTS, Description, Thing
from .shapes import RADII, RADIUS, Shape, Uniform, middle


def build(description: Description, rng: np.random.Generator | None = None) -> np.ndarray:
    """The painted primitives (P, `primitives.WIDTH`) of a description, centred at the origin, inside the ball.

    A generator draws proportions, places and shades; without one they are the middle ones.
    """
    thing, other = description.thing, description.other
    rows = _painted(thing, rng)
    if not other:
        return rows
    uniform = rng.uniform if rng else middle
    pair = _placed(rows, description.relation, other.noun, _painted(other, rng), uniform)
    return sdf.normalized(pair, uniform(*RADII) if rng else RADIUS)


def signed_distance(description: Description, points: np.ndarray, seed: int | None = None) -> np.ndarray:
    """As `objects.signed_distance`, of a description."""
    rng = None if seed is None else np.random.default_rng(seed)
    return objects.distances(build(description, rng), points)


def truth_at(description: Description, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle object at points (N, 3) of its surface, metres.

    Returns:
        The names (N,) of the parts that they belong to, each of `primitives.PARTS` or empty, and their base colours
        (N, 3), sRGB; a finish's second colour is left out.
    """
    rows = build(description)
    nearest = rows[objects.nearest_part(rows, np.ascontiguousarray(points, np.float64))]
    names = np.array(("", *sdf.PARTS))[nearest[:, sdf.NAME].astype(int)]
    return names, linear_to_srgb(nearest[:, 1:4])


def scene(
    description: Description, rng: np.random.Generator, angles: np.ndarray | None = None, vary: bool = True
) -> objects.Scene:
    """A random scene of a description; see `objects.scene`."""
    parts = build(description, rng if vary else None)
    return objects.seen(parts, objects.shade(description.thing.colour, None), rng, angles)


def _painted(thing: Thing, rng: np.random.Generator | None) -> np.ndarray:
    shape = Shape.build(thing.noun, rng, thing.size, thing.count)
    second = objects.shade(thing.part_colour, rng) if thing.part else None
    return shape.painted(objects.shade(thing.colour, rng), thing.finish, thing.part, second)


def _placed(rows: np.ndarray, relation: str, noun: str, other: np.ndarray, uniform: Uniform) -> np.ndarray:
    """Both objects' primitives, the first one smaller, and on top of the other or at one of its sides."""
    nowhere = (0.0, 0.0, 0.0)
    if relation == "on":
        y, scale = SUPPORTS[noun]
        rows = sdf.moved(rows, nowhere, scale * uniform(0.9, 1.1))
        low, high = sdf.bounds(rows)
        centre = 0.5 * (low + high)
        return np.concatenate([sdf.moved(rows, (-centre[0], y - centre[1], _top(other, y) - low[2] - 0.01), 1), other])
    rows = sdf.moved(rows, nowhere, uniform(0.55, 0.75))
    (low, high), (floor, far) = sdf.bounds(rows), sdf.bounds(other)
    gap = 0.5 * (high[0] - low[0] + far[0] - floor[0]) + uniform(0.03, 0.10)
    x = gap if uniform(0, 1) > 0.5 else -gap
    centre, middle_of = 0.5 * (low + high), 0.5 * (floor + far)
    return np.concatenate([sdf.moved(rows, (*(middle_of - centre + (x, 0, 0))[:2], floor[2] - low[2]), 1), other])


def _top(rows: np.ndarray, y: float) -> float:
    """The height of the highest point above, or nearly above, (0, y), metres."""
    height = np.linspace(RADIUS, -RADIUS, 333)
    columns = [objects.distances(rows, np.stack([0 * height + x, 0 * height + y, height], 1)) for x in (-0.12, 0, 0.12)]
    return float(height[(np.min(columns, 0) < 0).argmax()])
