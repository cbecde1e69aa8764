# SPDX-License-Identifier: GPL-3.0-or-later
"""Sana (Xie et al. 2024, arXiv 2410.10629)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel
from torch import Tensor
from transformers import Gemma2Model, GemmaTokenizer

from ..conditions import TextCondition, Views
from ..cost import Cost
from ..files.parts import Parts, pipeline_class
from ..noise_models import FlowNoise
from ..prompts import fitting
from .diffusers_prior import DiffusersPrior, wide

_INSTRUCTED = "\0"  # before a text that follows the instruction; no prompt has it


class Sana(DiffusersPrior):
    """A frozen Sana model, as a `TextToImagePrior`.

    Its autoencoder makes a point of the latents of 32 by 32 pixels and has no posterior. Its language model reads an
    instruction, diffusers' own, before a prompt, and none before a negative prompt or an empty one.
    """

    tokens = 300  # of SanaPipeline, without the instruction
    vae_kind = AutoencoderDC

    def __init__(self, parts: Parts, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__(parts, device, wide(dtype, device))
        gemma = self._encoder("text_encoder", Gemma2Model)
        self.encoders = (gemma,)
        self.tokenizer: Any = parts.load("tokenizer", GemmaTokenizer)
        self.transformer: Any = self._network("transformer", SanaTransformer2DModel, torch_dtype=self.dtype)
        pipeline = pipeline_class("SanaPipeline")
        self._texts = pipeline(self.tokenizer, gemma, self.vae, self.transformer, None)
        self._instruction = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
        self.noise = FlowNoise(1000.0 * self.transformer.config.timestep_scale)
        size = self.transformer.config.sample_size
        self.resolution: int = size * self.downscale
        self.latent_shape: tuple[int, int, int] = (self.vae.config.latent_channels, size, size)

    @property
    def denoising_network(self) -> torch.nn.Module:
        """As `DiffusersPrior.denoising_network`."""
        network: torch.nn.Module = self.transformer
        return network

    def save_memory(self, on: bool) -> None:
        """As `SavesMemory.save_memory`: diffusers has no gradient checkpointing for this autoencoder."""

    def cost(self) -> Cost:
        """As `HasCost.cost`."""
        cost = super().cost()
        return replace(cost, encode_thrifty=cost.encode, recomputed=0)

    def text_condition(
        self, prompts: Sequence[str], negative: str | Sequence[str] = "", guidance_scale: float = 5.0
    ) -> TextCondition:
        """As `DiffusersPrior.text_condition`."""
        instructed = prompts if isinstance(prompts, str) else [_instructed(prompt) for prompt in prompts]
        return super().text_condition(instructed, negative, guidance_scale)

    def _view_texts(
        self, views: Views, prompt: str | Sequence[str], negative_prompt: str, against_overhead: Tensor | None
    ) -> tuple[list[str], list[str]]:
        prompts, negatives = super()._view_texts(views, prompt, negative_prompt, against_overhead)
        return [_instructed(each) for each in prompts], negatives

    def _encode_text(self, text: str) -> TextCondition:
        instruction = self._instruction if text.startswith(_INSTRUCTED) else None
        embeddings, mask, _, _ = self._texts.encode_prompt(
            fitting(self.tokenizer, text.removeprefix(_INSTRUCTED), self.tokens),
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self.tokens,
            complex_human_instruction=instruction,
        )
        return TextCondition(embeddings, mask=mask)

    def _ask(self, x: Tensor, timestep: Tensor, text: TextCondition) -> Tensor:
        output: Tensor = self.transformer(
            x,
            encoder_hidden_states=text.embeddings,
            encoder_attention_mask=text.mask,
            timestep=timestep,
            return_dict=False,
        )[0]
        return output

    def _encoded(self, pixels: Tensor) -> Tensor:
        latents: Tensor = self.vae.encode(pixels).latent
        return latents


def _instructed(prompt: str) -> str:
    return prompt if prompt.startswith(_INSTRUCTED) else _INSTRUCTED + prompt
