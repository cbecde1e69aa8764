# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the time of a run goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds spent, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._start = time.perf_counter()

    def resume(self, seconds: dict[str, float], elapsed: float) -> None:
        """Add what was spent before."""
        for name, value in seconds.items():
            self.seconds[name] += value
        self._start -= elapsed

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._start
