# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a job takes alone and beside a busy loop, with each number of threads and each way for them to wait:
``python -m benchmarks.busy [--rounds 3] [--cores 2]``.

Runs of all settings alternate. The machine must have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ITERATIONS = 24
# The server lets threads sleep; GNU's OpenMP spins 300,000 times first where nothing is said.
POLICIES = {"sleeping": {}, "spinning": {"GOMP_SPINCOUNT": "300000"}}


def run(threads: int, policy: str, cores: int, busy: bool) -> float:
    """Seconds of the job without loading the model."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **POLICIES[policy]}

    def pin() -> None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    other = subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=pin) if busy else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "server", "generate", "a red mushroom", "--iterations", str(ITERATIONS)]
            subprocess.run(
                [*command, "--output", folder],
                cwd=ROOT,
                env=environment,
                preexec_fn=pin,
                check=True,
                capture_output=True,
            )
            record = json.loads(Path(folder, "job.json").read_text(encoding="utf-8"))
            seconds = float(record["seconds_total"] - record["seconds"]["load"])
            print(f"{threads} {policy} {'beside a loop' if busy else 'alone'}: {seconds:.1f} s", file=sys.stderr)
            return seconds
    finally:
        if other:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    seconds: dict[tuple[int, str, bool], list[float]] = defaultdict(list)
    for _ in range(given.rounds):
        for threads in sorted({1, given.cores}):
            for policy in POLICIES:
                for busy in (False, True):
                    seconds[threads, policy, busy].append(run(threads, policy, given.cores, busy))
    print("| threads | they wait | alone | beside a busy loop |\n|---|---|---|---|")
    for threads, policy in sorted({(threads, policy) for threads, policy, _ in seconds}):
        alone, beside = (
            f"{statistics.median(each):.1f} s ({min(each):.1f} to {max(each):.1f})"
            for each in (seconds[threads, policy, False], seconds[threads, policy, True])
        )
        print(f"| {threads} | {policy} | {alone} | {beside} |")


if __name__ == "__main__":
    main()
