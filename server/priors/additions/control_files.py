# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the ControlNets of a job are, and whether they are whole: without torch, before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..base import PriorError
from ..files import kinds
from ..files.layouts import PICKLES, read_header

CONFIG = "config.json"
BUNDLED_CONTROL = Path(__file__).parents[2] / "bundled_prior" / "control_depth"
_STEM = "diffusion_pytorch_model"


@dataclass(frozen=True)
class ControlFile:
    """A ControlNet on the disk.

    place: its diffusers folder or its single file. weights: its files of weights. union: it takes several kinds of
    pictures.
    """

    place: Path
    weights: tuple[Path, ...]
    union: bool


@runtime_checkable
class TakesControl(Protocol):
    """A prior whose pictures ControlNets can steer."""

    def add_control(self, files: Mapping[str, ControlFile], strength: float = 1.0) -> None:
        """Follow the mesh from now on: `condition` then needs views with depth and normals.

        Args:
            files: kind of picture, one of `protocol.CONTROLS` -> its ControlNet.
            strength: factor of what the ControlNets add.

        Raises PriorError for a ControlNet that does not fit.
        """
        ...


def find(kinds: Sequence[str], place: str, model: Path) -> dict[str, ControlFile]:
    """The ControlNet for each kind of picture, in `protocol.CONTROLS`.

    Args:
        place: a ControlNet's diffusers folder or safetensors file, or a folder with several whose names tell what they
            are for, such as control_v11f1p_sd15_depth. "" is the bundled model's own.
        model: the folder or file of the model that they are for.

    Raises PriorError, with one sentence that says what to do, unless there is one for each that fits the model.
    """
    if not place:
        if model.resolve() != BUNDLED_CONTROL.with_name("model").resolve():
            raise PriorError("This model brings no ControlNet: name its file or folder (control_model).")
        if other := [kind for kind in kinds if kind != "depth"]:
            raise PriorError(
                f"The bundled model has a ControlNet for depth only, not for {', '.join(other)}: choose depth, or name "
                "another model with its ControlNets."
            )
        return {kind: _open(BUNDLED_CONTROL) for kind in kinds}
    path = Path(place).expanduser()
    if not path.exists():
        raise PriorError(f"There is no ControlNet {path}: name a safetensors file or a folder.")
    if path.is_dir() and not _weights(path):
        return {kind: _open(_choose(path, kind)) for kind in kinds}
    one = _open(path)
    if len(kinds) > 1 and not one.union:
        raise PriorError(
            f"{path} takes one picture, but {len(kinds)} are chosen ({', '.join(kinds)}): choose one, or name a folder "
            "with a ControlNet for each, or a union ControlNet."
        )
    return dict.fromkeys(kinds, one)


def _choose(folder: Path, kind: str) -> Path:
    """The ControlNet of a folder of several that has the kind in its name."""
    entries = [each for each in sorted(folder.iterdir()) if each.suffix == ".safetensors" or each.is_dir()]
    named = [each for each in entries if kind in each.name.lower()]
    if len(named) != 1:
        names = ", ".join(each.name for each in (named or entries)) or "nothing"
        raise PriorError(
            f'{folder} has {len(named) or "no"} ControlNets with "{kind}" in their names ({names}): name the file or '
            "folder itself."
        )
    return named[0]


def _weights(folder: Path) -> tuple[Path, ...]:
    """The weights of a diffusers folder: one variant, the plain one first; a sharded one has several."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"{_STEM}*.safetensors")):
        variant = path.name.removesuffix(".safetensors").removeprefix(_STEM).partition("-")[0]
        found.setdefault(variant, []).append(path)
    return tuple(found[min(found)]) if found else ()


def _open(place: Path) -> ControlFile:
    """The ControlNet of a folder or a file. Raises PriorError where it is none, or is not whole."""
    if place.suffix.lower() in PICKLES:
        raise PriorError(
            f"{place} is a pickled checkpoint, which can run code and is never read: get the ControlNet as safetensors."
        )
    if not place.exists():
        raise PriorError(f"{place} is missing: train it with python -m server.bundled_prior.train_control.")
    weights = _weights(place) if place.is_dir() else (place,)
    if not weights:
        raise PriorError(f"{place} has no {_STEM}.safetensors: download the ControlNet again, as safetensors.")
    if place.is_dir() and not (place / CONFIG).is_file():
        raise PriorError(f"{place} has no {CONFIG}: download the whole ControlNet again.")
    shapes = {name: shape for path in weights for name, shape in read_header(path).shapes.items()}
    contents = kinds.identify(shapes)
    if contents.kind != kinds.CONTROLNET:
        raise PriorError(f"{place} is no ControlNet ({contents.kind}): choose another file.")
    if contents.variant not in ("", "union") or contents.family in (kinds.SD3, kinds.FLUX):
        raise PriorError(
            f"{place} is a ControlNet of another kind ({contents.variant or contents.family}): choose a plain one of "
            "Stable Diffusion 1.x, 2.x or XL."
        )
    return ControlFile(place, weights, contents.variant == "union")
