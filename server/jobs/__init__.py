# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs: their store, the queue that schedules them, and the executors that run them."""

from collections.abc import Callable

from . import local_process
from .executor import StartExecutor

__all__ = ["EXECUTORS"]

# The choices of `serve --executor`: each gives the executors to start, one for a device.
EXECUTORS: dict[str, Callable[[], list[StartExecutor]]] = {"local": local_process.for_each_device}
