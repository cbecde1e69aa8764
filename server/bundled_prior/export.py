# SPDX-License-Identifier: GPL-3.0-or-later
"""The trained parts as a diffusers folder, and the words that the model knows beside them."""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .captions import full_vocabulary, prompt, vocabulary
from .config import TrainConfig
from .denoiser import SCHEDULE
from .multi_view import export_cameras
from .shapes import ALL_NOUNS, COLOURS, NOUNS

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL
    from torch import nn
    from transformers import CLIPTokenizer


def write_words(folder: Path, views: int = 1) -> None:
    """Write words.json for a model of so many views: the things that it draws, every word of its captions, sorted, and
    a prompt for each thing, in the order of their names."""
    things, known = (NOUNS, vocabulary()) if views == 1 else (ALL_NOUNS, full_vocabulary())
    examples = {noun: prompt(colour, noun) for noun, colour in zip(things, itertools.cycle(COLOURS))}
    words = {"things": list(things), "words": known, "examples": [examples[noun] for noun in sorted(things)]}
    (folder / "words.json").write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")


def export_pipeline(vae: AutoencoderKL, denoiser: nn.ModuleDict, tokenizer: CLIPTokenizer, config: TrainConfig) -> None:
    """Write the float16 pipeline with `write_words`, then replace the files of `output` one by one, each whole."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    fresh = config.work / "export"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    autoencoder, text_encoder, unet = (
        copy.deepcopy(part).cpu().half() for part in (vae, denoiser["text_encoder"], denoiser["unet"])
    )
    if config.views > 1:
        export_cameras(unet, fresh, config.views)
    pipeline: Any = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(fresh, safe_serialization=True)
    write_words(fresh, config.views)
    for file in sorted(p for p in fresh.rglob("*") if p.is_file()):
        target = config.output / file.relative_to(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target.with_suffix(".new"))
        os.replace(target.with_suffix(".new"), target)
