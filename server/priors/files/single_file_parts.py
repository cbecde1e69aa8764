# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of a model in one .safetensors file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from safetensors import safe_open
from torch import Tensor

from ..base import PriorError
from .clip_tokenizer import clip_tokenizer
from .layouts import AGAIN, read_json
from .parts import folder_network, from_pretrained, reason
from .places import is_t5_tokenizer
from .single_file import examine

Tensors = dict[str, Tensor]


class SingleFileParts:
    """The parts of a single file, as `parts.Parts`, offline.

    diffusers converts the U-Net, the transformer and the VAE; its conversion of text encoders is not public.
    """

    def __init__(self, file: Path):
        self.place = file
        self._checkpoint = examine(file)
        self.index = self._checkpoint.index

    def has(self, part: str) -> bool:
        entry = self.index.get(part)
        return isinstance(entry, list) and entry[-1] is not None

    def config(self, part: str) -> dict[str, object]:
        return self._checkpoint.configuration(part)

    def network(self, part: str, kind: Any, **options: Any) -> Any:
        if part not in self._checkpoint.names:
            return folder_network(self._checkpoint.folder(part) / part, kind, **options)
        load = self._from_single_file if hasattr(kind, "from_single_file") else self._text_encoder
        try:
            network, complete = load(part, kind, self._read(part), options)
        except Exception as error:
            raise PriorError(f"The {part} in {self.place} could not be loaded: {reason(error)}") from error
        if not complete:
            raise PriorError(f"{self.place} lacks weights of its {part}, a {kind.__name__}: {AGAIN}.")
        return network.requires_grad_(False).eval()

    def _from_single_file(self, part: str, kind: Any, tensors: Tensors, options: dict[str, Any]) -> tuple[Any, bool]:
        """A network of diffusers, and whether it has all of its weights."""
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # it warns of precisions that no part asks for
        try:
            network = kind.from_single_file(
                tensors,
                config=str(self._checkpoint.folder(part)),
                subfolder=part,
                local_files_only=True,
                low_cpu_mem_usage=True,  # so that a weight that is missing is on "meta", instead of noise
                **self._checkpoint.changes.get(part, {}),
                **options,
            )
        except NotImplementedError:  # there is nothing on "meta" that could get a dtype
            return None, False
        finally:
            logging.set_verbosity(verbosity)
        return network, not any(tensor.is_meta for tensor in network.state_dict().values())

    def _text_encoder(self, part: str, kind: Any, tensors: Tensors, options: dict[str, Any]) -> tuple[Any, bool]:
        """A text encoder of transformers, and whether it has all of its weights."""
        config = kind.config_class.from_dict(self.config(part))
        network, info = kind.from_pretrained(
            None, config=config, state_dict=_text_encoder(tensors, config), output_loading_info=True, **options
        )
        return network, not info["missing_keys"]

    def load(self, part: str, kind: Any) -> Any:
        if part == "scheduler":
            return kind.from_config(self.config(part))
        folder = self._checkpoint.folder(part) / part
        if any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")) or is_t5_tokenizer(folder):
            return from_pretrained(kind, folder)
        settings = read_json(folder / "tokenizer_config.json")
        settings.pop("tokenizer_class", None)
        if (t5 := self._checkpoint.t5_tokenizer) is not None and kind.__name__.startswith("T5"):
            return from_pretrained(kind, t5, **settings)
        return clip_tokenizer(kind, **settings)

    def _read(self, part: str) -> Tensors:
        """The part's tensors by their names in the original layout."""
        with safe_open(self.place, framework="pt") as file:
            tensors = {name: file.get_tensor(own) for name, own in self._checkpoint.names[part].items()}
        # float16 holds every float8, and more can be done with it.
        return {name: tensor.half() if tensor.element_size() == 1 else tensor for name, tensor in tensors.items()}


def _text_encoder(tensors: Tensors, config: Any) -> Tensors:
    """A text encoder's tensors by transformers' names."""
    prefix = re.compile(
        r"^(cond_stage_model\.transformer|cond_stage_model\.model|conditioner\.embedders\.\d\.(transformer|model)"
        r"|text_encoders\.\w+\.transformer)\."
    )
    tensors = {prefix.sub("", name): tensor for name, tensor in tensors.items()}
    if "token_embedding.weight" in tensors:
        return _open_clip(tensors)
    if config.architectures == ["CLIPTextModelWithProjection"] and "text_projection.weight" not in tensors:
        tensors["text_projection.weight"] = torch.eye(config.projection_dim, config.hidden_size)
    return tensors


def _open_clip(tensors: Tensors) -> Tensors:
    """transformers' names for open_clip's, which has three projections of an attention in one tensor."""
    rules = (
        (r"^transformer\.resblocks\.", "encoder.layers."),
        (r"\.attn\.out_proj", ".self_attn.out_proj"),
        (r"\.ln_([12])\.", r".layer_norm\1."),
        (r"\.mlp\.c_fc", ".mlp.fc1"),
        (r"\.mlp\.c_proj", ".mlp.fc2"),
        (r"^token_embedding", "embeddings.token_embedding"),
        (r"^positional_embedding$", "embeddings.position_embedding.weight"),
        (r"^ln_final", "final_layer_norm"),
    )
    made = {}
    for name, tensor in tensors.items():
        if name == "text_projection":
            made["text_projection.weight"] = tensor.T.contiguous()
            continue
        for old, new in rules:
            name = re.sub(old, new, name)
        if match := re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name):
            for letter, third in zip("qkv", tensor.chunk(3)):
                made[f"text_model.{match[1]}.self_attn.{letter}_proj.{match[2]}"] = third
        else:
            made[f"text_model.{name}"] = tensor
    return made
