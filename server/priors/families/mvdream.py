# SPDX-License-Identifier: GPL-3.0-or-later
"""MVDream's published U-Net (Shi et al. 2023), whose weights have latent diffusion's names, as one of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor

from ..base import PriorError
from ..files.layouts import AGAIN, variant
from ..files.multi_view_layouts import CAMERA_WIDTH, PUBLISHED, ViewGroup, wrong_width
from ..files.parts import Parts, check_weights, read_weights
from .multi_view import MultiView

PREFIX = "model.diffusion_model."  # of the U-Net's weights in a file of all parts
CAMERAS, LABELS = "camera_embed.", "label_emb.0."  # of the cameras' projection, of a class label's
HEAD_WIDTH, LATENTS = 64, 32  # published: channels of an attention head, edge of the latents at 256 pixels


def unet_config(weights: Mapping[str, Tensor], head_width: int = HEAD_WIDTH, latents: int = LATENTS) -> dict[str, Any]:
    """The configuration in diffusers' terms of a U-Net, read off the shapes of its weights.

    Args:
        weights: without `PREFIX`. Raises KeyError where one is missing that says something.
        head_width: channels of an attention head.
        latents: edge of the latents.
    """
    levels, attention = [[1]], "input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
    for block in count(2):
        if f"input_blocks.{block}.0.op.weight" in weights:
            levels.append([])
        elif f"input_blocks.{block}.0.in_layers.0.weight" in weights:
            levels[-1].append(block)
        else:
            break
    channels = [len(weights[f"input_blocks.{blocks[0]}.0.in_layers.2.weight"]) for blocks in levels]
    attends = [attention.format(blocks[0]) in weights for blocks in levels]
    kinds = ["CrossAttn" if each else "" for each in attends]
    middle = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    linear = weights["middle_block.1.proj_in.weight"].ndim == 2
    # Their number, whatever diffusers calls it: eight everywhere in the models of the first generation.
    heads = [max(1, width // head_width) if linear else 8 for width in channels]
    return {
        "sample_size": latents,
        "in_channels": weights["input_blocks.0.0.weight"].shape[1],
        "out_channels": len(weights["out.2.weight"]),
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "cross_attention_dim": weights[middle].shape[1],
        "attention_head_dim": heads,
        "use_linear_projection": linear,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": weights[f"{CAMERAS}0.weight"].shape[1],
    }


def diffusers_names(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights (without `PREFIX`) under diffusers' names.

    All but the embedding of cameras is Stable Diffusion's. The embedding is a class label's in all but its name.
    """
    renamed = {f"{PREFIX}{name.replace(CAMERAS, LABELS)}": weight for name, weight in weights.items()}
    convert: Any = convert_ldm_unet_checkpoint
    converted: dict[str, Tensor] = convert(renamed, config)
    return converted


class MVDreamParts:
    """The parts of a model whose U-Net is MVDream's, in a folder of diffusers or in one file.

    All but the U-Net are Stable Diffusion's.
    """

    def __init__(self, parts: Parts):
        self._parts = parts
        self.place, self.index = parts.place, parts.index

    def has(self, part: str) -> bool:
        return self._parts.has(part)

    def config(self, part: str) -> dict[str, object]:
        return self._parts.config(part)

    def load(self, part: str, kind: Any) -> Any:
        return self._parts.load(part, kind)

    def network(self, part: str, kind: Any, **options: object) -> Any:
        if part != "unet":
            return self._parts.network(part, kind, **options)
        own: Any = self.config("unet")
        path = self.place
        if path.is_dir():
            folder = path / "unet"
            path = folder / ".".join(filter(None, ("diffusion_pytorch_model", variant(folder), "safetensors")))
        weights = read_weights(path, PREFIX) or read_weights(path)
        try:
            config = unet_config(weights, own.get("num_head_channels", HEAD_WIDTH), own.get("image_size", LATENTS))
            converted = diffusers_names(weights, config)
        except KeyError as error:
            name = error.args[0].replace(LABELS, CAMERAS)
            raise PriorError(f"{path} lacks {name} of MVDream's U-Net: {AGAIN}.") from None
        if (width := config["projection_class_embeddings_input_dim"]) != CAMERA_WIDTH:
            raise wrong_width(path, width)
        network: Any = UNet2DConditionModel
        with torch.device("meta"):
            unet = network.from_config(config)
        check_weights(path, converted, unet.state_dict())
        unet.load_state_dict(converted, assign=True)
        return unet.to(options["torch_dtype"]).requires_grad_(False).eval()


class MVDream(MultiView):
    """MVDream, as a `MultiViewPrior`: four views, prompts that end in ", 3d asset", no words for the side."""

    def __init__(self, parts: Parts, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__(MVDreamParts(parts), device, dtype)

    def _view_group(self) -> ViewGroup:
        return PUBLISHED
