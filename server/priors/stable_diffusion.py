# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable Diffusion 1.x and 2.x in diffusers' folder layout."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .base import PriorError, append_dims
from .conditions import Condition, TextCondition, Views
from .files import AGAIN, STABLE_DIFFUSION, Layout, check_layout, variant, words
from .lora_denoiser import LoRADenoiser
from .noise_models import DiscreteNoise
from .prompts import negative_prompts, prompt_warnings, tokenize, unknown_words, view_prompts

MAX_EMBEDDINGS = 64  # encoded texts in memory: a job's views and its negatives are some 20


class StableDiffusion:
    """A frozen Stable Diffusion model, as a `TextToImagePrior`.

    Args:
        folder: as written by `StableDiffusionPipeline.save_pretrained`, weights in safetensors.
        dtype: of the networks; everything outside them is float32.

    Raises PriorError, with what to do, for a folder that does not hold such a model.
    """

    layout: ClassVar[Layout] = STABLE_DIFFUSION

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        folder = Path(folder)
        check_layout(folder, self.layout)
        self.device, self.dtype = torch.device(device), dtype
        self.unet = self._network(UNet2DConditionModel, folder / "unet", torch_dtype=dtype)
        self.vae = self._network(AutoencoderKL, folder / "vae", torch_dtype=self._vae_dtype(folder / "vae"))
        self.text_encoder = self._text_encoder(CLIPTextModel, folder / "text_encoder")
        self.tokenizer: CLIPTokenizer = load_part(CLIPTokenizer, folder / "tokenizer")
        self.tokens: int = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        self.words = words(folder)
        scheduler = load_part(DDPMScheduler, folder / "scheduler")

        self.noise = DiscreteNoise(scheduler.alphas_cumprod, scheduler.config.prediction_type, self.device)
        self.sigma_range = self.noise.sigma_range

        self.downscale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.resolution: int = height * self.downscale
        self.latent_shape: tuple[int, int, int] = (self.vae.config.latent_channels, height, width)
        self._embeddings: OrderedDict[str, TextCondition] = OrderedDict()

    def _vae_dtype(self, folder: Path) -> torch.dtype:
        return self.dtype

    def _text_encoder(self, kind: Any, folder: Path) -> Any:
        return self._network(kind, folder, dtype=self.dtype, ignore_mismatched_sizes=True)

    def _network(self, kind: Any, folder: Path, **options: object) -> Any:
        """A frozen network, all of whose weights are the files' own numbers; only safetensors are read."""
        network, info = load_part(
            kind, folder, variant=variant(folder), use_safetensors=True, output_loading_info=True, **options
        )
        if missing := sorted(info["missing_keys"]):
            raise PriorError(
                f"{folder} lacks {len(missing)} of the {len(network.state_dict())} weights of a "
                f"{kind.__name__} ({missing[0]}): {AGAIN}."
            )
        if info["mismatched_keys"]:
            name, found, expected = map(str, sorted(info["mismatched_keys"])[0])
            raise PriorError(
                f"{folder} does not fit its config.json, as {name} has the shape {found}, not {expected}: {AGAIN}."
            )
        network = network.to(self.device, memory_format=torch.channels_last).requires_grad_(False).eval()
        names, finite = zip(*((name, weight.isfinite().all()) for name, weight in network.named_parameters()))
        if broken := [name for name, good in zip(names, torch.stack(finite).tolist()) if not good]:
            raise self._not_finite(f"The weights in {folder} ({broken[0]})")
        return network

    def not_finite(self) -> PriorError:
        """As `TextToImagePrior.not_finite`."""
        return self._not_finite("The model's answers")

    def _not_finite(self, subject: str) -> PriorError:
        precision = str(self.dtype).removeprefix("torch.")
        advice = (
            AGAIN
            if self.dtype == torch.float32
            else f"try float32 (the device cpu uses it); if that is no better, {AGAIN}"
        )
        return PriorError(f"{subject} are NaN or infinite on the {self.device.type} in {precision}: {advice}.")

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
        return replace(
            positive, negative=against.embeddings, negative_pooled=against.pooled, guidance_scale=float(guidance_scale)
        )

    def prompt_warnings(self, prompt: str, negative_prompt: str = "", against_overhead: bool = False) -> list[str]:
        """As `TextToImagePrior.prompt_warnings`."""
        warnings = []
        if self.words and (unknown := unknown_words(prompt, self.words.words)):
            warnings.append(
                f"The bundled model does not know {', '.join(unknown)}; it knows {', '.join(self.words.things)}. "
                "For anything else, name a folder of Stable Diffusion as the model."
            )
        return warnings + prompt_warnings(self.tokenizer, self.tokens, prompt, negative_prompt, against_overhead)

    def _encode_texts(self, texts: Sequence[str]) -> TextCondition:
        """The texts' condition, without guidance. One text at a time: its bits must not depend on a batch."""
        encoded = [self._cached(text) for text in texts]
        pooled = [each.pooled for each in encoded if each.pooled is not None]
        return TextCondition(
            torch.cat([each.embeddings for each in encoded]), pooled=torch.cat(pooled) if pooled else None
        )

    def _cached(self, text: str) -> TextCondition:
        if text not in self._embeddings:
            self._embeddings[text] = self._encode_text(text)
            if len(self._embeddings) > MAX_EMBEDDINGS:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(text)
        return self._embeddings[text]

    def _encode_text(self, text: str) -> TextCondition:
        ids, mask = self._tokens(self.tokenizer, text)
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        return TextCondition(self.text_encoder(ids, attention_mask=mask if masked else None)[0])

    def _tokens(self, tokenizer: CLIPTokenizer, text: str) -> tuple[Tensor, Tensor]:
        """(1, tokens) ids and attention mask of a text."""
        tokens = tokenize(tokenizer, text, self.tokens)
        ids, mask = (torch.tensor([each]).to(self.device, non_blocking=True) for each in (tokens.ids, tokens.mask))
        return ids, mask

    def student(self) -> LoRADenoiser:
        """As `HasStudent.student`."""
        return LoRADenoiser(self, self.unet)

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


def load_part(kind: Any, folder: Path, **options: object) -> Any:
    """A part of a pipeline by its class, offline. Raises PriorError with the library's reason."""
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise PriorError(f"{folder} could not be loaded as {kind.__name__}: {reason}") from error
