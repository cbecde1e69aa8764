# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that priors made of diffusers' pipelines have in common: texts, the VAE, noise, loading."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from .base import PriorError, append_dims
from .conditions import Condition, TextCondition, Views
from .files import words
from .lora import fuse_loras
from .lora_denoiser import LoRADenoiser
from .lora_files import LoRA
from .noise_models import NoiseModel
from .parts import Parts, not_finite
from .prompts import negative_prompts, prompt_warnings, unknown_words, view_prompts

MAX_EMBEDDINGS = 64  # encoded texts in memory: a job's views and its negatives are some 20


class DiffusersPrior(ABC):
    """A frozen pipeline of diffusers, as a `TextToImagePrior`.

    A family says how it encodes a text and how its network is asked, and sets `noise`, `latent_shape`, `resolution`,
    `tokenizer` and `tokens`.

    Args:
        dtype: of the networks; everything outside them is float32.

    Raises PriorError, with what to do, for parts that do not fit.
    """

    noise: NoiseModel
    latent_shape: tuple[int, int, int]
    resolution: int
    tokenizer: Any  # whose tokens are counted, for `prompt_warnings`
    tokens: int  # that the text encoder takes, start and end among them
    windows = 1  # of so many tokens that a long text has at most
    weighs_words = False  # (word:1.3) is a weight, not text

    def __init__(self, parts: Parts, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        self.parts = parts
        self.device, self.dtype = torch.device(device), dtype
        self.words = words(parts.place)
        self.vae: Any = self._network("vae", AutoencoderKL, torch_dtype=self._vae_dtype())
        self.downscale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._embeddings: OrderedDict[str, TextCondition] = OrderedDict()
        self._notes: list[str] = []  # about LoRAs

    @property
    def sigma_range(self) -> tuple[float, float]:
        """As `TextToImagePrior.sigma_range`."""
        return self.noise.sigma_range

    @abstractmethod
    def _encode_text(self, text: str) -> TextCondition:
        """One text, without guidance."""

    @abstractmethod
    def _predict(self, x: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        """The network's own output for scaled latents x (B, C, h, w), float32; guided where the condition says so."""

    @property
    @abstractmethod
    def denoising_network(self) -> torch.nn.Module:
        """The network that `_predict` asks."""

    def _vae_dtype(self) -> torch.dtype:
        return self.dtype

    def _network(self, part: str, kind: Any, **options: object) -> Any:
        """A frozen network on the device, all of whose weights are finite."""
        network = self.parts.network(part, kind, **options).to(self.device, memory_format=torch.channels_last)
        names, finite = zip(*((name, weight.isfinite().all()) for name, weight in network.named_parameters()))
        if broken := [name for name, good in zip(names, torch.stack(finite).tolist()) if not good]:
            raise not_finite(f"The weights of the {part} in {self.parts.place} ({broken[0]})", self.device, self.dtype)
        return network

    def add_loras(self, loras: Sequence[LoRA]) -> None:
        """As `HasLoRAs.add_loras`."""
        parts = {name: getattr(self, name, None) for name in self.parts.index}
        networks = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
        self._notes += fuse_loras(str(self.parts.index["_class_name"]), networks, loras)
        self._embeddings.clear()

    def not_finite(self) -> PriorError:
        """As `TextToImagePrior.not_finite`."""
        return not_finite("The model's answers", self.device, self.dtype)

    def condition(
        self,
        views: Views,
        prompt: str,
        negative_prompt: str = "",
        guidance_scale: float = 5.0,
        against_overhead: Tensor | None = None,
    ) -> TextCondition:
        """As `TextToImagePrior.condition`: the side that a view shows goes into its prompt as words."""
        azimuth, elevation = views.azimuth.tolist(), views.elevation.tolist()
        against = [False] * len(views) if against_overhead is None else against_overhead.tolist()
        return self.text_condition(
            view_prompts(prompt, azimuth, elevation),
            negative_prompts(prompt, elevation, negative_prompt, against),
            guidance_scale,
        )

    @torch.no_grad()
    def text_condition(
        self, prompts: Sequence[str], negative: str | Sequence[str] = "", guidance_scale: float = 5.0
    ) -> TextCondition:
        """Encode one prompt per latent (or one for all); a repeated string costs nothing.

        Args:
            negative: one text for all or one per prompt.
            guidance_scale: w of classifier-free guidance, D_negative + w (D_prompt - D_negative); 1 turns it off and
                halves the cost.
        """
        if isinstance(prompts, str) or not prompts:
            raise PriorError("text_condition() takes a list with at least one prompt.")
        positive = self._encode_texts(prompts)
        if guidance_scale == 1:
            return positive
        negatives = [negative] * len(prompts) if isinstance(negative, str) else negative
        if len(negatives) != len(prompts):
            raise PriorError(f"Give one negative prompt, or one for each of the {len(prompts)} prompts.")
        against = self._encode_texts(negatives)
        length = max(each.embeddings.shape[1] for each in (positive, against))
        return replace(
            positive,
            embeddings=self._padded(positive.embeddings, length),
            negative=self._padded(against.embeddings, length),
            negative_pooled=against.pooled,
            guidance_scale=float(guidance_scale),
        )

    def prompt_warnings(self, prompt: str, negative_prompt: str = "", against_overhead: bool = False) -> list[str]:
        """As `TextToImagePrior.prompt_warnings`."""
        warnings = [*self._notes]
        if self.words and (unknown := unknown_words(prompt, self.words.words)):
            warnings.append(
                f"The bundled model does not know {', '.join(unknown)}; it knows {', '.join(self.words.things)}. "
                "For anything else, name a folder of Stable Diffusion as the model."
            )
        return warnings + prompt_warnings(
            self.tokenizer,
            self.tokens,
            prompt,
            negative_prompt,
            against_overhead,
            windows=self.windows,
            weighs=self.weighs_words,
        )

    def _encode_texts(self, texts: Sequence[str]) -> TextCondition:
        """The texts' condition, without guidance. One text at a time: its bits must not depend on a batch."""
        encoded = [self._cached(text) for text in texts]
        pooled = [each.pooled for each in encoded if each.pooled is not None]
        length = max(each.embeddings.shape[1] for each in encoded)
        return TextCondition(
            torch.cat([self._padded(each.embeddings, length) for each in encoded]),
            pooled=torch.cat(pooled) if pooled else None,
        )

    def _padded(self, embeddings: Tensor, length: int) -> Tensor:
        """Embeddings (B, n, width) and windows of the empty text after them, up to `length` tokens."""
        if embeddings.shape[1] == length:
            return embeddings
        empty = self._encode_texts([""]).embeddings
        missing = (length - embeddings.shape[1]) // empty.shape[1]
        return torch.cat([embeddings, empty.repeat(len(embeddings), missing, 1)], dim=1)

    def _cached(self, text: str) -> TextCondition:
        if text not in self._embeddings:
            self._embeddings[text] = self._encode_text(text)
            if len(self._embeddings) > MAX_EMBEDDINGS:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(text)
        return self._embeddings[text]

    def student(self) -> LoRADenoiser:
        """As `HasStudent.student`."""
        return LoRADenoiser(self, self.denoising_network)

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """E[clean | x], for x (B, C, h, w) = clean + sigma * noise and sigma (B,) in [0, inf].

        Below `sigma_range` the network is asked at that level's timestep and its answer weighted by the true
        sigma, so that the result tends to x (for epsilon and v prediction). Above it x is shrunk to that level:
        x / sigma, hence the noise as the network sees it, stays.

        condition: made by `condition` or `text_condition`; None is the empty prompt without guidance.
        """
        if x.ndim != 4 or sigma.shape != x.shape[:1]:
            raise PriorError(
                f"denoise() takes latents (B, C, h, w) and one sigma for each, "
                f"but got shapes {tuple(x.shape)} and {tuple(sigma.shape)}."
            )
        noisy, sigma = x.float(), sigma.to(self.device, torch.float32)
        shrink = torch.where(sigma > self.sigma_range[1], self.sigma_range[1] / sigma, 1.0)
        sigma = sigma.clamp(max=self.sigma_range[1])
        noisy = noisy * append_dims(shrink, x)
        scale = append_dims(self.noise.input_scale(sigma), x)
        output = self._predict(noisy * scale, self.noise.timestep(sigma), condition)
        return self.noise.denoised(output, noisy, sigma).to(x.dtype)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> latents (B, C, H/f, W/f) float32, differentiable.

        The posterior's mean, scaled to about unit standard deviation; f is `downscale`.
        """
        if images.ndim != 4 or images.shape[1] != 3 or any(n % self.downscale for n in images.shape[2:]):
            raise PriorError(
                f"encode() takes images (B, 3, H, W) with H and W multiples of {self.downscale}, "
                f"but got shape {tuple(images.shape)}."
            )
        pixels = (2 * images - 1).to(self.vae.dtype, memory_format=torch.channels_last)
        mean: Tensor = self.vae.encode(pixels).latent_dist.mode().float()
        latents: Tensor = (mean - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W) float32 in [0, 1]."""
        latents = latents.float() / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        pixels: Tensor = self.vae.decode(latents.to(self.vae.dtype, memory_format=torch.channels_last)).sample
        return (pixels.float() / 2 + 0.5).clamp(0, 1)
