# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Callable
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
from .prompts import MAX_WINDOWS, Tokens, tokenize


class StableDiffusion(DiffusersPrior):
    """A frozen Stable Diffusion model, as a `TextToImagePrior`."""

    weighs_words = True

    def __init__(self, parts: Parts, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__(parts, device, dtype)
        self.unet: Any = self._network("unet", UNet2DConditionModel, torch_dtype=dtype)
        self.text_encoder = self._text_encoder("text_encoder", CLIPTextModel)
        self.tokenizer: CLIPTokenizer = parts.load("tokenizer", CLIPTokenizer)
        self.tokens: int = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        self.windows = 1 if self.words else MAX_WINDOWS  # a small model learned one window of words
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
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)

        def encode(ids: Tensor, mask: Tensor) -> tuple[Tensor, None]:
            return self.text_encoder(ids, attention_mask=mask if masked else None)[0], None

        return self._encode_windows(self.tokenizer, text, encode)

    def _encode_windows(
        self, tokenizer: CLIPTokenizer, text: str, encode: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
    ) -> TextCondition:
        """A text by windows of the encoder's length, side by side, each word moved away from the empty text by its
        weight w: empty + w (word - empty), so that the other words keep their bits.

        The pooled text of several windows is that of the one which `tokenize` makes of the whole text.

        encode: (1, tokens) ids and attention mask -> (1, tokens, width) and, where the network takes it, (1, width).
        """

        def windows(text: str, most: int) -> tuple[Tokens, Tensor, Tensor | None]:
            tokens = tokenize(tokenizer, text, self.tokens, most)
            encoded = [
                encode(*(torch.tensor([each]).to(self.device, non_blocking=True) for each in window))
                for window in zip(tokens.ids, tokens.mask)
            ]
            return tokens, torch.cat([hidden for hidden, _ in encoded], dim=1), encoded[0][1]

        tokens, hidden, pooled = windows(text, self.windows)
        if tokens.are_weighted:
            weights = torch.tensor(tokens.weights).reshape(1, -1, 1).to(self.device, non_blocking=True)
            empty = windows("", 1)[1].repeat(1, len(tokens.ids), 1)
            hidden = torch.where(
                weights == 1, hidden, torch.lerp(empty.float(), hidden.float(), weights).to(hidden.dtype)
            )
        if len(tokens.ids) > 1 and pooled is not None:
            pooled = windows(text, 1)[2]
        return TextCondition(hidden, pooled=pooled)

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
            x, times, encoder_hidden_states=embeddings, added_cond_kwargs=self._added(condition, batch)
        ).sample.float()
        if condition.negative is None:
            return output
        negative, positive = output.chunk(2)
        return negative + condition.guidance_scale * (positive - negative)

    def _added(self, condition: TextCondition, batch: int) -> dict[str, Tensor] | None:
        """Further inputs of the U-Net, for the negative part first; None where it takes text only."""
        return None
