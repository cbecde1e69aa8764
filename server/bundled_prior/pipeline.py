# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled prior as a diffusers pipeline: its folder, loading, and drawing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .captions import prompt
from .shapes import NOUNS

MODEL = Path(__file__).parent / "model"
CONTROL = Path(__file__).parent / "control_depth"


def load_pipeline(folder: Path) -> Any:
    """The diffusers pipeline of an exported folder, on the CPU in float32."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.to(memory_format=torch.channels_last)
    return pipe


def draw(pipe: Any, prompts: Sequence[str], steps: int, scale: float = 4.0, batch: int = 16) -> np.ndarray:
    """A picture for each prompt, float (N, 64, 64, 3) in [0, 1], by DDIM with a guidance scale."""
    return np.concatenate(
        [
            pipe(
                list(prompts[i : i + batch]),
                num_inference_steps=steps,
                guidance_scale=scale,
                output_type="np",
                generator=torch.Generator().manual_seed(i),
            ).images
            for i in range(0, len(prompts), batch)
        ]
    )


def contact_sheet(folder: Path, path: Path, prompts: Sequence[str], steps: int = 15) -> None:
    """Draw prompts, a multiple of eight, with an exported folder, and save one picture of them, eight a line."""
    from PIL import Image

    pictures = draw(load_pipeline(folder), prompts, steps)
    size = pictures.shape[1]
    grid = pictures.reshape(-1, 8, size, size, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 8 * size, 3)
    Image.fromarray((255 * grid + 0.5).astype(np.uint8)).save(path)


def sheet_prompts(colours: Sequence[str]) -> list[str]:
    """Every noun of the model that ships in four views."""
    views = ("front", "right side", "back", "overhead")
    return [prompt(colours[i % len(colours)], noun, view) for i, noun in enumerate(NOUNS) for view in views]
