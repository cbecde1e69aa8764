# SPDX-License-Identifier: GPL-3.0-or-later
"""Iterations of mode generate with a model of published size and random weights: peak memory and seconds.

python -m benchmarks.true_size --family sd15
python -m benchmarks.true_size --family sdxl --dtype bfloat16 --views 1
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import psutil
import torch

from msd_blender.protocol import DEVICES, GUIDANCES, JobRequest
from server.optimize import Optimization, Settings
from server.optimize.device import choose_device
from server.optimize.memory import GIB, PeakMemory

from .random_models import FAMILIES, random_prior

PARTS = ("render forward", "encode", "denoiser", "render backward", "optimizer")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", default="sd15", choices=FAMILIES)
    parser.add_argument("--device", default="auto", choices=DEVICES)
    parser.add_argument("--dtype", default="", choices=("", "float32", "float16", "bfloat16"), help="of the networks")
    parser.add_argument("--edge", type=int, help="of the latents, default the family's own")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--at-once", action="store_true", help="all views at once instead of one by one")
    parser.add_argument("--guidance", default="msd", choices=GUIDANCES)
    parser.add_argument("--iterations", type=int, default=1)
    given = parser.parse_args()

    device = choose_device(given.device)
    dtype = getattr(torch, given.dtype or ("float32" if device.type == "cpu" else "float16"))
    start, peak = time.perf_counter(), PeakMemory(device)
    prior = random_prior(given.family, device, dtype, given.edge)
    print(f"loaded in {time.perf_counter() - start:.0f} s, peak {peak.bytes / GIB:.2f} GiB", flush=True)

    request = JobRequest("a red mushroom", device=given.device, guidance=given.guidance, iterations=given.iterations)
    settings = replace(Settings.of(request), views=given.views, one_by_one=not given.at_once, snapshots=0)
    held = 0 if device.type == "cuda" else psutil.Process().memory_info().rss
    run = Optimization(request, lambda message: None, lambda: False, settings, prior=prior)
    print(*run.forecast, sep="\n", flush=True)
    # The volume's iterations only: no mesh is made of a prior that knows nothing.
    phase = replace(settings.volume, iterations=given.iterations)
    run.plan = [phase]
    busy = time.process_time()
    run.run()
    run.clock.synchronize()
    busy = (time.process_time() - busy) / given.iterations
    growth, predicted = run.memory.bytes - held, run.predicted_memory - held
    seconds = {part: run.clock.seconds[part] / given.iterations for part in PARTS}
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    print(
        f"{given.family}, {prior.resolution} px, {given.views} views {'at once' if given.at_once else 'one by one'}, "
        f"{str(dtype).removeprefix('torch.')} on {device.type} with {torch.get_num_threads()} threads, "
        f"{given.guidance}: peak {run.memory.bytes / GIB:.2f} GiB ({run.predicted_memory / GIB:.2f} predicted), "
        f"{growth / GIB:.3f} GiB of it ({predicted / GIB:.3f}) after loading; "
        f"{sum(seconds.values()):.1f} s an iteration, {busy:.1f} core-seconds ({parts})"
    )


if __name__ == "__main__":
    main()
