# SPDX-License-Identifier: GPL-3.0-or-later
"""The things that the bundled prior knows, as signed-distance primitives (`objects` draws them).

An object is a union of primitives, one row of an array each. Right-handed, Z up, metres, front towards -Y; every
object is centred at the origin inside the ball of radius `BALL`. To add a noun, write one function that returns its
parts and list it in `NOUNS`; to make it more frequent in the corpus, name it in `FREQUENCY`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BALL = 0.85

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.07, 0.07),
    "orange": (0.96, 0.48, 0.03),
    "yellow": (0.96, 0.87, 0.08),
    "green": (0.08, 0.58, 0.14),
    "blue": (0.09, 0.20, 0.86),
    "purple": (0.50, 0.12, 0.66),
    "pink": (0.97, 0.52, 0.72),
    "brown": (0.42, 0.23, 0.09),
    "white": (0.95, 0.95, 0.95),
    "black": (0.06, 0.06, 0.06),
    "gray": (0.50, 0.50, 0.50),
    "cyan": (0.08, 0.80, 0.85),
}
# What covers the captioned colour: a pattern in a second colour, fixed to the object.
FINISHES = ("plain", "striped", "spotted", "checkered", "wooden")
_CREAM, _BARK, _DARK, _WHITE = (0.93, 0.87, 0.74), (0.36, 0.22, 0.10), (0.20, 0.20, 0.22), (0.93, 0.93, 0.93)
_ROOF, _GLASS, _BLACK, _LEAF = (0.27, 0.21, 0.18), (0.08, 0.11, 0.30), (0.05, 0.05, 0.05), (0.15, 0.50, 0.10)
_BEAK, _CLAY, _LAMP = (0.95, 0.45, 0.05), (0.60, 0.27, 0.14), (0.45, 0.03, 0.05)
_GLOW = (0.98, 0.90, 0.35)

# Compiled into `objects`, whose cache does not see a change here: add new kinds at the end.
SPHERE, BOX, CYLINDER, CONE, TORUS, PRISM, DOME, CUP = range(8)
# Of a part: kind, albedo (3), centre (3), world-to-part rotation (9), sizes (4), finish, second albedo (3).
WIDTH = 24

Uniform = Callable[[float, float], float]
MAIN = (-1.0, -1.0, -1.0)  # stands for the captioned colour


def _part(kind: int, at, sizes, colour=MAIN, turn=None) -> np.ndarray:
    row = np.zeros(WIDTH)
    row[0], row[1:4], row[4:7] = kind, colour, at
    row[7:16] = (np.eye(3) if turn is None else np.asarray(turn).T).ravel()
    row[16 : 16 + len(sizes)] = sizes
    return row


def _about(axis: str, degrees: float) -> np.ndarray:
    """Rotation matrix (3, 3), counter-clockwise about a coordinate axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def _ellipsoid(at, rx, ry, rz, colour=MAIN, turn=None):
    return _part(SPHERE, at, (rx, ry, rz), colour, turn)


def _ball(at, radius, colour=MAIN):
    return _ellipsoid(at, radius, radius, radius, colour)


def _box(at, hx, hy, hz, colour=MAIN, turn=None, rounding=0.03):
    return _part(BOX, at, (hx, hy, hz, rounding), colour, turn)


def _cylinder(at, radius, half, colour=MAIN, turn=None, rounding=0.03):
    return _part(CYLINDER, at, (radius, half, rounding), colour, turn)


def _cone(at, bottom, top, half, colour=MAIN, turn=None):
    return _part(CONE, at, (bottom, top, half), colour, turn)


def mushroom(u: Uniform) -> list[np.ndarray]:
    stem, wide, tall = u(0.24, 0.32), u(0.66, 0.80), u(0.46, 0.62)
    return [_cone((0, 0, -0.38), stem * 1.15, stem, u(0.36, 0.48), _CREAM), _part(DOME, (0, 0, 0), (wide, wide, tall))]


def chair(u: Uniform) -> list[np.ndarray]:
    half, leg, long, back = u(0.40, 0.46), u(0.085, 0.11), u(0.26, 0.34), u(0.36, 0.46)
    corner = half - leg
    legs = [_box((x * corner, y * corner, -long), leg, leg, long + 0.05) for x in (-1, 1) for y in (-1, 1)]
    return [_box((0, 0, 0), half, half, 0.09), _box((0, half - 0.09, back), half, 0.09, back), *legs]


