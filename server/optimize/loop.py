# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop that makes an asset of a prompt: render -> encode -> guidance -> backward -> optimizer step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from msd_blender.protocol import WRITING, JobRequest, Log, Progress, Snapshot

from .. import guidance
from ..assets import ASSETS, Asset, BuildContext, MeshAsset, RefineAsset
from ..checkpoint import NOT_WRITTEN, load_optimizer, optimizer_tensors
from ..geometry.mesh import Mesh
from ..guidance import Guidance, GuidanceStep
from ..guidance.bandwidth import Linear
from ..priors import SavesMemory, Selection, TextToImagePrior, Views, load_cached
from ..priors.additions.ip_adapter_files import TakesImagePrompt
from ..priors.base import MayBeDistilled
from ..priors.conditions import Light
from ..priors.one_by_one import one_by_one
from ..priors.prompts import unread_loras
from ..rendering import cameras, rasterize
from ..rendering.shading import Lights, backgrounds
from . import memory
from .clock import Clock
from .device import choose_device, deterministic
from .output import preview, write_files
from .record import write_record
from .run_state import Checkpoint, CheckpointStore, Counters
from .settings import Phase, Settings

Report = Callable[[Progress | Log | Snapshot], None]
# Seconds from one checkpoint to the next at least, and their share of the time at most; 0: after every iteration.
CHECKPOINT_SECONDS = float(os.environ.get("MSD_CHECKPOINT_SECONDS", "5"))
CHECKPOINT_COST = 0.01
SNAPSHOT_COST = 0.05  # share of the time that snapshots may take, unless the last one is `snapshot_seconds` old
PREVIEW_COST = 0.01
STAGE_SECONDS = 0.5  # from one report of a stage's share to the next at least


class Paused(Exception):
    """The run ended at a checkpoint because it was asked to pause."""


