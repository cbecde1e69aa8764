# SPDX-License-Identifier: GPL-3.0-or-later
"""A prompt becomes a mesh: parameters -> render -> encode -> guidance -> step, and the files at the end."""

from __future__ import annotations

import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from msd_blender import __version__
from msd_blender.protocol import JobRequest, Log, Progress, Snapshot

from .. import guidance, priors
from ..bundled import objects
from ..geometry.field import Field
from ..geometry.mesh import Mesh, edge_counts, save_glb
from ..guidance.bandwidth import Linear
from ..priors.prompts import view_prompts
from ..rendering import cameras, rasterize
from ..rendering.render import turntable
from ..rendering.shading import Lights, backgrounds
from .assets import Surface, Volume, bake
from .settings import Phase, Settings

Report = Callable[[Progress | Log | Snapshot], None]


class Clock:
    """Seconds spent, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._start


class Generation:
    """One run of the pipeline. `report` hears of every iteration; `cancelled` is asked before each."""

    def __init__(self, request: JobRequest, report: Report, cancelled: Callable[[], bool],
                 settings: Settings | None = None):
        self.request = request.validate()
        self.settings = settings or Settings.of(request)
        self.report, self.cancelled = report, cancelled
        self.clock = Clock()
        device = request.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("There is no CUDA device here: choose the device cpu or auto.")
        self.device = torch.device(device)
        # Threads on the CPU else add up an indexing's gradient in any order.
        torch.use_deterministic_algorithms(device == "cpu")
        with self.clock("load"):
            self.prior = load_prior(request.model, device)
            self.rasterizer = rasterize.create(request.rasterizer, device)
        # Drawn on the CPU, so that a seed means the same on every device.
        self.generator = torch.Generator().manual_seed(request.seed)
        self.iteration = self.denoiser_calls = self.version = 0
        self.shown = 0.0                    # seconds when the last snapshot was taken

    @property
    def iterations(self) -> int:
        return self.settings.volume.iterations + self.settings.surface.iterations

    def run(self) -> Mesh:
        """Optimize through all phases; the mesh as it is at the end, or when the job was cancelled."""
        volume = Volume(Field(self.settings.volume.levels, device=self.device))
        asset: Volume | Surface = volume
        self._phase(volume, self.settings.volume)
        if not self.cancelled() and self.settings.surface.iterations:
            asset = volume.surface(self.settings.surface.levels, self.rasterizer)
            self._phase(asset, self.settings.surface)
        self.field = asset.field
        return asset.mesh()

    def _phase(self, asset: Volume | Surface, phase: Phase) -> None:
        settings, request = self.settings, self.request
        guide = guidance.create(request.guidance, **phase.guidance(request.guidance))
        optimizer = torch.optim.Adam(asset.field.parameters(), lr=phase.learning_rate, betas=(0.9, 0.99))
        emphasis = Linear(phase.emphasis, 1)
        every = max(1, self.iterations // settings.snapshots)
        for i in range(phase.iterations):
            if self.cancelled():
                return
            progress = i / phase.iterations
            for group in optimizer.param_groups:
                group["lr"] = (1 - 0.9 * progress) * phase.learning_rate
            with self.clock("render forward"):
                views = cameras.sample(settings.views, self.generator, self.device)
                lights = Lights.sample(views, self.generator)
                behind = backgrounds(settings.views, self.generator, self.device)
                size = round(phase.resolution * self.prior.resolution)
                images, penalty = asset.render(views, lights, behind, size, progress, self.generator)
                pictures = self._fit(images)
            seen = pictures.detach().requires_grad_()
            with self.clock("encode"):
                latents = self.prior.encode(seen)
            with self.clock("denoiser"):
                scale = settings.guidance_scale * emphasis(2 * progress)
                azimuth, elevation = views.azimuth.rad2deg().tolist(), views.elevation.rad2deg().tolist()
                condition = self.prior.condition(view_prompts(request.prompt, azimuth, elevation),
                                                 request.negative_prompt, scale)
                step = guide.step(self.prior, latents, condition, progress, self.generator)
            with self.clock("encode"):
                latents.backward(step.gradient)
            with self.clock("render backward"):
                assert seen.grad is not None
                ((pictures * seen.grad).sum() + phase.penalty * penalty).backward()
            with self.clock("optimizer"):
                optimizer.step()
                optimizer.zero_grad()
            self.iteration += 1
            self.denoiser_calls += step.denoiser_calls * settings.views
            self._progress(asset.name, step.bandwidth)
            late = self.clock.elapsed - self.shown > settings.snapshot_seconds
            if late or self.iteration % every == 0 or self.iteration == self.iterations:
                self.shown = self.clock.elapsed
                with self.clock("snapshot"):
                    self.snapshot(asset.mesh())

    def _fit(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) renders, bottom row first, as the prior wants them: (B, 3, h, w), top row first."""
        pictures = images.movedim(-1, 1).flip(2)
        if pictures.shape[-1] != self.prior.resolution:
            pictures = F.interpolate(pictures, size=(self.prior.resolution,) * 2, mode="bilinear",
                                     align_corners=False)
        return pictures

    def _progress(self, phase: str, bandwidth: float | None) -> None:
        elapsed = self.clock.elapsed
        running = elapsed - self.clock.seconds["load"]
        eta = running / self.iteration * (self.iterations - self.iteration)
        self.report(Progress(phase, self.iteration, self.iterations, elapsed, eta, self.denoiser_calls, bandwidth))

    def snapshot(self, mesh: Mesh) -> None:
        self.version += 1
        self.report(Snapshot(self.version, self.iteration, mesh.arrays()))

    def finish(self, mesh: Mesh, folder: Path) -> None:
        """Write the files of `protocol.FILES` into `folder`; a cancelled job keeps vertex colours only."""
        whole = not self.cancelled()
        if whole:
            with self.clock("texture"):
                self.report(Progress("texture", self.iteration, self.iterations, self.clock.elapsed, None,
                                     self.denoiser_calls))
                mesh = bake(mesh, self.field, self.rasterizer, self.settings.texture_size)
                self.snapshot(mesh)
        with self.clock("files"):
            save_glb(mesh, folder / "mesh.glb")
            if mesh.texture is not None:
                Image.fromarray(mesh.texture[::-1].copy()).save(folder / "texture.png")
            picture = turntable(self.rasterizer, mesh.positions, mesh.faces, mesh.colours, self.device)
            Image.fromarray(picture).save(folder / "turntable.png")
        record = self.record(mesh, whole)
        (folder / "job.json").write_text(json.dumps(record, indent=2) + "\n")

    def record(self, mesh: Mesh, whole: bool) -> dict[str, Any]:
        """What job.json says: how the asset was made and what it is."""
        edges, open_edges = edge_counts(mesh.faces)
        return {
            "request": asdict(self.request),
            "settings": asdict(self.settings),
            "state": "finished" if whole else "cancelled",
            "versions": {"msd_blender": __version__, "torch": torch.__version__,
                         "python": platform.python_version()},
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "rasterizer": type(self.rasterizer).__module__.rpartition(".")[2],
            "iterations": self.iteration,
            "denoiser_calls": self.denoiser_calls,
            "seconds": {name: round(value, 3) for name, value in self.clock.seconds.items()},
            "seconds_total": round(self.clock.elapsed, 3),
            "mesh": {"vertices": len(mesh.positions), "faces": len(mesh.faces), "edges": edges,
                     "non_manifold_edges": open_edges},
        }


_priors: dict[tuple[str, str], Any] = {}


def load_prior(model: str, device: str) -> Any:
    """The prior of a folder ("" is the bundled one); the last one stays loaded."""
    if (model, device) not in _priors:
        _priors.clear()
        _priors[model, device] = priors.load(model or None, device)
    return _priors[model, device]


def generate(request: JobRequest, folder: Path, report: Report, cancelled: Callable[[], bool]) -> None:
    """Make the asset of a request and leave `protocol.FILES` in `folder`, which exists.

    On cancellation what was reached is kept. Raises ValueError with one sentence for what the user can mend.
    """
    run = Generation(request, report, cancelled)
    if not request.model and (unknown := objects.unknown_words(request.prompt)):
        report(Log(f"The bundled model does not know {', '.join(unknown)}; it knows {', '.join(objects.NOUNS)}. "
                   "For anything else, name a folder of Stable Diffusion as the model.", "warning"))
    run.finish(run.run(), folder)
