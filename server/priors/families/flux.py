# SPDX-License-Identifier: GPL-3.0-or-later
"""Flux.1, dev and schnell (Black Forest Labs 2024)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from ..conditions import TextCondition
from ..distilled import Distillation
from ..files.parts import Parts, pipeline_class
from ..noise_models import FlowNoise
from ..prompts import fitting
from .diffusers_prior import DiffusersPrior, wide

DEV = Distillation("Flux dev, by its transformer", 3.5, embedded=True)
SCHNELL = Distillation("Flux schnell, by its transformer")


class Flux(DiffusersPrior):
    """A frozen Flux.1 model, as a `TextToImagePrior`.

    The transformer takes squares of 2 x 2 latents as tokens with their rows and columns, T5's text, and CLIP's pooled
    text. Both models are distilled. Dev follows a guidance scale that its network takes as an input; with a negative
    prompt it is asked twice at scale 1, and classifier-free guidance has the scale. Schnell has learned no other scale
    than 1.
    """

    def __init__(self, parts: Parts, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__(parts, device, wide(dtype, device))
        clip, t5 = self._encoder("text_encoder", CLIPTextModel), self._encoder("text_encoder_2", T5EncoderModel)
        self.encoders = (clip, t5)
        self.tokenizer: T5Tokenizer = parts.load("tokenizer_2", T5Tokenizer)
        self.transformer: Any = self._network("transformer", FluxTransformer2DModel, torch_dtype=self.dtype)
        self._texts = pipeline_class("FluxPipeline")(
            None, None, clip, parts.load("tokenizer", CLIPTokenizer), t5, self.tokenizer, self.transformer
        )
        self.embedded_guidance = bool(self.transformer.config.guidance_embeds)
        self.tokens = 512 if self.embedded_guidance else 256  # that dev and schnell were trained with
        self.distillation = DEV if self.embedded_guidance else SCHNELL
        self.noise = FlowNoise(timesteps=1)
        self.resolution: int = self.vae.config.sample_size
        edge = self.resolution // self.downscale
        self.latent_shape: tuple[int, int, int] = (self.vae.config.latent_channels, edge, edge)

    @property
    def denoising_network(self) -> torch.nn.Module:
        """As `DiffusersPrior.denoising_network`."""
        network: torch.nn.Module = self.transformer
        return network

    def _encode_text(self, text: str) -> TextCondition:
        texts = self._texts
        embeddings, pooled, _ = texts.encode_prompt(
            fitting(texts.tokenizer, text, texts.tokenizer_max_length),
            fitting(self.tokenizer, text, self.tokens),
            self.device,
            max_sequence_length=self.tokens,
        )
        return TextCondition(embeddings, pooled=pooled)

    def _ask(self, x: Tensor, timestep: Tensor, text: TextCondition) -> Tensor:
        rows, columns = (torch.arange(size // 2, device=x.device) for size in x.shape[2:])
        places = torch.cartesian_prod(torch.zeros_like(rows[:1]), rows, columns).to(x.dtype)
        output: Tensor = self.transformer(
            F.pixel_unshuffle(x, 2).flatten(2).mT,
            text.embeddings,
            text.pooled,
            timestep,
            img_ids=places,
            txt_ids=torch.zeros_like(places[:1]).expand(text.embeddings.shape[1], -1),
            guidance=torch.full_like(timestep, text.guidance_scale) if self.embedded_guidance else None,
            return_dict=False,
        )[0]
        return F.pixel_shuffle(output.mT.unflatten(2, (len(rows), len(columns))), 2)
