# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from PIL.Image import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ..additions.control import ControlNets, load_network
from ..additions.control_files import ControlFile
from ..additions.ip_adapter import ImagePrompt
from ..additions.ip_adapter_files import AdapterFile
from ..conditions import TextCondition, Views
from ..cost import Cost
from ..files.parts import Parts
from ..noise_models import DiscreteNoise
from ..prompts import Reading, Tokens, tokenize
from .diffusers_prior import DiffusersPrior


class StableDiffusion(DiffusersPrior):
    """A frozen Stable Diffusion model, as a `TextToImagePrior` that ControlNets and image prompts can steer."""

    control: ControlNets | None = None
    image_prompt: ImagePrompt | None = None

    weighs_words = True

    def __init__(self, parts: Parts, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__(parts, device, dtype)
        self.unet: Any = self._network("unet", UNet2DConditionModel, torch_dtype=dtype)
        self.text_encoder = self._encoder("text_encoder", CLIPTextModel)
        self.encoders = (self.text_encoder,)
        self.embedded_guidance = bool(self.unet.config.time_cond_proj_dim)
        self.tokenizer: CLIPTokenizer = parts.load("tokenizer", CLIPTokenizer)
        reading = Reading.of_clip(self.tokenizer, self.text_encoder.config.max_position_embeddings, self.words)
        self.tokens, self.windows = reading.length, reading.windows
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

    def add_ip_adapter(self, adapter: AdapterFile, strength: float = 1.0) -> None:
        """As `TakesImagePrompt.add_ip_adapter`."""
        pipeline = str(self.parts.index["_class_name"])
        self.image_prompt = ImagePrompt(pipeline, self.unet, adapter, strength, self.device, self.dtype)

    def follow(self, picture: Image) -> None:
        """As `TakesImagePrompt.follow`."""
        if self.image_prompt:
            self.image_prompt.follow(picture)

    def cost(self) -> Cost:
        """As `HasCost.cost`."""
        cost = super().cost()
        return replace(cost, visitor=self.image_prompt.encoder_bytes()) if self.image_prompt else cost

    def text_condition(
        self, prompts: Sequence[str], negative: str | Sequence[str] = "", guidance_scale: float = 5.0
    ) -> TextCondition:
        """As `DiffusersPrior.text_condition`, with the image prompt."""
        text = super().text_condition(prompts, negative, guidance_scale)
        return self.image_prompt.beside(text) if self.image_prompt else text

    def condition(
        self,
        views: Views,
        prompt: str | Sequence[str],
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

    def _ask(self, x: Tensor, timestep: Tensor, text: TextCondition) -> Tensor:
        scale = None
        if self.embedded_guidance:  # as LCM was trained (Luo et al. 2023, arXiv 2310.04378)
            told = torch.full_like(timestep, 1000 * (text.guidance_scale - 1))
            scale = get_timestep_embedding(told, self.unet.config.time_cond_proj_dim).to(x.dtype)
        inputs = self._inputs(text)
        if self.control and text.hints is not None:
            down, middle = self.control.residuals(x, timestep, text, inputs.get("added_cond_kwargs"))
            inputs |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        if self.image_prompt:
            added = inputs.setdefault("added_cond_kwargs", {})
            added["image_embeds"] = self.image_prompt.embeddings(text, len(x))
        output: Tensor = self.unet(
            x, timestep, encoder_hidden_states=text.embeddings, timestep_cond=scale, **inputs
        ).sample
        return output

    def _inputs(self, text: TextCondition) -> dict[str, Any]:
        """Further arguments of the U-Net, for as many latents as there are texts; none where it takes text only."""
        return {}
