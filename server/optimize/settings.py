# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a run: their defaults, and how a request changes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from msd_blender.protocol import MAX_TEXTURE_SIZE, JobRequest, PlacedCamera

from ..assets import Asset, MeshOptions, RefineAsset, Surface, TextureAsset, Volume
from ..assets.colour_grid import levels_for
from ..guidance.bandwidth import Geometric
from ..guidance.msd import RENDERS
from ..priors.base import MultiViewPrior, TextToImagePrior
from ..rendering.cameras import FIELD_OF_VIEW


@dataclass(frozen=True)
class Phase:
    """One stretch of the optimization, on one representation.

    Args:
        asset: its class.
        levels: of the field, see `geometry.field.Field`; none for a mesh.
        bandwidth: of the mean shift, in latents of unit standard deviation; it falls over the phase.
        learning_rate: Adam's, in logits; it falls to a tenth, so that noise averages out.
        penalty: weight of the regularizers beside the guidance's gradient.
        resolution: edge of a render, as a share of the edge that the prior takes.
        guidance_boost: factor of the guidance scale at the start; it falls to 1 by the phase's middle. While the shape
            forms, the view's word must weigh more than the shape so far, or every side becomes a front (Janus). Too
            high a factor closes the hole of a donut.
        against_overhead: share of the side views whose negative prompt is the overhead view, see
            `priors.prompts.negative_prompts`; without any, a mushroom becomes a ball.
    """

    asset: type[Asset]
    iterations: int
    levels: tuple[int, ...]
    bandwidth: Geometric
    learning_rate: float
    penalty: float
    resolution: float = 1.0
    guidance_boost: float = 1.0
    against_overhead: float = 0.0

    def guidance(self, name: str) -> dict[str, object]:
        """Settings for `guidance.create(name)`."""
        return {"bandwidth": self.bandwidth, **RENDERS} if name == "msd" else {}


