# SPDX-License-Identifier: GPL-3.0-or-later
"""The colours of captions, and those of an object's trim; sRGB in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

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
CREAM, BARK, DARK, WHITE = (0.93, 0.87, 0.74), (0.36, 0.22, 0.10), (0.20, 0.20, 0.22), (0.93, 0.93, 0.93)
ROOF, GLASS, BLACK, LEAF = (0.27, 0.21, 0.18), (0.08, 0.11, 0.30), (0.05, 0.05, 0.05), (0.15, 0.50, 0.10)
BEAK, CLAY, LAMP = (0.95, 0.45, 0.05), (0.60, 0.27, 0.14), (0.45, 0.03, 0.05)
GLOW, STEEL, GOLD, OLIVE = (0.98, 0.90, 0.35), (0.66, 0.68, 0.72), (0.72, 0.52, 0.14), (0.52, 0.56, 0.28)

Uniform = Callable[[float, float], float]  # low, high -> a proportion
