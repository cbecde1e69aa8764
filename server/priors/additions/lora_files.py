# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRAs as files: where those that a request names lie, and whether they fit a model. Without torch."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from msd_blender.protocol import MAX_LORA_WEIGHT, split_lora

from ..base import PriorError
from ..files.kinds import IP_ADAPTER, LORA, MODEL, NETWORK, UNKNOWN, Contents, identify, misfit
from ..files.layouts import PICKLES, network_contents, read_header
from ..prompts import lora_tags

ROOTS = "MSD_MODELS"  # environment: further folders of models, separated as those of PATH are
_FOLDERS = {"lora", "loras", "lycoris"}  # in which A1111, Forge and ComfyUI look for LoRAs, in lower case


@dataclass(frozen=True)
class LoRA:
    """A LoRA that is put on a model: W + weight · alpha / rank · B A (Hu et al. 2021, section 4.1)."""

    file: str
    weight: float = 1.0


@runtime_checkable
class HasLoRAs(Protocol):
    """A prior that LoRAs can be put on."""

    def add_loras(self, loras: Sequence[LoRA]) -> None:
        """Fuse LoRAs into the networks. Raises PriorError, after which the prior is of no use."""
        ...


def named_loras(loras: Iterable[str], prompt: str, model: Path) -> tuple[LoRA, ...]:
    """The LoRAs of a request: of its list, "FILE:WEIGHT", then of its prompt's tags, "<lora:NAME:WEIGHT>".

    Raises PriorError for a tag that cannot be read, or whose file is not found, and for a weight out of range.
    """
    found = [LoRA(os.path.expanduser(file), weight) for file, weight in map(split_lora, loras)]
    for tag, content in lora_tags(prompt):
        name, weight = split_lora(content)
        if ":" in name:
            raise PriorError(f"{tag} cannot be read: write <lora:NAME:WEIGHT>, as <lora:shiny:0.8>.")
        found.append(LoRA(str(find_lora(name, model)), weight))
    for lora in found:
        if abs(lora.weight) > MAX_LORA_WEIGHT:
            raise PriorError(
                f"The LoRA {lora.file} has the weight {lora.weight:g}: give one from -{MAX_LORA_WEIGHT:g} to "
                f"{MAX_LORA_WEIGHT:g}."
            )
    return tuple(found)


def find_lora(name: str, model: Path) -> Path:
    """The file of a LoRA that a prompt names: `name`.safetensors in one of `lora_folders`, or in a folder within it.

    Raises PriorError, with the folders, where there is none.
    """
    file = name.removesuffix(".safetensors") + ".safetensors"
    folders = list(lora_folders(model))
    if not {"/", "\\", ":", "\0"} & set(name):
        for folder in folders:
            if found := sorted(folder.rglob(glob.escape(file))):
                return found[0]
    places = ", ".join(map(str, folders)) or f"a folder named loras beside {model}"
    raise PriorError(f"There is no LoRA {name!r}: put {file} into {places}, or name its file among the job's LoRAs.")


def lora_folders(model: Path) -> Iterator[Path]:
    """The folders of LoRAs that belong to a model: in its own folder, beside it, beside its folder, and in the folders
    of the environment's `ROOTS`.

    A1111 keeps models/Stable-diffusion and models/Lora, ComfyUI models/checkpoints and models/loras.
    """
    roots = [Path(root) for root in os.environ.get(ROOTS, "").split(os.pathsep) if root]
    places = [model, model.parent, model.parent.parent, *roots, *(root / "models" for root in roots)]
    for place in dict.fromkeys(places):
        try:
            inside = sorted(place.iterdir()) if place.is_dir() else []
        except OSError:
            continue
        yield from (folder for folder in inside if folder.name.lower() in _FOLDERS and folder.is_dir())


def check_loras(loras: Iterable[LoRA], model: Path) -> None:
    """Raise PriorError, with one sentence that says what to do, for a file that cannot be put on a model."""
    onto: Contents | None = None
    for lora in loras:
        contents = contents_of(Path(lora.file), LORA)
        onto = onto or network_contents(model)
        if reason := misfit(contents, onto.family, onto.text_width):
            raise PriorError(f"The LoRA {lora.file} {reason}: use one that was made for this kind of model.")


def contents_of(file: Path, kind: str) -> Contents:
    """What a file holds that must be of a kind, LORA or IP_ADAPTER.

    Raises PriorError, with one sentence that says what to do, for a file that is none, or one that is not read.
    """
    if os.path.isdir(file):  # unlike Path's, it never raises
        raise PriorError(f"{file} is a folder: name the {kind}'s .safetensors file in it.")
    if not os.path.exists(file):
        raise PriorError(f"There is no {kind} {file}: name its .safetensors file on the server's machine.")
    if file.suffix.lower() in PICKLES:
        raise PriorError(
            f"{file} is pickled, which can run code and is never read: get the {kind} as a .safetensors file."
        )
    if file.suffix.lower() != ".safetensors":
        raise PriorError(f"{file} is no .safetensors file: get the {kind} as one.")
    shapes = read_header(file).shapes
    contents = identify(shapes)
    a = {LORA: "a LoRA", IP_ADAPTER: "an IP-Adapter"}
    if contents.kind != kind:
        held = {MODEL: "a whole model", NETWORK: "a model's network", UNKNOWN: "something else", **a}.get(
            contents.kind, f"a {contents.kind}"
        )
        raise PriorError(f"{file} holds {held}, not {a[kind]}: name another file.")
    if contents.variant:
        raise PriorError(f"{file} holds {contents.variant} weights, which are not read: use a plain {kind}.")
    if any("dora_scale" in name or "lora_magnitude_vector" in name for name in shapes):
        raise PriorError(f"{file} holds DoRA weights, which are not read: use a plain LoRA.")
    return contents
