# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a generation: what the defaults are, and how a request changes them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from msd_blender.protocol import JobRequest

from ..guidance.bandwidth import Geometric
from ..guidance.msd import RENDERS
from ..rendering.cameras import FIELD_OF_VIEW


@dataclass(frozen=True)
class Phase:
    """One stretch of the optimization on one representation.

    levels: of the field, see `geometry.field.Field`; none where a mesh has taken its place.
    bandwidth: of the mean shift, in latents of unit standard deviation; it falls over the phase.
    learning_rate: Adam's, in logits; it falls to a tenth, so that what is noise averages out.
    penalty: weight of the regularizers beside the guidance's gradient.
    resolution: edge of a render, as a share of the edge that the prior wants.
    emphasis: the guidance scale starts so many times higher and comes down by the phase's middle. Where the shape
        is decided the view's word must outweigh what the picture already looks like, or every side becomes a
        front (Janus); more than a chair needs closes a donut.
    contrast: the share of side views that are told from overhead, see `priors.prompts.negative_prompts`: without it
        a mushroom becomes a ball.
    """

    iterations: int
    levels: tuple[int, ...]
    bandwidth: Geometric
    learning_rate: float
    penalty: float
    resolution: float = 1.0
    emphasis: float = 1.0
    contrast: float = 0.0

    def guidance(self, name: str) -> dict[str, Any]:
        """Settings for `guidance.create(name)`."""
        return {"bandwidth": self.bandwidth, **RENDERS} if name == "msd" else {}


# What each mode does, in order: (what is worked on, the name of its `Settings`).
PLANS: dict[str, tuple[tuple[str, str], ...]] = {
    "generate": (("volume", "volume"), ("surface", "surface"), ("texture", "finish")),
    "texture": (("texture", "texture"),),
    "refine": (("refine", "refine"),),
}


@dataclass(frozen=True)
class Settings:
    """Everything of a generation that the request does not name, with its defaults.

    finish: the texture of a mesh that was made from nothing, which begins with the field's colours.
    elevation, field_of_view: of the cameras, as `rendering.cameras.sample`.
    """

    views: int = 4
    guidance_scale: float = 5.0
    volume: Phase = field(
        default_factory=lambda: Phase(
            270,
            (5, 9, 17, 33),
            Geometric(4.0, 1.5),
            learning_rate=0.07,
            penalty=50,
            resolution=0.5,
            emphasis=1.7,
            contrast=0.5,
        )
    )
    surface: Phase = field(
        default_factory=lambda: Phase(190, (5, 9, 17, 33, 49), Geometric(2.4, 0.6), learning_rate=0.02, penalty=50)
    )
    finish: Phase = field(default_factory=lambda: Phase(50, (), Geometric(0.9, 0.6), learning_rate=0.02, penalty=50))
    texture: Phase = field(
        default_factory=lambda: Phase(300, (), Geometric(4.0, 0.75), learning_rate=0.05, penalty=50, emphasis=1.5)
    )
    refine: Phase = field(default_factory=lambda: Phase(300, (), Geometric(3.0, 0.75), learning_rate=0.03, penalty=50))
    paint: tuple[int, ...] = (5, 9, 17, 33, 65)  # levels of `assets.paint.Paint`
    snapshots: int = 40  # over the whole run, 0 for none, and
    snapshot_seconds: float = 10.0  # at most this long from one to the next
    made_texture_size: int = 512  # of a mesh that was made from nothing
    texture_size: int = 1024
    elevation: tuple[float, float] | None = None
    field_of_view: float = FIELD_OF_VIEW

    def plan(self, mode: str) -> list[tuple[str, Phase]]:
        """What a mode works on, with its phases in order."""
        return [(kind, getattr(self, name)) for kind, name in PLANS[mode]]

    def iterations(self, mode: str) -> int:
        return sum(phase.iterations for _, phase in self.plan(mode))

    @classmethod
    def of(cls, request: JobRequest, halvings: int = 0) -> Settings:
        """The defaults with what the request says; its iterations are shared out as the defaults are.

        halvings: of the views that are worked on at once, for a device with too little memory.
        """
        default = cls()
        changes: dict[str, Any] = {"views": max(1, default.views >> halvings)}
        if request.guidance_scale is not None:
            changes["guidance_scale"] = float(request.guidance_scale)
        if request.texture_size is not None:
            changes |= {"made_texture_size": request.texture_size, "texture_size": request.texture_size}
        if request.elevation is not None:
            changes["elevation"] = (float(min(request.elevation)), float(max(request.elevation)))
        if request.field_of_view is not None:
            changes["field_of_view"] = float(request.field_of_view)
        names = [name for _, name in PLANS[request.mode]]
        phases = [getattr(default, name) for name in names]
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
        return replace(default, **changes, **dict(zip(names, phases)))


def _shares(count: int, phases: list[Phase]) -> list[int]:
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
    """Diversity is where the first phase starts, sharpness where the last one ends; no other goes beyond them."""
    start, end = own.start, own.end
    if request.diversity is not None:
        start = request.diversity if first else min(start, request.diversity)
        end = min(end, request.diversity)
    if request.sharpness is not None:
        end = request.sharpness if last else max(end, request.sharpness)
        start = max(start, request.sharpness)
    return Geometric(start, end)
