# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .conditions import TextCondition, Views
from .control import ControlNets, load_network
from .control_files import ControlFile
from .diffusers_prior import DiffusersPrior
from .noise_models import DiscreteNoise
from .parts import Parts
from .prompts import tokenize


class StableDiffusion(DiffusersPrior):
    """A frozen Stable Diffusion model, as a `TextToImagePrior` that ControlNets can steer."""

    control: ControlNets | None = None

    def __init__(self, parts: Parts, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__(parts, device, dtype)
        self.unet: Any = self._network("unet", UNet2DConditionModel, torch_dtype=dtype)
        self.text_encoder = self._encoder("text_encoder", CLIPTextModel)
        self.encoders = (self.text_encoder,)
        self.embedded_guidance = bool(self.unet.config.time_cond_proj_dim)
        self.tokenizer: CLIPTokenizer = parts.load("tokenizer", CLIPTokenizer)
        self.tokens: int = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        scheduler = parts.load("scheduler", DDPMScheduler)
        self.noise = DiscreteNoise(scheduler.alphas_cumprod, scheduler.config.prediction_type, self.device)
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.resolution: int = height * self.downscale
        self.latent_shape: tuple[int, int, int] = (self.vae.config.latent_channels, height, width)

    def add_control(self, files: Mapping[str, ControlFile], strength: float = 1.0) -> None:
        """As `TakesControl.add_control`."""
        networks = {file: load_network(file, self.unet, self.device, self.dtype) for file in set(files.values())}
        self.control = ControlNets({kind: networks[file] for kind, file in files.items()}, strength)

    def condition(
        self,
        views: Views,
        prompt: str,
        negative_prompt: str = "",
        guidance_scale: float = 5.0,
        against_overhead: Tensor | None = None,
    ) -> TextCondition:
        """As `DiffusersPrior.condition`, with the pictures that the ControlNets follow."""
        text = super().condition(views, prompt, negative_prompt, guidance_scale, against_overhead)
        return replace(text, hints=self.control.hints(views)) if self.control else text

    @property
    def denoising_network(self) -> torch.nn.Module:
        """As `DiffusersPrior.denoising_network`."""
        network: torch.nn.Module = self.unet
        return network

    def _encode_text(self, text: str) -> TextCondition:
        ids, mask = self._tokens(self.tokenizer, text)
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        return TextCondition(self.text_encoder(ids, attention_mask=mask if masked else None)[0])

    def _tokens(self, tokenizer: CLIPTokenizer, text: str) -> tuple[Tensor, Tensor]:
        """(1, tokens) ids and attention mask of a text."""
        tokens = tokenize(tokenizer, text, self.tokens)
        ids, mask = (torch.tensor([each]).to(self.device, non_blocking=True) for each in (tokens.ids, tokens.mask))
        return ids, mask

    def _ask(self, x: Tensor, timestep: Tensor, text: TextCondition) -> Tensor:
        scale = None
        if self.embedded_guidance:  # as LCM was trained (Luo et al. 2023, arXiv 2310.04378)
            told = torch.full_like(timestep, 1000 * (text.guidance_scale - 1))
            scale = get_timestep_embedding(told, self.unet.config.time_cond_proj_dim).to(x.dtype)
        added, down, middle = self._added(text), None, None
        if self.control and text.hints is not None:
            down, middle = self.control.residuals(x, timestep, text, added)
        output: Tensor = self.unet(
            x,
            timestep,
            encoder_hidden_states=text.embeddings,
            timestep_cond=scale,
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return output

    def _added(self, text: TextCondition) -> dict[str, Tensor] | None:
        """Further inputs of the U-Net, for as many latents as there are texts; None where it takes text only."""
        return None
