# SPDX-License-Identifier: GPL-3.0-or-later
"""The things of the model that ships: their proportions and the order of their random numbers stay as it saw them."""

from __future__ import annotations

import numpy as np

from .. import primitives as sdf
from .palette import BARK, BEAK, BLACK, CLAY, CREAM, DARK, GLASS, GLOW, LAMP, LEAF, ROOF, WHITE, Uniform


def mushroom(u: Uniform) -> list[np.ndarray]:
    stem, wide, tall = u(0.24, 0.32), u(0.66, 0.80), u(0.46, 0.62)
    return [
        *sdf.named("stem", sdf.cone((0, 0, -0.38), stem * 1.15, stem, u(0.36, 0.48), CREAM)),
        sdf.part(sdf.DOME, (0, 0, 0), (wide, wide, tall)),
    ]


def chair(u: Uniform) -> list[np.ndarray]:
    half, leg, long, back = u(0.40, 0.46), u(0.085, 0.11), u(0.26, 0.34), u(0.36, 0.46)
    corner = half - leg
    legs = [sdf.box((x * corner, y * corner, -long), leg, leg, long + 0.05) for x in (-1, 1) for y in (-1, 1)]
    return [
        *sdf.named("seat", sdf.box((0, 0, 0), half, half, 0.09)),
        *sdf.named("back", sdf.box((0, half - 0.09, back), half, 0.09, back)),
        *sdf.named("legs", *legs),
    ]


def table(u: Uniform, legs: int = 4) -> list[np.ndarray]:
    hx, hy, leg, long = u(0.68, 0.82), u(0.46, 0.58), u(0.09, 0.115), u(0.30, 0.40)
    x, y = hx - leg - 0.03, hy - leg - 0.03
    places = {
        3: [(-x, -y), (x, -y), (0, y)],
        4: [(-x, -y), (-x, y), (x, -y), (x, y)],
        6: [(-x, -y), (-x, y), (x, -y), (x, y), (0, -y), (0, y)],
    }[legs]
    feet = [sdf.box((*at, -long), leg, leg, long + 0.05) for at in places]
    return [*sdf.named("top", sdf.box((0, 0, 0), hx, hy, u(0.075, 0.10))), *sdf.named("legs", *feet)]


def tree(u: Uniform) -> list[np.ndarray]:
    wide, trunk = u(0.50, 0.62), u(0.14, 0.18)
    return [
        *sdf.named("trunk", sdf.cylinder((0, 0, -0.62), trunk, 0.26, BARK)),
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
            DARK,
            sdf.rotation("z", a) @ sdf.rotation("y", 28),
        )
        for a in (0, 90, 180, 270)
    ]
    return [
        sdf.cylinder((0, 0, 0), radius, half),
        *sdf.named("nose", sdf.cone((0, 0, half + nose), radius, 0.03, nose, DARK)),
        sdf.cone((0, 0, -half - 0.07), radius * 0.75, radius * 0.5, 0.09, DARK),
        *sdf.named("fins", *fins),
    ]


def donut(u: Uniform) -> list[np.ndarray]:
    return [sdf.part(sdf.TORUS, (0, 0, 0), (0.56, u(0.23, 0.28)))]


