# SPDX-License-Identifier: GPL-3.0-or-later
"""The things that the bundled prior knows, built of signed-distance primitives (`objects` draws them).

Right-handed, Z up, metres, front towards -Y; every object is centred at the origin inside the ball of radius
`rendering.cameras.OBJECT_RADIUS`. To add a noun, write one function that returns its primitives, with proportions that
it draws from ranges, and list it in `NOUNS`; to make it more frequent in the corpus, name it in `FREQUENCY`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..geometry.colour import srgb_to_linear
from . import primitives as sdf

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
# Patterns of the captioned colour and a second one, fixed to the object.
FINISHES = ("plain", "striped", "spotted", "checkered", "wooden")
_CREAM, _BARK, _DARK, _WHITE = (0.93, 0.87, 0.74), (0.36, 0.22, 0.10), (0.20, 0.20, 0.22), (0.93, 0.93, 0.93)
_ROOF, _GLASS, _BLACK, _LEAF = (0.27, 0.21, 0.18), (0.08, 0.11, 0.30), (0.05, 0.05, 0.05), (0.15, 0.50, 0.10)
_BEAK, _CLAY, _LAMP = (0.95, 0.45, 0.05), (0.60, 0.27, 0.14), (0.45, 0.03, 0.05)
_GLOW = (0.98, 0.90, 0.35)
RADIUS, RADII = 0.83, (0.79, 0.84)  # metres, from the origin to the farthest point: by default, and in the corpus

Uniform = Callable[[float, float], float]  # low, high -> a proportion


def mushroom(u: Uniform) -> list[np.ndarray]:
    stem, wide, tall = u(0.24, 0.32), u(0.66, 0.80), u(0.46, 0.62)
    return [
        sdf.cone((0, 0, -0.38), stem * 1.15, stem, u(0.36, 0.48), _CREAM),
        sdf.part(sdf.DOME, (0, 0, 0), (wide, wide, tall)),
    ]


def chair(u: Uniform) -> list[np.ndarray]:
    half, leg, long, back = u(0.40, 0.46), u(0.085, 0.11), u(0.26, 0.34), u(0.36, 0.46)
    corner = half - leg
    legs = [sdf.box((x * corner, y * corner, -long), leg, leg, long + 0.05) for x in (-1, 1) for y in (-1, 1)]
    return [sdf.box((0, 0, 0), half, half, 0.09), sdf.box((0, half - 0.09, back), half, 0.09, back), *legs]


def table(u: Uniform) -> list[np.ndarray]:
    hx, hy, leg, long = u(0.68, 0.82), u(0.46, 0.58), u(0.09, 0.115), u(0.30, 0.40)
    x, y = hx - leg - 0.03, hy - leg - 0.03
    legs = [sdf.box((sx * x, sy * y, -long), leg, leg, long + 0.05) for sx in (-1, 1) for sy in (-1, 1)]
    return [sdf.box((0, 0, 0), hx, hy, u(0.075, 0.10)), *legs]


def tree(u: Uniform) -> list[np.ndarray]:
    wide, trunk = u(0.50, 0.62), u(0.14, 0.18)
    return [
        sdf.cylinder((0, 0, -0.62), trunk, 0.26, _BARK),
        sdf.cone((0, 0, -0.18), wide, wide * 0.35, 0.24),
        sdf.cone((0, 0, 0.18), wide * 0.82, wide * 0.22, 0.24),
        sdf.cone((0, 0, 0.55), wide * 0.64, 0.02, 0.26),
    ]


def rocket(u: Uniform) -> list[np.ndarray]:
    radius, half = u(0.24, 0.30), u(0.42, 0.50)
    nose, reach = u(0.20, 0.26), u(0.24, 0.30)
    fins = [
        sdf.box(
            sdf.rotation("z", a) @ (radius + reach * 0.42, 0, -half + 0.02),
            reach * 0.55,
            0.07,
            0.20,
            _DARK,
            sdf.rotation("z", a) @ sdf.rotation("y", 28),
        )
        for a in (0, 90, 180, 270)
    ]
    return [
        sdf.cylinder((0, 0, 0), radius, half),
        sdf.cone((0, 0, half + nose), radius, 0.03, nose, _DARK),
        sdf.cone((0, 0, -half - 0.07), radius * 0.75, radius * 0.5, 0.09, _DARK),
        *fins,
    ]


def donut(u: Uniform) -> list[np.ndarray]:
    return [sdf.part(sdf.TORUS, (0, 0, 0), (0.56, u(0.23, 0.28)))]


def car(u: Uniform) -> list[np.ndarray]:
    long, wide, wheel = u(0.76, 0.84), u(0.36, 0.42), u(0.17, 0.20)
    cabin, back = u(0.36, 0.42), u(0.08, 0.16)
    wheels = [
        sdf.cylinder((x * (wide - 0.02), y * long * 0.58, -0.20), wheel, 0.09, _BLACK, sdf.rotation("y", 90))
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    lights = [
        sdf.ellipsoid((x * wide * 0.62, y * (long - 0.02), 0.04), 0.11, 0.06, 0.075, colour)
        for y, colour in ((-1, _GLOW), (1, _LAMP))
        for x in (-1, 1)
    ]
    return [
        sdf.box((0, 0, 0), wide, long, 0.17, rounding=0.06),
        *lights,
        sdf.box((0, back, 0.24), wide - 0.05, cabin, 0.14, _GLASS),
        sdf.box((0, back, 0.40), wide - 0.03, cabin - 0.04, 0.065),
        *wheels,
    ]


def house(u: Uniform) -> list[np.ndarray]:
    hx, hy, hz, tall = u(0.44, 0.50), u(0.50, 0.60), u(0.34, 0.40), u(0.44, 0.56)
    windows = [
        sdf.box(at, wide, deep, 0.14, _DARK, rounding=0.01)
        for at, wide, deep in (((hx, 0, 0), 0.03, 0.24), ((-hx, 0, 0), 0.03, 0.24), ((0, hy, 0), 0.20, 0.03))
    ]
    return [
        sdf.box((0, 0, 0), hx, hy, hz, rounding=0.01),
        sdf.part(sdf.PRISM, (0, 0, hz - 0.02), (hx + 0.12, hy + 0.07, tall), _ROOF),
        sdf.box((0.26, 0.22, hz + 0.62 * tall), 0.11, 0.13, 0.46 * tall, rounding=0.01),
        sdf.box((0, -hy, -hz + 0.24), 0.14, 0.03, 0.24, _DARK, rounding=0.01),
        *windows,
    ]


def sphere(u: Uniform) -> list[np.ndarray]:
    return [sdf.ball((0, 0, 0), 0.8)]


def cube(u: Uniform) -> list[np.ndarray]:
    return [sdf.box((0, 0, 0), 0.5, 0.5, 0.5, rounding=u(0.01, 0.06))]


def cylinder(u: Uniform) -> list[np.ndarray]:
    return [sdf.cylinder((0, 0, 0), u(0.36, 0.50), 0.65)]


def cone(u: Uniform) -> list[np.ndarray]:
    return [sdf.cone((0, 0, 0), u(0.48, 0.62), 0.02, 0.65)]


def snowman(u: Uniform) -> list[np.ndarray]:
    head = u(0.23, 0.27)
    return [
        sdf.ball((0, 0, -0.42), u(0.40, 0.46), _WHITE),
        sdf.ball((0, 0, 0.08), u(0.29, 0.34), _WHITE),
        sdf.ball((0, 0, 0.47), head, _WHITE),
        sdf.part(sdf.TORUS, (0, 0, 0.30), (0.20, 0.085)),
        sdf.cylinder((0, 0, 0.64), head * 1.15, 0.045),
        sdf.cylinder((0, 0, 0.78), head * 0.75, 0.15),
        sdf.cone((0, -head - 0.06, 0.47), 0.06, 0.01, 0.12, _BEAK, sdf.rotation("x", 90)),
    ]


def apple(u: Uniform) -> list[np.ndarray]:
    return [
        sdf.ellipsoid((0, 0, 0), 0.70, 0.70, u(0.58, 0.66)),
        sdf.cylinder((0, 0, 0.70), 0.055, 0.16, _BARK),
        sdf.ellipsoid((0.20, 0, 0.76), 0.20, 0.10, 0.05, _LEAF, sdf.rotation("y", -20)),
    ]


def lamp(u: Uniform) -> list[np.ndarray]:
    wide = u(0.48, 0.58)
    return [
        sdf.cylinder((0, 0, -0.74), u(0.30, 0.38), 0.07, _DARK),
        sdf.cylinder((0, 0, -0.35), 0.085, 0.40, _DARK),
        sdf.cone((0, 0, 0.33), wide, wide * u(0.45, 0.6), u(0.34, 0.42)),
    ]


def mug(u: Uniform) -> list[np.ndarray]:
    radius = u(0.44, 0.50)
    return [
        sdf.part(sdf.CUP, (0, 0, 0), (radius, u(0.50, 0.58), 0.09)),
        sdf.part(sdf.TORUS, (radius + 0.08, 0, 0), (0.25, 0.085), turn=sdf.rotation("x", 90)),
    ]


def robot(u: Uniform) -> list[np.ndarray]:
    hx, hz, head, arm = u(0.30, 0.36), u(0.28, 0.34), u(0.20, 0.24), u(0.24, 0.30)
    top = hz + 0.06 + head
    legs = [sdf.box((x * 0.17, 0, -hz - 0.22), 0.10, 0.13, 0.22, _DARK) for x in (-1, 1)]
    arms = [sdf.box((x * (hx + 0.12), 0, hz - arm), 0.08, 0.10, arm) for x in (-1, 1)]
    eyes = [sdf.ball((x * head * 0.5, -head, top + 0.04), 0.07, _GLOW) for x in (-1, 1)]
    return [
        sdf.box((0, 0, 0), hx, 0.22, hz),
        sdf.box((0, 0, top), head * 1.15, head, head),
        sdf.box((0, -0.22, 0.02), hx * 0.6, 0.03, hz * 0.5, _DARK, rounding=0.01),
        sdf.cylinder((0, 0, top + head + 0.08), 0.035, 0.10, _DARK),
        *arms,
        *legs,
        *eyes,
    ]


def bear(u: Uniform) -> list[np.ndarray]:
    wide, tall, head = u(0.36, 0.42), u(0.40, 0.46), u(0.30, 0.34)
    top = tall * 0.8 + head * 0.7
    both_sides = [
        row
        for x in (-1, 1)
        for row in (
            sdf.ball((x * head * 0.75, 0, top + head * 0.75), 0.13),
            sdf.ball((x * 0.12, -head * 0.88, top + 0.07), 0.05, _BLACK),
            sdf.ellipsoid((x * (wide + 0.06), -0.08, 0.12), 0.12, 0.14, 0.26, sdf.MAIN, sdf.rotation("y", -28 * x)),
            sdf.ellipsoid((x * 0.22, -0.16, -tall * 0.85), 0.16, 0.24, 0.16),
        )
    ]
    return [
        sdf.ellipsoid((0, 0, 0), wide, wide * 0.9, tall),
        sdf.ball((0, 0, top), head),
        sdf.ellipsoid((0, -wide * 0.45, -0.02), wide * 0.66, wide * 0.5, tall * 0.66, _CREAM),
        sdf.ellipsoid((0, -head * 0.82, top - 0.08), 0.15, 0.13, 0.11, _CREAM),
        sdf.ball((0, -head * 0.82 - 0.12, top - 0.04), 0.05, _BLACK),
        *both_sides,
    ]


def duck(u: Uniform) -> list[np.ndarray]:
    long, wide, tall, head = u(0.54, 0.62), u(0.36, 0.42), u(0.32, 0.38), u(0.24, 0.28)
    y, z = -long * 0.62, tall * 0.6 + head
    eyes = [sdf.ball((x * head * 0.62, y - head * 0.62, z + 0.07), 0.055, _BLACK) for x in (-1, 1)]
    return [
        sdf.ellipsoid((0, 0, 0), wide, long, tall),
        sdf.ball((0, y, z), head),
        sdf.ellipsoid((0, y - head - 0.07, z - 0.04), 0.13, 0.16, 0.055, _BEAK),
        sdf.cone((0, long * 0.95, 0.16), 0.16, 0.02, 0.20, sdf.MAIN, sdf.rotation("x", -50)),
        *[sdf.ellipsoid((x * wide * 0.88, 0.06, 0.05), 0.09, long * 0.5, tall * 0.5) for x in (-1, 1)],
        *eyes,
    ]


def boat(u: Uniform) -> list[np.ndarray]:
    wide, deep, mast = u(0.28, 0.34), u(0.26, 0.32), u(0.48, 0.56)
    return [
        sdf.part(sdf.DOME, (0, 0, 0), (wide, 0.74, deep), turn=sdf.rotation("x", 180)),
        sdf.cylinder((0, -0.08, mast), 0.045, mast, _BARK, rounding=0.01),
        sdf.part(sdf.PRISM, (0, 0.26, 0.16), (0.34, 0.035, 2 * mast - 0.24), _WHITE, sdf.rotation("z", 90)),
        sdf.part(sdf.PRISM, (0, -0.36, 0.16), (0.22, 0.03, 1.3 * mast - 0.2), _WHITE, sdf.rotation("z", 90)),
    ]


def airplane(u: Uniform) -> list[np.ndarray]:
    body, long, span, chord = u(0.18, 0.21), u(0.66, 0.74), u(0.68, 0.76), u(0.17, 0.21)
    return [
        sdf.ellipsoid((0, 0, 0), body, long, body),
        sdf.box((0, -0.10, 0), span, chord, 0.045),
        sdf.box((0, long * 0.86, 0.04), 0.30, 0.10, 0.04),
        sdf.box((0, long * 0.86, 0.20), 0.04, 0.11, 0.18),
        sdf.ellipsoid((0, -long * 0.56, body * 0.62), 0.115, 0.20, 0.11, _GLASS),
        sdf.ball((0, -long + 0.02, 0), 0.10, _DARK),
        *[sdf.cylinder((x * span * 0.5, -0.18, -0.08), 0.08, 0.17, _DARK, sdf.rotation("x", 90)) for x in (-1, 1)],
    ]


def cactus(u: Uniform) -> list[np.ndarray]:
    stem, tall, arm = u(0.15, 0.18), u(0.54, 0.62), u(0.09, 0.11)
    low, high, reach = u(-0.05, 0.08), u(0.10, 0.24), u(0.32, 0.38)
    arms = [
        row
        for x, z, up in ((-1, low, 0.24), (1, high, 0.20))
        for row in (
            sdf.cylinder((x * reach * 0.5, 0, z), arm, reach * 0.5, sdf.MAIN, sdf.rotation("y", 90)),
            sdf.cylinder((x * reach, 0, z + up - arm), arm, up, sdf.MAIN, rounding=arm),
        )
    ]
    return [
        sdf.cylinder((0, 0, 0.06), stem, tall, sdf.MAIN, rounding=stem),
        sdf.cone((0, 0, -tall - 0.06), 0.20, 0.30, 0.18, _CLAY),
        *arms,
    ]


def castle(u: Uniform) -> list[np.ndarray]:
    half, wall, tower, tall = u(0.40, 0.46), u(0.20, 0.26), u(0.14, 0.17), u(0.36, 0.44)
    corners = [(x * half, y * half) for x in (-1, 1) for y in (-1, 1)]
    return [
        sdf.box((0, 0, 0), half, half, wall, rounding=0.01),
        sdf.box((0, 0, 0.12), 0.20, 0.20, wall + 0.20, rounding=0.01),
        *[sdf.cylinder((x, y, tall - wall), tower, tall, rounding=0.01) for x, y in corners],
        *[sdf.cone((x, y, 2 * tall - wall + 0.13), tower * 1.25, 0.02, 0.15, _ROOF) for x, y in corners],
        sdf.box((0, -half, -wall + 0.17), 0.12, 0.035, 0.17, _DARK, rounding=0.01),
    ]


def sofa(u: Uniform) -> list[np.ndarray]:
    wide, deep, seat, back = u(0.66, 0.74), u(0.30, 0.35), u(0.13, 0.16), u(0.24, 0.29)
    feet = [
        sdf.box((x * (wide - 0.1), y * (deep - 0.08), -seat - 0.06), 0.06, 0.06, 0.08, _DARK)
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    return [
        sdf.box((0, 0, 0), wide, deep, seat, rounding=0.05),
        sdf.box((0, deep - 0.09, seat + back - 0.08), wide, 0.11, back, rounding=0.05),
        *[sdf.box((x * (wide - 0.09), -0.02, seat + 0.06), 0.10, deep, 0.15, rounding=0.05) for x in (-1, 1)],
        *[
            sdf.box((x * (wide - 0.2) * 0.5, -0.08, seat + 0.03), (wide - 0.2) * 0.47, deep * 0.72, 0.06, _CREAM)
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
# Weights in the corpus: intricate things come most often, plain solids seldom.
FREQUENCY = (
    dict.fromkeys(NOUNS, 2.0)
    | dict.fromkeys(("sphere", "cube", "cylinder", "cone"), 1.0)
    | dict.fromkeys(("table", "rocket", "robot", "bear", "duck", "boat", "castle", "sofa"), 3.0)
    | dict.fromkeys(("chair", "house", "car", "airplane"), 4.0)
)


@dataclass(frozen=True)
class Shape:
    """One object, normalized: its bounding box is centred at the origin, its farthest point lies `RADIUS` from there.

    parts: (P, `primitives.WIDTH`), a primitive each.
    """

    parts: np.ndarray

    @staticmethod
    def build(noun: str, rng: np.random.Generator | None = None) -> Shape:
        """A noun with random proportions, or with the middle ones and `RADIUS` without a generator.

        Raises ValueError for an unknown noun.
        """
        if noun not in NOUNS:
            raise ValueError(f"Unknown noun {noun!r}; choose one of: {', '.join(NOUNS)}.")
        rows = np.stack(NOUNS[noun](rng.uniform if rng else lambda low, high: 0.5 * (low + high)))
        hull = np.concatenate([sdf.hull_points(row) for row in rows])
        centre = 0.5 * (hull.min(0) + hull.max(0))
        scale = (RADIUS if rng is None else rng.uniform(*RADII)) / np.linalg.norm(hull - centre, axis=1).max()
        rows[:, 4:7] = (rows[:, 4:7] - centre) * scale
        rows[:, 16:20] *= scale
        return Shape(rows)

    def painted(self, colour: np.ndarray, finish: str = "plain") -> np.ndarray:
        """`parts` with linear albedo, the main ones in an sRGB colour (3,) and finish.

        Dark trim becomes light on a dark object, so that the two still differ.

        A finish's second colour is a darker shade of wood, and otherwise nearly white, or dark on a bright object.
        """
        rows = self.parts.copy()
        main = rows[:, 1] < 0
        rows[main, 1:4] = colour
        if finish == "wooden":
            second = 0.5 * np.asarray(colour)
        else:
            second = np.array(_WHITE if colour @ (0.3, 0.6, 0.1) < 0.65 else _DARK)
        rows[main, 20], rows[main, 21:24] = FINISHES.index(finish), srgb_to_linear(second)
        if np.mean(colour) < 0.3:
            rows[(rows[:, 1:4] == _DARK).all(1), 1:4] = (0.62, 0.62, 0.64)
        rows[:, 1:4] = srgb_to_linear(rows[:, 1:4])
        return rows
