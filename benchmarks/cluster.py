# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Ray cluster costs a job, and how many jobs and events a second the queue itself carries.

.venv/bin/python -m benchmarks.cluster [--only PART …] [--plot FILE.png]

The cluster is raylets on this machine. Its jobs wait where real ones compute: what is left is what the queue, the
network and Ray add. Turns of the local executor and of Ray alternate. Real jobs run on both at the same time, a core
each, because a shared machine's speed differs more from one turn to the next than the two do. For the ceiling, jobs
take no time: they are run by objects in the server's process, which leaves the queue alone, and by real actors.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

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
PARTS = ("overhead", "throughput", "queue", "actors")
EVENTS = 200  # of each job that measures events
WAITING = "every 50"  # steps of 0.02 s, each with an event and a snapshot; every 50th with a checkpoint
Ceiling = list[tuple[int, float, float]]  # (executors, jobs without events a second, events a second)


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

    def run(self, jobs: int, steps: int, prompt: str = WAITING, **more: Any) -> tuple[float, float]:
        """(seconds until all have ended, until the first snapshot of the first)."""
        start, first, before = time.perf_counter(), 0.0, self.store.count(FINISHED)
        ids = [self.queue.submit(JobRequest(prompt, iterations=steps, **more)).id for _ in range(jobs)]
        while self.store.count(FINISHED) < before + jobs:
            if not first and self.queue.streams.newest_snapshot(ids[0]) is not None:
                first = time.perf_counter() - start
            time.sleep(0.005)
        return time.perf_counter() - start, first

    def close(self) -> None:
        self.queue.stop()
        self.store.close()
        self._folder.cleanup()


def overhead(cluster: Bench, local: Bench, turns: int, steps: int, prompt: str = WAITING, **more: Any) -> None:
    taken: dict[str, list[tuple[float, float]]] = {"local": [], "ray": []}
    for _ in range(turns + 1):
        for name, bench in (("local", local), ("ray", cluster)):
            taken[name].append(bench.run(1, steps, prompt, **more))
    whole = {name: [each[0] for each in runs[1:]] for name, runs in taken.items()}
    first = {name: statistics.median(each[1] for each in runs[1:]) for name, runs in taken.items()}
    ratios = sorted(ray / local for ray, local in zip(whole["ray"], whole["local"]))
    shown = ", ".join(f"{100 * (ratio - 1):+.1f}" for ratio in ratios)
    print(f"one job, {prompt!r}, {steps} steps, {turns} turns:")
    print(f"  medians: local {statistics.median(whole['local']):.2f} s, Ray {statistics.median(whole['ray']):.2f} s")
    print(f"  Ray against local, turn by turn: {100 * (statistics.median(ratios) - 1):+.1f} % ({shown})")
    print(f"  first snapshot: local {first['local']:.3f} s, Ray {first['ray']:.3f} s", flush=True)


def side_by_side(cluster: Bench, local: Bench, turns: int, iterations: int) -> None:
    """Real jobs, one of each executor at the same time."""
    ratios, firsts = [], []
    with ThreadPoolExecutor(2) as threads:
        for turn in range(turns + 1):
            runs = [threads.submit(each.run, 1, iterations, "real red mushroom") for each in (cluster, local)]
            (ray, ray_first), (own, own_first) = (each.result() for each in runs)
            if turn:  # in the first one the models are loaded
                ratios.append(ray / own)
                firsts.append(ray_first - own_first)
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    print(f"real jobs of {iterations} iterations, one of each at the same time, {turns} turns:")
    print(
        f"  Ray against local: {100 * (middle - 1):+.1f} % in the median, "
        f"{100 * (statistics.mean(ratios) - 1):+.1f} % in the mean, {100 * (low - 1):+.1f} to "
        f"{100 * (high - 1):+.1f} % in the middle half; first snapshot {statistics.median(firsts):+.3f} s",
        flush=True,
    )


def throughput(machines: Machines, cluster: Bench, most: int, steps: int) -> None:
    alone = 0.0
    for count in range(1, most + 1):
        if count > 1:
            machines.nodes.append(machines.add())
        cluster.wait(count)
        cluster.run(count, 2)
        seconds = cluster.run(4 * count, steps)[0] / 4
        alone = alone or seconds
        share = alone / seconds
        print(
            f"{count} actors, {4 * count} jobs: {count / seconds:.3f} jobs a second, {share:.3f} of the ideal",
            flush=True,
        )