def car(u: Uniform) -> list[np.ndarray]:
    long, wide, wheel = u(0.76, 0.84), u(0.36, 0.42), u(0.17, 0.20)
    cabin, back = u(0.36, 0.42), u(0.08, 0.16)
    wheels = [
        sdf.cylinder((x * (wide - 0.02), y * long * 0.58, -0.20), wheel, 0.09, BLACK, sdf.rotation("y", 90))
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    lights = [
        sdf.ellipsoid((x * wide * 0.62, y * (long - 0.02), 0.04), 0.11, 0.06, 0.075, colour)
        for y, colour in ((-1, GLOW), (1, LAMP))
        for x in (-1, 1)
    ]
    return [
        sdf.box((0, 0, 0), wide, long, 0.17, rounding=0.06),
        *lights,
        sdf.box((0, back, 0.24), wide - 0.05, cabin, 0.14, GLASS),
        *sdf.named("roof", sdf.box((0, back, 0.40), wide - 0.03, cabin - 0.04, 0.065)),
        *sdf.named("wheels", *wheels),
    ]


def house(u: Uniform) -> list[np.ndarray]:
    hx, hy, hz, tall = u(0.44, 0.50), u(0.50, 0.60), u(0.34, 0.40), u(0.44, 0.56)
    windows = [
        sdf.box(at, wide, deep, 0.14, DARK, rounding=0.01)
        for at, wide, deep in (((hx, 0, 0), 0.03, 0.24), ((-hx, 0, 0), 0.03, 0.24), ((0, hy, 0), 0.20, 0.03))
    ]
    return [
        sdf.box((0, 0, 0), hx, hy, hz, rounding=0.01),
        *sdf.named("roof", sdf.part(sdf.PRISM, (0, 0, hz - 0.02), (hx + 0.12, hy + 0.07, tall), ROOF)),
        sdf.box((0.26, 0.22, hz + 0.62 * tall), 0.11, 0.13, 0.46 * tall, rounding=0.01),
        *sdf.named("door", sdf.box((0, -hy, -hz + 0.24), 0.14, 0.03, 0.24, DARK, rounding=0.01)),
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
    hat = [sdf.cylinder((0, 0, 0.64), head * 1.15, 0.045), sdf.cylinder((0, 0, 0.78), head * 0.75, 0.15)]
    return [
        sdf.ball((0, 0, -0.42), u(0.40, 0.46), WHITE),
        sdf.ball((0, 0, 0.08), u(0.29, 0.34), WHITE),
        sdf.ball((0, 0, 0.47), head, WHITE),
        *sdf.named("scarf", sdf.part(sdf.TORUS, (0, 0, 0.30), (0.20, 0.085))),
        *sdf.named("hat", *hat),
        sdf.cone((0, -head - 0.06, 0.47), 0.06, 0.01, 0.12, BEAK, sdf.rotation("x", 90)),
    ]


def apple(u: Uniform) -> list[np.ndarray]:
    return [
        sdf.ellipsoid((0, 0, 0), 0.70, 0.70, u(0.58, 0.66)),
        sdf.cylinder((0, 0, 0.70), 0.055, 0.16, BARK),
        sdf.ellipsoid((0.20, 0, 0.76), 0.20, 0.10, 0.05, LEAF, sdf.rotation("y", -20)),
    ]


def lamp(u: Uniform) -> list[np.ndarray]:
    wide = u(0.48, 0.58)
    return [
        *sdf.named("base", sdf.cylinder((0, 0, -0.74), u(0.30, 0.38), 0.07, DARK)),
        *sdf.named("base", sdf.cylinder((0, 0, -0.35), 0.085, 0.40, DARK)),
        sdf.cone((0, 0, 0.33), wide, wide * u(0.45, 0.6), u(0.34, 0.42)),
    ]


def mug(u: Uniform) -> list[np.ndarray]:
    radius = u(0.44, 0.50)
    return [
        sdf.part(sdf.CUP, (0, 0, 0), (radius, u(0.50, 0.58), 0.09)),
        *sdf.named("handle", sdf.part(sdf.TORUS, (radius + 0.08, 0, 0), (0.25, 0.085), turn=sdf.rotation("x", 90))),
    ]


def robot(u: Uniform) -> list[np.ndarray]:
    hx, hz, head, arm = u(0.30, 0.36), u(0.28, 0.34), u(0.20, 0.24), u(0.24, 0.30)
    top = hz + 0.06 + head
    legs = [sdf.box((x * 0.17, 0, -hz - 0.22), 0.10, 0.13, 0.22, DARK) for x in (-1, 1)]
    arms = [sdf.box((x * (hx + 0.12), 0, hz - arm), 0.08, 0.10, arm) for x in (-1, 1)]
    eyes = [sdf.ball((x * head * 0.5, -head, top + 0.04), 0.07, GLOW) for x in (-1, 1)]
    return [
        sdf.box((0, 0, 0), hx, 0.22, hz),
        *sdf.named("head", sdf.box((0, 0, top), head * 1.15, head, head)),
        sdf.box((0, -0.22, 0.02), hx * 0.6, 0.03, hz * 0.5, DARK, rounding=0.01),
        sdf.cylinder((0, 0, top + head + 0.08), 0.035, 0.10, DARK),
        *sdf.named("arms", *arms),
        *sdf.named("legs", *legs),
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
            sdf.ball((x * 0.12, -head * 0.88, top + 0.07), 0.05, BLACK),
            sdf.ellipsoid((x * (wide + 0.06), -0.08, 0.12), 0.12, 0.14, 0.26, sdf.MAIN, sdf.rotation("y", -28 * x)),
            sdf.ellipsoid((x * 0.22, -0.16, -tall * 0.85), 0.16, 0.24, 0.16),
        )
    ]
    return [
        sdf.ellipsoid((0, 0, 0), wide, wide * 0.9, tall),
        sdf.ball((0, 0, top), head),
        *sdf.named("belly", sdf.ellipsoid((0, -wide * 0.45, -0.02), wide * 0.66, wide * 0.5, tall * 0.66, CREAM)),
        sdf.ellipsoid((0, -head * 0.82, top - 0.08), 0.15, 0.13, 0.11, CREAM),
        sdf.ball((0, -head * 0.82 - 0.12, top - 0.04), 0.05, BLACK),
        *both_sides,
    ]


def duck(u: Uniform) -> list[np.ndarray]:
    long, wide, tall, head = u(0.54, 0.62), u(0.36, 0.42), u(0.32, 0.38), u(0.24, 0.28)
    y, z = -long * 0.62, tall * 0.6 + head
    eyes = [sdf.ball((x * head * 0.62, y - head * 0.62, z + 0.07), 0.055, BLACK) for x in (-1, 1)]
    return [
        sdf.ellipsoid((0, 0, 0), wide, long, tall),
        *sdf.named("head", sdf.ball((0, y, z), head)),
        sdf.ellipsoid((0, y - head - 0.07, z - 0.04), 0.13, 0.16, 0.055, BEAK),
        sdf.cone((0, long * 0.95, 0.16), 0.16, 0.02, 0.20, sdf.MAIN, sdf.rotation("x", -50)),
        *sdf.named(
            "wings", *[sdf.ellipsoid((x * wide * 0.88, 0.06, 0.05), 0.09, long * 0.5, tall * 0.5) for x in (-1, 1)]
        ),
        *eyes,
    ]


def boat(u: Uniform) -> list[np.ndarray]:
    wide, deep, mast = u(0.28, 0.34), u(0.26, 0.32), u(0.48, 0.56)
    sails = [
        sdf.part(sdf.PRISM, (0, 0.26, 0.16), (0.34, 0.035, 2 * mast - 0.24), WHITE, sdf.rotation("z", 90)),
        sdf.part(sdf.PRISM, (0, -0.36, 0.16), (0.22, 0.03, 1.3 * mast - 0.2), WHITE, sdf.rotation("z", 90)),
    ]
    return [
        sdf.part(sdf.DOME, (0, 0, 0), (wide, 0.74, deep), turn=sdf.rotation("x", 180)),
        sdf.cylinder((0, -0.08, mast), 0.045, mast, BARK, rounding=0.01),
        *sdf.named("sails", *sails),
    ]


def airplane(u: Uniform) -> list[np.ndarray]:
    body, long, span, chord = u(0.18, 0.21), u(0.66, 0.74), u(0.68, 0.76), u(0.17, 0.21)
    return [
        sdf.ellipsoid((0, 0, 0), body, long, body),
        *sdf.named("wings", sdf.box((0, -0.10, 0), span, chord, 0.045)),
        sdf.box((0, long * 0.86, 0.04), 0.30, 0.10, 0.04),
        sdf.box((0, long * 0.86, 0.20), 0.04, 0.11, 0.18),
        sdf.ellipsoid((0, -long * 0.56, body * 0.62), 0.115, 0.20, 0.11, GLASS),
        sdf.ball((0, -long + 0.02, 0), 0.10, DARK),
        *[sdf.cylinder((x * span * 0.5, -0.18, -0.08), 0.08, 0.17, DARK, sdf.rotation("x", 90)) for x in (-1, 1)],
    ]


def cactus(u: Uniform, arms: int = 2) -> list[np.ndarray]:
    stem, tall, arm = u(0.15, 0.18), u(0.54, 0.62), u(0.09, 0.11)
    low, high, reach = u(-0.05, 0.08), u(0.10, 0.24), u(0.32, 0.38)
    branches = [
        row
        for x, z, up in ((-1, low, 0.24), (1, high, 0.20))[:arms]
        for row in (
            sdf.cylinder((x * reach * 0.5, 0, z), arm, reach * 0.5, sdf.MAIN, sdf.rotation("y", 90)),
            sdf.cylinder((x * reach, 0, z + up - arm), arm, up, sdf.MAIN, rounding=arm),
        )
    ]
    return [
        sdf.cylinder((0, 0, 0.06), stem, tall, sdf.MAIN, rounding=stem),
        *sdf.named("pot", sdf.cone((0, 0, -tall - 0.06), 0.20, 0.30, 0.18, CLAY)),
        *branches,
    ]


def castle(u: Uniform, towers: int = 4) -> list[np.ndarray]:
    half, wall, tower, tall = u(0.40, 0.46), u(0.20, 0.26), u(0.14, 0.17), u(0.36, 0.44)
    corners = {
        2: [(-half, -half), (half, -half)],
        3: [(-half, -half), (half, -half), (0, half)],
        4: [(x * half, y * half) for x in (-1, 1) for y in (-1, 1)],
        5: [*[(x * half, y * half) for x in (-1, 1) for y in (-1, 1)], (0, half)],
    }[towers]
    return [
        sdf.box((0, 0, 0), half, half, wall, rounding=0.01),
        sdf.box((0, 0, 0.12), 0.20, 0.20, wall + 0.20, rounding=0.01),
        *sdf.named("towers", *[sdf.cylinder((x, y, tall - wall), tower, tall, rounding=0.01) for x, y in corners]),
        *sdf.named(
            "roofs", *[sdf.cone((x, y, 2 * tall - wall + 0.13), tower * 1.25, 0.02, 0.15, ROOF) for x, y in corners]
        ),
        sdf.box((0, -half, -wall + 0.17), 0.12, 0.035, 0.17, DARK, rounding=0.01),
    ]


def sofa(u: Uniform) -> list[np.ndarray]:
    wide, deep, seat, back = u(0.66, 0.74), u(0.30, 0.35), u(0.13, 0.16), u(0.24, 0.29)
    feet = [
        sdf.box((x * (wide - 0.1), y * (deep - 0.08), -seat - 0.06), 0.06, 0.06, 0.08, DARK)
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    cushions = [
        sdf.box((x * (wide - 0.2) * 0.5, -0.08, seat + 0.03), (wide - 0.2) * 0.47, deep * 0.72, 0.06, CREAM)
        for x in (-1, 1)
    ]
    return [
        sdf.box((0, 0, 0), wide, deep, seat, rounding=0.05),
        sdf.box((0, deep - 0.09, seat + back - 0.08), wide, 0.11, back, rounding=0.05),
        *[sdf.box((x * (wide - 0.09), -0.02, seat + 0.06), 0.10, deep, 0.15, rounding=0.05) for x in (-1, 1)],
        *sdf.named("cushions", *cushions),
        *feet,
    ]
