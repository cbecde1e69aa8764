# SPDX-License-Identifier: GPL-3.0-or-later
"""Animals, which look towards -Y."""

from __future__ import annotations

import numpy as np

from .. import primitives as sdf
from .palette import BARK, BEAK, BLACK, CREAM, DARK, OLIVE, WHITE, Uniform

SIDES = (-1, 1)


def cat(u: Uniform) -> list[np.ndarray]:
    """Sits, with its tail up."""
    head, wide, tall = u(0.23, 0.26), u(0.22, 0.26), u(0.42, 0.48)
    top, face = tall + head * 0.55, -0.16
    both = [
        row
        for x in SIDES
        for row in (
            sdf.ball((x * head * 0.42, face - head * 0.86, top + 0.04), 0.055, BLACK),
            sdf.limb((x * 0.12, -0.18, tall * 0.35), (x * 0.12, -0.26, -tall), 0.10, 0.085),
            sdf.ellipsoid((x * wide * 0.85, 0.10, -tall * 0.72), 0.15, 0.26, 0.20),
        )
    ]
    ears = [
        sdf.cone((x * head * 0.62, face, top + head * 0.98), 0.125, 0.01, 0.14, sdf.MAIN, sdf.rotation("y", x * 14))
        for x in SIDES
    ]
    return [
        sdf.limb((0, 0.10, -tall * 0.55), (0, -0.08, tall * 0.5), wide + 0.06, wide * 0.72),
        sdf.ball((0, face, top), head),
        *sdf.named("ears", *ears),
        sdf.ellipsoid((0, face - head * 0.82, top - 0.09), 0.12, 0.09, 0.075, WHITE),
        sdf.ball((0, face - head - 0.06, top - 0.05), 0.035, BEAK),
        *sdf.named("belly", sdf.ellipsoid((0, -0.17, -0.02), 0.13, 0.17, tall * 0.5, WHITE)),
        *sdf.named(
            "tail",
            sdf.limb((0, 0.28, -tall * 0.8), (0, 0.52, -tall * 0.45), 0.08, 0.075),
            sdf.limb((0, 0.52, -tall * 0.45), (0, 0.56, tall * 0.45), 0.075, 0.06),
        ),
        *both,
    ]


def dog(u: Uniform) -> list[np.ndarray]:
    """Stands, with floppy ears."""
    long, wide, leg, head = u(0.42, 0.48), u(0.19, 0.22), u(0.36, 0.42), u(0.20, 0.23)
    y, z = -long - 0.10, wide + 0.24
    both = [
        row
        for x in SIDES
        for row in (
            sdf.ball((x * head * 0.48, y - head * 0.82, z + 0.07), 0.045, BLACK),
            sdf.limb((x * wide * 0.6, -long * 0.72, 0), (x * wide * 0.65, -long * 0.74, -leg), 0.095, 0.075),
            sdf.limb((x * wide * 0.6, long * 0.72, 0), (x * wide * 0.65, long * 0.78, -leg), 0.11, 0.075),
        )
    ]
    ears = [
        sdf.ellipsoid((x * (head + 0.03), y + 0.02, z - 0.02), 0.055, 0.10, 0.19, BARK, sdf.rotation("y", -x * 10))
        for x in SIDES
    ]
    return [
        sdf.limb((0, -long * 0.72, 0), (0, long * 0.72, 0), wide + 0.02, wide),
        sdf.limb((0, -long * 0.8, 0.06), (0, y, z), wide * 0.75, head * 0.8),
        sdf.ball((0, y, z), head),
        sdf.limb((0, y - 0.10, z - 0.06), (0, y - head - 0.15, z - 0.08), 0.11, 0.085, CREAM),
        sdf.ball((0, y - head - 0.23, z - 0.05), 0.05, BLACK),
        *sdf.named("ears", *ears),
        *sdf.named("tail", sdf.limb((0, long * 0.85, 0.10), (0, long + 0.22, 0.42), 0.06, 0.035)),
        *both,
    ]


