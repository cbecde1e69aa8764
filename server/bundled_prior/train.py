# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the bundled text-to-image prior: `python -m server.bundled_prior.train` (the same command resumes).

Renders the corpus (`corpus`), fits a small `AutoencoderKL` (`vae`), encodes the corpus, fits text encoder and U-Net
together (`denoiser`), and exports a diffusers `StableDiffusionPipeline` folder at intervals (`export`). Wall-clock
minutes set the length, and a checkpoint knows those already spent. A GPU takes larger batches in less time:
`--device cuda --batch 256 --minutes 8 --vae-minutes 1`.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import replace

import numpy as np
import torch
from torch import distributed as dist
from torch import multiprocessing

from ..paths import expanded
from . import multi_view
from .captions import full_vocabulary
from .config import TrainConfig
from .corpus import load_corpus
from .denoiser import build_denoiser, denoiser_loss, transfer_text_encoder
from .export import export_pipeline
from .fitting import fit
from .multi_view import add_cameras, load_views, views_loss
from .pipeline import MODEL, contact_sheet, load_pipeline, sheet_prompts
from .tokenizer import TOKENS, build_tokenizer
from .vae import build_vae, encode, vae_loss, whiten
from .workers import rank_and_size


def train(config: TrainConfig, halt: int | None = None) -> None:
    """Run or resume every stage; `halt` saves a checkpoint at that step of an unfinished stage and stops there.

    Each worker is a process of one thread. Processes wait for each other once a step; threads would wait in every
    layer, and stall when the machine is busy.
    """
    config.work.mkdir(parents=True, exist_ok=True)
    pictures = load_views(config)[0] if config.views > 1 else load_corpus(config)[0]
    print(f"corpus: {len(pictures)} pictures", flush=True)
    if not (config.work / "tokenizer").exists():
        build_tokenizer(config.work / "tokenizer", full_vocabulary() if config.views > 1 else None)
    if config.workers == 1:
        _run_stages(config, halt)
    else:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # any free port
        multiprocessing.spawn(_run_worker, (config, halt, store.port), nprocs=config.workers)


def _run_worker(rank: int, config: TrainConfig, halt: int | None, port: int) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=config.workers)
    _run_stages(config, halt)
    dist.destroy_process_group()


def _run_stages(config: TrainConfig, halt: int | None) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(config.work / "tokenizer", local_files_only=True)
    angles = np.empty(0)
    if config.views > 1:
        pictures, labels, angles = load_views(config)
    else:
        pictures, labels = load_corpus(config)
    torch.manual_seed(config.seed)
    pretrained = load_pipeline(config.start) if config.start else None
    vae = build_vae(config).to(config.device, memory_format=torch.channels_last)
    if pretrained:
        vae.load_state_dict(pretrained.vae.state_dict())
        vae.register_to_config(scaling_factor=pretrained.vae.config.scaling_factor)
    elif not fit(
        "vae",
        vae,
        lambda step: vae_loss(vae, pictures, config, step),
        config,
        config.vae_minutes,
        config.vae_steps,
        config.vae_rate,
        halt=halt,
    ):
        return
    vae.requires_grad_(False)
    latents = encode(vae, pictures, config)
    if not pretrained:
        latents = whiten(vae.cpu(), latents)

    torch.manual_seed(config.seed)
    denoiser = build_denoiser(config, tokenizer)
    if pretrained:
        denoiser["unet"].load_state_dict(pretrained.unet.state_dict())
        transfer_text_encoder(pretrained.text_encoder, pretrained.tokenizer, denoiser["text_encoder"], tokenizer)
    if config.views > 1:
        add_cameras(denoiser["unet"], config.start)
    denoiser.to(config.device, memory_format=torch.channels_last)

    @functools.cache
    def tokenize(text: str) -> list[int]:
        return tokenizer(text, padding="max_length", max_length=TOKENS, truncation=True).input_ids

    def loss(step: int) -> torch.Tensor:
        if config.views > 1:
            return views_loss(denoiser, tokenize, latents, labels, angles, config, step)
        return denoiser_loss(denoiser, tokenize, latents, labels, config, step)

    def export() -> None:
        export_pipeline(vae, denoiser, tokenizer, config)
        if config.sheet:
            prompts = multi_view.sheet_prompts() if config.views > 1 else sheet_prompts(config.sheet)
            contact_sheet(config.output, config.work / "sheet.png", prompts)

    if (
        fit("denoiser", denoiser, loss, config, config.minutes, config.steps, config.rate, export, halt)
        and rank_and_size()[0] == 0
    ):
        export()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m server.bundled_prior.train",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--work", type=expanded, default=TrainConfig.work, help="corpus, checkpoints, curves, contact sheet"
    )
    parser.add_argument("--output", type=expanded, default=MODEL, help="diffusers folder to write")
    parser.add_argument(
        "--start",
        type=expanded,
        metavar="DIR",
        help="an exported folder to train further, in a --work folder of its own: its VAE stays, U-Net and text "
        "encoder go on, new words start from random weights",
    )
    parser.add_argument("--images", type=int, default=TrainConfig.images)
    parser.add_argument(
        "--views",
        type=int,
        default=TrainConfig.views,
        help="of an object, that the U-Net denoises at once and whose cameras it knows; 1 is a model of single "
        "pictures. Batch and number of images are multiples of it",
    )
    parser.add_argument(
        "--pixels", type=int, default=TrainConfig.pixels, help="edge of the pictures of several views, a multiple of 32"
    )
    parser.add_argument("--vae-minutes", type=float, default=TrainConfig.vae_minutes)
    parser.add_argument("--minutes", type=float, default=TrainConfig.minutes, help="wall clock of the U-Net's training")
    parser.add_argument("--batch", type=int, default=TrainConfig.batch, help="of the U-Net")
    parser.add_argument("--seed", type=int, default=TrainConfig.seed)
    parser.add_argument("--workers", type=int, default=TrainConfig.workers, help="processes of one thread, on a CPU")
    parser.add_argument("--device", default=TrainConfig.device, help="cpu or cuda")
    config = TrainConfig(**vars(parser.parse_args()))
    if config.device != "cpu":
        config = replace(config, workers=1, bfloat16=True)
    train(config)


if __name__ == "__main__":
    main()
