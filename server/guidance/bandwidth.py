# SPDX-License-Identifier: GPL-3.0-or-later
"""Schedules: a positive setting as a function of progress in [0, 1]."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[float], float]


def as_schedule(value: "float | Schedule") -> Schedule:
    """A number as the constant schedule; a schedule as itself."""
    return value if callable(value) else Constant(value)


@dataclass(frozen=True)
class Constant:
    """The same value throughout."""

    value: float

    def __post_init__(self) -> None:
        _check(self.value)

    def __call__(self, progress: float) -> float:
        return self.value


@dataclass(frozen=True)
class Geometric:
    """From start to end by equal ratios: the usual way to lower a bandwidth."""

    start: float
    end: float

    def __post_init__(self) -> None:
        _check(self.start, self.end)

    def __call__(self, progress: float) -> float:
        t = _unit(progress)
        return self.start ** (1 - t) * self.end**t


@dataclass(frozen=True)
class Linear:
    """From start to end by equal differences."""

    start: float
    end: float

    def __post_init__(self) -> None:
        _check(self.start, self.end)

    def __call__(self, progress: float) -> float:
        t = _unit(progress)
        return (1 - t) * self.start + t * self.end


def _unit(progress: float) -> float:
    return min(max(float(progress), 0.0), 1.0)


def _check(*values: float) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"A schedule takes finite positive numbers, but got {value!r}.")
