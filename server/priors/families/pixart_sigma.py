# SPDX-License-Identifier: GPL-3.0-or-later
"""PixArt-Sigma (Chen et al. 2024, arXiv 2403.04692)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler, PixArtTransformer2DModel
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from ..conditions import TextCondition
from ..files.parts import Parts, pipeline_class
from ..noise_models import DiscreteNoise
from ..prompts import fitting
from .diffusers_prior import DiffusersPrior, wide


class PixArtSigma(DiffusersPrior):
    """A frozen PixArt-Sigma model, as a `TextToImagePrior`.

    The transformer takes T5's text with a mask of its words, and predicts the noise and a variance, which only a
    sampler would need.
    """

    tokens = 300  # of PixArtSigmaPipeline

    def __init__(self, parts: Parts, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__(parts, device, wide(dtype, device))
        t5 = self._encoder("text_encoder", T5EncoderModel)
        self.encoders = (t5,)
        self.tokenizer: T5Tokenizer = parts.load("tokenizer", T5Tokenizer)
        self.transformer: Any = self._network("transformer", PixArtTransformer2DModel, torch_dtype=self.dtype)
        scheduler = parts.load("scheduler", DDPMScheduler)
        self._texts = pipeline_class("PixArtSigmaPipeline")(self.tokenizer, t5, self.vae, self.transformer, scheduler)
        self.noise = DiscreteNoise(scheduler.alphas_cumprod, scheduler.config.prediction_type, self.device)
        size = self.transformer.config.sample_size
        self.resolution: int = size * self.downscale
        self.latent_shape: tuple[int, int, int] = (self.vae.config.latent_channels, size, size)

    @property
    def denoising_network(self) -> torch.nn.Module:
        """As `DiffusersPrior.denoising_network`."""
        network: torch.nn.Module = self.transformer
        return network

    def _encode_text(self, text: str) -> TextCondition:
        embeddings, mask, _, _ = self._texts.encode_prompt(
            fitting(self.tokenizer, text, self.tokens),
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self.tokens,
        )
        return TextCondition(embeddings, mask=mask)

    def _ask(self, x: Tensor, timestep: Tensor, text: TextCondition) -> Tensor:
        output: Tensor = self.transformer(
            x,
            encoder_hidden_states=text.embeddings,
            encoder_attention_mask=text.mask,
            timestep=timestep,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return output[:, : x.shape[1]]
