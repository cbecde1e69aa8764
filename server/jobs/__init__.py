# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs: their store, the queue that schedules them, and the executors that run them."""

from collections.abc import Callable

from . import local_process, ray_pool
from .executor import ExecutorOptions, Executors

__all__ = ["EXECUTORS"]

# The choices of `serve --executor`: each gives the executors to start, or a pool in which they come and go.
EXECUTORS: dict[str, Callable[[ExecutorOptions], Executors]] = {
    "local": local_process.for_each_device,
    "ray": ray_pool.of_cluster,
}
