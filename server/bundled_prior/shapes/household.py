# SPDX-License-Identifier: GPL-3.0-or-later
"""Things of the house, and tools."""

from __future__ import annotations

import numpy as np

from .. import primitives as sdf
from .palette import BARK, BLACK, CREAM, DARK, GLOW, GOLD, LAMP, Uniform


def teapot(u: Uniform) -> list[np.ndarray]:
    wide, tall, spout = u(0.44, 0.50), u(0.36, 0.42), u(0.30, 0.36)
    return [
        sdf.ellipsoid((0, 0, 0), wide, wide, tall),
        sdf.cylinder((0, 0, -tall + 0.03), wide * 0.55, 0.06),
        *sdf.named(
            "spout",
            sdf.limb((-wide * 0.8, 0, -0.08), (-wide - spout * 0.55, 0, 0.10), 0.12, 0.085),
            sdf.limb((-wide - spout * 0.55, 0, 0.10), (-wide - spout, 0, 0.32), 0.085, 0.055),
        ),
        *sdf.named("handle", sdf.part(sdf.TORUS, (wide + 0.03, 0, 0.03), (0.22, 0.06), turn=sdf.rotation("x", 90))),
        *sdf.named(
            "lid",
            sdf.part(sdf.DOME, (0, 0, tall * 0.84), (wide * 0.62, wide * 0.62, 0.13), DARK),
            sdf.ball((0, 0, tall * 0.84 + 0.18), 0.08, DARK),
        ),
    ]


def bottle(u: Uniform) -> list[np.ndarray]:
    wide, tall, neck, slim = u(0.22, 0.27), u(0.40, 0.46), u(0.14, 0.20), u(0.08, 0.10)
    top = tall + 0.22
    return [
        sdf.cylinder((0, 0, 0), wide, tall, rounding=0.04),
        sdf.cone((0, 0, tall + 0.09), wide * 0.97, slim, 0.13),
        sdf.cylinder((0, 0, top + neck), slim, neck, rounding=0.01),
        *sdf.named("label", sdf.cylinder((0, 0, -0.06), wide + 0.012, tall * 0.45, CREAM, rounding=0.005)),
        *sdf.named("cap", sdf.cylinder((0, 0, top + 2 * neck), slim + 0.03, 0.075, DARK, rounding=0.01)),
    ]


def lantern(u: Uniform) -> list[np.ndarray]:
    half, tall, roof = u(0.28, 0.33), u(0.38, 0.44), u(0.14, 0.18)
    posts = [sdf.box((x * half, y * half, 0), 0.05, 0.05, tall, rounding=0.01) for x in (-1, 1) for y in (-1, 1)]
    return [
        *sdf.named("base", sdf.box((0, 0, -tall - 0.05), half + 0.10, half + 0.10, 0.08, rounding=0.01)),
        *posts,
        sdf.box((0, 0, 0), half - 0.02, half - 0.02, tall, GLOW, rounding=0.01),
        *sdf.named(
            "roof",
            sdf.box((0, 0, tall + 0.02), half + 0.08, half + 0.08, 0.04, rounding=0.01),
            sdf.taper((0, 0, tall + 0.05 + roof), half + 0.06, half + 0.06, roof, 0.08),
        ),
        *sdf.named(
            "handle", sdf.part(sdf.TORUS, (0, 0, tall + 2 * roof + 0.15), (0.13, 0.035), DARK, sdf.rotation("x", 90))
        ),
    ]


def guitar(u: Uniform) -> list[np.ndarray]:
    low, high, deep, neck = u(0.30, 0.34), u(0.22, 0.25), u(0.085, 0.11), u(0.34, 0.40)
    disc = sdf.rotation("x", 90)
    top = 0.30 + high * 0.9 + 2 * neck
    return [
        sdf.cylinder((0, 0, -0.10), low, deep, sdf.MAIN, disc),
        sdf.cylinder((0, 0, 0.28), high, deep, sdf.MAIN, disc),
        sdf.box((0, 0, 0.10), high * 0.86, deep, 0.18),
        sdf.cylinder((0, -deep, 0.16), 0.10, 0.025, BLACK, disc, rounding=0.005),
        sdf.box((0, -deep - 0.01, -0.20), 0.13, 0.03, 0.03, BLACK, rounding=0.005),
        *sdf.named("neck", sdf.box((0, -deep * 0.7, 0.30 + neck + high * 0.5), 0.05, 0.045, neck + high * 0.4, BARK)),
        *sdf.named("head", sdf.taper((0, -deep * 0.6, top + 0.02), 0.075, 0.045, 0.13, 0.11, DARK)),
    ]


