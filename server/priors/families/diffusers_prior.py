# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that priors made of diffusers' pipelines have in common: texts, the VAE, noise, loading."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from .. import distilled
from ..additions.lora import fuse_loras
from ..additions.lora_files import LoRA
from ..base import PriorError, append_dims
from ..conditions import Condition, TextCondition, Views
from ..cost import Cost, cost_of, encoder_channels
from ..files.layouts import words
from ..files.parts import Parts, not_finite, require_finite
from ..lora_denoiser import LoRADenoiser
from ..noise_models import NoiseModel
from ..prompts import Reading, negative_prompts, view_prompts

MAX_EMBEDDINGS = 64  # encoded texts in memory: the views and negatives of a prompt are some 20
ALL_VIEWS = Views(torch.tensor([*range(0, 360, 45), 0]), torch.tensor([0] * 8 + [90]))  # one for each of `VIEWS`


class DiffusersPrior(ABC):
    """A frozen pipeline of diffusers, as a `TextToImagePrior`.

    A family says how it encodes a text and how its network is asked, and sets `noise`, `latent_shape`, `resolution`,
    `tokenizer`, `tokens` and `encoders`.

    Args:
        dtype: of the networks; everything outside them is float32.

    Raises PriorError, with what to do, for parts that do not fit.
    """

    vae_kind: Any = AutoencoderKL
    noise: NoiseModel
    latent_shape: tuple[int, int, int]
    resolution: int
    tokenizer: Any  # whose tokens are counted, for `Reading`
    tokens: int  # that the text encoder takes, start and end among them
    encoders: Sequence[torch.nn.Module]  # of texts, on the CPU until they are asked
    embedded_guidance = False  # the network takes a guidance scale as an input, and needs no second answer for it
    windows = 1  # of so many tokens that a long text has at most
    weighs_words = False  # (word:1.3) is a weight, not text
    view_words = True  # prompts name the side that a camera sees

    def __init__(self, parts: Parts, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        self.parts = parts
        self.device, self.dtype = torch.device(device), dtype
        self.words = words(parts.place)
        self.vae: Any = self._network("vae", self.vae_kind, torch_dtype=wide(dtype, device))
        self.vae.decoder.to("cpu")  # no job asks for it; `decode` brings it back
        self.downscale = 2 ** (len(encoder_channels(self.vae.config)) - 1)
        self._shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        network = "transformer" if "transformer" in parts.index else "unet"
        self.distillation = distilled.find(parts.place, parts.index, parts.config(network), parts.config("scheduler"))
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
    def _ask(self, x: Tensor, timestep: Tensor, text: TextCondition) -> Tensor:
        """The network's own output (N, C, h, w) for N scaled latents, each at its time and with its text.

        x: in the network's dtype. text: of N entries; its `guidance_scale` is for embedded guidance only.
        """

    @property
    @abstractmethod
    def denoising_network(self) -> torch.nn.Module:
        """The network that `_ask` asks."""

    def _network(self, part: str, kind: Any, **options: object) -> Any:
        """A frozen network on the device, all of whose weights are finite."""
        network = self.parts.network(part, kind, **options).to(self.device, memory_format=torch.channels_last)
        require_finite(network, self.parts.place / part, self.device, self.dtype)
        return network

    def _encoder(self, part: str, kind: Any) -> Any:
        """A text encoder, on the CPU until it is asked."""
        return self._network(part, kind, dtype=self.dtype, ignore_mismatched_sizes=True).to("cpu")

    def save_memory(self, on: bool) -> None:
        """As `SavesMemory.save_memory`: gradient checkpointing of the VAE (Chen et al. 2016, arXiv 1604.06174)."""
        if on:
            self.vae.enable_gradient_checkpointing(
                partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # nothing in it is random
            )
        else:
            self.vae.disable_gradient_checkpointing()

    def cost(self) -> Cost:
        """As `HasCost.cost`."""
        _, height, width = self.latent_shape
        networks = [each for each in vars(self).values() if isinstance(each, torch.nn.Module)]
        return cost_of(networks, self.vae, self.denoising_network, self.resolution, height * width)

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
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        guidance_scale: float = 5.0,
        against_overhead: Tensor | None = None,
    ) -> TextCondition:
        """As `TextToImagePrior.condition`: the side that a view shows goes into its prompt as words."""
        prompts, negatives = self._view_texts(views, prompt, negative_prompt, against_overhead)
        used = prompts if guidance_scale == 1 else [*prompts, *negatives]
        if any(text not in self._embeddings for text in used):  # one visit of the encoders serves the whole job
            every = [prompt] if isinstance(prompt, str) else dict.fromkeys(prompt)
            later = [text for each in every for text in self._view_texts(ALL_VIEWS, each, negative_prompt, None)[0]]
            self._encode_texts([*used, *later])
        return self.text_condition(prompts, negatives, guidance_scale)

    def _view_texts(
        self, views: Views, prompt: str | Sequence[str], negative_prompt: str, against_overhead: Tensor | None
    ) -> tuple[list[str], list[str]]:
        """The prompts and the negative prompts of views, one for each or one for all."""
        azimuth, elevation = views.azimuth.tolist(), views.elevation.tolist()
        against = [False] * len(views) if against_overhead is None else against_overhead.tolist()
        return view_prompts(prompt, azimuth, elevation), negative_prompts(prompt, elevation, negative_prompt, against)

    @torch.no_grad()
    def text_condition(
        self, prompts: Sequence[str], negative: str | Sequence[str] = "", guidance_scale: float = 5.0
    ) -> TextCondition:
        """Encode one prompt per latent (or one for all); a repeated string costs nothing.

        Args:
            negative: one text for all or one per prompt.
            guidance_scale: w of classifier-free guidance, D_negative + w (D_prompt - D_negative); 1 turns it off and
                halves the cost. With embedded guidance the network itself follows w, unless there is a negative text.
        """
        if isinstance(prompts, str) or not prompts:
            raise PriorError("text_condition() takes a list with at least one prompt.")
        positive = self._encode_texts(prompts)
        if guidance_scale == 1:
            return positive
        negatives = [negative] * len(prompts) if isinstance(negative, str) else negative
        if len(negatives) != len(prompts):
            raise PriorError(f"Give one negative prompt, or one for each of the {len(prompts)} prompts.")
        if self.embedded_guidance and not any(negatives):
            return replace(positive, guidance_scale=float(guidance_scale))
        against = self._encode_texts(negatives)
        length = max(each.embeddings.shape[1] for each in (positive, against))
        return replace(
            positive,
            embeddings=self._padded(positive.embeddings, length),
            negative=self._padded(against.embeddings, length),
            negative_pooled=against.pooled,
            negative_mask=against.mask,
            guidance_scale=float(guidance_scale),
        )

    def prompt_warnings(self, prompt: str, negative_prompt: str = "", against_overhead: bool = False) -> list[str]:
        """As `TextToImagePrior.prompt_warnings`."""
        reading = Reading(self.tokenizer, self.tokens, self.windows, self.weighs_words, self.view_words, self.words)
        return [*self._notes, *reading.warnings(prompt, negative_prompt, against_overhead)]

    @torch.no_grad()
    def _encode_texts(self, texts: Sequence[str]) -> TextCondition:
        """The texts' condition, without guidance. One text at a time: its bits must not depend on a batch."""
        new = [text for text in dict.fromkeys(texts) if text not in self._embeddings]
        known = self._embeddings | (_Visit(self.encoders, self._encode_text).encode(new, self.device) if new else {})
        encoded = [known[text] for text in texts]
        for text in texts:
            self._embeddings[text] = known[text]
            self._embeddings.move_to_end(text)
        while len(self._embeddings) > MAX_EMBEDDINGS:
            self._embeddings.popitem(last=False)
        length = max(each.embeddings.shape[1] for each in encoded)
        return TextCondition(
            torch.cat([self._padded(each.embeddings, length) for each in encoded]),
            pooled=_cat([each.pooled for each in encoded]),
            mask=_cat([each.mask for each in encoded]),
        )

    def _padded(self, embeddings: Tensor, length: int) -> Tensor:
        """Embeddings (B, n, width) and windows of the empty text after them, up to `length` tokens."""
        if embeddings.shape[1] == length:
            return embeddings
        empty = self._encode_texts([""]).embeddings
        missing = (length - embeddings.shape[1]) // empty.shape[1]
        return torch.cat([embeddings, empty.repeat(len(embeddings), missing, 1)], dim=1)

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

    def _predict(self, x: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        """The network's output for scaled latents x (B, C, h, w), float32; with guidance, one call on 2B latents."""
        condition = condition or self._encode_texts([""])
        if not isinstance(condition, TextCondition):
            raise PriorError(f"This model takes a TextCondition, as its condition() makes, not {condition!r}.")
        prompts, batch = len(condition.embeddings), len(x)
        if prompts not in (1, batch):
            raise PriorError(f"The condition has {prompts} prompts for {batch} latents: give one each, or one.")
        x = x.repeat(condition.nfe, 1, 1, 1).to(self.dtype, memory_format=torch.channels_last)
        output = self._ask(x, timestep.repeat(condition.nfe), _stacked(condition, batch)).float()
        if condition.negative is None:
            return output
        negative, positive = output.chunk(2)
        return negative + condition.guidance_scale * (positive - negative)

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
        latents: Tensor = (self._encoded(pixels).float() - self._shift) * self.vae.config.scaling_factor
        return latents

    def _encoded(self, pixels: Tensor) -> Tensor:
        """The autoencoder's own latents of pixels in [-1, 1]."""
        mean: Tensor = self.vae.encode(pixels).latent_dist.mode()
        return mean

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W) float32 in [0, 1]."""
        latents = latents.float() / self.vae.config.scaling_factor + self._shift
        self.vae.decoder.to(self.device)
        pixels: Tensor = self.vae.decode(latents.to(self.vae.dtype, memory_format=torch.channels_last)).sample
        return (pixels.float() / 2 + 0.5).clamp(0, 1)


def wide(dtype: torch.dtype, device: torch.device | str) -> torch.dtype:
    """A precision with float32's range, for networks whose activations overflow float16, at no more memory where the
    card has bfloat16."""
    if dtype != torch.float16:
        return dtype
    if torch.device(device).type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float32
    return torch.bfloat16


class _Visit(torch.nn.Module):
    """Text encoders, at rest on the CPU, that visit a device to be asked; their own weights stay where they are."""

    def __init__(self, encoders: Sequence[torch.nn.Module], encode: Callable[[str], TextCondition]):
        super().__init__()
        self.encoders, self._encode = torch.nn.ModuleList(encoders), encode

    def forward(self, text: str) -> TextCondition:
        return self._encode(text)

    def encode(self, texts: Sequence[str], device: torch.device) -> dict[str, TextCondition]:
        at_rest = (*self.named_parameters(), *self.named_buffers())
        weights = {name: tensor.to(device, non_blocking=True) for name, tensor in at_rest}
        return {text: functional_call(self, weights, (text,)) for text in texts}


def _stacked(condition: TextCondition, batch: int) -> TextCondition:
    """The negative texts, where there are any, and then the others, one of each for every latent of a batch."""

    def stack(*parts: Tensor | None) -> Tensor | None:
        return _cat([None if part is None else part.expand(batch, *part.shape[1:]) for part in parts])

    embeddings = stack(condition.negative, condition.embeddings)
    assert embeddings is not None
    return replace(
        condition.without_cfg(),
        embeddings=embeddings,
        pooled=stack(condition.negative_pooled, condition.pooled),
        mask=stack(condition.negative_mask, condition.mask),
        hints=stack(*[condition.hints] * condition.nfe),
        image=stack(condition.negative_image, condition.image),
        guidance_scale=condition.guidance_scale if condition.negative is None else 1.0,
    )


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Those that are there, one after another; None where none is."""
    given = [part for part in parts if part is not None]
    return torch.cat(given) if given else None
