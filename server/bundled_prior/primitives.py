# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed-distance primitives: the rows of numbers that objects are made of (`objects` measures distances to them).

Axes and units as in `shapes`. A primitive is one row of `WIDTH` numbers: kind, albedo (3), centre (3), rotation from
the world to the primitive (9, row by row), sizes (4), finish, second albedo (3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# numba compiles these numbers into `objects`, and its cache does not see a change here: add new kinds at the end.
SPHERE, BOX, CYLINDER, CONE, TORUS, PRISM, DOME, CUP = range(8)
WIDTH = 24

Vector = Sequence[float] | np.ndarray  # three numbers
MAIN = (-1.0, -1.0, -1.0)  # stands for the captioned colour


def part(
    kind: int, at: Vector, sizes: Sequence[float], colour: Vector = MAIN, turn: np.ndarray | None = None
) -> np.ndarray:
    """The row of a primitive centred at `at`, metres, and turned by a rotation matrix (3, 3).

    sizes: half axes (sphere); half edges and rounding (box); radius, half height and rounding (cylinder); bottom
        radius, top radius and half height (cone); ring and tube radius (torus); half width, half depth and height
        (prism); half axes (dome); radius, half height and wall (cup).
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


def hull_points(row: np.ndarray) -> np.ndarray:
    """Points (N, 3) whose convex hull is the primitive's to within a percent."""
    a, b, c, _ = row[16:20]
    kind = int(row[0])
    t = np.linspace(0, 2 * np.pi, 33)[:-1]
    ring = np.stack([np.cos(t), np.sin(t), 0 * t], 1)
    signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    if kind in (SPHERE, DOME):
        z = np.linspace(0 if kind == DOME else -1, 1, 17)
        points = np.concatenate([ring * math.sqrt(max(0, 1 - v * v)) + (0, 0, v) for v in z]) * (a, b, c)
    elif kind == BOX:
        points = signs * (a, b, c)
    elif kind in (CYLINDER, CUP):
        points = np.concatenate([ring * a + (0, 0, b), ring * a - (0, 0, b)])
    elif kind == CONE:
        points = np.concatenate([ring * a - (0, 0, c), ring * b + (0, 0, c)])
    elif kind == TORUS:
        points = np.concatenate([ring * (a + b), ring * a + (0, 0, b), ring * a - (0, 0, b)])
    else:
        points = np.array([(x * (1 - z) * a, y * b, z * c) for x in (-1, 1) for y in (-1, 1) for z in (0, 1)], float)
    return points @ row[7:16].reshape(3, 3) + row[4:7]
