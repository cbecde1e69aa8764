# SPDX-License-Identifier: GPL-3.0-or-later
"""A prompt becomes a mesh: parameters -> render -> encode -> guidance -> step, and the files at the end."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from msd_blender import __version__
from msd_blender.protocol import WRITING, JobRequest, Log, Progress, Snapshot

from .. import guidance, priors
from ..bundled.captions import unknown_words
from ..bundled.shapes import NOUNS
from ..checkpoint import Checkpoints, load_optimizer, optimizer_tensors
from ..geometry import files
from ..geometry.field import Field
from ..geometry.material import Material
from ..geometry.mesh import Mesh
from ..geometry.mesh_quality import quality_report
from ..geometry.remeshing import remesh
from ..geometry.uvs import missing_uvs, move_to_unit_tile, outside_unit_tile, unwrap
from ..guidance.bandwidth import Linear
from ..priors.prompts import negative_prompts, view_prompts
from ..rendering import cameras, rasterize
from ..rendering.shading import Lights, backgrounds
from .assets import Asset, Explicit, Manner, Place, Surface, Volume, extract, joined, laid_anew, remeshed
from .clock import Clock
from .device import choose_device
from .output import preview, turntable
from .settings import Phase, Settings

Report = Callable[[Progress | Log | Snapshot], None]
# At least so long from one to the next, and at most this share of the time is spent on them; 0: after every iteration.
CHECKPOINT_SECONDS = float(os.environ.get("MSD_CHECKPOINT_SECONDS", "5"))
CHECKPOINT_COST = 0.01
SNAPSHOT_COST = 0.05  # their share of the time, as long as they come every few seconds
PREVIEW_COST = 0.01


class Paused(Exception):
    """The run ended at a checkpoint because it was asked to pause."""


class Generation:
    """One run of the pipeline. `report` hears of every iteration; `cancelled` and `paused` are asked before each.

    With `checkpoints` it goes on from the newest of them and adds its own: on the CPU, to the same bytes.

    Args:
        mesh: what `request.mesh` names, for the modes texture and refine.
        edit: id and arrays of what the artist made of the asset while the job ran. Where the checkpoint does not
            know of that id yet, the run goes on from the edited mesh, for the iterations that are left.
    """

    def __init__(
        self,
        request: JobRequest,
        report: Report,
        cancelled: Callable[[], bool],
        settings: Settings | None = None,
        checkpoints: Checkpoints | None = None,
        paused: Callable[[], bool] = lambda: False,
        mesh: Mesh | None = None,
        edit: tuple[str, Mesh] | None = None,
    ):
        self.request = request.validate()
        self.settings = settings or Settings.of(request)
        if (mesh is None) != (request.mode == "generate"):
            raise ValueError(
                "Mode generate starts from nothing, and texture and refine from a mesh: give the mesh with them only."
            )
        self.given = mesh
        self.report, self.cancelled, self.paused = report, cancelled, paused
        self.checkpoints = checkpoints
        self.device = choose_device(request.device)
        self.clock = Clock.of(self.device)
        # Threads on the CPU else add up an indexing's gradient in any order.
        torch.use_deterministic_algorithms(self.device.type == "cpu")
        with self.clock("load"):
            self.prior = load_prior(request.model, str(self.device))
            self.rasterizer = rasterize.create(request.rasterizer, self.device)
        # Drawn on the CPU, so that a seed means the same on every device.
        self.generator = torch.Generator().manual_seed(request.seed)
        self.plan = self.settings.plan(request.mode)
        self.iterations = sum(phase.iterations for _, phase in self.plan)
        self.iteration = self.denoiser_calls = self.version = 0
        self.warned = False
        self.shown = self.saved = 0.0  # seconds when the last snapshot and checkpoint were taken
        self.edit = ""  # the last one that was taken up
        self.new_edit = edit

    def run(self) -> Asset:
        """Optimize through all phases; the asset as it is at the end, or when the job was cancelled.

        Raises `Paused` where `paused` said so.
        """
        found = self.checkpoints.newest() if self.checkpoints else None
        start = found[1]["phase"] if found else 0
        if found:
            self._resume(*found)
        learned = _part(found[0], "guidance.") if found else {}
        asset: Asset | None = None
        first = 0
        for number, (kind, phase) in enumerate(self.plan):
            if number >= start:
                guide = guidance.create(self.request.guidance, **phase.guidance(self.request.guidance))
                own = found if found and number == start else None
                if number == start and self.new_edit and self.new_edit[0] != self.edit:
                    self.edit, edited = self.new_edit
                    asset, own = self._explicit(edited, moves=kind != "texture", details=True), None
                elif own:
                    asset = self._remade(phase, *own)
                else:
                    asset = self._enter(kind, phase, asset)
                if hasattr(guide, "load_state_dict"):
                    guide.load_state_dict(learned)
                self._phase(number, asset, guide, phase, first, own[0] if own else None)
                learned = _learned(guide)
                if self.cancelled():
                    break
            first += phase.iterations
        assert asset is not None
        return asset

    def _enter(self, kind: str, phase: Phase, before: Asset | None) -> Asset:
        """What the next phase works on, made of what the one before it left."""
        symmetry, levels = self.request.symmetry, phase.levels
        if isinstance(before, Explicit):  # an artist's edit: it stays what it is
            return before if kind != "texture" else self._explicit(before.mesh(), details=True)
        if kind == "volume":
            return Volume(Field(levels, device=self.device), symmetry=symmetry)
        if kind == "surface":
            assert isinstance(before, Volume)
            return Surface(before.refined(levels), self.rasterizer, symmetry, self.request.flat)
        if self.given is None:
            assert isinstance(before, (Volume, Surface))
            return self._cleaned(before)
        if kind == "refine":
            mesh = self.given
            if self.request.remesh:
                if mesh.textures:
                    self.report(
                        Log(
                            "Remesh makes new faces without UVs: the texture becomes vertex colours, where it "
                            "is locked too.",
                            "warning",
                        )
                    )
                if mesh.materials or mesh.normals is not None:
                    self.report(
                        Log(
                            "Remesh makes new faces: the materials and the hard edges of the old ones are left out.",
                            "warning",
                        )
                    )
                mesh = remeshed(mesh, self.request.target_faces)
            return self._explicit(mesh, moves=True, details=True)
        return self._explicit(self.given)

    def _cleaned(self, before: Volume | Surface) -> Explicit:
        """A field's surface with a topology that is good to work on, and the field's colours."""
        with self.clock("clean-up"):
            self._stage("clean-up")
            with torch.no_grad():
                grid = before.grid()
            mesh = remesh(extract(joined(grid)), self.request.target_faces).on_ground()
        return self._explicit(mesh, place=Place(-mesh.ground_offset, 1.0), grid=grid[:, 1:])

    def _explicit(
        self,
        mesh: Mesh,
        moves: bool = False,
        details: bool = False,
        place: Place | None = None,
        grid: torch.Tensor | None = None,
    ) -> Explicit:
        manner = self._manner(moves, details)
        missing = missing_uvs(mesh.uvs, len(mesh.faces))
        if not moves and missing.all():
            with self.clock("unwrap"):
                self._stage("unwrap")
                _, split, uvs = unwrap(mesh.positions, mesh.faces, manner.texture_size)
                if mesh.uvs is not None and mesh.textures:
                    self.report(
                        Log(
                            "The mesh's UVs have no area, so that each face shows one texel: it gets new ones, "
                            "with the colours that it has; pictures of other kinds are left out.",
                            "warning",
                        )
                    )
                    mesh = laid_anew(replace(mesh, materials=_without_pictures(mesh)), uvs[split], manner.texture_size)
                mesh = replace(mesh, uvs=uvs[split])
        elif not moves and missing.any():
            self.report(
                Log(
                    f"{missing.sum():,} of {len(missing):,} faces have UVs without an area, so that each shows "
                    "one texel: unwrap them to paint them.",
                    "warning",
                )
            )
        replaced = [
            f"{kind} of {material.name!r}"
            for material in mesh.materials.values()
            for kind in manner.maps
            if material.uses_other_uv_map(kind)
        ]
        if replaced:
            self.report(
                Log(
                    f"These pictures lie on another UV map, and the painted ones take their place: "
                    f"{', '.join(replaced)}.",
                    "warning",
                )
            )
        made = Explicit(mesh, self.rasterizer, manner, self.device, place, grid)
        if mesh.uvs is not None and (over := int(outside_unit_tile(move_to_unit_tile(mesh.uvs)).sum())):
            self.report(
                Log(
                    f"{over:,} of {len(mesh.faces):,} faces have UVs that reach over their picture's edge, "
                    "where it repeats: give them UVs inside of it to paint them well.",
                    "warning",
                )
            )
        if made.skin.blocked > 0.02:
            self.report(
                Log(
                    f"{made.skin.blocked:.0%} of what is free to change has the texels of locked faces, "
                    "because their UVs lie on each other, and stays as it is: give it UVs of its own to "
                    "paint it.",
                    "warning",
                )
            )
        return made

    def _manner(self, moves: bool, details: bool) -> Manner:
        request, settings = self.request, self.settings
        own = request.mode == "generate"
        size = settings.made_texture_size if own else settings.texture_size
        return Manner(
            moves,
            details,
            own,
            settings.paint,
            tuple(request.maps),
            size,
            request.flat,
            request.symmetry,
            request.max_displacement,
        )

    def _phase(
        self, number: int, asset: Asset, guide: Any, phase: Phase, first: int, found: dict[str, Tensor] | None = None
    ) -> None:
        """Optimize one asset through the plan's phase `number`, whose first iteration is the run's `first`."""
        settings = self.settings
        optimizer = torch.optim.Adam(asset.groups(), lr=phase.learning_rate, betas=(0.9, 0.99))
        if found:
            load_optimizer(optimizer, found)
        every = max(1, self.iterations // max(1, settings.snapshots))
        for i in range(self.iteration - first, phase.iterations):
            if self.cancelled():
                return
            if self.paused():
                self._checkpoint(number, asset, optimizer, guide)
                raise Paused
            progress = i / phase.iterations
            for group in optimizer.param_groups:
                group["lr"] = (1 - 0.9 * progress) * phase.learning_rate * group["pace"]
            step = self._iterate(asset, guide, phase, progress, optimizer)
            self.iteration += 1
            self.denoiser_calls += step.denoiser_calls * settings.views
            self._progress(asset.name, step.bandwidth)
            elapsed = self.clock.elapsed
            due = self.iteration % every == 0 and self.clock.seconds["snapshot"] <= SNAPSHOT_COST * elapsed
            due |= elapsed - self.shown > settings.snapshot_seconds or self.iteration == self.iterations
            if due and settings.snapshots:
                self.shown = elapsed
                with self.clock("snapshot"):
                    self.snapshot(asset.mesh())
            elapsed = self.clock.elapsed
            cheap = self.clock.seconds["checkpoint"] <= CHECKPOINT_COST * elapsed or not CHECKPOINT_SECONDS
            if self.checkpoints and cheap and elapsed - self.saved > CHECKPOINT_SECONDS:
                try:
                    self._checkpoint(number, asset, optimizer, guide)
                except OSError as error:
                    self.saved = self.clock.elapsed
                    if not self.warned:
                        self.warned = True
                        self.report(
                            Log(
                                f"A checkpoint could not be written ({error.strerror}): the job goes on, "
                                "but make room, or what it does from here is lost if the server stops.",
                                "warning",
                            )
                        )

    def _iterate(
        self, asset: Asset, guide: Any, phase: Phase, progress: float, optimizer: torch.optim.Optimizer
    ) -> guidance.GuidanceStep:
        """One step of one asset."""
        settings, request = self.settings, self.request
        with self.clock("render forward"):
            drawn = cameras.sample(
                settings.views, self.generator, elevation=settings.elevation, field_of_view=settings.field_of_view
            )
            views = drawn.to(self.device)
            lights = Lights.sample(views, self.generator)
            if request.maps:
                lights = lights.under_sky(self.generator)
            behind = backgrounds(settings.views, self.generator, self.device, request.background)
            size = round(phase.resolution * self.prior.resolution)
            images, penalty = asset.render(views, lights, behind, size, progress, self.generator)
            pictures = self._fit(images)
        seen = pictures.detach().requires_grad_()
        with self.clock("encode"):
            latents = self.prior.encode(seen)
        with self.clock("denoiser"):
            scale = settings.guidance_scale * Linear(phase.emphasis, 1)(2 * progress)
            azimuth, elevation = drawn.azimuth.rad2deg().tolist(), drawn.elevation.rad2deg().tolist()
            contrast = torch.rand(settings.views, generator=self.generator) < phase.contrast
            condition = self.prior.condition(
                view_prompts(request.prompt, azimuth, elevation),
                negative_prompts(request.prompt, elevation, request.negative_prompt, contrast),
                scale,
            )
            step = guide.step(self.prior, latents, condition, progress, self.generator)
        with self.clock("encode"):
            latents.backward(step.gradient)
        with self.clock("render backward"):
            assert seen.grad is not None
            ((pictures * seen.grad).sum() + phase.penalty * penalty).backward()
        with self.clock("optimizer"):
            if not step.gradient.isfinite().all():
                raise self.prior.not_finite()
            optimizer.step()
            optimizer.zero_grad()
            asset.settle()
        return step

    def _checkpoint(self, number: int, asset: Asset, optimizer: torch.optim.Optimizer, guide: Any) -> None:
        """Everything that the next iterations depend on. Raises OSError where it cannot be written."""
        if self.checkpoints is None:
            return
        with self.clock("checkpoint"):
            tensors = {f"asset.{name}": value for name, value in asset.state_dict().items()}
            tensors |= optimizer_tensors(optimizer) | {"generator": self.generator.get_state()}
            tensors |= {f"guidance.{name}": value for name, value in _learned(guide).items()}
            state = {
                "phase": number,
                "asset": asset.name,
                "edit": self.edit,
                "details": isinstance(asset, Explicit) and asset.manner.details,
                "iteration": self.iteration,
                "denoiser_calls": self.denoiser_calls,
                "version": self.version,
                "seconds": self.clock.seconds,
                "elapsed": self.clock.elapsed,
            }
            self.checkpoints.save(self.iteration, tensors, state)
        self.saved = self.clock.elapsed

    def _resume(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take up the counters of a checkpoint."""
        self.generator.set_state(tensors["generator"])
        self.iteration, self.denoiser_calls, self.edit = state["iteration"], state["denoiser_calls"], state["edit"]
        # Readers may have seen later snapshots than this one's: versions only grow.
        self.version = state["version"] + self.iterations
        self.clock.resume(state["seconds"], state["elapsed"])
        self.shown = self.saved = self.clock.elapsed

    def _remade(self, phase: Phase, tensors: dict[str, Tensor], state: dict[str, Any]) -> Asset:
        """A checkpoint's asset."""
        tensors, kind, symmetry = _part(tensors, "asset."), state["asset"], self.request.symmetry
        asset: Asset
        if kind == Volume.name:
            asset = Volume(Field(phase.levels, device=self.device), symmetry=symmetry)
        elif kind == Surface.name:
            asset = Surface(Field(phase.levels, device=self.device), self.rasterizer, symmetry, self.request.flat)
        else:
            mesh, place = Explicit.given(tensors)
            given = self.given
            if given is not None and np.array_equal(mesh.faces, given.faces):  # what no checkpoint has
                same = mesh.uvs is None or given.uvs is None or np.array_equal(mesh.uvs, given.uvs, equal_nan=True)
                mesh = replace(
                    mesh,
                    normals=given.normals,
                    more_uvs=given.more_uvs,
                    materials=given.materials if same else _without_pictures(given),
                )
            manner = self._manner(kind == "refine", state["details"])
            asset = Explicit(mesh, self.rasterizer, manner, self.device, place, fit=False)
        asset.load_state_dict(tensors)
        return asset

    def _fit(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) renders, bottom row first, as the prior wants them: (B, 3, h, w), top row first."""
        pictures = images.movedim(-1, 1).flip(2)
        if pictures.shape[-1] != self.prior.resolution:
            pictures = F.interpolate(pictures, size=(self.prior.resolution,) * 2, mode="bilinear", align_corners=False)
        return pictures

    def _progress(self, phase: str, bandwidth: float | None) -> None:
        elapsed = self.clock.elapsed
        running = elapsed - self.clock.seconds["load"]
        eta = running / self.iteration * (self.iterations - self.iteration)
        self.report(Progress(phase, self.iteration, self.iterations, elapsed, eta, self.denoiser_calls, bandwidth))

    def _stage(self, name: str) -> None:
        self.report(Progress(name, self.iteration, self.iterations, self.clock.elapsed, None, self.denoiser_calls))

    def snapshot(self, mesh: Mesh, last: bool = False) -> None:
        self.version += 1
        arrays = mesh.arrays()
        if last or self.clock.seconds["preview"] <= PREVIEW_COST * self.clock.elapsed:
            with self.clock("preview"):
                arrays["preview"] = preview(self.rasterizer, mesh, self.device, self.request.flat)
        self.report(Snapshot(self.version, self.iteration, arrays))

    def finish(self, asset: Asset, folder: Path) -> None:
        """Write the files of `protocol.FILES` into `folder`; a cancelled job has a texture only from its phase on."""
        whole = not self.cancelled()
        self._stage(WRITING)
        with self.clock("texture"):
            mesh = asset.mesh()
            if whole and self.settings.snapshots:
                self.snapshot(mesh, last=True)
        with self.clock("files"):
            files.save_result(mesh, folder, self.request.flat)
            own = self.request.mode == "generate"
            picture = turntable(self.rasterizer, mesh, self.device, self.request.flat, scaled=not own)
            Image.fromarray(picture).save(folder / "turntable.png")
        record = self.record(mesh, whole)
        (folder / "job.json").write_text(json.dumps(record, indent=2) + "\n")

    def record(self, mesh: Mesh, whole: bool) -> dict[str, Any]:
        """What job.json says: how the asset was made and what it is."""
        self.clock.settle()
        return {
            "request": asdict(self.request),
            "settings": asdict(self.settings),
            "state": "finished" if whole else "cancelled",
            "edit": self.edit,
            "versions": {"msd_blender": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "rasterizer": type(self.rasterizer).__module__.rpartition(".")[2],
            "iterations": self.iteration,
            "denoiser_calls": self.denoiser_calls,
            "seconds": {name: round(value, 3) for name, value in self.clock.seconds.items()},
            "seconds_total": round(self.clock.elapsed, 3),
            "mesh": quality_report(mesh, self.given),
        }


def _without_pictures(mesh: Mesh) -> dict[int, Material]:
    return {slot: material.without_textures() for slot, material in mesh.materials.items()}


def _learned(guide: Any) -> dict[str, Tensor]:
    """What a guidance has learned so far: VSD's student; the others have nothing."""
    return guide.state_dict() if hasattr(guide, "state_dict") else {}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


