# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of the folders of diffusion transformers: Stable Diffusion 3, Flux, PixArt-Sigma, Sana."""

from __future__ import annotations

from pathlib import Path

from ..base import PriorError
from .layouts import TOKENIZERS, VAE, Layout, check_discrete_noise, check_layout, read_json

T5, T5_TOKENIZERS = "T5EncoderModel", ("T5TokenizerFast", "T5Tokenizer")
CLIP, CLIP_PROJECTED = "CLIPTextModel", "CLIPTextModelWithProjection"

STABLE_DIFFUSION_3 = Layout(
    "StableDiffusion3Pipeline",
    "3 or 3.5",
    {
        "transformer": ("SD3Transformer2DModel",),
        "vae": (VAE,),
        "text_encoder": (CLIP_PROJECTED,),
        "text_encoder_2": (CLIP_PROJECTED,),
        "text_encoder_3": (T5,),
        "tokenizer": TOKENIZERS,
        "tokenizer_2": TOKENIZERS,
        "tokenizer_3": T5_TOKENIZERS,
    },
    ("text_encoder", "text_encoder_2", "text_encoder_3"),
    network="transformer",
    optional=("text_encoder_3", "tokenizer_3"),
)

FLUX = Layout(
    "FluxPipeline",
    "Flux.1",
    {
        "transformer": ("FluxTransformer2DModel",),
        "vae": (VAE,),
        "text_encoder": (CLIP,),
        "text_encoder_2": (T5,),
        "tokenizer": TOKENIZERS,
        "tokenizer_2": T5_TOKENIZERS,
    },
    ("text_encoder", "text_encoder_2"),
    network="transformer",
)

PIXART_SIGMA = Layout(
    "PixArtSigmaPipeline",
    "PixArt-Sigma",
    {"transformer": ("PixArtTransformer2DModel",), "vae": (VAE,), "text_encoder": (T5,), "tokenizer": T5_TOKENIZERS},
    ("text_encoder",),
    network="transformer",
)

SANA = Layout(
    "SanaPipeline",
    "Sana",
    {
        "transformer": ("SanaTransformer2DModel",),
        "vae": ("AutoencoderDC",),
        "text_encoder": ("Gemma2Model",),
        "tokenizer": ("GemmaTokenizerFast", "GemmaTokenizer"),
    },
    ("text_encoder",),
    network="transformer",
)


def check_stable_diffusion_3(folder: Path) -> None:
    """As `check_layout`, for Stable Diffusion 3 and 3.5, with or without T5."""
    check_layout(folder, STABLE_DIFFUSION_3, check_flow, _check_fit_3)


def check_flux(folder: Path) -> None:
    """As `check_layout`, for Flux.1 dev and schnell."""
    check_layout(folder, FLUX, check_flow, _check_fit_flux)


def check_pixart_sigma(folder: Path) -> None:
    """As `check_layout`, for PixArt-Sigma."""
    check_layout(folder, PIXART_SIGMA, check_discrete_noise, _check_fit_pixart)


def check_sana(folder: Path) -> None:
    """As `check_layout`, for Sana."""
    check_layout(folder, SANA, check_flow, _check_fit_sana)


def check_flow(folder: Path, config: dict[str, object]) -> None:
    """Raise PriorError unless a scheduler is one of rectified flow."""
    kind = str(config.get("_class_name"))
    if not (
        kind.startswith("FlowMatch")
        or config.get("use_flow_sigmas")
        or config.get("prediction_type") == "flow_prediction"
    ):
        raise PriorError(f"The scheduler of {folder}, {kind}, is not one of rectified flow: use the model's own.")


def _check_fit_3(folder: Path, layout: Layout) -> None:
    config = {part: read_json(folder / part / "config.json") for part in layout.networks}
    _check_channels(folder, config["transformer"].get("in_channels", 16), config["vae"].get("latent_channels", 4))
    pooled = [config[part].get("projection_dim") for part in ("text_encoder", "text_encoder_2")]
    _check_width(folder, "a pooled text", config["transformer"].get("pooled_projection_dim"), pooled)
    if "text_encoder_3" in config:
        _check_width(
            folder, "text", config["transformer"].get("joint_attention_dim"), [config["text_encoder_3"].get("d_model")]
        )
    _check_sample_size(folder, config["transformer"])


def _check_fit_flux(folder: Path, layout: Layout) -> None:
    config = {part: read_json(folder / part / "config.json") for part in layout.networks}
    transformer, latents = config["transformer"], config["vae"].get("latent_channels", 4)
    packed = 4 * latents if isinstance(latents, int) else latents
    _check_channels(folder, transformer.get("in_channels", 64), packed)
    pooled = config["text_encoder"].get("hidden_size")
    _check_width(folder, "a pooled text", transformer.get("pooled_projection_dim"), [pooled])
    _check_width(folder, "text", transformer.get("joint_attention_dim"), [config["text_encoder_2"].get("d_model")])
    if not config["vae"].get("sample_size"):
        raise PriorError(
            f"{folder / 'vae' / 'config.json'} has no sample_size: set it to the edge of the pictures, 1024 pixels."
        )


def _check_fit_pixart(folder: Path, layout: Layout) -> None:
    config = {part: read_json(folder / part / "config.json") for part in layout.networks}
    transformer = config["transformer"]
    _check_channels(folder, transformer.get("in_channels", 4), config["vae"].get("latent_channels", 4))
    _check_width(folder, "text", transformer.get("caption_channels"), [config["text_encoder"].get("d_model")])
    _check_sample_size(folder, transformer)
    # diffusers takes a missing value for true at 1024 pixels
    if transformer.get("use_additional_conditions", transformer.get("sample_size") == 128) not in (None, False):
        raise PriorError(
            f"The transformer in {folder} needs the size of the picture beside a text, as PixArt-Alpha's does: "
            "use PixArt-Sigma."
        )


def _check_fit_sana(folder: Path, layout: Layout) -> None:
    config = {part: read_json(folder / part / "config.json") for part in layout.networks}
    transformer = config["transformer"]
    _check_channels(folder, transformer.get("in_channels", 32), config["vae"].get("latent_channels", 32))
    _check_width(folder, "text", transformer.get("caption_channels"), [config["text_encoder"].get("hidden_size")])
    _check_sample_size(folder, transformer)
    if transformer.get("guidance_embeds"):
        raise PriorError(f"The transformer in {folder} is Sana-Sprint's, which is not read: use Sana.")


def _check_channels(folder: Path, taken: object, given: object) -> None:
    if taken != given:
        raise PriorError(
            f"The transformer in {folder} takes {taken} channels, but its latents have {given}: use a plain "
            "text-to-image model, and all of its parts."
        )


def _check_width(folder: Path, kind: str, taken: object, given: list[object]) -> None:
    widths = [each for each in given if isinstance(each, int)]
    if isinstance(taken, int) and len(widths) == len(given) and sum(widths) != taken:
        raise PriorError(
            f"The transformer in {folder} takes {kind} of width {taken}, but its text encoders give {sum(widths)}: "
            "they are of two models. Download one whole model."
        )


def _check_sample_size(folder: Path, transformer: dict[str, object]) -> None:
    if not transformer.get("sample_size"):
        raise PriorError(
            f"{folder / 'transformer' / 'config.json'} has no sample_size: set it to the edge of the latents, "
            "128 for 1024 pixels."
        )
