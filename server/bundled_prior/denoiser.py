# SPDX-License-Identifier: GPL-3.0-or-later
"""The text encoder and the U-Net, trained together on the corpus's latents."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from .config import TrainConfig
from .corpus import draw_captions
from .tokenizer import TOKENS
from .workers import autocast, generator, rank_and_size

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def build_denoiser(config: TrainConfig, tokenizer: CLIPTokenizer) -> Any:
    """A module dictionary of `text_encoder` and `unet`, with random weights."""
    from diffusers.models import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor
    from transformers import CLIPTextConfig, CLIPTextModel

    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=4 * config.hidden,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=config.hidden,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    depth = len(config.channels) - 1
    unet = UNet2DConditionModel(
        sample_size=config.pixels // 4,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * depth,
        up_block_types=("CrossAttnUpBlock2D",) * depth + ("UpBlock2D",),
        cross_attention_dim=config.hidden,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    unet.set_attn_processor(AttnProcessor())  # for 64 tokens plain products train faster than the fused op
    return nn.ModuleDict({"text_encoder": text_encoder, "unet": unet})


@torch.no_grad()
def transfer_text_encoder(
    source: CLIPTextModel, source_tokenizer: CLIPTokenizer, target: CLIPTextModel, target_tokenizer: CLIPTokenizer
) -> None:
    """Copy a text encoder's weights to one of another vocabulary.

    Tokens that both tokenizers spell the same keep their embedding; those that only the target has stay as they are.
    """
    known, old, new = source_tokenizer.get_vocab(), _embeddings(source), _embeddings(target)
    table = new.clone()
    for token, i in target_tokenizer.get_vocab().items():
        if token in known:
            table[i] = old[known[token]]
    own = target.state_dict()
    target.load_state_dict(
        {name: weight for name, weight in source.state_dict().items() if weight.shape == own[name].shape}, strict=False
    )
    new.copy_(table)


def _embeddings(encoder: CLIPTextModel) -> torch.Tensor:
    """The embeddings (V, width) of the vocabulary."""
    weight = encoder.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight


def denoiser_loss(
    model: nn.ModuleDict,
    tokenize: Callable[[str], list[int]],
    latents: torch.Tensor,
    labels: np.ndarray,
    config: TrainConfig,
    step: int,
) -> torch.Tensor:
    """Mean squared error of v (Salimans & Ho 2022) on one batch, without weights over the timesteps.

    On the clean latent this is a weight of 1 + SNR, which keeps the noisy levels, unlike min-SNR (Hang et al. 2023):
    there the text decides the shape, and distillation works there. They are also learned slowly, so timesteps,
    stratified over the batch, are drawn with a probability proportional to t.
    """
    g = generator(config, step)
    pick, noisy, t, target = noisy_latents(latents, config.batch // rank_and_size()[1], g)
    ids = torch.tensor([tokenize(c) for c in draw_captions(labels[pick.numpy()], config, step)])
    noisy = noisy.to(config.device, memory_format=torch.channels_last)
    with autocast(config):
        text = model["text_encoder"](ids.to(config.device))[0]
        v = model["unet"](noisy, t.to(config.device), text).sample
    return (v.float() - target.to(config.device)).square().mean()


def noisy_latents(
    latents: torch.Tensor, batch: int, generator: torch.Generator, views: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which of the latents (N, C, h, w) a batch has, (B,); with noise (B, C, h, w), at timesteps (B,), and their v.

    views: latents in a row that come together and share their timestep.
    """
    objects = batch // views
    pick = torch.randint(len(latents) // views, (objects,), generator=generator)
    pick = (views * pick[:, None] + torch.arange(views)).flatten()
    x0 = latents[pick]
    noise = torch.randn(x0.shape, generator=generator)
    t = (torch.arange(objects) + torch.rand(objects, generator=generator)) / objects
    t = (t.sqrt() * 1000).long().clamp(max=999).repeat_interleave(views)
    alpha_bar = _alphas_cumprod()[t].view(-1, 1, 1, 1)
    signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return pick, signal * x0 + sigma * noise, t, signal * noise - sigma * x0


@functools.cache
def _alphas_cumprod() -> torch.Tensor:
    from diffusers import DDIMScheduler

    scheduler: Any = DDIMScheduler(**SCHEDULE)
    return scheduler.alphas_cumprod