_priors: dict[tuple[str, str], Any] = {}


def load_prior(model: str, device: str) -> Any:
    """The prior of a folder ("" is the bundled one); the last one stays loaded."""
    if (model, device) not in _priors:
        forget_priors()
        _priors[model, device] = priors.load(model or None, device)
    return _priors[model, device]


def forget_priors() -> None:
    _priors.clear()


def generate(
    request: JobRequest,
    folder: Path,
    report: Report,
    cancelled: Callable[[], bool],
    settings: Settings | None = None,
    checkpoints: Checkpoints | None = None,
    paused: Callable[[], bool] = lambda: False,
    mesh: Mesh | None = None,
    edit: tuple[str, Mesh] | None = None,
) -> None:
    """Make the asset of a request and leave `protocol.FILES` in `folder`, which exists.

    mesh, edit: as `Generation`. On cancellation what was reached is kept. Raises ValueError with one sentence for
    what the user can mend, and `Paused`.
    """
    run = Generation(request, report, cancelled, settings, checkpoints, paused, mesh, edit)
    fresh = checkpoints is None or checkpoints.step < 0
    if fresh and not request.model and (unknown := unknown_words(request.prompt)):
        report(
            Log(
                f"The bundled model does not know {', '.join(unknown)}; it knows {', '.join(NOUNS)}. "
                "For anything else, name a folder of Stable Diffusion as the model.",
                "warning",
            )
        )
    if fresh and hasattr(run.prior, "remarks"):
        contrast = any(phase.contrast for _, phase in run.plan)
        for remark in run.prior.remarks(request.prompt, request.negative_prompt, contrast):
            report(Log(remark, "warning"))
    run.finish(run.run(), folder)
