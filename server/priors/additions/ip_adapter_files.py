# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a job's IP-Adapter and its image encoder are, and whether they fit the model. Without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..base import PriorError
from ..files.kinds import IP_ADAPTER, Shapes, identify, misfit
from ..files.layouts import check_weights, network_shapes, read_header, read_json
from .lora_files import contents_of

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER, SHELF = "image_encoder", "clip_vision"  # of diffusers' layout; of ComfyUI's
# What the weights that take the encoder's answer are called -> which edge of an encoder is theirs.
_ENTRIES = {
    "image_proj.proj.weight": "projection_dim",
    "image_proj.proj_in.weight": "hidden_size",  # IP-Adapter Plus
    "image_proj.proj.0.weight": "hidden_size",  # IP-Adapter Full Face
}
# What these edges are called in an encoder that is a single file.
_EDGES = {"projection_dim": "visual_projection.weight", "hidden_size": "vision_model.embeddings.class_embedding"}


@dataclass(frozen=True)
class AdapterFile:
    """An IP-Adapter on the disk. encoder: of pictures, a folder as transformers saves it, or a .safetensors file."""

    file: Path
    encoder: Path


@runtime_checkable
class TakesImagePrompt(Protocol):
    """A prior that can follow a picture beside the prompt."""

    def add_ip_adapter(self, adapter: AdapterFile, strength: float = 1.0) -> None:
        """Put an IP-Adapter on the network. Raises PriorError for one that does not fit; the prior is of no use then.

        Args:
            strength: factor of what the picture adds to the network's attention.
        """
        ...

    def follow(self, picture: Image) -> None:
        """Follow a picture from now on, by the adapter that was put on; without one, nothing changes.

        The image encoder is loaded for it and let go.
        """
        ...


def find(place: str, model: Path) -> AdapterFile:
    """An IP-Adapter with its image encoder.

    Raises PriorError, with one sentence that says what to do, unless both are there, whole, and fit the model.
    """
    file = Path(place).expanduser()
    contents, network = contents_of(file, IP_ADAPTER), network_shapes(model)
    onto = identify(network)
    if reason := misfit(contents, onto.family, onto.text_width):
        raise PriorError(f"The IP-Adapter {file} {reason}: use one that was made for this kind of model.")
    shapes = read_header(file).shapes
    for name in ("to_k", "to_v"):
        given, needed = _layers(shapes, f".{name}_ip.weight"), _layers(network, f".attn2.{name}.weight")
        if given != needed:
            raise PriorError(
                f"The IP-Adapter {file} does not fit this model: it has {given.total()} layers {name}, not the "
                f"{needed.total()} of the network's attention to texts; use one that was made for it, and get it whole."
            )
    return AdapterFile(file, encoder_of(file))


def _layers(shapes: Shapes, end: str) -> Counter[tuple[int, ...]]:
    """How many layers of which shape have this end of a name."""
    return Counter(shape for name, shape in shapes.items() if name.endswith(end))


def encoder_of(file: Path) -> Path:
    """The image encoder of an IP-Adapter: the nearest whose width fits. Raises PriorError where there is none."""
    shapes = read_header(file).shapes
    edge, width = next(
        ((edge, shapes[name][1]) for name, edge in _ENTRIES.items() if len(shapes.get(name, ())) == 2), ("", 0)
    )
    if not edge:
        raise PriorError(f"The IP-Adapter {file} takes no image encoder that is known here: use another one.")
    for encoder in _encoders(file):
        if _width(encoder, edge) == width:
            if encoder.is_dir():
                check_weights(encoder)
            return encoder
    raise PriorError(
        f"The IP-Adapter {file} needs its CLIP image encoder ({edge} {width}): put it beside it, as a folder {FOLDER} "
        f"with config.json and model.safetensors, or as a .safetensors file in a folder {SHELF}."
    )


def _encoders(file: Path) -> Iterator[Path]:
    """What may be an image encoder, beside a file and beside its folder: as h94/IP-Adapter and as ComfyUI has it."""
    for place in (file.parent, file.parent.parent):
        for folder in (place, place / "models"):
            if (folder / FOLDER / "config.json").is_file():
                yield folder / FOLDER
            yield from sorted((folder / SHELF).glob("*.safetensors"))


def _width(encoder: Path, edge: str) -> object:
    if encoder.is_dir():
        return read_json(encoder / "config.json").get(edge)
    return read_header(encoder).shapes.get(_EDGES[edge], (0,))[0]
