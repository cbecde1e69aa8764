# SPDX-License-Identifier: GPL-3.0-or-later
"""Any diffusers Stable Diffusion folder as a Prior."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .base import PriorError, per_sample
from .files import AGAIN, check, variant
from .prompts import remarks, tokenize
from .student import Student

KEPT_TEXTS = 64  # encoded texts that stay: a job's views and its negatives are some 20


@dataclass(frozen=True)
class Condition:
    """Encoded prompts. `negative` is None when classifier-free guidance is off (scale 1)."""

    embeddings: Tensor  # (B or 1, tokens, width)
    negative: Tensor | None = None  # as embeddings
    guidance_scale: float = 1.0

    @property
    def denoiser_calls(self) -> int:
        """U-Net evaluations per latent of one `denoise`."""
        return 1 if self.negative is None else 2

    def unguided(self) -> "Condition":
        """The same prompts without classifier-free guidance."""
        return Condition(self.embeddings)


class LatentDiffusion:
    """A frozen Stable Diffusion model: `denoise` in variance-exploding form, `encode`, `decode`, `condition`.

    folder: as written by `StableDiffusionPipeline.save_pretrained`, weights in safetensors.
    dtype: of the networks; everything outside them is float32.

    Attributes: `device`; `tokens`, how many of a text are read; `resolution`, pixels; `latent_shape` (C, h, w) at
    that resolution; `sigmas`, the lowest and highest noise level that the model was trained for.
    """

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        folder = Path(folder)
        check(folder)
        self.device, self.dtype = torch.device(device), dtype
        self.unet = self._part(UNet2DConditionModel, folder / "unet", torch_dtype=dtype)
        self.vae = self._part(AutoencoderKL, folder / "vae", torch_dtype=dtype)
        self.text_encoder = self._part(
            CLIPTextModel, folder / "text_encoder", dtype=dtype, ignore_mismatched_sizes=True
        )
        self.tokenizer = _load(CLIPTokenizer, folder / "tokenizer")
        self.tokens: int = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        scheduler = _load(DDPMScheduler, folder / "scheduler")

        self.prediction: str = scheduler.config.prediction_type
        # sigma = sqrt(1 - abar) / sqrt(abar); the clamp keeps zero-terminal-SNR schedules finite
        abar = scheduler.alphas_cumprod.double().clamp(min=1e-6)
        self._log_sigmas = (((1 - abar) / abar).log() / 2).float().to(self.device)  # (T,), rising
        low, high = self._log_sigmas[[0, -1]].exp().tolist()
        self.sigmas: tuple[float, float] = (low, high)

        self.downscale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.resolution: int = height * self.downscale
        self.latent_shape: tuple[int, int, int] = (self.vae.config.latent_channels, height, width)
        self._embeddings: OrderedDict[str, Tensor] = OrderedDict()

    def _part(self, kind: Any, folder: Path, **options: Any) -> Any:
        """A frozen network, all of whose weights are the files' own numbers; only safetensors are read."""
        part, info = _load(
            kind, folder, variant=variant(folder), use_safetensors=True, output_loading_info=True, **options
        )
        if missing := sorted(info["missing_keys"]):
            raise PriorError(
                f"{folder} lacks {len(missing)} of the {len(part.state_dict())} weights of a "
                f"{kind.__name__} ({missing[0]}): {AGAIN}."
            )
        if info["mismatched_keys"]:
            name, found, wanted = map(str, sorted(info["mismatched_keys"])[0])
            raise PriorError(
                f"{folder} does not fit its config.json, as {name} has the shape {found}, not {wanted}: {AGAIN}."
            )
        part = part.to(self.device, memory_format=torch.channels_last).requires_grad_(False).eval()
        names, numbers = zip(*((name, weight.isfinite().all()) for name, weight in part.named_parameters()))
        if broken := [name for name, good in zip(names, torch.stack(numbers).tolist()) if not good]:
            raise self.not_finite(f"The weights in {folder} ({broken[0]})")
        return part

    def not_finite(self, what: str = "The model's answers") -> PriorError:
        """The error for numbers that are none, with the precision to try. `what` begins its sentence, a plural."""
        precision = str(self.dtype).removeprefix("torch.")
        advice = (
            AGAIN
            if self.dtype == torch.float32
            else (f"try float32 (the device cpu uses it); if that is no better, {AGAIN}")
        )
        return PriorError(f"{what} are NaN or infinite on the {self.device.type} in {precision}: {advice}.")

    @torch.no_grad()
    def condition(
        self, prompts: Sequence[str], negative: str | Sequence[str] = "", guidance_scale: float = 5.0
    ) -> Condition:
        """Encode one prompt per latent (or one for all); a repeated string costs nothing.

        negative: one text for all or one per prompt. guidance_scale: w of classifier-free guidance,
        D_negative + w (D_prompt - D_negative); 1 turns it off and halves the cost.
        """
        if isinstance(prompts, str) or not prompts:
            raise PriorError("condition() takes a list with at least one prompt.")
        embeddings = self._encode_texts(prompts)
        if guidance_scale == 1:
            return Condition(embeddings)
        negatives = [negative] * len(prompts) if isinstance(negative, str) else negative
        if len(negatives) != len(prompts):
            raise PriorError(f"Give one negative prompt, or one for each of the {len(prompts)} prompts.")
        return Condition(embeddings, self._encode_texts(negatives), float(guidance_scale))

    def remarks(self, prompt: str, negative: str = "", contrast: bool = False) -> list[str]:
        """As `prompts.remarks`: what of a job's prompts does not reach the network, for the job's log."""
        return remarks(self.tokenizer, self.tokens, prompt, negative, contrast)

    def _encode_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.cat([self._encode_text(text) for text in texts])

    def _encode_text(self, text: str) -> Tensor:
        """(1, tokens, width). One text at a time: its bits must not depend on a batch."""
        if text not in self._embeddings:
            tokens = tokenize(self.tokenizer, text, self.tokens)
            ids, mask = (torch.tensor([each]).to(self.device, non_blocking=True) for each in (tokens.ids, tokens.mask))
            masked = getattr(self.text_encoder.config, "use_attention_mask", False)
            self._embeddings[text] = self.text_encoder(ids, attention_mask=mask if masked else None)[0]
            if len(self._embeddings) > KEPT_TEXTS:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(text)
        return self._embeddings[text]

    def timestep(self, sigma: Tensor) -> Tensor:
        """(B,) sigma -> (B,) fractional timestep, linear in log sigma, clamped to the trained range."""
        table = self._log_sigmas
        log_sigma = sigma.log().clamp(table[0], table[-1])
        upper = torch.searchsorted(table, log_sigma).clamp(1, len(table) - 1)
        lower = upper - 1
        return lower + (log_sigma - table[lower]) / (table[upper] - table[lower])

    def student(self) -> Student:
        """A denoiser that begins as this one and can be fitted, which leaves this one as it is."""
        return Student(self)

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """E[clean | x], for x (B, C, h, w) = clean + sigma * noise and sigma (B,) in [0, inf].

        Below `sigmas[0]` the network is asked at that level's timestep and its answer weighted by the true
        sigma, so that the result tends to x (for epsilon and v prediction). Above `sigmas[1]` x is shrunk
        to that level: x / sigma, hence the noise as the network sees it, stays.
        condition: None is the empty prompt without guidance.
        """
        if x.ndim != 4 or sigma.shape != x.shape[:1]:
            raise PriorError(
                f"denoise() takes latents (B, C, h, w) and one sigma for each, "
                f"but got shapes {tuple(x.shape)} and {tuple(sigma.shape)}."
            )
        noisy, sigma = x.float(), sigma.to(self.device, torch.float32)
        shrink = torch.where(sigma > self.sigmas[1], self.sigmas[1] / sigma, 1.0)
        sigma = sigma.clamp(max=self.sigmas[1])
        timestep = self.timestep(sigma)
        sigma = per_sample(sigma, x)
        noisy = noisy * per_sample(shrink, x)
        scale = (1 + sigma**2).rsqrt()  # sqrt(abar): variance exploding -> preserving
        output = self._predict(noisy * scale, timestep, condition)
        if self.prediction == "epsilon":
            output = noisy - sigma * output
        elif self.prediction == "v_prediction":  # Salimans & Ho 2022: x0 = sqrt(abar) x_t - sqrt(1 - abar) v
            output = noisy * scale**2 - sigma * scale * output
        return output.to(x.dtype)

    def _predict(self, x: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        """The U-Net's own output, (B, C, h, w) float32; with guidance, one call on 2B latents."""
        condition = condition or Condition(self._encode_texts([""]))
        batch = len(x)
        parts = [part for part in (condition.negative, condition.embeddings) if part is not None]
        if any(len(part) not in (1, batch) for part in parts):
            prompts = len(condition.embeddings)
            raise PriorError(f"The condition has {prompts} prompts for {batch} latents: give one each, or one.")
        embeddings = torch.cat([part.expand(batch, -1, -1) for part in parts])
        x = x.repeat(len(parts), 1, 1, 1).to(self.dtype, memory_format=torch.channels_last)
        output = self.unet(x, timestep.repeat(len(parts)), encoder_hidden_states=embeddings).sample.float()
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
        pixels = (2 * images - 1).to(self.dtype, memory_format=torch.channels_last)
        mean = self.vae.encode(pixels).latent_dist.mode().float()
        return (mean - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W) float32 in [0, 1]."""
        latents = latents.float() / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        pixels = self.vae.decode(latents.to(self.dtype, memory_format=torch.channels_last)).sample
        return (pixels.float() / 2 + 0.5).clamp(0, 1)


def _load(kind: Any, folder: Path, **options: Any) -> Any:
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise PriorError(f"{folder} could not be loaded as {kind.__name__}: {reason}") from error