class Optimization:
    """One run of a job. With `checkpoints` it goes on from the newest and adds its own: on the CPU, to the same bytes.

    Args:
        report: called with the progress of every iteration, with log lines and with snapshots.
        cancelled, paused: asked before every iteration.
        mesh: the one that `request.mesh` names, for the modes texture and refine.
        edit: id and mesh of the artist's last edit. Where the checkpoint does not know that id yet, the run goes on
            from the edited mesh, for the iterations that are left.
        prior: on the request's device, instead of the one that the request names.
        picture: the one that `request.image_prompt` names.
        finish: whether to grow no more, from the newest checkpoint on: texture and refine end with what is there, and
            generate goes on to its last phase, which textures it. Without a checkpoint there is nothing to finish.
    """

    def __init__(
        self,
        request: JobRequest,
        report: Report,
        cancelled: Callable[[], bool],
        settings: Settings | None = None,
        checkpoints: CheckpointStore | None = None,
        paused: Callable[[], bool] = lambda: False,
        mesh: Mesh | None = None,
        edit: tuple[str, Mesh] | None = None,
        prior: TextToImagePrior | None = None,
        picture: Image | None = None,
        finish: bool = False,
    ):
        self.request = request.validate(uploaded=False)
        self.settings = settings or Settings.of(request)
        if (mesh is None) != (request.mode == "generate"):
            raise ValueError(
                "Mode generate starts from nothing, and texture and refine from a mesh: give the mesh with them only."
            )
        if bool(request.image_prompt) != (picture is not None):
            raise ValueError("Give the picture that the request's image prompt names, and none without one.")
        self.uploaded = mesh
        self.report, self.cancelled, self.paused = report, cancelled, paused
        self.checkpoints = checkpoints
        self.device = choose_device(request.device)
        self.clock = Clock.of(self.device)
        self.memory = memory.PeakMemory(self.device, request.memory_limit)
        if prior is None:
            memory.check_weights(request, self.device)
        with self.clock("load"):
            self.prior = prior or load_cached(Selection.of(request), self.device)
            self.distillation = self.prior.distillation if isinstance(self.prior, MayBeDistilled) else None
            if self.distillation:
                asked = request.guidance_scale
                scale = self.distillation.guidance_scale if asked is None else float(asked)
                self.settings = self.settings.distilled(scale)
            self.settings = self.settings.suiting(self.prior)
            self.settings, self.predicted_memory = memory.fitting(request, self.settings, self.prior, self.device)
            self.forecast = memory.forecast(request, self.settings, self.prior, self.device, self.predicted_memory)
            if picture is not None and isinstance(self.prior, TakesImagePrompt):
                self.prior.follow(picture)
            if isinstance(self.prior, SavesMemory):
                self.prior.save_memory(self.settings.one_by_one or self.device.type != "cpu")
            if self.settings.one_by_one:
                self.prior = one_by_one(self.prior)
            self.rasterizer = rasterize.create(request.rasterizer, self.device)
        # Drawn on the CPU, so that a seed means the same on every device.
        self.generator = torch.Generator().manual_seed(request.seed)
        self.plan = list(self.settings.phases(request.mode).values())
        self.repeated = [0] * len(self.plan)
        self.ends_growth: bool = finish
        self.finish_at: int | None = None
        self.iteration = self.denoiser_calls = self.version = 0
        self.checkpoint_failed = False
        self.shown = self.saved = 0.0  # seconds when the last snapshot and checkpoint were taken
        self.edit = ""  # id of the last one that was taken up
        self.new_edit = edit

    def run(self) -> Asset:
        """Optimize through all phases; the asset as it is at the end, or when the job was cancelled.

        Raises `Paused` where `paused` said so.
        """
        newest = self.checkpoints.newest() if self.checkpoints else None
        checkpoint = Checkpoint(newest[0], Counters.of(newest[1])) if newest else None
        if checkpoint:
            self._restore(checkpoint)
            if checkpoint.counters.prompts not in (None, self._prompts):  # an edit has changed them
                self._begin_anew(checkpoint.counters.phase)
                self.report_prompt_warnings()
            if self.ends_growth and self.finish_at is None:
                self.finish_at = self.iteration
            if self.finish_at is not None:
                self._end_growth(self.finish_at)
        start = checkpoint.counters.phase if checkpoint else 0
        learned = checkpoint.part("guidance.") if checkpoint else {}
        asset: Asset | None = None
        optimizer_state: dict[str, Tensor] | None
        for number, phase in enumerate(self.plan[start:], start):
            guide = guidance.create(self.request.guidance, **phase.guidance(self.request.guidance))
            guide.load_state_dict(learned)
            optimizer_state = None
            if number == start and self.new_edit and self.new_edit[0] != self.edit:
                self.edit, edited = self.new_edit
                asset = _edited(phase).from_edit(edited, self._context(phase))
            elif number == start and checkpoint:
                asset = ASSETS[checkpoint.asset.name].from_checkpoint(checkpoint.asset, self._context(phase))
                optimizer_state = checkpoint.tensors
            else:
                asset = phase.asset.from_previous(asset, self._context(phase))
            assert asset is not None
            self._run_phase(number, asset, guide, optimizer_state)
            learned = guide.state_dict()
            if self.cancelled():
                break
        assert asset is not None
        return asset

    def _end_growth(self, iteration: int) -> None:
        """Leave out what the plan has after an iteration, but for the last phase of mode generate."""
        first = 0
        for number, phase in enumerate(self.plan[:-1] if self.request.mode == "generate" else self.plan):
            first += self.repeated[number]
            self.plan[number] = replace(phase, iterations=max(0, min(phase.iterations, iteration - first)))
            first += self.plan[number].iterations

    def _begin_anew(self, number: int) -> None:
        """Begin a phase anew from what is there: toward another prompt, a bandwidth that has already fallen would lead
        to something between the two, and after most of the phase to no change at all."""
        if done := self.iteration - self._start_of(number):
            self.repeated[number] += done
            self.report(Log("The prompt has changed: this phase begins anew, from what is there."))

    def _start_of(self, number: int) -> int:
        """The iteration at which a phase begins, or has begun anew."""
        return sum(phase.iterations for phase in self.plan[:number]) + sum(self.repeated[: number + 1])

    @property
    def iterations(self) -> int:
        """Of the whole run."""
        return sum(phase.iterations for phase in self.plan) + sum(self.repeated)

    def _context(self, phase: Phase) -> BuildContext:
        return BuildContext(
            self.rasterizer,
            self.device,
            phase.levels,
            self.settings.mesh_options(self.request),
            self.uploaded,
            self.request.target_faces,
            self.request.remesh,
            lambda sentence: self.report(Log(sentence, "warning")),
            self._stage,
            self.settings.one_by_one,
        )

    def _run_phase(self, number: int, asset: Asset, guide: Guidance, optimizer_state: dict[str, Tensor] | None) -> None:
        """Optimize one asset through the plan's phase `number`."""
        settings, phase = self.settings, self.plan[number]
        first = self._start_of(number)
        groups = [dict(group) for group in asset.param_groups()]
        optimizer = torch.optim.Adam(groups, lr=phase.learning_rate, betas=(0.9, 0.99))
        if optimizer_state:
            load_optimizer(optimizer, optimizer_state)
        every = max(1, self.iterations // max(1, settings.snapshots))
        for i in range(self.iteration - first, phase.iterations):
            if self.cancelled():
                return
            if self.paused():
                self._save_checkpoint(number, asset, optimizer, guide)
                raise Paused
            progress = i / phase.iterations
            for group in optimizer.param_groups:
                group["lr"] = (1 - 0.9 * progress) * phase.learning_rate * group["lr_scale"]
            step = self._iterate(asset, guide, phase, progress, optimizer)
            self.iteration += 1
            self.denoiser_calls += step.nfe * settings.views
            self._report_progress(asset.name, step.bandwidth)
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
                    self._save_checkpoint(number, asset, optimizer, guide)
                except OSError as error:
                    self._report_failed_checkpoint(error)

    def _iterate(
        self, asset: Asset, guide: Guidance, phase: Phase, progress: float, optimizer: torch.optim.Optimizer
    ) -> GuidanceStep:
        """One step of one asset. progress: of the phase, in [0, 1]."""
        settings, request = self.settings, self.request
        with self.clock("render forward"):
            drawn = cameras.sample(
                settings.views,
                self.generator,
                elevation=settings.elevation,
                field_of_view=settings.field_of_view,
                together=settings.views_at_once,
                placed=[(each.azimuth, each.elevation) for each in settings.placed],
            )
            views = drawn.to(self.device)
            lights = Lights.sample(views, self.generator)
            if request.maps:
                lights = lights.under_sky(self.generator)
            objects = settings.views // settings.views_at_once
            behind = backgrounds(objects, self.generator, self.device, request.background)
            behind = behind.repeat_interleave(settings.views_at_once, dim=0)
            size = round(phase.resolution * self.prior.resolution)
            images, penalty = asset.render(views, lights, behind, size, progress, self.generator)
            pictures = self._to_prior(images)
            described = self._describe(asset, drawn, views, lights, behind)
        seen = pictures.detach().requires_grad_()
        with self.clock("encode"):
            latents = self.prior.encode(seen)
        with self.clock("denoiser"):
            scale = settings.guidance_scale * Linear(phase.guidance_boost, 1)(2 * progress)
            against_overhead = torch.rand(settings.views, generator=self.generator) < phase.against_overhead
            condition = self.prior.condition(
                described, self._prompts_of(drawn), request.negative_prompt, scale, against_overhead
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
            asset.apply_constraints()
        self.memory.check()
        return step

    def _prompts_of(self, drawn: cameras.Cameras) -> str | list[str]:
        """The prompt of all views; where a placed camera has one of its own, that of each."""
        prompt, placed = self.request.prompt, self.settings.placed
        if drawn.placed is None or not any(each.prompt for each in placed):
            return prompt
        texts = [*(each.prompt or prompt for each in placed), prompt]  # the last, -1, is that of all other cameras
        return [texts[number] for number in drawn.placed.tolist()]

    def _describe(
        self, asset: Asset, drawn: cameras.Cameras, views: cameras.Cameras, lights: Lights, behind: Tensor
    ) -> Views:
        """The views as the prior is told of them, with the mesh's depth and normals where a ControlNet follows it.

        views: `drawn` on the device.
        """
        light = Light(lights.direction, lights.ambient, lights.diffuse, lights.sky, behind)
        angles = drawn.azimuth.rad2deg(), drawn.elevation.rad2deg()
        told = Views(*angles, drawn.distance, drawn.fov.rad2deg(), light=light)
        if not self.request.control:
            return told
        assert isinstance(asset, MeshAsset)
        depth, normals = asset.depth_and_normals(views, self.prior.resolution)
        return replace(told, depth=depth.flip(1), normals=normals.flip(1))

    def _save_checkpoint(self, number: int, asset: Asset, optimizer: torch.optim.Optimizer, guide: Guidance) -> None:
        """Keep everything that the next iterations depend on. Raises OSError where it cannot be written."""
        if self.checkpoints is None:
            return
        with self.clock("checkpoint"):
            state = asset.checkpoint_state()
            tensors = {f"asset.{name}": value for name, value in state.tensors.items()}
            tensors |= optimizer_tensors(optimizer) | {"generator": self.generator.get_state()}
            tensors |= {f"guidance.{name}": value for name, value in guide.state_dict().items()}
            counters = Counters(
                number,
                state.name,
                self.edit,
                self.iteration,
                self.denoiser_calls,
                self.version,
                dict(self.clock.seconds),
                self.clock.elapsed,
                state.keep_details,
                self._prompts,
                self.finish_at,
                self.repeated,
            )
            self.checkpoints.save(self.iteration, tensors, asdict(counters))
        self.saved = self.clock.elapsed

    def notes(self) -> list[tuple[str, str]]:
        """Level and sentence of each line about the model that the job begins with."""
        if self.distillation is None:
            return []
        request = self.request
        asked = request.guidance_scale is not None
        return self.distillation.notes(self.settings.guidance_scale, asked, request.negative_prompt)

    @property
    def _prompts(self) -> list[str]:
        return [self.request.prompt, self.request.negative_prompt]

    def report_prompt_warnings(self) -> None:
        """Tell the user which words of the prompts the prior does not know, or cuts off."""
        against_overhead = any(phase.against_overhead for phase in self.plan)
        prompts, negative_prompt = self.request.prompts(), self.request.negative_prompt
        warnings = [
            each for prompt in prompts for each in self.prior.prompt_warnings(prompt, negative_prompt, against_overhead)
        ]
        for warning in dict.fromkeys(warnings + unread_loras(prompts)):
            self.report(Log(warning, "warning"))

    def _report_failed_checkpoint(self, error: OSError) -> None:
        self.saved = self.clock.elapsed
        if not self.checkpoint_failed:
            self.checkpoint_failed = True
            self.report(Log(NOT_WRITTEN.format(error.strerror), "warning"))

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Take up the counters of a checkpoint."""
        counters = checkpoint.counters
        self.generator.set_state(checkpoint.tensors["generator"])
        self.iteration, self.denoiser_calls, self.edit = counters.iteration, counters.denoiser_calls, counters.edit
        self.finish_at = counters.finish_at
        self.repeated = counters.repeated or self.repeated
        # Readers may have seen later snapshots than this one's: versions only grow.
        self.version = counters.version + self.iterations
        self.clock.resume(counters.seconds, counters.elapsed)
        self.shown = self.saved = self.clock.elapsed

    def _to_prior(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) renders, bottom row first, as the prior wants them: (B, 3, h, w), top row first."""
        pictures = images.movedim(-1, 1).flip(2)
        if pictures.shape[-1] != self.prior.resolution:
            pictures = F.interpolate(pictures, size=(self.prior.resolution,) * 2, mode="bilinear", align_corners=False)
        return pictures

    def _report_progress(self, phase: str, bandwidth: float | None) -> None:
        elapsed = self.clock.elapsed
        running = elapsed - self.clock.seconds["load"]
        eta = running / self.iteration * (self.iterations - self.iteration)
        self.report(Progress(phase, self.iteration, self.iterations, elapsed, eta, self.denoiser_calls, bandwidth))

    @contextmanager
    def _stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """Work outside of the iterations, under a name that the user sees; gives what takes the share that is done."""
        told = time.monotonic()

        def report(share: float) -> None:
            nonlocal told
            if time.monotonic() - told >= STAGE_SECONDS:
                told = time.monotonic()
                self.report_stage(name, share)

        with self.clock(name):
            self.report_stage(name)
            yield report

    def report_stage(self, name: str, share: float | None = None) -> None:
        """Tell the user which work outside of the iterations begins, or the share of it that is done."""
        self.report(
            Progress(
                name,
                self.iteration,
                self.iterations,
                self.clock.elapsed,
                denoiser_calls=self.denoiser_calls,
                share=share,
            )
        )

    def snapshot(self, mesh: Mesh, last: bool = False) -> None:
        """Report the asset as it is, with a preview where that is cheap or it is the last one."""
        self.version += 1
        arrays = mesh.arrays()
        if last or self.clock.seconds["preview"] <= PREVIEW_COST * self.clock.elapsed:
            with self.clock("preview"):
                arrays["preview"] = preview(self.rasterizer, mesh, self.device, self.request.flat)
        self.report(Snapshot(self.version, self.iteration, arrays))

    def finish(self, asset: Asset, folder: Path) -> None:
        """Write the files of `protocol.FILES` into `folder`; a cancelled job has a texture only from its phase on."""
        whole = not self.cancelled()
        self.report_stage(WRITING)
        with self.clock("texture"):
            mesh = asset.mesh()
            if whole and self.settings.snapshots:
                self.snapshot(mesh, last=True)
        with self.clock("files"):
            scaled = self.request.mode != "generate"
            write_files(mesh, folder, self.rasterizer, self.device, self.request.flat, scaled)
        write_record(self, mesh, whole, folder)


def _edited(phase: Phase) -> type[MeshAsset]:
    """The asset of a mesh that an artist edited: a texture's vertices stay, all others may move."""
    return phase.asset if issubclass(phase.asset, MeshAsset) else RefineAsset


def generate(
    request: JobRequest,
    folder: Path,
    report: Report,
    cancelled: Callable[[], bool],
    settings: Settings | None = None,
    checkpoints: CheckpointStore | None = None,
    paused: Callable[[], bool] = lambda: False,
    mesh: Mesh | None = None,
    edit: tuple[str, Mesh] | None = None,
    picture: Image | None = None,
    finish: bool = False,
) -> None:
    """Make the asset of a request and leave `protocol.FILES` in `folder`, which exists.

    The other arguments are those of `Optimization`. A cancelled job keeps the asset as it is. Raises `Paused`, and
    ValueError with one sentence where the user can mend the request.
    """
    run = Optimization(
        request, report, cancelled, settings, checkpoints, paused, mesh, edit, picture=picture, finish=finish
    )
    if checkpoints is None or checkpoints.step < 0:
        for level, sentence in run.notes():
            report(Log(sentence, level))
        for sentence in run.forecast:
            report(Log(sentence))
        run.report_prompt_warnings()
        if request.control_model and not request.control:
            report(Log("The ControlNet gets no picture: choose depth, normal or canny as control.", "warning"))
        if request.ip_adapter and not request.image_prompt:
            report(Log("The IP-Adapter gets no picture: choose an image prompt.", "warning"))
    with deterministic(run.device):
        run.finish(run.run(), folder)
