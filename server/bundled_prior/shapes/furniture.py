# SPDX-License-Identifier: GPL-3.0-or-later
"""Furniture."""

from __future__ import annotations

import numpy as np

from .. import primitives as sdf
from .palette import BARK, BLACK, CREAM, WHITE, Uniform


def bed(u: Uniform, pillows: int = 2) -> list[np.ndarray]:
    wide, long, low, head = u(0.42, 0.54), u(0.74, 0.82), u(0.12, 0.15), u(0.34, 0.44)
    heads = [
        sdf.box((x * wide * 0.48, long * 0.68, low + 0.13), wide * 0.40 if pillows == 2 else wide * 0.6, 0.16, 0.07)
        for x in ((-1, 1) if pillows == 2 else (0,))
    ]
    for each in heads:
        each[1:4] = WHITE
    posts = [
        sdf.box((x * (wide - 0.06), y * (long - 0.06), -low - 0.10), 0.06, 0.06, 0.14, BARK)
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    return [
        sdf.box((0, 0, 0), wide, long, low, BARK, rounding=0.01),
        sdf.box((0, long, head - 0.16), wide + 0.03, 0.06, head, BARK, rounding=0.02),
        sdf.box((0, -long, 0.02), wide + 0.03, 0.06, low + 0.08, BARK, rounding=0.02),
        sdf.box((0, 0.02, low + 0.02), wide - 0.02, long - 0.06, 0.08, CREAM, rounding=0.04),
        sdf.box((0, -long * 0.26, low + 0.05), wide + 0.02, long * 0.72, 0.09, rounding=0.03),
        *sdf.named("pillow", *heads),
        *posts,
    ]


def bookshelf(u: Uniform, shelves: int = 3) -> list[np.ndarray]:
    wide, deep, tall, wall = u(0.44, 0.56), u(0.18, 0.24), u(0.74, 0.82), u(0.045, 0.06)
    step = 2 * (tall - wall) / shelves
    boards = [sdf.box((0, 0, -tall + wall + i * step), wide, deep, wall, rounding=0.01) for i in range(shelves + 1)]
    inner, rows = wide - wall, (((-0.48, 0.42, 0.8), (0.42, 0.44, 0.66)), ((-0.3, 0.6, 0.72), (0.66, 0.22, 0.85)))
    books = [
        sdf.box(
            (x * inner, 0, -tall + 2 * wall + i * step + half), width * inner, deep * 0.75, half, CREAM, rounding=0.01
        )
        for i in range(shelves)
        for x, width, high in rows[i % 2]
        for half in [0.36 * step * high]
    ]
    return [
        *boards,
        *[sdf.box((x * (wide - wall), 0, 0), wall, deep, tall, rounding=0.01) for x in (-1, 1)],
        *sdf.named("books", *books),
    ]


def piano(u: Uniform) -> list[np.ndarray]:
    wide, deep, tall, ledge = u(0.64, 0.74), u(0.18, 0.22), u(0.46, 0.54), u(0.20, 0.25)
    front = -deep - ledge
    black = [
        sdf.box((x * wide * 0.125, front + 0.16, 0.09), wide * 0.035, 0.10, 0.035, BLACK, rounding=0.005)
        for x in (-6, -5, -3, -2, -1, 1, 2, 4, 5, 6)
    ]
    return [
        sdf.box((0, 0, 0), wide, deep, tall, rounding=0.02),
        sdf.box((0, 0, tall), wide + 0.04, deep + 0.04, 0.035, rounding=0.01),
        sdf.box((0, -deep - ledge * 0.5, -0.03), wide, ledge * 0.5 + 0.05, 0.07, rounding=0.015),
        *[sdf.box((x * (wide - 0.045), -deep - ledge * 0.5, 0.04), 0.045, ledge * 0.5 + 0.05, 0.09) for x in (-1, 1)],
        *sdf.named("keys", sdf.box((0, front + 0.10, 0.05), wide - 0.09, 0.14, 0.03, WHITE, rounding=0.005)),
        *black,
        *[sdf.box((x * (wide - 0.07), front + 0.03, -tall * 0.5 - 0.05), 0.05, 0.05, tall * 0.5) for x in (-1, 1)],
        sdf.box((0, -deep - 0.02, tall * 0.55), wide * 0.5, 0.03, tall * 0.22, CREAM, rounding=0.005),
        sdf.box((0, -deep * 0.5, -tall - 0.02), wide + 0.03, deep * 1.5, 0.05, rounding=0.01),
    ]
