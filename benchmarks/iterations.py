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
    other = dataclasses.replace(settings.volume, iterations=30 if phase == "surface" else WARM + COUNTED)
    own = dataclasses.replace(settings.surface, iterations=WARM + COUNTED if phase == "surface" else 0)
    run = Generation(JobRequest("a red mushroom"), lambda _: None, lambda: False,
                     dataclasses.replace(settings, volume=other, surface=own))
    total = other.iterations + own.iterations

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
    for phase in ("volume", "surface"):
        seconds = measure(phase)
        total = sum(seconds.values())
        cells = [f"{1000 * seconds[part]:.1f}" for part in PARTS]
        print(f"| {phase} | " + " | ".join(cells) + f" | {1000 * total:.1f} | "
              f"{1 - seconds['denoiser'] / total:.0%} |", flush=True)


if __name__ == "__main__":
    main()
