# SPDX-License-Identifier: GPL-3.0-or-later
"""Vehicles, whose front is towards -Y."""

from __future__ import annotations

import numpy as np

from .. import primitives as sdf
from .palette import BLACK, DARK, GLASS, GLOW, LAMP, STEEL, WHITE, Uniform


def _wheels(x: float, places: tuple[float, ...], z: float, radius: float, half: float = 0.08) -> list[np.ndarray]:
    return [
        sdf.cylinder((side * x, y, z), radius, half, BLACK, sdf.rotation("y", 90)) for side in (-1, 1) for y in places
    ]


def train(u: Uniform) -> list[np.ndarray]:
    radius, long, wide, cab = u(0.20, 0.24), u(0.72, 0.80), u(0.27, 0.31), u(0.22, 0.26)
    z = radius + 0.10
    return [
        sdf.box((0, 0, 0), wide, long, 0.08, DARK, rounding=0.02),
        sdf.cylinder((0, -0.18, z), radius, long - 0.22, sdf.MAIN, sdf.rotation("x", 90), rounding=0.02),
        sdf.cylinder((0, -long + 0.02, z), radius * 0.8, 0.05, DARK, sdf.rotation("x", 90), rounding=0.01),
        sdf.ball((0, -long - 0.03, z), 0.07, GLOW),
        sdf.cylinder((0, -long * 0.66, z + radius + 0.10), 0.075, 0.14, DARK, rounding=0.01),
        sdf.cone((0, -long * 0.66, z + radius + 0.26), 0.08, 0.13, 0.06, DARK),
        sdf.part(sdf.DOME, (0, -0.06, z + radius - 0.03), (0.10, 0.10, 0.14), GLOW),
        *sdf.named("cab", sdf.box((0, long - cab, 0.38), wide, cab, 0.34, rounding=0.02)),
        *[sdf.box((x * wide, long - cab, 0.48), 0.02, cab * 0.6, 0.12, GLASS, rounding=0.005) for x in (-1, 1)],
        *[sdf.box((0, long - cab + y * cab, 0.50), wide * 0.6, 0.02, 0.11, GLASS, rounding=0.005) for y in (-1, 1)],
        *sdf.named("roof", sdf.box((0, long - cab, 0.75), wide + 0.05, cab + 0.06, 0.045, DARK, rounding=0.02)),
        *sdf.named(
            "wheels", *_wheels(wide - 0.02, (-0.52, -0.14), -0.10, 0.16), *_wheels(wide - 0.02, (0.42,), -0.04, 0.22)
        ),
        sdf.part(sdf.PRISM, (0, -long + 0.04, -0.20), (wide, 0.16, 0.22), DARK),
    ]


def truck(u: Uniform) -> list[np.ndarray]:
    wide, cargo, high, cab = u(0.30, 0.34), u(0.44, 0.52), u(0.30, 0.36), u(0.19, 0.23)
    front = -cargo - 2 * cab - 0.04
    panes = [
        sdf.box((x * (wide - 0.02), front + cab, 0.34), 0.02, cab * 0.6, 0.09, GLASS, rounding=0.005) for x in (-1, 1)
    ]
    return [
        sdf.box((0, -cab, -0.04), wide - 0.04, cargo + cab, 0.06, DARK, rounding=0.01),
        *sdf.named("cargo", sdf.box((0, 0, high), wide, cargo, high, rounding=0.01)),
        *sdf.named("cab", sdf.box((0, front + cab, 0.22), wide - 0.02, cab, 0.25, rounding=0.04)),
        sdf.box((0, front - 0.04, 0.08), wide - 0.03, 0.12, 0.12, rounding=0.03),
        sdf.box((0, front + 0.01, 0.34), wide - 0.08, 0.025, 0.09, GLASS, rounding=0.005),
        *panes,
        *[sdf.ball((x * wide * 0.6, front - 0.15, 0.08), 0.06, GLOW) for x in (-1, 1)],
        *[sdf.box((x * wide * 0.75, cargo, 0.10), 0.06, 0.025, 0.05, LAMP) for x in (-1, 1)],
        *sdf.named("wheels", *_wheels(wide - 0.03, (front + cab * 0.9, cargo * 0.15, cargo * 0.72), -0.12, 0.15)),
    ]


def bus(u: Uniform) -> list[np.ndarray]:
    wide, long, high, wheel = u(0.27, 0.31), u(0.74, 0.82), u(0.28, 0.34), u(0.13, 0.15)
    panes = [
        sdf.box(
            (x * wide, -long * 0.82 + i * long * 0.41, high * 0.35),
            0.02,
            long * 0.16,
            high * 0.32,
            GLASS,
            rounding=0.005,
        )
        for x in (-1, 1)
        for i in range(5)
    ]
    return [
        sdf.box((0, 0, 0), wide, long, high, rounding=0.05),
        *panes,
        sdf.box((0, -long, high * 0.28), wide * 0.84, 0.02, high * 0.45, GLASS, rounding=0.005),
        sdf.box((0, long, high * 0.38), wide * 0.8, 0.02, high * 0.32, GLASS, rounding=0.005),
        *sdf.named("roof", sdf.box((0, 0, high), wide - 0.02, long - 0.03, 0.045, WHITE, rounding=0.03)),
        *[sdf.ball((x * wide * 0.65, -long, -high * 0.55), 0.055, GLOW) for x in (-1, 1)],
        *[sdf.ball((x * wide * 0.7, long, -high * 0.5), 0.055, LAMP) for x in (-1, 1)],
        *sdf.named("wheels", *_wheels(wide - 0.04, (-long * 0.58, long * 0.58), -high, wheel)),
    ]


def helicopter(u: Uniform) -> list[np.ndarray]:
    wide, long, boom, span = u(0.24, 0.28), u(0.36, 0.42), u(0.62, 0.70), u(0.70, 0.78)
    skids = [sdf.limb((x * 0.24, -0.36, -0.36), (x * 0.24, 0.34, -0.36), 0.03, 0.03, DARK) for x in (-1, 1)]
    struts = [
        sdf.limb((x * 0.14, y, -0.16), (x * 0.24, y, -0.36), 0.025, 0.025, DARK) for x in (-1, 1) for y in (-0.16, 0.16)
    ]
    return [
        sdf.ellipsoid((0, 0, 0), wide, long, wide),
        sdf.ellipsoid((0, -long * 0.45, 0.04), wide * 0.86, long * 0.56, wide * 0.80, GLASS),
        *sdf.named(
            "tail",
            sdf.limb((0, long * 0.6, 0.05), (0, boom + 0.16, 0.10), 0.10, 0.05),
            sdf.box((0, boom + 0.14, 0.20), 0.025, 0.08, 0.15, rounding=0.01),
        ),
        sdf.cylinder((0.06, boom + 0.14, 0.22), 0.13, 0.012, STEEL, sdf.rotation("y", 90), rounding=0.005),
        sdf.cylinder((0, 0, wide + 0.05), 0.05, 0.08, DARK, rounding=0.01),
        *sdf.named(
            "rotor",
            *[
                sdf.box((0, 0, wide + 0.12), 0.05, span, 0.018, STEEL, sdf.rotation("z", a), rounding=0.005)
                for a in (45, -45)
            ],
        ),
        *skids,
        *struts,
    ]
