# SPDX-License-Identifier: GPL-3.0-or-later
"""A prompt becomes a mesh: parameters -> render -> encode -> guidance -> step, and the files at the end."""

from __future__ import annotations

import json
import os
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
from msd_blender.protocol import WRITING, JobRequest, Log, Progress, Snapshot

from .. import guidance, priors
from ..checkpoint import Checkpoints, load_optimizer, optimizer_tensors
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
# At least so long from one to the next, and at most this share of the time is spent on them; 0: after every iteration.
CHECKPOINT_SECONDS = float(os.environ.get("MSD_CHECKPOINT_SECONDS", "5"))
CHECKPOINT_COST = 0.01


class Paused(Exception):
    """The run ended at a checkpoint because it was asked to pause."""


class Clock:
    """Seconds spent, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._start = time.perf_counter()

    def resume(self, seconds: dict[str, float], elapsed: float) -> None:
        """Add what was spent before."""
        for name, value in seconds.items():
            self.seconds[name] += value
        self._start -= elapsed

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
    """One run of the pipeline. `report` hears of every iteration; `cancelled` and `paused` are asked before each.

    With `checkpoints` it goes on from the newest of them and adds its own: on the CPU, to the same bytes.
    """

    def __init__(self, request: JobRequest, report: Report, cancelled: Callable[[], bool],
                 settings: Settings | None = None, checkpoints: Checkpoints | None = None,
                 paused: Callable[[], bool] = lambda: False):
        self.request = request.validate()
        self.settings = settings or Settings.of(request)
        self.report, self.cancelled, self.paused = report, cancelled, paused
        self.checkpoints = checkpoints
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
        self.warned = False
        self.shown = self.saved = 0.0       # seconds when the last snapshot and checkpoint were taken

    @property
    def iterations(self) -> int:
        return self.settings.volume.iterations + self.settings.surface.iterations

    def run(self) -> Mesh:
        """Optimize through all phases; the mesh as it is at the end, or when the job was cancelled.

        Raises `Paused` where `paused` said so.
        """
        volume, surface = self.settings.volume, self.settings.surface
        found = self.checkpoints.newest() if self.checkpoints else None
        asset: Volume | Surface
        if found and found[1]["phase"] == Surface.name:
            asset = Surface(Field(surface.levels, device=self.device), self.rasterizer)
            self._phase(asset, surface, volume.iterations, found)
        else:
            asset = Volume(Field(volume.levels, device=self.device))
            self._phase(asset, volume, 0, found)
            if not self.cancelled() and surface.iterations:
                asset = asset.surface(surface.levels, self.rasterizer)
                self._phase(asset, surface, volume.iterations)
        self.field = asset.field
        if self.cancelled():
            self._stage(WRITING)
        return asset.mesh()

    def _phase(self, asset: Volume | Surface, phase: Phase, first: int,
               found: tuple[dict[str, Tensor], dict[str, Any]] | None = None) -> None:
        """Optimize one asset, whose first iteration is the run's `first`, from the start or from a checkpoint."""
        settings, request = self.settings, self.request
        guide = guidance.create(request.guidance, **phase.guidance(request.guidance))
        optimizer = torch.optim.Adam(asset.field.parameters(), lr=phase.learning_rate, betas=(0.9, 0.99))
        if found:
            self._restore(asset, optimizer, guide, *found)
        emphasis = Linear(phase.emphasis, 1)
        every = max(1, self.iterations // settings.snapshots)
        for i in range(self.iteration - first, phase.iterations):
            if self.cancelled():
                return
            if self.paused():
                self._checkpoint(asset, optimizer, guide)
                raise Paused
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
            elapsed = self.clock.elapsed
            cheap = self.clock.seconds["checkpoint"] <= CHECKPOINT_COST * elapsed or not CHECKPOINT_SECONDS
            if self.checkpoints and cheap and elapsed - self.saved > CHECKPOINT_SECONDS:
                try:
                    self._checkpoint(asset, optimizer, guide)
                except OSError as error:
                    self.saved = self.clock.elapsed
                    if not self.warned:
                        self.warned = True
                        self.report(Log(f"A checkpoint could not be written ({error.strerror}): the job goes on, "
                                        "but make room, or what it does from here is lost if the server stops.",
                                        "warning"))

    def _checkpoint(self, asset: Volume | Surface, optimizer: torch.optim.Optimizer, guide: Any) -> None:
        """Everything that the next iterations depend on. Raises OSError where it cannot be written."""
        if self.checkpoints is None:
            return
        with self.clock("checkpoint"):
            tensors = {f"field.{name}": value for name, value in asset.field.state_dict().items()}
            tensors |= optimizer_tensors(optimizer) | {"generator": self.generator.get_state()}
            if hasattr(guide, "state_dict"):
                tensors |= {f"guidance.{name}": value for name, value in guide.state_dict().items()}
            state = {"phase": asset.name, "iteration": self.iteration, "denoiser_calls": self.denoiser_calls,
                     "version": self.version, "seconds": self.clock.seconds, "elapsed": self.clock.elapsed}
            self.checkpoints.save(self.iteration, tensors, state)
        self.saved = self.clock.elapsed

    def _restore(self, asset: Volume | Surface, optimizer: torch.optim.Optimizer, guide: Any,
                 tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        asset.field.load_state_dict(part("field."))
        load_optimizer(optimizer, tensors)
        if hasattr(guide, "load_state_dict"):
            guide.load_state_dict(part("guidance."))
        self.generator.set_state(tensors["generator"])
        self.iteration, self.denoiser_calls = state["iteration"], state["denoiser_calls"]
        # Readers may have seen later snapshots than this one's: versions only grow.
        self.version = state["version"] + self.iterations
        self.clock.resume(state["seconds"], state["elapsed"])
        self.shown = self.saved = self.clock.elapsed

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

    def _stage(self, name: str) -> None:
        self.report(Progress(name, self.iteration, self.iterations, self.clock.elapsed, None, self.denoiser_calls))

    def snapshot(self, mesh: Mesh) -> None:
        self.version += 1
        self.report(Snapshot(self.version, self.iteration, mesh.arrays()))

    def finish(self, mesh: Mesh, folder: Path) -> None:
        """Write the files of `protocol.FILES` into `folder`; a cancelled job keeps vertex colours only."""
        whole = not self.cancelled()
        if whole:
            with self.clock("texture"):
                self._stage("texture")
                mesh = bake(mesh, self.field, self.rasterizer, self.settings.texture_size)
                self.snapshot(mesh)
        self._stage(WRITING)
        with self.clock("files"):
            save_glb(mesh, folder / "mesh.glb")
            if "texture.0" in mesh.textures:
                Image.fromarray(mesh.textures["texture.0"][::-1].copy()).save(folder / "texture.png")
            picture = turntable(self.rasterizer, mesh.positions, mesh.faces, mesh.shown_colours, self.device)
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


def generate(request: JobRequest, folder: Path, report: Report, cancelled: Callable[[], bool],
             settings: Settings | None = None, checkpoints: Checkpoints | None = None,
             paused: Callable[[], bool] = lambda: False) -> None:
    """Make the asset of a request and leave `protocol.FILES` in `folder`, which exists.

    On cancellation what was reached is kept. Raises ValueError with one sentence for what the user can mend, and
    `Paused`.
    """
    run = Generation(request, report, cancelled, settings, checkpoints, paused)
    fresh = checkpoints is None or checkpoints.step < 0
    if fresh and not request.model and (unknown := objects.unknown_words(request.prompt)):
        report(Log(f"The bundled model does not know {', '.join(unknown)}; it knows {', '.join(objects.NOUNS)}. "
                   "For anything else, name a folder of Stable Diffusion as the model.", "warning"))
    run.finish(run.run(), folder)