def ceiling(bench: Bench, count: int, jobs: int) -> tuple[int, float, float]:
    """The point of `count` executors that are idle."""
    bench.run(count, 1, "events")  # each has had a job
    seconds = bench.run(jobs, 0, "events")[0]
    number = max(count, jobs // 10)
    before = bench.queue.streams.events_sent
    busy = bench.run(number, EVENTS, "events")[0]
    events = bench.queue.streams.events_sent - before
    print(f"{count} executors: {jobs / seconds:.0f} jobs a second; {events / busy:.0f} events a second", flush=True)
    return count, jobs / seconds, events / busy


def in_process(counts: list[int], jobs: int) -> Ceiling:
    """With executors in this process."""

    def play(executor: Any, job: Any) -> None:
        executor.say(*(progress(i) for i in range(job.request.iterations)), Finished(FILES))

    found = []
    for count in counts:
        bench = Bench([partial(ScriptedExecutor, [play])] * count)
        bench.wait(count)
        found.append(ceiling(bench, count, jobs))
        bench.close()
    return found


def on_actors(counts: list[int], jobs: int) -> Ceiling:
    """With real actors, all on one machine that claims to have a CPU for each."""
    found = []
    for count in counts:
        machines = Machines(0)
        machines.nodes.append(machines.add(cpus=count))
        bench = Bench(RayPool(machines.address, 1, "tests.jobs.ray_work", lease=60))
        bench.wait(count)
        found.append(ceiling(bench, count, jobs))
        bench.close()
        machines.close()
    return found


def draw(found: dict[str, Ceiling], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, points in found.items():
        for which, title in ((1, "jobs a second, of jobs without events"), (2, "events a second")):
            axes[which - 1].loglog([each[0] for each in points], [each[which] for each in points], "o-", label=name)
            axes[which - 1].set_title(title, fontsize=10)
    ticks = sorted({each[0] for points in found.values() for each in points})
    for each in axes:
        each.set_xticks(ticks, map(str, ticks), minor=False)
        each.minorticks_off()
        each.set_xlabel("executors")
        each.grid(alpha=0.3)
        each.legend(fontsize=8)
        bottom, top = each.get_ylim()
        each.set_ylim(10 ** math.floor(math.log10(bottom)), 10 ** math.ceil(math.log10(top)))
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500, help="of a job, each of 0.02 s and more")
    parser.add_argument("--jobs", type=int, default=500, help="of the ceiling")
    parser.add_argument("--executors", type=int, nargs="+", default=[1, 2, 4, 16, 64, 256])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 16, 64])
    parser.add_argument("--real", type=int, default=0, help="iterations of a real job whose overhead is measured, too")
    parser.add_argument("--real-turns", type=int, default=12)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    chosen = given.only
    found: dict[str, Ceiling] = {}
    with tempfile.TemporaryDirectory() as journal:
        os.environ["MSD_TEST_JOURNAL"] = journal
        if "queue" in chosen:
            found["objects of the server's process"] = in_process(given.executors, given.jobs)
        if "actors" in chosen:
            found["Ray actors"] = on_actors(given.actors, given.jobs)
        if given.plot:
            draw(found, given.plot)
        # Ray's workers give way to other programs, niceness 15; beside a local job they shall not.
        os.environ.setdefault("RAY_worker_niceness", "0")
        if {"overhead", "throughput"} & set(chosen):
            machines = Machines(1)
            cluster = Bench(RayPool(machines.address, 1, "tests.jobs.ray_work"))
            local = Bench([partial(LocalProcess, main=ray_work.local_main)])
            cluster.wait(1)
            local.wait(1)
            if "overhead" in chosen:
                overhead(cluster, local, given.turns, given.steps)
                if given.real:
                    true = Bench([LocalProcess])
                    true.wait(1)
                    side_by_side(cluster, true, given.real_turns, given.real)
                    true.close()
            local.close()
            if "throughput" in chosen:
                throughput(machines, cluster, 3, given.steps)
            cluster.close()
            machines.close()


if __name__ == "__main__":
    main()
