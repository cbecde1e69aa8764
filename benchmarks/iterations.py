# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an iteration's time goes, phase by phase, with the bundled prior on this machine."""

from __future__ import annotations

import dataclasses

import torch

from msd_blender.protocol import JobRequest
from server.optimize.generate import Clock, Generation
from server.optimize.settings import Settings

PARTS = ("render forward", "render backward", "encode", "denoiser", "optimizer")
WARM, COUNTED = 5, 40


def measure(phase: str) -> dict[str, float]:
    """Seconds per iteration by part, the first iterations left out."""
    settings = Settings(snapshots=1)
    names = ("volume", "surface", "finish")
    at = names.index(phase)
    counts = [30] * at + [WARM + COUNTED] + [0] * (len(names) - at - 1)
    run = Generation(JobRequest("a red mushroom"), lambda _: None, lambda: False, dataclasses.replace(settings, **{
        name: dataclasses.replace(getattr(settings, name), iterations=count)
        for name, count in zip(names, counts)}))
    total = sum(counts)

    def report(_: object) -> None:
        if run.iteration == total - COUNTED:
            run.clock = Clock()

    run.report = report
    run.run()
    return {part: run.clock.seconds[part] / COUNTED for part in PARTS}


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {COUNTED} iterations each\n")
    print("| milliseconds per iteration | " + " | ".join(PARTS) + " | sum | not the denoiser |")
    print("|---" * (len(PARTS) + 3) + "|")
    for phase in ("volume", "surface", "finish"):
        seconds = measure(phase)
        total = sum(seconds.values())
        cells = [f"{1000 * seconds[part]:.1f}" for part in PARTS]
        print(f"| {phase} | " + " | ".join(cells) + f" | {1000 * total:.1f} | "
              f"{1 - seconds['denoiser'] / total:.0%} |", flush=True)


if __name__ == "__main__":
    main()