def hammer(u: Uniform) -> list[np.ndarray]:
    long, grip, head, thick = u(0.56, 0.64), u(0.065, 0.08), u(0.24, 0.29), u(0.13, 0.15)
    side = head * 0.6 + 0.125
    return [
        *sdf.named("handle", sdf.cylinder((0, 0, 0), grip, long, BARK)),
        sdf.box((0.02, 0, long), head * 0.6, thick * 0.72, thick * 0.72, rounding=0.015),
        sdf.cylinder((side, 0, long), thick, 0.12, turn=sdf.rotation("y", 90), rounding=0.02),
        sdf.taper((-side, 0, long), thick * 0.72, thick * 0.8, 0.15, 0.02, turn=sdf.rotation("y", -90)),
    ]


def sword(u: Uniform) -> list[np.ndarray]:
    """Stands on its point."""
    wide, long, guard, grip = u(0.085, 0.11), u(0.44, 0.50), u(0.24, 0.29), u(0.12, 0.15)
    return [
        sdf.taper((0, 0, 0), wide * 0.9, 0.045, long, wide),
        sdf.taper((0, 0, -long - 0.10), wide * 0.9, 0.045, 0.10, 0.01, turn=sdf.rotation("x", 180)),
        sdf.box((0, 0, long + 0.03), guard, 0.075, 0.055, GOLD, rounding=0.02),
        *sdf.named("handle", sdf.cylinder((0, 0, long + 0.06 + grip), 0.06, grip, BARK)),
        sdf.ball((0, 0, long + 0.10 + 2 * grip), 0.095, GOLD),
    ]


def umbrella(u: Uniform) -> list[np.ndarray]:
    wide, high, long = u(0.66, 0.74), u(0.34, 0.42), u(0.46, 0.54)
    return [
        sdf.part(sdf.DOME, (0, 0, 0.1), (wide, wide, high)),
        sdf.cone((0, 0, 0.1 + high + 0.05), 0.035, 0.015, 0.08, DARK),
        sdf.cylinder((0, 0, 0.1 - long), 0.035, long, DARK, rounding=0.01),
        *sdf.named("handle", sdf.arc((0.12, 0, 0.1 - 2 * long), 0.12, 0.05, 200, BARK, sdf.rotation("x", 180))),
    ]


def gift(u: Uniform) -> list[np.ndarray]:
    wide, high, band = u(0.44, 0.52), u(0.32, 0.44), u(0.075, 0.10)
    top = high + 0.16
    loops = [
        sdf.ellipsoid((x * 0.17, 0, top + 0.07), 0.17, 0.09, 0.085, LAMP, sdf.rotation("y", -x * 25)) for x in (-1, 1)
    ]
    return [
        sdf.box((0, 0, 0), wide, wide, high, rounding=0.01),
        sdf.box((0, 0, high), wide + 0.04, wide + 0.04, 0.10, rounding=0.01),
        *sdf.named(
            "ribbon",
            sdf.box((0, 0, 0), wide + 0.012, band, high, LAMP, rounding=0.005),
            sdf.box((0, 0, 0), band, wide + 0.012, high, LAMP, rounding=0.005),
            sdf.box((0, 0, high), wide + 0.052, band, 0.112, LAMP, rounding=0.005),
            sdf.box((0, 0, high), band, wide + 0.052, 0.112, LAMP, rounding=0.005),
            sdf.ball((0, 0, top), 0.08, LAMP),
            *loops,
        ),
    ]
