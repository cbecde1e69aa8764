# SPDX-License-Identifier: GPL-3.0-or-later
"""Seconds that each part of a run takes, on the device's own timeline."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, Self

import torch


class Mark(Protocol):
    """A moment on a device's own timeline, which the host may not have seen yet: `torch.cuda.Event` is one."""

    def query(self) -> bool:
        """Whether the device has come to it."""

    def synchronize(self) -> None:
        """Wait until it has."""

    def elapsed_time(self, end: Self, /) -> float:
        """Milliseconds to a later one; both have come."""


class HostMark:
    """A moment of the host, whose work is done when it returns."""

    def __init__(self) -> None:
        self._time = time.perf_counter()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: HostMark, /) -> float:
        return 1000 * (end._time - self._time)


def event_mark(device: str) -> Mark:
    """The present moment of a type of device but the CPU."""
    event: Any = {"cuda": torch.cuda.Event, "mps": torch.mps.event.Event, "xpu": torch.xpu.Event}[device](
        enable_timing=True
    )
    event.record()
    return event  # type: ignore[no-any-return]


class Clock:
    """Seconds spent, by name, as the device spends them.

    On a card the host is ahead of the device: its own clock would book a network's work under whatever next waits for a
    result. Events on the stream measure the work itself, without a wait.

    Args:
        mark: the present moment of the device.
    """

    def __init__(self, mark: Callable[[], Mark] = HostMark) -> None:
        self._mark = mark
        self._seconds: dict[str, float] = defaultdict(float)
        self._pending: deque[tuple[str, Mark, Mark]] = deque()
        self._start = time.perf_counter()

    @classmethod
    def of(cls, device: torch.device) -> Clock:
        return cls(partial(event_mark, device.type) if device.type in ("cuda", "mps", "xpu") else HostMark)

    def resume(self, seconds: dict[str, float], elapsed: float) -> None:
        """Add the seconds of the run before it was stopped."""
        for name, value in seconds.items():
            self._seconds[name] += value
        self._start -= elapsed

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = self._mark()
        try:
            yield
        finally:
            self._pending.append((name, start, self._mark()))

    @property
    def seconds(self) -> dict[str, float]:
        """The parts that the device has finished; 0 for other names."""
        while self._pending and self._pending[0][2].query():
            name, start, end = self._pending.popleft()
            self._seconds[name] += start.elapsed_time(end) / 1000
        return self._seconds

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked."""
        if self._pending:
            self._pending[-1][2].synchronize()

    @property
    def elapsed(self) -> float:
        """Seconds of the run, by the host."""
        return time.perf_counter() - self._start
