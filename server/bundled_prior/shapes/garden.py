# SPDX-License-Identifier: GPL-3.0-or-later
"""Plants and food."""

from __future__ import annotations

import numpy as np

from .. import primitives as sdf
from .palette import BARK, CREAM, GLOW, LAMP, LEAF, WHITE, Uniform


def flower(u: Uniform, petals: int = 5) -> list[np.ndarray]:
    """Its blossom looks forwards and up."""
    long, reach, heart = u(0.50, 0.58), u(0.25, 0.29), u(0.13, 0.16)
    tilt = sdf.rotation("x", 55)  # from upwards to the front
    top = np.array((0, -0.10, long + 0.10))
    width = min(0.15, 0.62 * reach * np.sin(np.pi / petals) * 1.5)
    blossom = []
    for i in range(petals):
        turn = tilt @ sdf.rotation("z", 360 * i / petals)
        blossom.append(sdf.ellipsoid(top + turn @ (0, reach, 0), width, reach * 0.68, 0.05, sdf.MAIN, turn))
    return [
        *blossom,
        sdf.ellipsoid(top + tilt @ (0, 0, 0.02), heart, heart, 0.09, GLOW, tilt),
        *sdf.named(
            "stem",
            sdf.limb((0, 0, -long), (0, 0, long * 0.7), 0.05, 0.045, LEAF),
            sdf.limb((0, 0, long * 0.7), top, 0.045, 0.045, LEAF),
        ),
        *sdf.named(
            "leaves",
            *[
                sdf.ellipsoid(
                    (x * 0.19, 0, -long * 0.35 + 0.1 * x), 0.20, 0.10, 0.045, LEAF, sdf.rotation("y", -x * 32)
                )
                for x in (-1, 1)
            ],
        ),
    ]


def pumpkin(u: Uniform) -> list[np.ndarray]:
    ring, wide, tall = u(0.34, 0.40), u(0.24, 0.28), u(0.46, 0.54)
    ribs = []
    for i in range(8):
        a = 2 * np.pi * (i + 0.5) / 8
        ribs.append(sdf.ellipsoid((ring * np.sin(a), ring * np.cos(a), 0), wide, wide, tall))
    return [
        *ribs,
        *sdf.named(
            "stem",
            sdf.limb((0, 0, tall * 0.55), (0.02, 0, tall + 0.06), 0.09, 0.07, LEAF),
            sdf.limb((0.02, 0, tall + 0.06), (0.14, 0, tall + 0.18), 0.07, 0.06, LEAF),
        ),
    ]


def banana(u: Uniform) -> list[np.ndarray]:
    ring, tube, span = u(0.58, 0.66), u(0.14, 0.17), u(95, 120)
    half = np.radians(span / 2)
    ends = [np.array((x * ring * np.sin(half), 0, -ring * np.cos(half))) for x in (-1, 1)]
    along = [np.array((x * np.cos(half), 0, np.sin(half))) for x in (-1, 1)]
    return [
        sdf.arc((0, 0, 0), ring, tube, span, sdf.MAIN, sdf.rotation("y", 180)),
        sdf.limb(ends[0], ends[0] + 0.22 * along[0], tube * 0.96, 0.06),
        sdf.limb(ends[1], ends[1] + 0.22 * along[1], tube * 0.96, 0.06),
        sdf.limb(ends[0] + 0.22 * along[0], ends[0] + 0.36 * along[0], 0.06, 0.05, BARK),
        sdf.ball(ends[1] + 0.26 * along[1], 0.055, BARK),
    ]


def cake(u: Uniform, candles: int = 3) -> list[np.ndarray]:
    wide, low, high = u(0.56, 0.64), u(0.20, 0.25), u(0.15, 0.19)
    upper = wide * 0.68
    top = low + 2 * high + 0.02
    places = {
        1: [(0.0, 0.0)],
        2: [(-0.2, 0.0), (0.2, 0.0)],
        3: [(0.24 * np.sin(a), -0.24 * np.cos(a)) for a in 2 * np.pi * np.arange(3) / 3],
        4: [(x * 0.2, y * 0.2) for x in (-1, 1) for y in (-1, 1)],
    }[candles]
    flames = [sdf.ellipsoid((*at, top + 0.29), 0.055, 0.055, 0.08, GLOW) for at in places]
    return [
        sdf.cylinder((0, 0, 0), wide, low, rounding=0.02),
        sdf.cylinder((0, 0, low + high), upper, high, rounding=0.02),
        *sdf.named(
            "icing",
            sdf.cylinder((0, 0, low), wide + 0.02, 0.05, CREAM, rounding=0.04),
            sdf.cylinder((0, 0, low + 2 * high), upper + 0.02, 0.05, CREAM, rounding=0.04),
        ),
        *sdf.named("candles", *[sdf.cylinder((*at, top + 0.10), 0.05, 0.13, WHITE, rounding=0.01) for at in places]),
        *flames,
        sdf.cylinder((0, 0, -low - 0.02), wide + 0.12, 0.03, LAMP, rounding=0.01),
    ]