def table(u: Uniform) -> list[np.ndarray]:
    hx, hy, leg, long = u(0.68, 0.82), u(0.46, 0.58), u(0.09, 0.115), u(0.30, 0.40)
    x, y = hx - leg - 0.03, hy - leg - 0.03
    legs = [_box((sx * x, sy * y, -long), leg, leg, long + 0.05) for sx in (-1, 1) for sy in (-1, 1)]
    return [_box((0, 0, 0), hx, hy, u(0.075, 0.10)), *legs]


def tree(u: Uniform) -> list[np.ndarray]:
    wide, trunk = u(0.50, 0.62), u(0.14, 0.18)
    return [
        _cylinder((0, 0, -0.62), trunk, 0.26, _BARK),
        _cone((0, 0, -0.18), wide, wide * 0.35, 0.24),
        _cone((0, 0, 0.18), wide * 0.82, wide * 0.22, 0.24),
        _cone((0, 0, 0.55), wide * 0.64, 0.02, 0.26),
    ]


def rocket(u: Uniform) -> list[np.ndarray]:
    radius, half = u(0.24, 0.30), u(0.42, 0.50)
    nose, reach = u(0.20, 0.26), u(0.24, 0.30)
    fins = [
        _box(
            _about("z", a) @ (radius + reach * 0.42, 0, -half + 0.02),
            reach * 0.55,
            0.07,
            0.20,
            _DARK,
            _about("z", a) @ _about("y", 28),
        )
        for a in (0, 90, 180, 270)
    ]
    return [
        _cylinder((0, 0, 0), radius, half),
        _cone((0, 0, half + nose), radius, 0.03, nose, _DARK),
        _cone((0, 0, -half - 0.07), radius * 0.75, radius * 0.5, 0.09, _DARK),
        *fins,
    ]


def donut(u: Uniform) -> list[np.ndarray]:
    return [_part(TORUS, (0, 0, 0), (0.56, u(0.23, 0.28)))]


