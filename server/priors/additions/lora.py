# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRAs fused into a model's networks, by diffusers and peft."""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from torch import Tensor

from ..base import PriorError
from ..files.layouts import AGAIN, read_json
from .lora_files import LoRA

_ADAPTER = "lora"  # the name under which diffusers holds it before it is fused
_PEFT = "base_model.model."  # before the names in a file of peft's own save_pretrained
# A's name in the layouts of kohya-ss, peft and diffusers (two), after that of its layer.
_DOWN = re.compile(r"[._]lora(?:_linear_layer)?[._](?:down|A)\.weight$")


def fuse_loras(pipeline: str, networks: Mapping[str, torch.nn.Module], loras: Sequence[LoRA]) -> list[str]:
    """Fuse LoRAs into networks, so that plain layers with the weights W + weight · alpha / rank · B A remain.

    To take them off, load the model again: to subtract them would not give the same bits.

    Args:
        pipeline: class of diffusers, whose `load_lora_weights` knows the layouts of LoRAs for these networks.
        networks: by the names of the pipeline's parts.

    Returns:
        One sentence for each file of which a part is for no layer of these networks.

    Raises PriorError, with what to do, for a file that cannot be put on; the networks are of no use then.
    """
    if not hasattr(getattr(diffusers, pipeline, None), "load_lora_weights"):
        raise PriorError(f"A {pipeline} takes no LoRA: leave it out, or use another model.")
    with quiet():
        loader = loader_of(pipeline, networks)
        return [note for lora in loras if (note := _fuse(loader, networks, lora))]


def loader_of(pipeline: str, networks: Mapping[str, torch.nn.Module]) -> Any:
    """A pipeline of diffusers that has these networks and no other parts, for its methods that load additions."""
    kind: Any = getattr(diffusers, pipeline)
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    needed = [each.name for each in parameters if each.default is inspect.Parameter.empty]
    more = {"requires_safety_checker": False} if "requires_safety_checker" in {each.name for each in parameters} else {}
    loader = kind(**dict.fromkeys(needed), **more)
    for name, network in networks.items():
        setattr(loader, name, network)
    return loader


def _fuse(loader: Any, networks: Mapping[str, torch.nn.Module], lora: LoRA) -> str:
    tensors = _tensors(Path(lora.file))
    held = sum(bool(_DOWN.search(name)) for name in tensors)
    foreign = PriorError(f"The LoRA {lora.file} names no layer of this model: use one that was made for it.")
    try:
        loader.load_lora_weights(tensors, adapter_name=_ADAPTER)
    except Exception as error:  # of many kinds, by the file
        if "Target modules" in str(error):
            raise foreign from error
        reason = " ".join(str(error).split())[:200]
        raise PriorError(
            f"The LoRA {lora.file} does not fit this model: use one that was made for it ({reason})."
        ) from error
    layers = [module for network in networks.values() for module in network.modules()]
    fitting = sum(isinstance(layer, BaseTunerLayer) for layer in layers)
    if not fitting:
        raise foreign
    fused = [name for name in networks if name in loader._lora_loadable_modules]
    loader.fuse_lora(components=fused, lora_scale=lora.weight, adapter_names=[_ADAPTER])
    loader.unload_lora_weights()
    left = held - fitting
    return f"{left} of {held} layers in the LoRA {lora.file} are not in this model, and are left out." * (left > 0)


def _tensors(file: Path) -> dict[str, Tensor]:
    """A file's matrices with alpha / rank multiplied into B, so that they stand for B A.

    diffusers 0.42 gives one alpha to all layers where a file has several (docs/log.md).

    Raises PriorError unless all numbers are finite.
    """
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name.replace(".default.", "."): opened.get_tensor(name) for name in opened.keys()}
    except Exception as error:
        raise PriorError(f"The LoRA {file} cannot be read ({str(error).splitlines()[0]}): {AGAIN}.") from error
    for name, tensor in tensors.items():
        if not tensor.float().isfinite().all():
            raise PriorError(f"The LoRA {file} has numbers that are NaN or infinite, in {name}: {AGAIN}.")
    config: dict[str, Any] = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    if any(name.startswith(_PEFT) for name in tensors):
        beside = file.with_name("adapter_config.json")
        config = {f"unet.{key}": value for key, value in read_json(beside).items()} if beside.is_file() else {}
        tensors = {"unet." + name.removeprefix(_PEFT): tensor for name, tensor in tensors.items()}
    for match in [match for name in tensors if (match := _DOWN.search(name))]:
        down, layer, end = match.string, match.string[: match.start()], match[0]
        up = layer + end.replace("down", "up").replace("_A", "_B")
        if up in tensors and (scale := _scale(layer, tensors, len(tensors[down]), config)) != 1:
            tensors[up] = scale * tensors[up].float()
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(".alpha")}


def _scale(layer: str, tensors: Mapping[str, Tensor], rank: int, config: Mapping[str, Any]) -> float:
    """alpha / rank of a layer: by its alpha in the file, or by the configuration of peft, for each part of a model."""
    if f"{layer}.alpha" in tensors:
        return tensors[f"{layer}.alpha"].item() / rank
    part, _, name = layer.partition(".")
    patterns: dict[str, float] = config.get(f"{part}.alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(list(patterns), name), config.get(f"{part}.lora_alpha") or rank)
    return float(alpha) / (rank**0.5 if config.get(f"{part}.use_rslora") else rank)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' warnings about parts of a pipeline that are not there."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
