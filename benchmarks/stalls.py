# SPDX-License-Identifier: GPL-3.0-or-later
"""How long Blender's main thread stands still while a job runs on the same machine:
``python -m benchmarks.stalls [--threads 1 2] [--iterations 60]``.

Sixty times a second, as often as Blender draws, the main thread shows what the job has sent. A stall is the time from
the moment at which that was due until it is done: the update's own time and the wait for a core.
"""

from __future__ import annotations

import argparse
import os
import time
import uuid

import bpy
import numpy as np

from msd_blender.connection import connected_client
from msd_blender.live_job import LiveJob
from msd_blender.protocol import JobRequest

TICK = 1 / 60  # seconds


def stalls(iterations: int) -> np.ndarray:
    """Milliseconds of each tick, from the job's first iteration to its end."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    request = JobRequest("a red mushroom", iterations=iterations, client_key=uuid.uuid4().hex)
    found = []
    with connected_client("", "") as client:
        job = LiveJob(request, lambda: client)
        due = time.perf_counter()
        running = True
        while running:
            time.sleep(max(0.0, due - time.perf_counter()))
            running = job.update()
            now = time.perf_counter()
            if job.session.progress is not None and job.session.progress.iteration:
                found.append(1000 * (now - due))
            due = max(due + TICK, now)
    if job.session.error:
        raise SystemExit(job.session.error)
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1], help="of the server")
    parser.add_argument("--iterations", type=int, default=60)
    options = parser.parse_args()
    print("| threads of the server | ticks | median, ms | 99th percentile, ms | largest, ms |\n|---|---|---|---|---|")
    for threads in options.threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(threads)
        found = stalls(options.iterations)
        median, late = np.percentile(found, [50, 99])
        print(f"| {threads} | {len(found):,} | {median:.1f} | {late:.1f} | {found.max():.1f} |", flush=True)


if __name__ == "__main__":
    main()