def car(u: Uniform) -> list[np.ndarray]:
    long, wide, wheel = u(0.76, 0.84), u(0.36, 0.42), u(0.17, 0.20)
    cabin, back = u(0.36, 0.42), u(0.08, 0.16)
    wheels = [
        _cylinder((x * (wide - 0.02), y * long * 0.58, -0.20), wheel, 0.09, _BLACK, _about("y", 90))
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    lights = [
        _ellipsoid((x * wide * 0.62, y * (long - 0.02), 0.04), 0.11, 0.06, 0.075, colour)
        for y, colour in ((-1, _GLOW), (1, _LAMP))
        for x in (-1, 1)
    ]
    return [
        _box((0, 0, 0), wide, long, 0.17, rounding=0.06),
        *lights,
        _box((0, back, 0.24), wide - 0.05, cabin, 0.14, _GLASS),
        _box((0, back, 0.40), wide - 0.03, cabin - 0.04, 0.065),
        *wheels,
    ]


def house(u: Uniform) -> list[np.ndarray]:
    hx, hy, hz, tall = u(0.44, 0.50), u(0.50, 0.60), u(0.34, 0.40), u(0.44, 0.56)
    windows = [
        _box(at, wide, deep, 0.14, _DARK, rounding=0.01)
        for at, wide, deep in (((hx, 0, 0), 0.03, 0.24), ((-hx, 0, 0), 0.03, 0.24), ((0, hy, 0), 0.20, 0.03))
    ]
    return [
        _box((0, 0, 0), hx, hy, hz, rounding=0.01),
        _part(PRISM, (0, 0, hz - 0.02), (hx + 0.12, hy + 0.07, tall), _ROOF),
        _box((0.26, 0.22, hz + 0.62 * tall), 0.11, 0.13, 0.46 * tall, rounding=0.01),
        _box((0, -hy, -hz + 0.24), 0.14, 0.03, 0.24, _DARK, rounding=0.01),
        *windows,
    ]


def sphere(u: Uniform) -> list[np.ndarray]:
    return [_ball((0, 0, 0), 0.8)]


def cube(u: Uniform) -> list[np.ndarray]:
    return [_box((0, 0, 0), 0.5, 0.5, 0.5, rounding=u(0.01, 0.06))]


def cylinder(u: Uniform) -> list[np.ndarray]:
    return [_cylinder((0, 0, 0), u(0.36, 0.50), 0.65)]


def cone(u: Uniform) -> list[np.ndarray]:
    return [_cone((0, 0, 0), u(0.48, 0.62), 0.02, 0.65)]


def snowman(u: Uniform) -> list[np.ndarray]:
    head = u(0.23, 0.27)
    return [
        _ball((0, 0, -0.42), u(0.40, 0.46), _WHITE),
        _ball((0, 0, 0.08), u(0.29, 0.34), _WHITE),
        _ball((0, 0, 0.47), head, _WHITE),
        _part(TORUS, (0, 0, 0.30), (0.20, 0.085)),
        _cylinder((0, 0, 0.64), head * 1.15, 0.045),
        _cylinder((0, 0, 0.78), head * 0.75, 0.15),
        _cone((0, -head - 0.06, 0.47), 0.06, 0.01, 0.12, _BEAK, _about("x", 90)),
    ]


def apple(u: Uniform) -> list[np.ndarray]:
    return [
        _ellipsoid((0, 0, 0), 0.70, 0.70, u(0.58, 0.66)),
        _cylinder((0, 0, 0.70), 0.055, 0.16, _BARK),
        _ellipsoid((0.20, 0, 0.76), 0.20, 0.10, 0.05, _LEAF, _about("y", -20)),
    ]


def lamp(u: Uniform) -> list[np.ndarray]:
    wide = u(0.48, 0.58)
    return [
        _cylinder((0, 0, -0.74), u(0.30, 0.38), 0.07, _DARK),
        _cylinder((0, 0, -0.35), 0.085, 0.40, _DARK),
        _cone((0, 0, 0.33), wide, wide * u(0.45, 0.6), u(0.34, 0.42)),
    ]


def mug(u: Uniform) -> list[np.ndarray]:
    radius = u(0.44, 0.50)
    return [
        _part(CUP, (0, 0, 0), (radius, u(0.50, 0.58), 0.09)),
        _part(TORUS, (radius + 0.08, 0, 0), (0.25, 0.085), turn=_about("x", 90)),
    ]


def robot(u: Uniform) -> list[np.ndarray]:
    hx, hz, head, arm = u(0.30, 0.36), u(0.28, 0.34), u(0.20, 0.24), u(0.24, 0.30)
    top = hz + 0.06 + head
    legs = [_box((x * 0.17, 0, -hz - 0.22), 0.10, 0.13, 0.22, _DARK) for x in (-1, 1)]
    arms = [_box((x * (hx + 0.12), 0, hz - arm), 0.08, 0.10, arm) for x in (-1, 1)]
    eyes = [_ball((x * head * 0.5, -head, top + 0.04), 0.07, _GLOW) for x in (-1, 1)]
    return [
        _box((0, 0, 0), hx, 0.22, hz),
        _box((0, 0, top), head * 1.15, head, head),
        _box((0, -0.22, 0.02), hx * 0.6, 0.03, hz * 0.5, _DARK, rounding=0.01),
        _cylinder((0, 0, top + head + 0.08), 0.035, 0.10, _DARK),
        *arms,
        *legs,
        *eyes,
    ]


def bear(u: Uniform) -> list[np.ndarray]:
    wide, tall, head = u(0.36, 0.42), u(0.40, 0.46), u(0.30, 0.34)
    top = tall * 0.8 + head * 0.7
    pairs = [
        part
        for x in (-1, 1)
        for part in (
            _ball((x * head * 0.75, 0, top + head * 0.75), 0.13),
            _ball((x * 0.12, -head * 0.88, top + 0.07), 0.05, _BLACK),
            _ellipsoid((x * (wide + 0.06), -0.08, 0.12), 0.12, 0.14, 0.26, MAIN, _about("y", -28 * x)),
            _ellipsoid((x * 0.22, -0.16, -tall * 0.85), 0.16, 0.24, 0.16),
        )
    ]
    return [
        _ellipsoid((0, 0, 0), wide, wide * 0.9, tall),
        _ball((0, 0, top), head),
        _ellipsoid((0, -wide * 0.45, -0.02), wide * 0.66, wide * 0.5, tall * 0.66, _CREAM),
        _ellipsoid((0, -head * 0.82, top - 0.08), 0.15, 0.13, 0.11, _CREAM),
        _ball((0, -head * 0.82 - 0.12, top - 0.04), 0.05, _BLACK),
        *pairs,
    ]


def duck(u: Uniform) -> list[np.ndarray]:
    long, wide, tall, head = u(0.54, 0.62), u(0.36, 0.42), u(0.32, 0.38), u(0.24, 0.28)
    y, z = -long * 0.62, tall * 0.6 + head
    eyes = [_ball((x * head * 0.62, y - head * 0.62, z + 0.07), 0.055, _BLACK) for x in (-1, 1)]
    return [
        _ellipsoid((0, 0, 0), wide, long, tall),
        _ball((0, y, z), head),
        _ellipsoid((0, y - head - 0.07, z - 0.04), 0.13, 0.16, 0.055, _BEAK),
        _cone((0, long * 0.95, 0.16), 0.16, 0.02, 0.20, MAIN, _about("x", -50)),
        *[_ellipsoid((x * wide * 0.88, 0.06, 0.05), 0.09, long * 0.5, tall * 0.5) for x in (-1, 1)],
        *eyes,
    ]


def boat(u: Uniform) -> list[np.ndarray]:
    wide, deep, mast = u(0.28, 0.34), u(0.26, 0.32), u(0.48, 0.56)
    return [
        _part(DOME, (0, 0, 0), (wide, 0.74, deep), turn=_about("x", 180)),
        _cylinder((0, -0.08, mast), 0.045, mast, _BARK, rounding=0.01),
        _part(PRISM, (0, 0.26, 0.16), (0.34, 0.035, 2 * mast - 0.24), _WHITE, _about("z", 90)),
        _part(PRISM, (0, -0.36, 0.16), (0.22, 0.03, 1.3 * mast - 0.2), _WHITE, _about("z", 90)),
    ]


def airplane(u: Uniform) -> list[np.ndarray]:
    body, long, span, chord = u(0.18, 0.21), u(0.66, 0.74), u(0.68, 0.76), u(0.17, 0.21)
    return [
        _ellipsoid((0, 0, 0), body, long, body),
        _box((0, -0.10, 0), span, chord, 0.045),
        _box((0, long * 0.86, 0.04), 0.30, 0.10, 0.04),
        _box((0, long * 0.86, 0.20), 0.04, 0.11, 0.18),
        _ellipsoid((0, -long * 0.56, body * 0.62), 0.115, 0.20, 0.11, _GLASS),
        _ball((0, -long + 0.02, 0), 0.10, _DARK),
        *[_cylinder((x * span * 0.5, -0.18, -0.08), 0.08, 0.17, _DARK, _about("x", 90)) for x in (-1, 1)],
    ]


def cactus(u: Uniform) -> list[np.ndarray]:
    stem, tall, arm = u(0.15, 0.18), u(0.54, 0.62), u(0.09, 0.11)
    low, high, reach = u(-0.05, 0.08), u(0.10, 0.24), u(0.32, 0.38)
    arms = [
        part
        for x, z, up in ((-1, low, 0.24), (1, high, 0.20))
        for part in (
            _cylinder((x * reach * 0.5, 0, z), arm, reach * 0.5, MAIN, _about("y", 90)),
            _cylinder((x * reach, 0, z + up - arm), arm, up, MAIN, rounding=arm),
        )
    ]
    return [
        _cylinder((0, 0, 0.06), stem, tall, MAIN, rounding=stem),
        _cone((0, 0, -tall - 0.06), 0.20, 0.30, 0.18, _CLAY),
        *arms,
    ]


def castle(u: Uniform) -> list[np.ndarray]:
    half, wall, tower, tall = u(0.40, 0.46), u(0.20, 0.26), u(0.14, 0.17), u(0.36, 0.44)
    corners = [(x * half, y * half) for x in (-1, 1) for y in (-1, 1)]
    return [
        _box((0, 0, 0), half, half, wall, rounding=0.01),
        _box((0, 0, 0.12), 0.20, 0.20, wall + 0.20, rounding=0.01),
        *[_cylinder((x, y, tall - wall), tower, tall, rounding=0.01) for x, y in corners],
        *[_cone((x, y, 2 * tall - wall + 0.13), tower * 1.25, 0.02, 0.15, _ROOF) for x, y in corners],
        _box((0, -half, -wall + 0.17), 0.12, 0.035, 0.17, _DARK, rounding=0.01),
    ]


def sofa(u: Uniform) -> list[np.ndarray]:
    wide, deep, seat, back = u(0.66, 0.74), u(0.30, 0.35), u(0.13, 0.16), u(0.24, 0.29)
    feet = [
        _box((x * (wide - 0.1), y * (deep - 0.08), -seat - 0.06), 0.06, 0.06, 0.08, _DARK)
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    return [
        _box((0, 0, 0), wide, deep, seat, rounding=0.05),
        _box((0, deep - 0.09, seat + back - 0.08), wide, 0.11, back, rounding=0.05),
        *[_box((x * (wide - 0.09), -0.02, seat + 0.06), 0.10, deep, 0.15, rounding=0.05) for x in (-1, 1)],
        *[
            _box((x * (wide - 0.2) * 0.5, -0.08, seat + 0.03), (wide - 0.2) * 0.47, deep * 0.72, 0.06, _CREAM)
            for x in (-1, 1)
        ],
        *feet,
    ]


NOUNS: dict[str, Callable[[Uniform], list[np.ndarray]]] = {
    f.__name__: f
    for f in (
        mushroom,
        chair,
        tree,
        rocket,
        donut,
        car,
        house,
        table,
        sphere,
        cube,
        cylinder,
        cone,
        snowman,
        apple,
        lamp,
        mug,
        robot,
        bear,
        duck,
        boat,
        airplane,
        cactus,
        castle,
        sofa,
    )
}
# The hard ones are seen most often, and the shapes that nobody would type seldom.
FREQUENCY = (
    dict.fromkeys(NOUNS, 2.0)
    | dict.fromkeys(("sphere", "cube", "cylinder", "cone"), 1.0)
    | dict.fromkeys(("table", "rocket", "robot", "bear", "duck", "boat", "castle", "sofa"), 3.0)
    | dict.fromkeys(("chair", "house", "car", "airplane"), 4.0)
)


def _support(row: np.ndarray) -> np.ndarray:
    """Points (n, 3) whose hull is the part's, to within a percent."""
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


@dataclass(frozen=True)
class Shape:
    """Parts (P, 24) of one object, normalized: box centred at the origin, touching the ball of radius 0.83."""

    parts: np.ndarray

    @staticmethod
    def build(noun: str, rng: np.random.Generator | None = None) -> Shape:
        """`noun` with random proportions, or with its middle ones when no generator is given."""
        if noun not in NOUNS:
            raise ValueError(f"Unknown noun {noun!r}; choose one of: {', '.join(NOUNS)}.")
        rows = np.stack(NOUNS[noun](rng.uniform if rng else lambda low, high: 0.5 * (low + high)))
        hull = np.concatenate([_support(row) for row in rows])
        centre = 0.5 * (hull.min(0) + hull.max(0))
        scale = (0.83 if rng is None else rng.uniform(0.79, 0.84)) / np.linalg.norm(hull - centre, axis=1).max()
        rows[:, 4:7] = (rows[:, 4:7] - centre) * scale
        rows[:, 16:20] *= scale
        return Shape(rows)

    def painted(self, colour: np.ndarray, finish: str = "plain") -> np.ndarray:
        """Parts with linear albedo; dark trim turns light on a dark object so that the two still differ.

        A finish's second colour is a darker shade of wood, and otherwise nearly white, or dark on a bright object.
        """
        rows = self.parts.copy()
        main = rows[:, 1] < 0
        rows[main, 1:4] = colour
        if finish == "wooden":
            second = 0.5 * np.asarray(colour)
        else:
            second = np.array(_WHITE if colour @ (0.3, 0.6, 0.1) < 0.65 else _DARK)
        rows[main, 20], rows[main, 21:24] = FINISHES.index(finish), to_linear(second)
        if np.mean(colour) < 0.3:
            rows[(rows[:, 1:4] == _DARK).all(1), 1:4] = (0.62, 0.62, 0.64)
        rows[:, 1:4] = to_linear(rows[:, 1:4])
        return rows


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0) + 0.055) / 1.055) ** 2.4)
