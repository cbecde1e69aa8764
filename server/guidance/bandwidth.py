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
        return float(self.start ** (1 - t) * self.end**t)


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


class Adaptive:
    """A bandwidth that falls when the mean shift says that the latents have converged under it.

    It starts at `start` and falls by `ratio`, down to `end`, when the root mean square of a step's shift is below
    `tolerance` bandwidths, or when its mean over the last `patience` steps is less than a twentieth below the mean of
    the steps before, since the rest is the estimator's own spread. `converged` becomes true when that happens at
    `end`: a rule to stop by. Progress plays no part.
    """

    def __init__(self, start: float, end: float, ratio: float = 0.7, tolerance: float = 0.02, patience: int = 6):
        _check(start, end, ratio, tolerance)
        if not (end <= start and ratio < 1 and patience >= 1):
            raise ValueError(
                f"An adaptive bandwidth falls: it needs end <= start, ratio < 1 and patience >= 1, "
                f"not {end}, {start}, {ratio} and {patience}."
            )
        self.end, self.ratio, self.tolerance, self.patience = end, ratio, tolerance, patience
        self.converged = False
        self._value, self._lengths = start, list[float]()

    def __call__(self, progress: float) -> float:
        return self._value

    def observe(self, length: float) -> None:
        """Take a step's shift, as the root mean square of its entries."""
        self._lengths.append(length)
        before, last = self._lengths[-2 * self.patience : -self.patience], self._lengths[-self.patience :]
        stalled = len(before) == self.patience and sum(last) > 0.95 * sum(before)
        if length > self.tolerance * self._value and not stalled:
            return
        self.converged = self._value <= self.end
        self._value, self._lengths = max(self.end, self.ratio * self._value), []


def _unit(progress: float) -> float:
    return min(max(float(progress), 0.0), 1.0)


def _check(*values: float) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"A schedule takes finite positive numbers, but got {value!r}.")
