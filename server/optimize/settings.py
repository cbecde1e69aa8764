# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a generation: what the defaults are, and how a request changes them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from msd_blender.protocol import JobRequest

from ..guidance.bandwidth import Geometric


@dataclass(frozen=True)
class Phase:
    """One stretch of the optimization on one representation.

    levels: of the field, see `geometry.field.Field`.
    bandwidth: of the mean shift, in latents of unit standard deviation; it falls over the phase.
    learning_rate: Adam's, in logits; it falls to a tenth, so that what is noise averages out.
    penalty: weight of the regularizers beside the guidance's gradient.
    resolution: edge of a render, as a share of the edge that the prior wants.
    emphasis: the guidance scale starts so many times higher and comes down by the phase's middle. Where the shape
        is decided the view's word must outweigh what the picture already looks like, or every side becomes a
        front (Janus); more than a chair needs closes a donut.
    """

    iterations: int
    levels: tuple[int, ...]
    bandwidth: Geometric
    learning_rate: float
    penalty: float
    resolution: float = 1.0
    emphasis: float = 1.0

    def guidance(self, name: str) -> dict[str, Any]:
        """Settings for `guidance.create(name)`."""
        return {"bandwidth": self.bandwidth} if name == "msd" else {}


@dataclass(frozen=True)
class Settings:
    """Everything of a generation that the request does not name, with its defaults."""

    views: int = 4
    guidance_scale: float = 5.0
    volume: Phase = field(default_factory=lambda: Phase(
        220, (5, 9, 17, 33), Geometric(4.0, 0.5), learning_rate=0.07, penalty=50, resolution=0.5,
        emphasis=1.7))
    surface: Phase = field(default_factory=lambda: Phase(
        200, (5, 9, 17, 33, 49), Geometric(0.8, 0.2), learning_rate=0.02, penalty=50))
    snapshots: int = 40                     # over the whole run, and
    snapshot_seconds: float = 10.0          # at most this long from one to the next
    texture_size: int = 512

    @classmethod
    def of(cls, request: JobRequest, halvings: int = 0) -> Settings:
        """The defaults with the request's guidance scale, its iterations shared out as the defaults are.

        halvings: of the views that are worked on at once, for a device with too little memory.
        """
        settings = cls()
        settings = replace(settings, views=max(1, settings.views >> halvings))
        if request.guidance_scale is not None:
            settings = replace(settings, guidance_scale=float(request.guidance_scale))
        if request.iterations is not None:
            volume, surface = settings.volume, settings.surface
            share = volume.iterations / (volume.iterations + surface.iterations)
            first = max(1, round(share * request.iterations))
            settings = replace(settings, volume=replace(volume, iterations=first),
                               surface=replace(surface, iterations=max(0, request.iterations - first)))
        return settings
