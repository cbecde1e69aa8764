# SPDX-License-Identifier: GPL-3.0-or-later
"""Time and memory of an iteration by phase and part, beside a plain loop of the same networks that renders nothing.

python -m benchmarks.iterations --model bundled sd15 sdxl --rasterizer cpu nvdiffrast
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from msd_blender.protocol import DEVICES, RASTERIZERS, JobRequest
from server import priors
from server.geometry.mesh import Mesh
from server.optimize import Optimization, Settings
from server.optimize.clock import Clock
from server.optimize.device import choose_device
from server.optimize.memory import GIB, PeakMemory

from .random_models import FAMILIES, random_prior

PARTS = ("render forward", "render backward", "encode", "denoiser", "optimizer")
COLUMNS = ("", *PARTS, "outside the networks", "iterations/s", "denoiser calls/s", "peak GiB")


def load(model: str, device: torch.device) -> Any:
    """The bundled model, one of `FAMILIES` with random weights, or a folder."""
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    if model in FAMILIES:
        return random_prior(model, device, dtype)
    return priors.load(None if model == "bundled" else Path(model), device, dtype)


def measure(phase: str, request: JobRequest, prior: Any, warm: int, counted: int) -> list[float]:
    """The columns of `COLUMNS` after the first: milliseconds of each part, and so on."""
    settings = Settings.of(request)
    plan = settings.phases(request.mode)
    before = {"volume": 30} if phase == "surface" else {}  # a surface is made of a volume that has taken shape
    peak = PeakMemory(prior.device)
    run = Optimization(
        request, lambda _: None, lambda: False, replace(settings, snapshots=0), mesh=_mesh(request), prior=prior
    )
    run.plan = [replace(plan[name], iterations=count) for name, count in {**before, phase: warm + counted}.items()]
    first = sum(before.values()) + warm
    started: list[float] = []

    def report(_: object) -> None:
        if run.iteration == first and not started:
            start()

    def start() -> None:
        run.clock.synchronize()
        run.clock = Clock.of(run.device)
        started.append(run.denoiser_calls)

    run.report = report
    if not first:
        start()
    run.run()
    run.clock.synchronize()
    seconds = [run.clock.seconds[part] / counted for part in PARTS]
    networks = run.clock.seconds["encode"] + run.clock.seconds["denoiser"]
    elapsed = run.clock.elapsed
    calls = run.denoiser_calls - started[0]
    return [*(1000 * each for each in seconds), 1 - networks / elapsed, counted / elapsed, calls / elapsed, peak.bytes]


def _mesh(request: JobRequest) -> Mesh | None:
    if request.mode == "generate":
        return None
    ball = trimesh.creation.icosphere(4)
    return Mesh(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32))


def plain(prior: Any, views: int, scale: float, warm: int, counted: int) -> list[float]:
    """The columns for a loop of diffusers' own networks: encode pictures, denoise at two levels, go back."""
    device, vae, network = prior.device, prior.vae, prior.denoising_network
    peak = PeakMemory(device)
    vae.enable_gradient_checkpointing()
    condition = prior.text_condition(["a red mushroom"] * views, "ugly", scale)
    with torch.no_grad():
        embeddings = torch.cat([condition.negative, condition.embeddings])
    more: dict[str, Any] = {}
    if condition.pooled is not None:
        edge = float(prior.resolution)
        ids = torch.tensor([[edge, edge, 0, 0, edge, edge]] * 2 * views, dtype=network.dtype, device=device)
        pooled = torch.cat([condition.negative_pooled, condition.pooled])
        more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}

    def iterate() -> None:
        pictures = torch.rand(views, 3, prior.resolution, prior.resolution, device=device, requires_grad=True)
        pixels = (2 * pictures - 1).to(vae.dtype, memory_format=torch.channels_last)
        latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
        x = latents.detach().to(network.dtype)
        with torch.no_grad():
            for level in (500, 100):
                times = torch.full((2 * views,), level, device=device)
                output = network(torch.cat([x, x]), times, encoder_hidden_states=embeddings, **more).sample
                negative, positive = output.chunk(2)
                x = x - 0.1 * (negative + scale * (positive - negative))
        latents.backward(x.to(latents.dtype))

    for _ in range(warm):
        iterate()
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(counted):
        iterate()
    if device.type == "cuda":
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    return [*[float("nan")] * len(PARTS), 0.0, counted / elapsed, 4 * views * counted / elapsed, peak.bytes]


def row(name: str, values: list[float]) -> str:
    *parts, outside, iterations, calls, peak = values
    cells = [*("-" if each != each else f"{each:.1f} ms" for each in parts), f"{outside:.0%}"]
    return f"| {' | '.join([name, *cells, f'{iterations:.2f}', f'{calls:.1f}', f'{peak / GIB:.2f}'])} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto", choices=DEVICES)
    parser.add_argument("--rasterizer", nargs="+", default=["auto"], choices=RASTERIZERS)
    parser.add_argument(
        "--model", nargs="+", default=["bundled"], help=f"bundled, a folder, or random: {', '.join(FAMILIES)}"
    )
    parser.add_argument("--iterations", type=int, default=40, help="counted, after --warm others")
    parser.add_argument("--warm", type=int, default=5)
    given = parser.parse_args(arguments)
    device = choose_device(given.device)
    place = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {place}, {given.iterations} iterations each\n")
    print(f"| {' | '.join(COLUMNS)} |\n" + "|---" * len(COLUMNS) + "|")
    for model in given.model:
        prior = load(model, device)
        settings = Settings()
        values = plain(prior, settings.views, settings.guidance_scale, given.warm, given.iterations)
        print(row(f"{model}, plain loop", values), flush=True)
        for rasterizer in given.rasterizer:
            for phase in ("volume", "surface", "texture") if model == "bundled" else ("volume", "texture"):
                request = JobRequest(
                    "a red mushroom",
                    device=given.device,
                    rasterizer=rasterizer,
                    mode="texture" if phase == "texture" else "generate",
                    mesh="x" if phase == "texture" else "",
                )
                values = measure(phase, request, prior, given.warm, given.iterations)
                print(row(f"{model}, {phase}, {rasterizer}", values), flush=True)
        del prior


if __name__ == "__main__":
    main()
