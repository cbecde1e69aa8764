# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory and the arithmetic of a model's parts, from its configurations; docs/models.md has them measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Cost:
    """Bytes and floating-point operations of one picture or latent, without classifier-free guidance.

    Args:
        weights: bytes on the device.
        encode: bytes that autograd keeps until the gradient of `encode` has been taken.
        encode_thrifty: the same with gradient checkpointing; `recomputed` bytes more come and go with the gradient.
        denoise: bytes that come and go with an evaluation of the network.
        student: bytes that autograd keeps for an evaluation of a student.
        encode_operations, denoise_operations: of one forward pass.
        visitor: bytes of an image encoder, which is on the device before the first iteration only.
    """

    weights: int
    encode: int
    encode_thrifty: int
    recomputed: int
    denoise: int
    student: int
    encode_operations: float
    denoise_operations: float
    visitor: int = 0


def cost_of(networks: Iterable[nn.Module], vae: Any, network: Any, resolution: int, positions: int) -> Cost:
    """The cost of a pipeline of diffusers.

    Args:
        networks: all of them; those whose weights are on another device than the denoising one's are not counted.
        network: the denoising one.
        resolution, positions: edge of a picture in pixels, and points of its latents.
    """
    one = next(network.parameters())
    return Cost(
        weights=sum(each.nbytes for part in networks for each in part.parameters() if each.device == one.device),
        **_encoder(vae, resolution**2),
        **_denoiser(network, positions),
    )


def encoder_channels(config: Any) -> tuple[int, ...]:
    """Channels of an autoencoder's levels, the finest first."""
    return tuple(getattr(config, "block_out_channels", None) or config.encoder_block_out_channels)


def _encoder(vae: Any, pixels: int) -> dict[str, Any]:
    """Group norm, SiLU and convolution, twice in each residual block, keep their inputs for the gradient, and so does
    the step to the next level. With checkpointing, only the inputs of whole levels stay."""
    channels = encoder_channels(vae.config)
    layers = getattr(vae.config, "layers_per_block", None) or 2
    size = pixels * vae.dtype.itemsize
    shares = [width / 4**level for level, width in enumerate(channels)]  # values of a level for each pixel
    levels = [(6 * layers + 1) * share for share in shares]
    convolutions = sum(layers * 36 * width * share for width, share in zip(channels, shares))
    return {
        "encode": round(size * (sum(levels) + 24 * shares[-1])),
        "encode_thrifty": round(size * (shares[0] + sum(share / 4 for share in shares[:-1]) + 4 * shares[-1])),
        "recomputed": round(size * (levels[0] + 3 * channels[0])),
        "encode_operations": pixels * (convolutions + 72 * channels[-1] * shares[-1]),
    }


def _denoiser(network: Any, positions: int) -> dict[str, Any]:
    """A U-Net spends most of its memory at its first level, and a transformer the same in each block."""
    config, size = network.config, next(network.parameters()).element_size()
    weights = sum(each.numel() for each in network.parameters())
    layers = sum(isinstance(each, (nn.Linear, nn.Conv2d)) for each in network.modules())
    if channels := getattr(config, "block_out_channels", None):
        width = channels[0]
        mean = sum(each / 4**level for level, each in enumerate(channels)) / len(channels)
        operations = 0.2 * weights * positions  # 2 for each weight and point, but most are at few points
    else:
        positions //= config.patch_size**2
        width = mean = config.num_attention_heads * config.attention_head_dim
        operations = 2.0 * weights * positions
    return {
        "denoise": round(16 * size * width * positions),
        "student": round(2 * (size + 4) * layers * mean * positions),  # an update works in float32
        "denoise_operations": operations,
    }
