# SPDX-License-Identifier: GPL-3.0-or-later
"""Buildings."""

from __future__ import annotations

import numpy as np

from .. import primitives as sdf
from .palette import BARK, DARK, GLASS, GLOW, ROOF, WHITE, Uniform


def barn(u: Uniform) -> list[np.ndarray]:
    hx, hy, hz, eaves, ridge = u(0.44, 0.52), u(0.58, 0.68), u(0.30, 0.36), u(0.15, 0.19), u(0.10, 0.14)
    door, top = u(0.22, 0.27), hz + 2 * eaves
    kink = hx * 0.62
    planks = [
        sdf.box((0, -hy - 0.015, -hz + door), 0.03, 0.025, 1.35 * door, WHITE, sdf.rotation("y", a), rounding=0.005)
        for a in (45, -45)
    ]
    frame = [
        sdf.box((x * door, -hy - 0.015, -hz + door), 0.035, 0.025, door + 0.03, WHITE, rounding=0.005) for x in (-1, 1)
    ]
    slopes = [
        sdf.box(
            ((hx + kink) * 0.5 * x, 0, hz + eaves),
            0.03,
            hy + 0.06,
            np.hypot(hx - kink, 2 * eaves) * 0.5 + 0.07,
            ROOF,
            sdf.rotation("y", -x * np.degrees(np.arctan2(hx - kink, 2 * eaves))),
            rounding=0.01,
        )
        for x in (-1, 1)
    ]
    return [
        sdf.box((0, 0, 0), hx, hy, hz, rounding=0.01),
        sdf.taper((0, 0, hz + eaves), hx, hy, eaves, kink),
        # A taper narrows along y too: the gables are upright boards.
        *[sdf.box((0, y * (hy - 0.03), hz + eaves * 0.9), kink, 0.03, eaves * 1.05, rounding=0.005) for y in (-1, 1)],
        *sdf.named("roof", *slopes, sdf.part(sdf.PRISM, (0, 0, top - 0.02), (kink + 0.08, hy + 0.06, 2 * ridge), ROOF)),
        *sdf.named("door", *frame, *planks, sdf.box((0, -hy - 0.015, -hz + 2 * door), door, 0.025, 0.035, WHITE)),
        sdf.box((0, -hy, hz + eaves), 0.10, 0.03, 0.10, DARK, rounding=0.005),
        sdf.box((0, 0, top + 2 * ridge), 0.15, 0.15, 0.13, rounding=0.01),
        sdf.taper((0, 0, top + 2 * ridge + 0.20), 0.18, 0.18, 0.08, 0.02),
    ]


def lighthouse(u: Uniform) -> list[np.ndarray]:
    wide, slim, tall, lamp = u(0.25, 0.30), u(0.15, 0.18), u(0.54, 0.62), u(0.10, 0.12)
    bands = []
    for low, high in ((0.22, 0.40), (0.62, 0.80)):
        bottom, top = (wide + (slim - wide) * t + 0.012 for t in (low, high))
        bands.append(sdf.cone((0, 0, -tall + 2 * tall * (low + high) / 2), bottom, top, tall * (high - low), WHITE))
    return [
        sdf.cone((0, 0, 0), wide, slim, tall),
        *sdf.named("trim", *bands),
        sdf.cylinder((0, 0, tall + 0.02), slim + 0.09, 0.035, DARK, rounding=0.01),
        sdf.cylinder((0, 0, tall + 0.02 + lamp), slim * 0.72, lamp, GLOW, rounding=0.01),
        *sdf.named("roof", sdf.cone((0, 0, tall + 2 * lamp + 0.10), slim + 0.04, 0.02, 0.11, ROOF)),
        sdf.box((0, -wide + 0.02, -tall + 0.12), 0.085, 0.05, 0.13, DARK, rounding=0.01),
        sdf.cylinder((0, 0, -tall - 0.03), wide + 0.12, 0.06, DARK, rounding=0.02),
    ]


def bridge(u: Uniform, arches: int = 2) -> list[np.ndarray]:
    deep, crown, wall, rail = u(0.20, 0.27), u(0.09, 0.12), u(0.04, 0.055), u(0.07, 0.10)
    width = 0.82 / arches
    hole = min(width * 0.80, 0.52)
    tall = (hole + 2 * crown) / 2
    piers = [sdf.gate((-0.82 + width * (2 * i + 1), 0, 0), width, deep, tall, hole) for i in range(arches)]
    return [
        *sdf.named("arches", *piers),
        sdf.box((0, 0, tall + 0.02), 0.84, deep - wall, 0.04, DARK, rounding=0.005),
        *[sdf.box((0, y * (deep - wall), tall + rail), 0.84, wall, rail, rounding=0.01) for y in (-1, 1)],
        *[
            sdf.box((x * 0.80, y * (deep - wall), tall + rail + 0.05), 0.06, 0.06, rail + 0.06, rounding=0.01)
            for x in (-1, 1)
            for y in (-1, 1)
        ],
    ]


def windmill(u: Uniform, sails: int = 4) -> list[np.ndarray]:
    wide, slim, tall, reach, blade = u(0.30, 0.35), u(0.18, 0.22), u(0.50, 0.56), u(0.50, 0.58), u(0.085, 0.105)
    hub = np.array((0, -slim - 0.20, tall + 0.04))
    arms = []
    for i in range(sails):
        turn = sdf.rotation("y", 360 * (i + 0.5) / sails)
        arms += [
            sdf.box(hub + turn @ (0.03, 0, reach * 0.58), blade, 0.022, reach * 0.42, WHITE, turn, rounding=0.005),
            sdf.box(hub + turn @ (0, 0, reach * 0.5), 0.025, 0.03, reach * 0.5, WHITE, turn, rounding=0.005),
        ]
    return [
        sdf.taper((0, 0, 0), wide, wide, tall, slim),
        *sdf.named("cap", sdf.part(sdf.DOME, (0, 0, tall), (slim + 0.05, slim + 0.05, 0.22), ROOF)),
        sdf.cylinder((0, -slim - 0.08, hub[2]), 0.05, 0.16, DARK, sdf.rotation("x", 90)),
        *sdf.named("sails", *arms),
        sdf.box((0, -wide + 0.01, -tall + 0.16), 0.10, 0.05, 0.16, DARK, rounding=0.01),
        *[sdf.box((x * (wide + slim) * 0.5, 0, 0.02), 0.04, 0.08, 0.09, GLASS, rounding=0.005) for x in (-1, 1)],
        sdf.box((0, (wide + slim) * 0.5, 0.02), 0.08, 0.04, 0.09, GLASS, rounding=0.005),
        sdf.box((0, 0, -tall - 0.02), wide + 0.06, wide + 0.06, 0.05, BARK, rounding=0.01),
    ]