def horse(u: Uniform) -> list[np.ndarray]:
    long, wide, leg, neck = u(0.38, 0.44), u(0.17, 0.20), u(0.50, 0.58), u(0.38, 0.44)
    y, z = -long - 0.20, neck + 0.10
    both = [
        row
        for x in SIDES
        for row in (
            sdf.limb((x * 0.11, -long * 0.78, 0), (x * 0.12, -long * 0.8, -leg), 0.09, 0.05),
            sdf.limb((x * 0.11, long * 0.78, 0), (x * 0.12, long * 0.86, -leg), 0.11, 0.05),
            sdf.cylinder((x * 0.12, -long * 0.8, -leg), 0.07, 0.06, BLACK, rounding=0.01),
            sdf.cylinder((x * 0.12, long * 0.86, -leg), 0.07, 0.06, BLACK, rounding=0.01),
            sdf.cone((x * 0.07, y + 0.03, z + 0.15), 0.045, 0.01, 0.08),
            sdf.ball((x * 0.095, y - 0.08, z + 0.02), 0.04, BLACK),
        )
    ]
    return [
        sdf.limb((0, -long * 0.7, 0), (0, long * 0.7, 0), wide + 0.03, wide + 0.03),
        sdf.limb((0, -long * 0.75, 0.08), (0, y, z), 0.17, 0.11),
        sdf.limb((0, y, z), (0, y - 0.28, z - 0.20), 0.125, 0.085),
        *sdf.named("mane", sdf.limb((0, -long * 0.62, 0.26), (0, y + 0.12, z + 0.10), 0.06, 0.07, DARK)),
        *sdf.named("tail", sdf.limb((0, long + 0.10, 0.08), (0, long + 0.24, -leg * 0.72), 0.07, 0.085, DARK)),
        *both,
    ]


def rabbit(u: Uniform) -> list[np.ndarray]:
    head, wide, ear = u(0.22, 0.25), u(0.28, 0.32), u(0.34, 0.42)
    top = 0.42
    both = [
        row
        for x in SIDES
        for row in (
            sdf.ball((x * head * 0.55, -0.18 - head * 0.75, top + 0.06), 0.05, BLACK),
            sdf.ellipsoid((x * 0.17, -0.26, -0.36), 0.10, 0.19, 0.08),
            sdf.ellipsoid((x * wide * 0.85, 0.10, -0.22), 0.13, 0.22, 0.20),
        )
    ]
    ears = [
        sdf.ellipsoid((x * 0.12, -0.12, top + head + ear * 0.72), 0.075, 0.055, ear, sdf.MAIN, sdf.rotation("y", x * 9))
        for x in SIDES
    ]
    return [
        sdf.ellipsoid((0, 0.04, -0.08), wide, wide * 1.1, 0.36),
        sdf.ball((0, -0.18, top), head),
        *sdf.named("ears", *ears),
        sdf.ellipsoid((0, -0.18 - head * 0.85, top - 0.07), 0.11, 0.07, 0.075, WHITE),
        sdf.ball((0, -0.25 - head, top - 0.03), 0.035, BEAK),
        *sdf.named("tail", sdf.ball((0, wide * 1.1 + 0.06, -0.24), 0.13, WHITE)),
        *both,
    ]


def penguin(u: Uniform) -> list[np.ndarray]:
    wide, tall, head = u(0.30, 0.35), u(0.48, 0.54), u(0.21, 0.24)
    top = tall + head * 0.35
    both = [
        row
        for x in SIDES
        for row in (
            sdf.ball((x * head * 0.5, -head * 0.80, top + 0.05), 0.05, BLACK),
            sdf.ellipsoid((x * 0.14, -0.16, -tall - 0.01), 0.12, 0.19, 0.055, BEAK),
        )
    ]
    flippers = [
        sdf.ellipsoid((x * (wide + 0.06), 0.02, 0.02), 0.055, 0.13, 0.34, sdf.MAIN, sdf.rotation("y", -x * 20))
        for x in SIDES
    ]
    return [
        sdf.ellipsoid((0, 0, 0), wide, wide * 0.92, tall),
        sdf.ball((0, 0, top), head),
        *sdf.named("belly", sdf.ellipsoid((0, -wide * 0.32, -0.06), wide * 0.78, wide * 0.72, tall * 0.82, WHITE)),
        sdf.ellipsoid((0, -head * 0.35, top - 0.01), head * 0.75, head * 0.72, head * 0.66, WHITE),
        sdf.cone((0, -head - 0.10, top - 0.02), 0.07, 0.01, 0.11, BEAK, sdf.rotation("x", 90)),
        *sdf.named("wings", *flippers),
        *both,
    ]


