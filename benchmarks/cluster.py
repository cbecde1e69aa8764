# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Ray cluster costs a job, and how many jobs and events a second the queue itself carries.

.venv/bin/python -m benchmarks.cluster [--plot FILE.png]

The cluster is raylets on this machine, as many as `--actors` says. Its jobs wait where real ones compute: what is left
is what the queue, the network and Ray add. Turns of the local executor and of Ray alternate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from msd_blender.protocol import FINISHED, JobRequest
from server.jobs.local_process import LocalProcess
from server.jobs.messages import Finished
from server.jobs.queue import Queue
from server.jobs.ray_pool import RayPool
from server.jobs.store import Store
from tests.jobs import ray_work
from tests.jobs.ray_machines import Machines
from tests.jobs.scripted import ScriptedExecutor, progress

FILES = {"mesh.glb": b"glb", "job.json": b"{}"}
COUNTS = (1, 2, 4, 16, 64, 256)  # executors of the queue's own ceiling
EVENTS = 10  # of each of its jobs


class Bench:
    """A queue in a temporary folder."""

    def __init__(self, executors: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="msd-bench-")
        self.store = Store(Path(self._folder.name))
        self.queue = Queue(self.store, executors)
        self.queue.start()

    def wait(self, count: int) -> None:
        while self.queue.executor_states.count("idle") < count:
            time.sleep(0.05)

    def run(self, jobs: int, steps: int) -> tuple[float, float]:
        """(seconds until all have ended, until the first snapshot of the first)."""
        start, first, before = time.perf_counter(), 0.0, self.store.count(FINISHED)
        ids = [self.queue.submit(JobRequest("count", iterations=steps)).id for _ in range(jobs)]
        while self.store.count(FINISHED) < before + jobs:
            if not first and self.queue.streams.newest_snapshot(ids[0]) is not None:
                first = time.perf_counter() - start
            time.sleep(0.005)
        return time.perf_counter() - start, first

    def close(self) -> None:
        self.queue.stop()
        self.store.close()
        self._folder.cleanup()


def overhead(cluster: Bench, local: Bench, turns: int, steps: int) -> None:
    taken: dict[str, list[tuple[float, float]]] = {"local": [], "ray": []}
    for _ in range(turns + 1):
        for name, bench in (("local", local), ("ray", cluster)):
            taken[name].append(bench.run(1, steps))
    whole = {name: statistics.median(each[0] for each in runs[1:]) for name, runs in taken.items()}
    first = {name: statistics.median(each[1] for each in runs[1:]) for name, runs in taken.items()}
    more = 100 * (whole["ray"] / whole["local"] - 1)
    print(f"one job of {steps} steps, medians of {turns} turns:")
    print(f"  local {whole['local']:.2f} s, Ray {whole['ray']:.2f} s, {more:+.1f} %")
    print(f"  first snapshot: local {first['local']:.3f} s, Ray {first['ray']:.3f} s")


def throughput(machines: Machines, cluster: Bench, most: int, steps: int) -> None:
    alone = 0.0
    for count in range(1, most + 1):
        if count > 1:
            machines.nodes.append(machines.add())
        cluster.wait(count)
        cluster.run(count, 2)
        seconds = cluster.run(2 * count, steps)[0] / 2
        alone = alone or seconds
        share = alone / seconds
        print(f"{count} actors, {2 * count} jobs: {count / seconds:.3f} jobs a second, {share:.2f} of the ideal")


def ceiling(jobs: int) -> list[tuple[int, float, float]]:
    """(executors, jobs a second, events a second) with executors in this process whose jobs take no time."""

    def play(executor: Any, job: Any) -> None:
        executor.say(*(progress(i) for i in range(1, EVENTS + 1)), Finished(FILES))

    found = []
    for count in COUNTS:
        bench = Bench([partial(ScriptedExecutor, [play])] * count)
        bench.wait(count)
        seconds, _ = bench.run(jobs, 1)
        events = bench.queue.streams.events_sent
        found.append((count, jobs / seconds, events / seconds))
        print(f"{count} executors: {jobs / seconds:.0f} jobs and {events / seconds:.0f} events a second")
        bench.close()
    return found


def draw(found: list[tuple[int, float, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    counts = [each[0] for each in found]
    axes.loglog(counts, [each[1] for each in found], "o-", label="jobs a second")
    axes.loglog(counts, [each[2] for each in found], "s-", label="events a second")
    axes.set_xticks(counts, map(str, counts))
    axes.set_xlabel("executors")
    axes.set_title(f"The queue alone: jobs of {EVENTS} events that take no time")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actors", type=int, default=3)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of a job, each of 0.02 s and more")
    parser.add_argument("--jobs", type=int, default=300, help="of the queue's own ceiling")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--only", choices=("queue", "ray"))
    given = parser.parse_args()
    if given.only != "ray":
        found = ceiling(given.jobs)
        if given.plot:
            draw(found, given.plot)
    if given.only == "queue":
        return
    with tempfile.TemporaryDirectory() as journal:
        os.environ["MSD_TEST_JOURNAL"] = journal
        machines = Machines(1)
        cluster = Bench(RayPool(machines.address, 1, "tests.jobs.ray_work"))
        local = Bench([partial(LocalProcess, main=ray_work.local_main)])
        try:
            cluster.wait(1)
            local.wait(1)
            overhead(cluster, local, given.turns, given.steps)
            throughput(machines, cluster, given.actors, given.steps)
        finally:
            cluster.close()
            local.close()
            machines.close()


if __name__ == "__main__":
    main()
