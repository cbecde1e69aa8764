# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the depth ControlNet of the bundled prior: `python -m server.bundled_prior.train_control`, also to resume.

A ControlNet (Zhang et al. 2023, arXiv 2302.05543) begins as the encoder half of the bundled U-Net, and learns to steer
it by depth maps of the corpus while the prior itself stays. It is exported as a diffusers `ControlNetModel` folder.
"""

from __future__ import annotations

import argparse
import copy
import functools
import os
from pathlib import Path
from typing import Any

import torch

from ..paths import expanded
from .config import TrainConfig
from .corpus import draw_captions, load_corpus, load_depths
from .denoiser import noisy_latents
from .fitting import fit
from .pipeline import CONTROL, MODEL, load_pipeline
from .tokenizer import TOKENS
from .vae import encode
from .workers import autocast, generator

HINT_CHANNELS = (16, 32, 64)  # of the layers that take a depth map to the latents' size


def train_control(config: TrainConfig, halt: int | None = None) -> None:
    """Run or resume; `halt` saves a checkpoint at that step and stops there."""
    from diffusers import ControlNetModel
    from diffusers.models.attention_processor import AttnProcessor

    config.work.mkdir(parents=True, exist_ok=True)
    pictures, labels = load_corpus(config)
    depths = load_depths(config)
    print(f"corpus: {len(pictures)} pictures", flush=True)
    pipeline = load_pipeline(config.start or MODEL)
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        part.requires_grad_(False).to(config.device)
    latents = encode(pipeline.vae, pictures, config) * pipeline.vae.config.scaling_factor

    torch.manual_seed(config.seed)
    control: Any = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=HINT_CHANNELS)
    for network in (pipeline.unet, control):  # see `denoiser.build_denoiser`
        network.set_attn_processor(AttnProcessor())
    control.train().to(config.device, memory_format=torch.channels_last)

    @functools.cache
    def tokenize(text: str) -> list[int]:
        ids: list[int] = pipeline.tokenizer(text, padding="max_length", max_length=TOKENS, truncation=True).input_ids
        return ids

    def loss(step: int) -> torch.Tensor:
        g = generator(config, step)
        pick, noisy, t, target = noisy_latents(latents, config.batch, g)
        ids = torch.tensor([tokenize(text) for text in draw_captions(labels[pick.numpy()], config, step)])
        hints = torch.from_numpy(depths[pick.numpy()]).to(config.device).unsqueeze(1).expand(-1, 3, -1, -1) / 255
        noisy, t = noisy.to(config.device, memory_format=torch.channels_last), t.to(config.device)
        with autocast(config):
            text = pipeline.text_encoder(ids.to(config.device))[0]
            down, mid = control(noisy, t, text, hints, return_dict=False)
            v = pipeline.unet(
                noisy, t, text, down_block_additional_residuals=down, mid_block_additional_residual=mid
            ).sample
        return (v.float() - target.to(config.device)).square().mean()

    def export() -> None:
        fresh = config.work / "export"
        copy.deepcopy(control).cpu().half().save_pretrained(fresh)
        config.output.mkdir(parents=True, exist_ok=True)
        for file in fresh.iterdir():
            os.replace(file, config.output / file.name)

    if fit("control", control, loss, config, config.minutes, config.steps, config.rate, export, halt):
        export()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m server.bundled_prior.train_control",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--work", type=expanded, default=Path("out/bundled-control"), help="corpus, checkpoints, loss curve"
    )
    parser.add_argument("--output", type=expanded, default=CONTROL, help="ControlNet folder to write")
    parser.add_argument("--start", type=expanded, metavar="DIR", default=MODEL, help="the pipeline that is steered")
    parser.add_argument("--images", type=int, default=16_000)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=TrainConfig.seed)
    parser.add_argument("--device", default=TrainConfig.device, help="cpu or cuda")
    options = vars(parser.parse_args())
    # Half of the captions are empty, as in the paper, so that the depth map alone says what is drawn.
    config = TrainConfig(**options, workers=1, rate=8e-4, dropout=0.5)
    if config.device == "cpu":
        torch.set_num_threads(1)
    train_control(config)


if __name__ == "__main__":
    main()