def fish(u: Uniform) -> list[np.ndarray]:
    """Swims towards -Y."""
    long, tall, wide = u(0.50, 0.56), u(0.28, 0.34), u(0.17, 0.21)
    tail = [
        sdf.ellipsoid((0, long + 0.16, z * 0.17), 0.045, 0.12, 0.26, sdf.MAIN, sdf.rotation("x", -z * 38))
        for z in SIDES
    ]
    fins = [
        sdf.ellipsoid((0, 0.06, tall + 0.04), 0.035, 0.28, 0.15, sdf.MAIN, sdf.rotation("x", -12)),
        sdf.ellipsoid((0, 0.12, -tall - 0.02), 0.035, 0.16, 0.12),
        *[
            sdf.ellipsoid((x * (wide + 0.10), -0.06, -0.10), 0.15, 0.10, 0.03, sdf.MAIN, sdf.rotation("y", x * 30))
            for x in SIDES
        ],
    ]
    eyes = [
        row
        for x in SIDES
        for row in (
            sdf.ball((x * wide * 0.62, -long * 0.62, tall * 0.26), 0.085, WHITE),
            sdf.ball((x * (wide * 0.62 + 0.05), -long * 0.65, tall * 0.27), 0.05, BLACK),
        )
    ]
    return [
        sdf.ellipsoid((0, 0, 0), wide, long, tall),
        *sdf.named("tail", *tail),
        *sdf.named("fins", *fins),
        sdf.ellipsoid((0, -long + 0.02, -0.04), 0.07, 0.05, 0.05, BEAK),
        *eyes,
    ]


def elephant(u: Uniform) -> list[np.ndarray]:
    long, wide, leg, head = u(0.34, 0.40), u(0.30, 0.34), u(0.44, 0.50), u(0.24, 0.27)
    y, z = -long - 0.18, 0.20
    both = [
        row
        for x in SIDES
        for row in (
            *[sdf.cylinder((x * wide * 0.6, side * long * 0.72, -leg * 0.55), 0.125, leg * 0.55) for side in SIDES],
            sdf.ball((x * head * 0.62, y - head * 0.72, z + 0.07), 0.045, BLACK),
            sdf.limb((x * 0.12, y - head * 0.7, z - 0.14), (x * 0.15, y - head - 0.20, z - 0.20), 0.045, 0.02, WHITE),
        )
    ]
    ears = [
        sdf.ellipsoid((x * (head + 0.14), y + 0.10, z + 0.02), 0.23, 0.05, 0.28, sdf.MAIN, sdf.rotation("z", x * 28))
        for x in SIDES
    ]
    return [
        sdf.ellipsoid((0, 0, 0.06), wide, long + 0.10, wide + 0.04),
        sdf.ball((0, y, z), head),
        *sdf.named("ears", *ears),
        *sdf.named(
            "trunk",
            sdf.limb((0, y - head * 0.7, z - 0.04), (0, y - head - 0.14, z - 0.36), 0.11, 0.08),
            sdf.limb((0, y - head - 0.14, z - 0.36), (0, y - head - 0.20, z - 0.66), 0.08, 0.06),
        ),
        sdf.limb((0, long + 0.08, 0.14), (0, long + 0.20, -0.16), 0.035, 0.03),
        *both,
    ]


def turtle(u: Uniform) -> list[np.ndarray]:
    wide, long, high, head = u(0.44, 0.50), u(0.52, 0.58), u(0.34, 0.42), u(0.15, 0.18)
    neck = -long - 0.18
    both = [
        row
        for x in SIDES
        for row in (
            *[
                sdf.ellipsoid(
                    (x * wide * 0.80, side * long * 0.62, -0.13),
                    0.15,
                    0.19,
                    0.12,
                    OLIVE,
                    sdf.rotation("z", x * side * 30),
                )
                for side in SIDES
            ],
            sdf.ball((x * head * 0.6, neck - head * 0.6, 0.15), 0.04, BLACK),
        )
    ]
    return [
        sdf.part(sdf.DOME, (0, 0, -0.04), (wide, long, high)),
        sdf.ellipsoid((0, 0, -0.04), wide + 0.05, long + 0.05, 0.075, CREAM),
        sdf.limb((0, -long * 0.7, -0.06), (0, neck, 0.08), 0.11, 0.11, OLIVE),
        sdf.ellipsoid((0, neck - 0.02, 0.10), head, head * 1.2, head, OLIVE),
        sdf.cone((0, long + 0.08, -0.08), 0.07, 0.01, 0.12, OLIVE, sdf.rotation("x", -90)),
        *both,
    ]
