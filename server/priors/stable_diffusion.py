# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .base import PriorError
from .conditions import Condition, TextCondition
from .diffusers_prior import DiffusersPrior
from .noise_models import DiscreteNoise
from .parts import Parts
from .prompts import tokenize


class StableDiffusion(DiffusersPrior):
    """A frozen Stable Diffusion model, as a `TextToImagePrior`."""

    def __init__(self, parts: Parts, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__(parts, device, dtype)
        self.unet: Any = self._network("unet", UNet2DConditionModel, torch_dtype=dtype)
        self.text_encoder = self._text_encoder("text_encoder", CLIPTextModel)
        self.tokenizer: CLIPTokenizer = parts.load("tokenizer", CLIPTokenizer)
        self.tokens: int = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        scheduler = parts.load("scheduler", DDPMScheduler)
        self.noise = DiscreteNoise(scheduler.alphas_cumprod, scheduler.config.prediction_type, self.device)
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.resolution: int = height * self.downscale
        self.latent_shape: tuple[int, int, int] = (self.vae.config.latent_channels, height, width)

    @property
    def denoising_network(self) -> torch.nn.Module:
        """As `DiffusersPrior.denoising_network`."""
        network: torch.nn.Module = self.unet
        return network

    def _text_encoder(self, part: str, kind: Any) -> Any:
        return self._network(part, kind, dtype=self.dtype, ignore_mismatched_sizes=True)

    def _encode_text(self, text: str) -> TextCondition:
        ids, mask = self._tokens(self.tokenizer, text)
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        return TextCondition(self.text_encoder(ids, attention_mask=mask if masked else None)[0])

    def _tokens(self, tokenizer: CLIPTokenizer, text: str) -> tuple[Tensor, Tensor]:
        """(1, tokens) ids and attention mask of a text."""
        tokens = tokenize(tokenizer, text, self.tokens)
        ids, mask = (torch.tensor([each]).to(self.device, non_blocking=True) for each in (tokens.ids, tokens.mask))
        return ids, mask

    def _predict(self, x: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        """The U-Net's own output, (B, C, h, w) float32; with guidance, one call on 2B latents."""
        condition = condition or self._encode_texts([""])
        if not isinstance(condition, TextCondition):
            raise PriorError(f"This model takes a TextCondition, as its condition() makes, not {condition!r}.")
        batch = len(x)
        parts = [part for part in (condition.negative, condition.embeddings) if part is not None]
        if any(len(part) not in (1, batch) for part in parts):
            prompts = len(condition.embeddings)
            raise PriorError(f"The condition has {prompts} prompts for {batch} latents: give one each, or one.")
        embeddings = torch.cat([part.expand(batch, -1, -1) for part in parts])
        x = x.repeat(len(parts), 1, 1, 1).to(self.dtype, memory_format=torch.channels_last)
        times = timestep.repeat(len(parts))
        output: Tensor = self.unet(
            x, times, encoder_hidden_states=embeddings, **self._inputs(condition, batch)
        ).sample.float()
        if condition.negative is None:
            return output
        negative, positive = output.chunk(2)
        return negative + condition.guidance_scale * (positive - negative)

    def _inputs(self, condition: TextCondition, batch: int) -> dict[str, object]:
        """Further arguments of the U-Net, whose rows are the negative part's first; none where it takes text only."""
        return {}