@dataclass(frozen=True)
class Settings:
    """Everything of a run that the request does not name, with its defaults.

    Args:
        volume, surface, finish: the phases of mode generate; the last textures the mesh, beginning with the field's
            colours.
        one_by_one: the prior encodes and denoises one view after another: less memory, more time, the same gradient.
        colour_levels: see `assets.colour_grid.ColourGrid`.
        snapshots: over the whole run, 0 for none.
        snapshot_seconds: at most, from one snapshot to the next.
        made_texture_size: pixels, of a mesh that was made from nothing; texture_size: of any other. None: twice as many
            as the prior has, and at least 512 and 1024.
        views_at_once: of one object, that a multi-view prior denoises together; `views` is a multiple of it.
        elevation, field_of_view: of the cameras, as `rendering.cameras.sample`.
        placed: the views that half of the cameras stand near, and the prompts of those cameras.
    """

    views: int = 4
    views_at_once: int = 1
    one_by_one: bool = False
    guidance_scale: float = 5.0
    volume: Phase = Phase(
        Volume, 270, (5, 9, 17, 33), Geometric(4.0, 1.5), 0.07, 50, 0.5, guidance_boost=1.7, against_overhead=0.5
    )
    surface: Phase = Phase(Surface, 190, (5, 9, 17, 33, 49), Geometric(2.4, 0.6), 0.02, 50)
    finish: Phase = Phase(TextureAsset, 50, (), Geometric(0.9, 0.6), 0.02, 50)
    texture: Phase = Phase(TextureAsset, 300, (), Geometric(4.0, 0.75), 0.05, 50, guidance_boost=1.5)
    refine: Phase = Phase(RefineAsset, 300, (), Geometric(3.0, 0.75), 0.03, 50)
    colour_levels: tuple[int, ...] = (5, 9, 17, 33, 65)
    snapshots: int = 40
    snapshot_seconds: float = 10.0
    made_texture_size: int | None = None
    texture_size: int | None = None
    elevation: tuple[float, float] | None = None
    field_of_view: float = FIELD_OF_VIEW
    placed: tuple[PlacedCamera, ...] = ()

    def phases(self, mode: str) -> dict[str, Phase]:
        """The phases of a mode, in order, by their names in these settings."""
        if mode == "generate":
            return {"volume": self.volume, "surface": self.surface, "finish": self.finish}
        return {"texture": self.texture} if mode == "texture" else {"refine": self.refine}

    def with_phases(self, phases: Mapping[str, Phase]) -> Settings:
        """These settings with other phases, by their names."""
        return replace(self, **phases)  # type: ignore[arg-type]  # mypy takes each for any field

    def iterations(self, mode: str) -> int:
        """Iterations of all phases of a mode."""
        return sum(phase.iterations for phase in self.phases(mode).values())

    def distilled(self, guidance_scale: float) -> Settings:
        """These settings for a distilled model, without the emphasis of views, for which it has no other scale."""
        phases = {
            each.name: replace(getattr(self, each.name), guidance_boost=1.0, against_overhead=0.0)
            for each in fields(self)
            if isinstance(getattr(self, each.name), Phase)
        }
        return replace(self.with_phases(phases), guidance_scale=guidance_scale)

    def suiting(self, prior: TextToImagePrior) -> Settings:
        """These settings for a prior, where nothing else is said: colours and textures as fine as its pixels, as many
        views as it takes, from such elevations."""
        fine = replace(
            self,
            colour_levels=levels_for(self.colour_levels, prior.resolution),
            made_texture_size=self.made_texture_size or min(max(512, 2 * prior.resolution), MAX_TEXTURE_SIZE),
            texture_size=self.texture_size or min(max(1024, 2 * prior.resolution), MAX_TEXTURE_SIZE),
        )
        if not isinstance(prior, MultiViewPrior):
            return fine
        together = prior.views_at_once
        views = together * -(-self.views // together)
        return replace(fine, views=views, views_at_once=together, elevation=self.elevation or prior.elevation)

    def mesh_options(self, request: JobRequest) -> MeshOptions:
        """How a request's mesh is worked on, once these settings suit a prior."""
        from_scratch = request.mode == "generate"
        texture_size = self.made_texture_size if from_scratch else self.texture_size
        assert texture_size is not None
        return MeshOptions(
            from_scratch,
            self.colour_levels,
            tuple(request.maps),
            texture_size,
            request.flat,
            request.symmetry,
            request.max_displacement,
        )

    def with_less_memory(self) -> Settings | None:
        """The next settings that need less memory: views one by one, then half as many.

        None after the fewest views that the prior takes.
        """
        if not self.one_by_one:
            return replace(self, one_by_one=True)
        groups = self.views // self.views_at_once
        return replace(self, views=groups // 2 * self.views_at_once) if groups > 1 else None

    @classmethod
    def of(cls, request: JobRequest, reductions: int = 0) -> Settings:
        """The defaults with what the request says; its iterations are shared out as the defaults are.

        reductions: how often to take `with_less_memory`, for a device that has run out of it.
        """
        settings = cls()
        for _ in range(reductions):
            settings = settings.with_less_memory() or settings
        if request.guidance_scale is not None:
            settings = replace(settings, guidance_scale=float(request.guidance_scale))
        if request.texture_size is not None:
            settings = replace(settings, made_texture_size=request.texture_size, texture_size=request.texture_size)
        if request.elevation is not None:
            settings = replace(settings, elevation=(float(min(request.elevation)), float(max(request.elevation))))
        if request.field_of_view is not None:
            settings = replace(settings, field_of_view=float(request.field_of_view))
        placed = request.placed_cameras()
        if request.view is not None:
            placed.append(PlacedCamera(float(request.view[0]), float(request.view[1])))
        settings = replace(settings, placed=tuple(placed))
        names, phases = list(settings.phases(request.mode)), list(settings.phases(request.mode).values())
        if request.iterations is not None:
            phases = [
                replace(phase, iterations=count) for phase, count in zip(phases, _shares(request.iterations, phases))
            ]
        if request.regularization is not None:
            phases = [replace(phase, penalty=phase.penalty * request.regularization) for phase in phases]
        phases = [
            replace(phase, bandwidth=_bandwidth(request, phase.bandwidth, i == 0, i == len(phases) - 1))
            for i, phase in enumerate(phases)
        ]
        return settings.with_phases(dict(zip(names, phases)))


def _shares(count: int, phases: Sequence[Phase]) -> list[int]:
    """`count` iterations shared out as the phases' own are; the first gets one at least."""
    total, done, shares = sum(phase.iterations for phase in phases), 0, []
    so_far = 0
    for phase in phases:
        so_far += phase.iterations
        upto = min(count, max(1, round(count * so_far / total)))
        shares.append(upto - done)
        done = upto
    return shares


def _bandwidth(request: JobRequest, own: Geometric, first: bool, last: bool) -> Geometric:
    """The schedule of a phase: the first starts at the request's diversity, the last ends at its sharpness, and the
    phases between stay within the two."""
    start, end = own.start, own.end
    if request.diversity is not None:
        start = request.diversity if first else min(start, request.diversity)
        end = min(end, request.diversity)
    if request.sharpness is not None:
        end = request.sharpness if last else max(end, request.sharpness)
        start = max(start, request.sharpness)
    return Geometric(start, end)
