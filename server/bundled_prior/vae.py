# SPDX-License-Identifier: GPL-3.0-or-later
"""The autoencoder between pictures and latents, and its training."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist

from .config import TrainConfig
from .workers import autocast, generator, rank_and_size

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL


def build_vae(config: TrainConfig) -> Any:
    """An untrained autoencoder of pictures (B, 3, H, W) in [-1, 1] and latents (B, 4, H/4, W/4).

    It has two normalization groups, because many small groups wash out flat colours.
    """
    from diffusers import AutoencoderKL

    depth = len(config.vae_channels)
    return AutoencoderKL(
        block_out_channels=config.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=config.pixels,
        mid_block_add_attention=False,
    )


def vae_loss(vae: AutoencoderKL, pictures: np.ndarray, config: TrainConfig, step: int) -> torch.Tensor:
    """L1 + squared error + a small KL term on one batch.

    The error's deviation from grey counts again, fourfold, because hue is learned last and matters most. Every other
    batch has its colour channels shuffled, so that every hue occurs.
    """
    g = generator(config, step)
    pick = torch.randint(len(pictures), (config.vae_batch // rank_and_size()[1],), generator=g).sort().values
    x = _pixels(pictures[pick.numpy()])
    if step % 2:
        x = x[:, torch.randperm(3, generator=g)]
    x = x.to(config.device, memory_format=torch.channels_last)
    with autocast(config):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample(g)).sample
    error = y.float() - x
    chroma = error - error.mean(1, keepdim=True)
    distance = error.abs().mean() + error.square().mean() + 4 * chroma.square().mean()
    return distance + 5e-7 * posterior.kl().float().mean()


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, config: TrainConfig) -> torch.Tensor:
    """Mean latents (N, 4, H/4, W/4) of all pictures (N, H, W, 3), unscaled, float32, cached in the work folder."""
    path = config.work / "latents.safetensors"
    if path.exists():
        return load_file(path)["latents"]
    rank, workers = rank_and_size()
    latents = torch.zeros(len(pictures), 4, *[edge // 4 for edge in pictures.shape[1:3]])
    for start in range(250 * rank, len(pictures), 250 * workers):
        x = _pixels(pictures[start : start + 250]).to(config.device, memory_format=torch.channels_last)
        with autocast(config):
            latents[start : start + 250] = vae.encode(x).latent_dist.mean.float().cpu()
    if workers > 1:
        dist.all_reduce(latents)
    if rank == 0:
        fresh = path.with_suffix(".new")
        save_file({"latents": latents}, fresh)
        os.replace(fresh, path)
    return latents


@torch.no_grad()
def whiten(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Whiten latents (N, 4, H, W) to zero mean and unit variance, and fold the map into the VAE's 1x1 convolutions.

    Brightness varies far more than hue, which the noise would hide otherwise. A tenth of the mean variance is added
    to each eigenvalue before the inversion, so that a nearly redundant direction is not amplified.
    """
    flat = latents.movedim(1, -1).reshape(-1, latents.shape[1]).double()
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((flat - mean).T))
    gains = (values + 0.1 * values.mean()).rsqrt()
    forward = vectors @ torch.diag(gains / (gains.square() * values).mean().sqrt()) @ vectors.T
    inward, outward, n = vae.quant_conv, vae.post_quant_conv, len(mean)
    assert inward and outward and inward.bias is not None and outward.bias is not None
    w, b = inward.weight[:, :, 0, 0].double(), inward.bias.double()
    inward.weight[:n, :, 0, 0], inward.bias[:n] = forward @ w[:n], forward @ (b[:n] - mean)
    inward.bias[n:] += 2 * forward.diag().log()  # the posterior's log-variances, to first order
    w, b = outward.weight[:, :, 0, 0].double(), outward.bias.double()
    outward.weight[:, :, 0, 0], outward.bias[:] = w @ torch.linalg.inv(forward), b + w @ mean
    vae.register_to_config(scaling_factor=1.0)
    return torch.einsum("ij,bjhw->bihw", forward.float(), latents - mean.float().view(1, -1, 1, 1))


def _pixels(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1], channels last."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
