# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed-distance primitives: the rows of numbers that objects are made of (`objects` measures distances to them).

Axes and units as in `shapes`. A primitive is one row of `WIDTH` numbers: kind, albedo (3), centre (3), rotation from
the world to the primitive (9, row by row), sizes (4), finish, second albedo (3), name (its place in `PARTS` plus one,
or 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# numba compiles these numbers into `objects`, and its cache does not see a change here: add new kinds at the end.
SPHERE, BOX, CYLINDER, CONE, TORUS, PRISM, DOME, CUP, LIMB, ARC, TAPER, GATE = range(12)
WIDTH = 25
NAME = 24  # the column of the name

# Parts that captions can give a colour of their own. Labels hold their places: add new ones at the end.
PARTS = (
    "seat",
    "back",
    "legs",
    "top",
    "stem",
    "trunk",
    "nose",
    "fins",
    "roof",
    "wheels",
    "door",
    "hat",
    "scarf",
    "base",
    "handle",
    "head",
    "arms",
    "belly",
    "wings",
    "sails",
    "pot",
    "towers",
    "roofs",
    "cushions",
    "pillow",
    "books",
    "keys",
    "arches",
    "cab",
    "cargo",
    "tail",
    "ears",
    "mane",
    "lid",
    "spout",
    "cap",
    "label",
    "rotor",
    "ribbon",
    "leaves",
    "icing",
    "candles",
    "neck",
    "trim",
)

Vector = Sequence[float] | np.ndarray  # three numbers
MAIN = (-1.0, -1.0, -1.0)  # stands for the captioned colour


def part(
    kind: int, at: Vector, sizes: Sequence[float], colour: Vector = MAIN, turn: np.ndarray | None = None
) -> np.ndarray:
    """The row of a primitive centred at `at`, metres, and turned by a rotation matrix (3, 3).

    sizes: half axes (sphere); half edges and rounding (box); radius, half height and rounding (cylinder); bottom
        radius, top radius and half height (cone); ring and tube radius (torus); half width, half depth and height
        (prism); half axes (dome); radius, half height and wall (cup); bottom and top radius and half the distance
        between the balls' centres (limb); ring and tube radius and half the length of the ring that is there (arc);
        half edges of the bottom, half height, half the top's width (taper, a truncated pyramid); half edges and the
        radius of a hole along y at the bottom (gate).
    """
    row = np.zeros(WIDTH)
    row[0], row[1:4], row[4:7] = kind, colour, at
    row[7:16] = (np.eye(3) if turn is None else np.asarray(turn).T).ravel()
    row[16 : 16 + len(sizes)] = sizes
    return row


def rotation(axis: str, degrees: float) -> np.ndarray:
    """Rotation matrix (3, 3), counter-clockwise about a coordinate axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def ellipsoid(
    at: Vector, rx: float, ry: float, rz: float, colour: Vector = MAIN, turn: np.ndarray | None = None
) -> np.ndarray:
    return part(SPHERE, at, (rx, ry, rz), colour, turn)


def ball(at: Vector, radius: float, colour: Vector = MAIN) -> np.ndarray:
    return ellipsoid(at, radius, radius, radius, colour)


def box(
    at: Vector,
    hx: float,
    hy: float,
    hz: float,
    colour: Vector = MAIN,
    turn: np.ndarray | None = None,
    rounding: float = 0.03,
) -> np.ndarray:
    return part(BOX, at, (hx, hy, hz, rounding), colour, turn)


def cylinder(
    at: Vector,
    radius: float,
    half: float,
    colour: Vector = MAIN,
    turn: np.ndarray | None = None,
    rounding: float = 0.03,
) -> np.ndarray:
    return part(CYLINDER, at, (radius, half, rounding), colour, turn)


def cone(
    at: Vector, bottom: float, top: float, half: float, colour: Vector = MAIN, turn: np.ndarray | None = None
) -> np.ndarray:
    return part(CONE, at, (bottom, top, half), colour, turn)


def named(name: str, *rows: np.ndarray) -> list[np.ndarray]:
    """The rows as a part that captions can give a colour of its own, one of `PARTS`."""
    for row in rows:
        row[NAME] = PARTS.index(name) + 1
    return list(rows)


def limb(start: Vector, end: Vector, first: float, last: float, colour: Vector = MAIN) -> np.ndarray:
    """The convex hull of two balls: their centres and their radii."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    length = float(np.linalg.norm(b - a))
    z = (b - a) / length
    x = np.cross(z, (1, 0, 0) if abs(z[0]) < 0.7 else (0, 1, 0))
    x /= np.linalg.norm(x)
    return part(LIMB, 0.5 * (a + b), (first, last, 0.5 * length), colour, np.stack([x, np.cross(z, x), z], 1))


def arc(
    at: Vector, ring: float, tube: float, degrees: float, colour: Vector = MAIN, turn: np.ndarray | None = None
) -> np.ndarray:
    """A torus's piece in the plane y = 0, that spans so many degrees about its highest point; its ends are round."""
    return part(ARC, at, (ring, tube, ring * math.radians(degrees / 2)), colour, turn)


def taper(
    at: Vector, hx: float, hy: float, hz: float, top: float, colour: Vector = MAIN, turn: np.ndarray | None = None
) -> np.ndarray:
    return part(TAPER, at, (hx, hy, hz, top), colour, turn)


def gate(
    at: Vector, hx: float, hy: float, hz: float, hole: float, colour: Vector = MAIN, turn: np.ndarray | None = None
) -> np.ndarray:
    return part(GATE, at, (hx, hy, hz, hole), colour, turn)


def hull_points(row: np.ndarray) -> np.ndarray:
    """Points (N, 3) whose convex hull is the primitive's to within a percent."""
    a, b, c, e = row[16:20]
    kind = int(row[0])
    t = np.linspace(0, 2 * np.pi, 33)[:-1]
    ring = np.stack([np.cos(t), np.sin(t), 0 * t], 1)
    signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    if kind in (SPHERE, DOME):
        z = np.linspace(0 if kind == DOME else -1, 1, 17)
        points = np.concatenate([ring * math.sqrt(max(0, 1 - v * v)) + (0, 0, v) for v in z]) * (a, b, c)
    elif kind in (BOX, GATE):
        points = signs * (a, b, c)
    elif kind in (CYLINDER, CUP):
        points = np.concatenate([ring * a + (0, 0, b), ring * a - (0, 0, b)])
    elif kind == CONE:
        points = np.concatenate([ring * a - (0, 0, c), ring * b + (0, 0, c)])
    elif kind == LIMB:
        ball = np.concatenate([ring * math.sqrt(1 - v * v) + (0, 0, v) for v in np.linspace(-1, 1, 17)])
        points = np.concatenate([ball * a - (0, 0, c), ball * b + (0, 0, c)])
    elif kind == ARC:
        angles = np.linspace(-c / a, c / a, 25)
        along = np.stack([np.sin(angles), 0 * angles, np.cos(angles)], 1)
        ball = np.concatenate([ring * math.sqrt(1 - v * v) + (0, 0, v) for v in np.linspace(-1, 1, 9)])
        points = (along[:, None] * a + ball * b).reshape(-1, 3)
    elif kind == TAPER:
        points = np.concatenate([signs * (a, b, 0) - (0, 0, c), signs * (e, b * e / a, 0) + (0, 0, c)])
    elif kind == TORUS:
        points = np.concatenate([ring * (a + b), ring * a + (0, 0, b), ring * a - (0, 0, b)])
    else:
        points = np.array([(x * (1 - z) * a, y * b, z * c) for x in (-1, 1) for y in (-1, 1) for z in (0, 1)], float)
    return points @ row[7:16].reshape(3, 3) + row[4:7]


def normalized(rows: np.ndarray, radius: float) -> np.ndarray:
    """Rows moved and scaled so that their bounding box's centre is the origin, and the farthest point `radius` away."""
    hull = np.concatenate([hull_points(row) for row in rows])
    centre = 0.5 * (hull.min(0) + hull.max(0))
    return moved(rows, -centre, radius / np.linalg.norm(hull - centre, axis=1).max())


def bounds(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest coordinates (3,) of primitives."""
    hull = np.concatenate([hull_points(row) for row in rows])
    return hull.min(0), hull.max(0)


def moved(rows: np.ndarray, offset: Vector, scale: float) -> np.ndarray:
    """Rows after an offset, metres, and a scaling about the origin."""
    rows = rows.copy()
    rows[:, 4:7] = (rows[:, 4:7] + np.asarray(offset)) * scale
    rows[:, 16:20] *= scale
    return rows


def stretched(rows: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Rows stretched along the world's axes by factors (3,), each kept a primitive: wheels stay round.

    Centres move exactly. A size grows as its own axis does; radii of round sections by the smaller factor of theirs.
    """
    rows = rows.copy()
    rows[:, 4:7] *= factors
    for row in rows:
        along = np.linalg.norm(row[7:16].reshape(3, 3) * factors, axis=1)  # of the primitive's axes
        flat, kind = min(along[0], along[1]), int(row[0])
        if kind in (SPHERE, DOME, PRISM):
            row[16:19] *= along
        elif kind in (BOX, TAPER, GATE):
            row[16:19] *= along
            row[19] *= min(along) if kind == BOX else along[0]
        elif kind in (CYLINDER, CUP):
            row[16:18] *= (flat, along[2])
        elif kind == CONE:
            row[16:19] *= (flat, flat, along[2])
        elif kind == LIMB:
            row[18] *= along[2]
            axis = row[13:16] * factors  # its ends move exactly
            row[7:16] = limb((0, 0, 0), axis, 1, 1)[7:16]
    return rows
