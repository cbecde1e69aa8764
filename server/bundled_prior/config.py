# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a training run of the bundled prior."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from .pipeline import MODEL


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware. Where it is emulated, training is faster in float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run. Minutes are wall-clock time, so that one configuration suits every machine.

    work: folder of the corpus, the checkpoints and the loss curves.
    output: diffusers folder to write.
    start: exported folder to train further: its VAE stays, U-Net and text encoder go on.
    images: size of the corpus.
    workers: processes of one thread; each has its share of a batch.
    vae_minutes, vae_batch, vae_rate: of the VAE. minutes, batch, rate: of U-Net and text encoder. Rates are AdamW's.
    vae_steps, steps: replace the minutes and make a run repeatable.
    dropout: share of captions that are empty, for classifier-free guidance.
    ema: decay of the average of the weights.
    checkpoint_minutes, export_minutes: from one checkpoint, one export to the next.
    bfloat16: autocast the forward pass.
    vae_channels: of the VAE's levels. channels, layers: of the U-Net's levels, and their blocks.
    hidden: width of the text encoder.
    views: of one object, that the U-Net denoises at once and whose cameras it knows; 1 is a model of single pictures.
    single: share of the batches of such a model that are single pictures, without cameras.
    pixels: edge of such a model's pictures; one of single pictures has `objects.RESOLUTION`.
    sheet: colours of the contact sheet that an export comes with; none, no sheet.
    """

    work: Path = Path("out/bundled-prior")
    output: Path = MODEL
    start: Path | None = None
    images: int = 60_000
    seed: int = 0
    device: str = "cpu"
    workers: int = 2
    vae_minutes: float = 12.5
    minutes: float = 140.0
    vae_steps: int | None = None
    steps: int | None = None
    vae_batch: int = 32
    batch: int = 32
    vae_rate: float = 2e-3
    rate: float = 8e-4
    dropout: float = 0.12
    ema: float = 0.999
    checkpoint_minutes: float = 3.0
    export_minutes: float = 10.0
    bfloat16: bool = field(default_factory=lambda: has_bfloat16())
    vae_channels: tuple[int, ...] = (16, 32, 64)
    channels: tuple[int, ...] = (64, 128)
    layers: int = 1
    hidden: int = 128
    views: int = 1
    single: float = 0.3
    pixels: int = 64
    sheet: tuple[str, ...] = ("red", "green", "yellow", "blue", "white", "orange", "purple", "brown")
