# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from ..conditions import TextCondition
from ..files.parts import Parts, pipeline_class
from ..noise_models import FlowNoise
from ..prompts import fitting
from .diffusers_prior import DiffusersPrior, wide

T5_TOKENS = 256  # of StableDiffusion3Pipeline


class StableDiffusion3(DiffusersPrior):
    """A frozen Stable Diffusion 3 or 3.5 model, as a `TextToImagePrior`.

    The transformer takes the texts of two CLIP encoders side by side, followed by those of T5, and the pooled texts of
    the CLIP encoders. A model without T5 takes zeros for it. The scheduler's shift spaces a sampler's steps and has no
    part in the denoiser.
    """

    def __init__(self, parts: Parts, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__(parts, device, wide(dtype, device))
        clip, clip_2 = (self._encoder(part, CLIPTextModelWithProjection) for part in ("text_encoder", "text_encoder_2"))
        tokenizer, tokenizer_2 = (parts.load(part, CLIPTokenizer) for part in ("tokenizer", "tokenizer_2"))
        t5 = tokenizer_3 = None
        if parts.has("text_encoder_3") and parts.has("tokenizer_3"):
            t5 = self._encoder("text_encoder_3", T5EncoderModel)
            tokenizer_3 = parts.load("tokenizer_3", T5Tokenizer)
        self.encoders = [each for each in (clip, clip_2, t5) if each is not None]
        self.transformer: Any = self._network("transformer", SD3Transformer2DModel, torch_dtype=self.dtype)
        self._texts = pipeline_class("StableDiffusion3Pipeline")(
            self.transformer, None, None, clip, tokenizer, clip_2, tokenizer_2, t5, tokenizer_3
        )
        self.tokenizer = tokenizer_3 or tokenizer
        self.tokens: int = T5_TOKENS if tokenizer_3 else tokenizer.model_max_length
        self.noise = FlowNoise()
        size = self.transformer.config.sample_size
        self.resolution: int = size * self.downscale
        self.latent_shape: tuple[int, int, int] = (self.vae.config.latent_channels, size, size)

    @property
    def denoising_network(self) -> torch.nn.Module:
        """As `DiffusersPrior.denoising_network`."""
        network: torch.nn.Module = self.transformer
        return network

    def _encode_text(self, text: str) -> TextCondition:
        texts = self._texts
        embeddings, _, pooled, _ = texts.encode_prompt(
            fitting(texts.tokenizer, text, texts.tokenizer_max_length),
            fitting(texts.tokenizer_2, text, texts.tokenizer_max_length),
            fitting(self.tokenizer, text, self.tokens),
            self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=T5_TOKENS,
        )
        return TextCondition(embeddings, pooled=pooled)

    def _ask(self, x: Tensor, timestep: Tensor, text: TextCondition) -> Tensor:
        output: Tensor = self.transformer(x, text.embeddings, text.pooled, timestep, return_dict=False)[0]
        return output
