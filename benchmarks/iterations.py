# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an iteration's time goes, phase by phase, with the bundled prior on this machine."""

from __future__ import annotations

import argparse
import dataclasses

import torch

from msd_blender.protocol import DEVICES, RASTERIZERS, JobRequest
from server.optimize import Optimization
from server.optimize.clock import Clock
from server.optimize.device import choose_device
from server.optimize.settings import Settings

PARTS = ("render forward", "render backward", "encode", "denoiser", "optimizer")
WARM, COUNTED = 5, 40


def measure(phase: str, request: JobRequest) -> dict[str, float]:
    """Seconds per iteration by part, and per iteration of the wall clock, the first iterations left out."""
    settings = Settings.of(request)
    names = ("volume", "surface", "finish")
    at = names.index(phase)
    counts = [30] * at + [WARM + COUNTED] + [0] * (len(names) - at - 1)
    run = Optimization(
        request,
        lambda _: None,
        lambda: False,
        dataclasses.replace(
            settings,
            snapshots=1,
            **{
                name: dataclasses.replace(getattr(settings, name), iterations=count)
                for name, count in zip(names, counts)
            },
        ),
    )
    total = sum(counts)

    def report(_: object) -> None:
        if run.iteration == total - COUNTED:
            run.clock.synchronize()
            run.clock = Clock.of(run.device)

    run.report = report
    run.run()
    run.clock.synchronize()
    found = {part: run.clock.seconds[part] / COUNTED for part in PARTS}
    return found | {"all": (run.clock.elapsed - run.clock.seconds["snapshot"]) / COUNTED}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto", choices=DEVICES)
    parser.add_argument("--rasterizer", nargs="+", default=["auto"], choices=RASTERIZERS)
    parser.add_argument("--model", default="", metavar="DIR", help="a Stable Diffusion folder; default the bundled one")
    given = parser.parse_args()
    device = choose_device(given.device)
    cuda = device.type == "cuda"
    place = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {place}, {COUNTED} iterations each\n")
    columns = ["milliseconds per iteration", *PARTS, "sum", "not the denoiser", "iterations/s", "peak MiB"]
    print(f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|")
    for rasterizer in given.rasterizer:
        request = JobRequest("a red mushroom", model=given.model, device=given.device, rasterizer=rasterizer)
        for phase in ("volume", "surface", "finish"):
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            seconds = measure(phase, request)
            total = sum(seconds[part] for part in PARTS)
            cells = [f"{1000 * seconds[part]:.1f}" for part in PARTS]
            peak = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if cuda else "-"
            print(
                f"| {phase}, {rasterizer} | " + " | ".join(cells) + f" | {1000 * total:.1f} | "
                f"{1 - seconds['denoiser'] / total:.0%} | {1 / seconds['all']:.1f} | {peak} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
