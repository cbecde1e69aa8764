# SPDX-License-Identifier: GPL-3.0-or-later
"""Distilled models, which have lost the branch of classifier-free guidance, and how they are told apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Words of a model's name, apart from its other words, also in camel case.
_NAMES = re.compile(
    r"(?<![a-z])(?:(?:turbo|lightning|lcm|tcd|dmd2?|schnell)(?![a-z])|hyper(?=[-_ ]*(?:sd|xl|flux|\d|$)))"
)
_SCHEDULERS = {"LCMScheduler": "LCM", "TCDScheduler": "trajectory consistency"}


@dataclass(frozen=True)
class Distillation:
    """How a model was distilled.

    Args:
        kind: with the fact that tells, for a sentence.
        guidance_scale: where a request names none.
        embedded: the network takes the guidance scale as an input; otherwise it knows no scale but 1.
    """

    kind: str
    guidance_scale: float = 1.0
    embedded: bool = False

    def notes(self, scale: float, asked: bool, negative_prompt: str) -> list[tuple[str, str]]:
        """Level and sentence of each line that a job begins with.

        scale: of the job; asked: its request named it.
        """
        model = f"This model is distilled ({self.kind})"
        if self.embedded:
            lines = [("info", f"{model}: its network itself follows the guidance scale, {scale:g}.")]
            if negative_prompt:
                lines.append(
                    ("info", "For the negative prompt it is asked twice, and classifier-free guidance has the scale.")
                )
            return lines
        if asked and scale != 1:
            return [("warning", f"{model} and fits guidance scale 1: at {scale:g}, as asked, colours may burn out.")]
        lines = [("info", f"{model}: it runs at guidance scale 1, without emphasis of the views.")]
        if negative_prompt:
            lines.append(("warning", "The negative prompt has no effect at guidance scale 1: leave it out."))
        return lines


def find(
    place: Path, index: Mapping[str, object], network: Mapping[str, object], scheduler: Mapping[str, object]
) -> Distillation | None:
    """The distillation of a model of Stable Diffusion's kind; None for one that has classifier-free guidance.

    Facts of the files come first: a network with an input for the guidance scale, a scheduler for consistency models,
    Euler's with trailing steps on epsilon, which SD-Turbo and SDXL-Turbo come with. Then the model's name, in
    model_index.json or on the disk.

    Args:
        place: folder or file. index: model_index.json. network, scheduler: their configurations.
    """
    if network.get("time_cond_proj_dim"):
        return Distillation("LCM, by its U-Net", 8.5, embedded=True)
    kind = str(scheduler.get("_class_name"))
    if kind in _SCHEDULERS:
        return Distillation(f"{_SCHEDULERS[kind]}, by its scheduler")
    model = place.parent.parent if place.parent.name == "snapshots" else place  # of the Hugging Face cache
    for name in (model.name, index.get("_name_or_path"), network.get("_name_or_path")):
        if match := _NAMES.search(_words(str(name))):
            return Distillation(f"{match[0]}, by its name")
    if (
        kind.startswith("Euler")
        and scheduler.get("timestep_spacing") == "trailing"
        and scheduler.get("prediction_type", "epsilon") == "epsilon"
        and not scheduler.get("rescale_betas_zero_snr")
    ):
        return Distillation("Turbo, by its scheduler")
    return None


def _words(name: str) -> str:
    """The last part of a path in lower case, its words in camel case apart."""
    last = re.split(r"[/\\]", name)[-1].removesuffix(".safetensors")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", last).lower()
