# SPDX-License-Identifier: GPL-3.0-or-later
"""ControlNets (Zhang et al. 2023, arXiv 2302.05543): pictures of the mesh steer a Stable Diffusion model's U-Net."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from safetensors.torch import load_file
from torch import Tensor, nn

from ..base import PriorError
from ..conditions import TextCondition, Views
from ..files.layouts import AGAIN, read_json
from ..files.parts import require_finite
from .control_files import CONFIG, ControlFile
from .control_pictures import PICTURES

# The numbers of a union ControlNet's control types, as the model card of xinsir/controlnet-union-sdxl-1.0 lists them.
UNION_TYPES = {"depth": 1, "canny": 3, "normal": 4}
_UNION: Any = ControlNetUnionModel  # untyped


class ControlNets:
    """ControlNets of one U-Net, each with a picture of its own; what they add to the U-Net sums up.

    Args:
        networks: kind of picture, one of `protocol.CONTROLS` -> its network. A union network may have several.
        strength: factor of what they add to the U-Net.
    """

    def __init__(self, networks: Mapping[str, Any], strength: float = 1.0):
        self.kinds, self.networks, self.strength = list(networks), list(networks.values()), float(strength)

    def hints(self, views: Views) -> Tensor:
        """(B, K, 3, H, W) in [0, 1]: the pictures of K kinds, top row first.

        Raises PriorError for views without depth and normals.
        """
        if views.depth is None or views.normals is None:
            raise PriorError("A ControlNet follows a mesh: give views with depth and normals, or no control.")
        return torch.stack([PICTURES[kind](views.depth, views.normals) for kind in self.kinds], dim=1)

    def residuals(
        self, x: Tensor, timestep: Tensor, text: TextCondition, added: dict[str, Tensor] | None
    ) -> tuple[list[Tensor], Tensor]:
        """The U-Net's `down_block_additional_residuals` and `mid_block_additional_residual`.

        Args:
            x, timestep, text, added: as the U-Net gets them, N of each.
        """
        hints, answers = text.hints, []
        assert hints is not None
        network: Any
        for network in dict.fromkeys(self.networks):
            numbers = [i for i, each in enumerate(self.networks) if each is network]
            pictures = [hints[:, i].to(network.dtype) for i in numbers]
            more: dict[str, Any] = {"controlnet_cond": pictures[0]}
            if isinstance(network, _UNION):
                types = [UNION_TYPES[self.kinds[i]] for i in numbers]
                chosen = hints.new_zeros(len(x), network.config.num_control_type)
                chosen[:, types] = 1
                more = {"controlnet_cond": pictures, "control_type": chosen, "control_type_idx": types}
            answers.append(
                network(
                    x,
                    timestep,
                    encoder_hidden_states=text.embeddings,
                    conditioning_scale=self.strength,
                    added_cond_kwargs=added,
                    return_dict=False,
                    **more,
                )
            )
        down = [torch.stack(level).sum(0) for level in zip(*(levels for levels, _ in answers))]
        return down, torch.stack([middle for _, middle in answers]).sum(0)


def load_network(file: ControlFile, unet: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A frozen ControlNet for a U-Net. Raises PriorError, with what to do, for one that does not fit.

    A single file, of diffusers' or of the original layout, has no configuration: the U-Net's is taken.
    """
    weights: dict[str, Tensor] = {}
    for path in file.weights:
        weights |= load_file(path)
    kind: Any = ControlNetUnionModel if file.union else ControlNetModel
    config = file.place / CONFIG
    if config.is_file():
        settings = read_json(config)
    else:
        with torch.device("meta"):
            settings = dict(kind.from_unet(unet, load_weights_from_unet=False).config)
        weights = cast(Any, convert_controlnet_checkpoint)(weights, settings)
        settings.pop("_use_default_values", None)  # they would win over what follows
        settings |= _read_settings(weights)
    with torch.device("meta"):
        network = kind.from_config(settings)
    _check_fit(file, network, unet)
    for name, expected in network.state_dict().items():
        if name not in weights:
            raise PriorError(f"{file.place} lacks {name} of a ControlNet for this model: {AGAIN}, or choose another.")
        if weights[name].shape != expected.shape:
            raise PriorError(
                f"{file.place} does not fit this model: {name} has the shape {tuple(weights[name].shape)}, not "
                f"{tuple(expected.shape)}; choose a ControlNet that was made for it."
            )
        weights[name] = weights[name].to(device, dtype)
    network.load_state_dict(weights, strict=False, assign=True)
    network.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    require_finite(network, file.place, device, dtype)
    return network


def _read_settings(weights: Mapping[str, Tensor]) -> dict[str, object]:
    """The settings that a ControlNet has beside the U-Net's, by the shapes of its weights."""
    hint = "controlnet_cond_embedding."
    layers = [f"{hint}conv_in.bias", *(f"{hint}blocks.{i}.bias" for i in range(1, len(weights), 2))]
    settings: dict[str, object] = {
        "conditioning_embedding_out_channels": [len(weights[name]) for name in layers if name in weights]
    }
    if "task_embedding" in weights:
        types, channels = weights["task_embedding"].shape
        settings |= {
            "num_control_type": types,
            "num_trans_channel": channels,
            "num_proj_channel": len(weights["spatial_ch_projs.bias"]),
        }
    return settings


def _check_fit(file: ControlFile, network: nn.Module, unet: Any) -> None:
    """Raise PriorError where a ControlNet's numbers could not be added to the U-Net's."""
    own: Any = network.config
    if own.cross_attention_dim != unet.config.cross_attention_dim:
        raise PriorError(
            f"{file.place} is for texts of width {own.cross_attention_dim}, but the model's have "
            f"{unet.config.cross_attention_dim}: choose a ControlNet that was made for this model's family."
        )
    for name in ("in_channels", "block_out_channels", "layers_per_block", "addition_embed_type"):
        mine, theirs = (list(v) if isinstance(v := each[name], (list, tuple)) else v for each in (own, unet.config))
        if mine != theirs:
            raise PriorError(
                f"{file.place} was made for another U-Net ({name} is {mine}, but the model's is {theirs}): choose a "
                "ControlNet that was made for this model's family."
            )
