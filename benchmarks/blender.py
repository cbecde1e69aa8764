# SPDX-License-Identifier: GPL-3.0-or-later
"""What an update costs Blender's main thread, at 20,000 vertices and 40,000 faces.

python -m benchmarks.blender [--updates 30]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import bpy
import numpy as np

from msd_blender.pixels import PreparedSnapshot
from msd_blender.protocol import JobRequest, Snapshot
from msd_blender.scene_object import SceneObject

SIDE = 142  # of a grid: 20,164 vertices, 39,762 faces


def grid(side: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    y, x = np.mgrid[:side, :side].astype(np.float32) / (side - 1)
    index = np.arange(side * side, dtype=np.int32).reshape(side, side)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    flat = np.stack([x.ravel(), y.ravel()], 1)
    return {
        "positions": np.column_stack([flat, draw.random(side * side, np.float32)]),
        "faces": faces,
        "uvs": flat[faces],
        "colours": draw.integers(0, 256, (side * side, 3), np.uint8),
    }


def measure(name: str, limit: float, updates: int, change: Callable[[int], dict[str, np.ndarray]]) -> None:
    """Time updates, each with the check for the artist's edits before it."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    scene_object = SceneObject(JobRequest("grid", client_key="key"))
    scene_object.apply(Snapshot(1, 1, change(0)))
    times, busy = [], []
    for i in range(1, updates + 1):
        snapshot = PreparedSnapshot.of(Snapshot(i + 1, i, change(i)))  # as the reading thread does
        start, used = time.perf_counter(), time.thread_time()
        if scene_object.has_edits(snapshot):
            raise AssertionError("nobody edited it")
        scene_object.apply(snapshot)
        times.append(1000 * (time.perf_counter() - start))
        busy.append(1000 * (time.thread_time() - used))
    print(
        f"| {name} | {statistics.median(times):.1f} | {max(times):.1f} | {statistics.median(busy):.1f} | {limit:g} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=30)
    updates = parser.parse_args().updates
    draw = np.random.default_rng(0)
    base = grid(SIDE, draw)
    texture = draw.integers(0, 256, (1024, 1024, 3), np.uint8)
    moved = [base["positions"] + draw.normal(0, 1e-3, base["positions"].shape).astype(np.float32) for _ in range(4)]
    painted = [np.roll(texture, i, 0) for i in range(4)]
    other = [grid(SIDE + i % 2, draw) for i in range(4)]
    print(
        f"Blender {bpy.app.version_string}, {len(base['positions']):,} vertices, {len(base['faces']):,} faces, "
        "ms on the main thread\n\n| update | median | largest | median of CPU time | wanted |\n|---|---|---|---|---|"
    )
    measure("positions", 4, updates, lambda i: {**base, "positions": moved[i % 4], "texture.0": texture})
    measure(
        "positions and colours",
        4,
        updates,
        lambda i: {**base, "positions": moved[i % 4], "colours": other[2 * (i % 2)]["colours"]},
    )
    measure(
        "positions and a 1024² texture",
        16,
        updates,
        lambda i: {**base, "positions": moved[i % 4], "texture.0": painted[i % 4]},
    )
    measure("topology", 30, updates, lambda i: other[i % 4])


if __name__ == "__main__":
    main()
