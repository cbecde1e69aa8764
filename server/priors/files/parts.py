# SPDX-License-Identifier: GPL-3.0-or-later
"""A model's parts (networks, tokenizers, scheduler), wherever they lie on the disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import diffusers
import torch
import transformers
from safetensors import safe_open
from torch import Tensor

from ..base import PriorError
from .layouts import AGAIN, has, read_json, variant


class Parts(Protocol):
    """Where a prior gets the parts of its pipeline from, by their names in diffusers' model_index.json."""

    place: Path
    """The folder or file, for sentences."""
    index: dict[str, object]
    """model_index.json."""

    def has(self, part: str) -> bool:
        """Whether a part that a model may lack is there."""
        ...

    def config(self, part: str) -> dict[str, object]:
        """The part's configuration, as its config.json or scheduler_config.json has it."""
        ...

    def network(self, part: str, kind: Any, **options: object) -> Any:
        """A frozen network of a class of diffusers or transformers, on the CPU.

        Raises PriorError unless all of its weights are there, fit and are finite.
        """
        ...

    def load(self, part: str, kind: Any) -> Any:
        """A part without weights: a tokenizer or a scheduler."""
        ...


class FolderParts:
    """The parts of a diffusers folder. Only safetensors are read."""

    def __init__(self, folder: Path):
        self.place = folder
        self.index = read_json(folder / "model_index.json")

    def has(self, part: str) -> bool:
        return has(self.place, self.index, part)

    def config(self, part: str) -> dict[str, object]:
        return read_json(self.place / part / ("scheduler_config.json" if part == "scheduler" else "config.json"))

    def network(self, part: str, kind: Any, **options: object) -> Any:
        return folder_network(self.place / part, kind, **options)

    def load(self, part: str, kind: Any) -> Any:
        return from_pretrained(kind, self.place / part)


def folder_network(folder: Path, kind: Any, **options: object) -> Any:
    """As `Parts.network`, from the part's own folder."""
    network, info = from_pretrained(
        kind, folder, variant=variant(folder), use_safetensors=True, output_loading_info=True, **options
    )
    if missing := sorted(info["missing_keys"]):
        raise PriorError(
            f"{folder} lacks {len(missing)} of the {len(network.state_dict())} weights of a "
            f"{kind.__name__} ({missing[0]}): {AGAIN}."
        )
    if info["mismatched_keys"]:
        name, found, expected = map(str, sorted(info["mismatched_keys"])[0])
        raise PriorError(
            f"{folder} does not fit its config.json, as {name} has the shape {found}, not {expected}: {AGAIN}."
        )
    return network.requires_grad_(False).eval()


def from_pretrained(kind: Any, folder: Path, **options: object) -> Any:
    """A part of a pipeline by its class, offline. Raises PriorError with the library's reason."""
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:
        raise PriorError(f"{folder} could not be loaded as {kind.__name__}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """The first sentence of a library's error."""
    return str(error).strip().split("\n")[0].split(". ")[0]


def require_finite(network: torch.nn.Module, place: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Raise PriorError unless all weights of a network are finite. place: where they were, for the sentence."""
    names, finite = zip(*((name, weight.isfinite().all()) for name, weight in network.named_parameters()))
    if broken := [name for name, good in zip(names, torch.stack(finite).tolist()) if not good]:
        raise not_finite(f"The weights in {place} ({broken[0]})", device, dtype)


def pipeline_class(name: str) -> Any:
    """A pipeline of diffusers by its name, without what transformers says of picture processors: texts need none."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)
    try:
        return getattr(diffusers, name)
    finally:
        transformers.logging.set_verbosity(verbosity)


def read_weights(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors file whose names begin with the prefix, by the rest of their names, on the CPU."""
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except Exception as error:
        raise PriorError(f"{path} cannot be read as safetensors: {AGAIN}.") from error


def check_weights(place: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise PriorError unless all expected weights are there, in their shapes."""
    if missing := sorted(expected.keys() - weights.keys()):
        raise PriorError(f"{place} lacks {len(missing)} of its {len(expected)} weights ({missing[0]}): {AGAIN}.")
    for name, weight in expected.items():
        if (found := tuple(weights[name].shape)) != (shape := tuple(weight.shape)):
            raise PriorError(f"{place} does not fit, as {name} has the shape {found}, not {shape}: {AGAIN}.")


def not_finite(subject: str, device: torch.device, dtype: torch.dtype) -> PriorError:
    """The error for numbers that are NaN or infinite; it says which precision to try."""
    precision = str(dtype).removeprefix("torch.")
    advice = AGAIN if dtype == torch.float32 else f"try float32 (the device cpu uses it); if that is no better, {AGAIN}"
    return PriorError(f"{subject} are NaN or infinite on the {device.type} in {precision}: {advice}.")
