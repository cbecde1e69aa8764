# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the bundled text-to-image prior: `python -m server.bundled_prior.train` (the same command resumes).

Renders the corpus of `objects`, fits a small `AutoencoderKL`, encodes the corpus, then fits text encoder and U-Net
together, and exports a standard diffusers `StableDiffusionPipeline` folder now and then. Wall-clock minutes, not
steps, set the length, so one recipe suits every machine; time already spent is part of a checkpoint. A GPU takes
larger batches in less time: `--device cuda --batch 256 --minutes 8 --vae-minutes 1`.
"""

from __future__ import annotations

import argparse
import copy
import csv
import functools
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, safe_open, save_file
from torch import distributed as dist
from torch import multiprocessing, nn

from ..paths import expanded
from ..priors.prompts import VIEWS
from . import objects, shapes
from .captions import caption
from .pipeline import MODEL, contact_sheet, load_pipeline
from .tokenizer import TOKENS, build_tokenizer

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; where it is emulated, a step takes ten times as long."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@dataclass(frozen=True)
class Recipe:
    """Settings of a run; `steps` and `vae_steps`, when given, replace the wall clock (and make runs repeatable)."""

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
    half: bool = field(default_factory=lambda: has_bfloat16())
    vae_channels: tuple[int, ...] = (16, 32, 64)
    channels: tuple[int, ...] = (64, 128)
    layers: int = 1
    hidden: int = 128
    sheet: tuple[str, ...] = ("red", "green", "yellow", "blue", "white", "orange", "purple", "brown")


def corpus(recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (N, 64, 64, 3) and labels uint8 (N, 4), rendered once.

    The columns are noun, colour, view and finish, as indices.
    """
    pictures, labels = recipe.work / "pictures.npy", recipe.work / "labels.npy"
    if not labels.exists() or len(np.load(labels)) != recipe.images:
        nouns, colours, size = list(shapes.NOUNS), list(shapes.COLOURS), objects.RESOLUTION
        out = np.lib.format.open_memmap(pictures, "w+", np.uint8, (recipe.images, size, size, 3))
        rows = []
        for start in range(0, recipe.images, 500):
            rng = np.random.default_rng([recipe.seed, start])
            picks = objects.sample_labels(min(500, recipe.images - start), rng)
            scenes = [objects.scene(c, n, rng, finish=f) for c, n, f in picks]
            out[start : start + len(picks)] = objects.render(scenes)
            rows += [
                (nouns.index(n), colours.index(c), VIEWS.index(each.view), shapes.FINISHES.index(f))
                for (c, n, f), each in zip(picks, scenes)
            ]
        out.flush()
        np.save(labels, np.array(rows, np.uint8))
    return np.load(pictures, mmap_mode="r"), np.load(labels)


def build_vae(recipe: Recipe) -> Any:
    """Pictures (B, 3, 64, 64) in [-1, 1] <-> latents (B, 4, 16, 16).

    Two normalization groups, because many small groups wash out flat colours.
    """
    from diffusers import AutoencoderKL

    depth = len(recipe.vae_channels)
    return AutoencoderKL(
        block_out_channels=recipe.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=objects.RESOLUTION,
        mid_block_add_attention=False,
    )


def build_denoiser(recipe: Recipe, tokenizer: Any) -> Any:
    """`text_encoder` and `unet`, trained together."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor
    from transformers import CLIPTextConfig, CLIPTextModel

    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=4 * recipe.hidden,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=recipe.hidden,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    depth = len(recipe.channels) - 1
    unet: Any = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=recipe.channels,
        layers_per_block=recipe.layers,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * depth,
        up_block_types=("CrossAttnUpBlock2D",) * depth + ("UpBlock2D",),
        cross_attention_dim=recipe.hidden,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    unet.set_attn_processor(AttnProcessor())  # 64 tokens: plain products train an eighth faster than the fused op
    return nn.ModuleDict({"text_encoder": text_encoder, "unet": unet})


@torch.no_grad()
def carry_words(before: Any, known: Any, after: Any, tokenizer: Any) -> None:
    """Copy the text encoder `before` to `after`, a token's embedding by its text; new ones of `tokenizer` stay."""
    known, table = known.get_vocab(), after.get_input_embeddings().weight.clone()
    for token, i in tokenizer.get_vocab().items():
        if token in known:
            table[i] = before.get_input_embeddings().weight[known[token]]
    own = after.state_dict()
    after.load_state_dict(
        {name: weight for name, weight in before.state_dict().items() if weight.shape == own[name].shape}, strict=False
    )
    after.get_input_embeddings().weight.copy_(table)


def _save(path: Path, model: nn.Module, ema: dict, optimizer: torch.optim.Optimizer, step: int, spent: float) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()} | {f"ema.{k}": v for k, v in ema.items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
    fresh = path.with_suffix(".new")
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, fresh, metadata={"step": str(step), "spent": repr(spent)}
    )
    os.replace(fresh, path)


def _load(path: Path, model: nn.Module, ema: dict, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    tensors = load_file(path)
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for k, average in ema.items():
        average.copy_(tensors[f"ema.{k}"])
    state: dict[int, dict[str, torch.Tensor]] = {}
    for k, v in tensors.items():
        if k.startswith("optimizer."):
            _, i, name = k.split(".")
            state.setdefault(int(i), {})[name] = v
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    return int(metadata["step"]), float(metadata["spent"])


def fit(
    name: str,
    model: nn.Module,
    loss: Callable[[int], torch.Tensor],
    recipe: Recipe,
    minutes: float,
    steps: int | None,
    rate: float,
    export: Callable[[], None] | None = None,
    halt: int | None = None,
) -> bool:
    """Minimize `loss(step)` with AdamW, cosine decay over `minutes` (or `steps`), and leave the average in `model`.

    Resumes from and saves to `work/name.safetensors`; each step draws its randomness from (seed, step), so an
    interrupted run continues as if nothing had happened. Returns False when `halt` stopped it early.
    """
    path = recipe.work / f"{name}.safetensors"
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    ema = {k: v.detach().clone() for k, v in model.named_parameters()}
    step, spent = _load(path, model, ema, optimizer) if path.exists() else (0, 0.0)
    average = list(ema.values())
    rank, workers = _rank()
    begin, saved, exported, losses = time.monotonic() - spent, spent, spent, []

    def swap() -> None:
        for a, w in zip(average, weights):
            held = w.detach().clone()
            w.data.copy_(a)
            a.copy_(held)

    while True:
        progress = step / steps if steps else spent / (60 * minutes)
        finished = progress >= 1
        if rank == 0 and (finished or step == halt or spent - saved >= 60 * recipe.checkpoint_minutes):
            _save(path, model, ema, optimizer, step, spent)
            saved = spent
        if finished or step == halt:
            break
        if rank == 0 and export and spent - exported >= 60 * recipe.export_minutes:
            exported = spent
            swap()
            export()
            swap()
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * progress))
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        spent = time.monotonic() - begin
        if workers > 1:
            spent = _share(weights, spent)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        step += 1
        decay = min(recipe.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [w.detach() for w in weights], 1 - decay)
        losses.append(value.item())
        if rank == 0 and len(losses) == 50:
            mean = float(np.mean(losses))
            losses.clear()
            with open(recipe.work / f"{name}.csv", "a", newline="") as file:
                csv.writer(file).writerow([step, round(spent, 1), round(mean, 5)])
            print(f"{name} step {step}, {spent / 60:.1f} min, loss {mean:.5f}", flush=True)
    if finished:
        swap()
    return finished


def _rank() -> tuple[int, int]:
    """This worker's number and how many there are."""
    alone = not dist.is_initialized()
    return (0, 1) if alone else (dist.get_rank(), dist.get_world_size())


def _share(weights: list[nn.Parameter], spent: float) -> float:
    """Average the workers' gradients in place, and their clocks."""
    gradients = [w.grad for w in weights if w.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients] + [torch.tensor([spent])]) / dist.get_world_size()
    dist.all_reduce(flat)
    parts = flat.split([g.numel() for g in gradients] + [1])
    for gradient, part in zip(gradients, parts):
        gradient.copy_(part.view_as(gradient))
    return parts[-1].item()


def _seeds(recipe: Recipe, step: int) -> list[int]:
    return [recipe.seed, step, _rank()[0]]


def _generator(recipe: Recipe, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(_seeds(recipe, step)).generate_state(1)[0]))


def _pixels(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1], channels last."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2) / 127.5 - 1


def _autocast(recipe: Recipe) -> torch.autocast:
    return torch.autocast(torch.device(recipe.device).type, torch.bfloat16, enabled=recipe.half)


def vae_loss(vae: Any, pictures: np.ndarray, recipe: Recipe, step: int) -> torch.Tensor:
    """L1 + squared error + a tiny KL term; colour channels are shuffled so that every hue is seen.

    Hue is learned last and matters most, so the error's deviation from gray counts again, fourfold.
    """
    g = _generator(recipe, step)
    pick = torch.randint(len(pictures), (recipe.vae_batch // _rank()[1],), generator=g).sort().values
    x = _pixels(pictures[pick.numpy()])
    if step % 2:
        x = x[:, torch.randperm(3, generator=g)]
    x = x.to(recipe.device, memory_format=torch.channels_last)
    with _autocast(recipe):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample(g)).sample
    error = y.float() - x
    chroma = error - error.mean(1, keepdim=True)
    distance = error.abs().mean() + error.square().mean() + 4 * chroma.square().mean()
    return distance + 5e-7 * posterior.kl().float().mean()


@torch.no_grad()
def encode(vae: Any, pictures: np.ndarray, recipe: Recipe) -> torch.Tensor:
    """Mean latents (N, 4, 16, 16) of all pictures, unscaled, float32, cached in the work folder."""
    path = recipe.work / "latents.safetensors"
    if path.exists():
        return load_file(path)["latents"]
    rank, workers = _rank()
    latents = torch.zeros(len(pictures), 4, 16, 16)
    for start in range(250 * rank, len(pictures), 250 * workers):
        x = _pixels(pictures[start : start + 250]).to(recipe.device, memory_format=torch.channels_last)
        with _autocast(recipe):
            latents[start : start + 250] = vae.encode(x).latent_dist.mean.float().cpu()
    if workers > 1:
        dist.all_reduce(latents)
    if rank == 0:
        fresh = path.with_suffix(".new")
        save_file({"latents": latents}, fresh)
        os.replace(fresh, path)
    return latents


@torch.no_grad()
def whiten(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents of zero mean, unit variance and nearly equal channels; the map is folded into the VAE's 1x1 convolutions.

    Otherwise brightness, with ten times the deviation of hue, would drown it under the noise. A tenth of the mean
    variance is added before inverting, so that a nearly redundant direction is not blown up.
    """
    flat = latents.movedim(1, -1).reshape(-1, latents.shape[1]).double()
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((flat - mean).T))
    gains = (values + 0.1 * values.mean()).rsqrt()
    forward = vectors @ torch.diag(gains / (gains.square() * values).mean().sqrt()) @ vectors.T
    inward, outward, n = vae.quant_conv, vae.post_quant_conv, len(mean)
    w, b = inward.weight[:, :, 0, 0].double(), inward.bias.double()
    inward.weight[:n, :, 0, 0], inward.bias[:n] = forward @ w[:n], forward @ (b[:n] - mean)
    inward.bias[n:] += 2 * forward.diag().log()  # the posterior's log-variances, to first order
    w, b = outward.weight[:, :, 0, 0].double(), outward.bias.double()
    outward.weight[:, :, 0, 0], outward.bias[:] = w @ torch.linalg.inv(forward), b + w @ mean
    vae.register_to_config(scaling_factor=1.0)
    return torch.einsum("ij,bjhw->bihw", forward.float(), latents - mean.float().view(1, -1, 1, 1))


def captions(labels: np.ndarray, recipe: Recipe, step: int) -> list[str]:
    """One caption a label row (B, 4), empty with probability `dropout`."""
    rng = np.random.default_rng(_seeds(recipe, step))
    nouns, colours = list(shapes.NOUNS), list(shapes.COLOURS)
    return [
        "" if rng.random() < recipe.dropout else caption(colours[c], nouns[n], VIEWS[v], rng, shapes.FINISHES[f])
        for n, c, v, f in labels
    ]


def denoiser_loss(
    model: Any,
    tokenize: Callable[[str], list[int]],
    latents: torch.Tensor,
    labels: np.ndarray,
    recipe: Recipe,
    step: int,
) -> torch.Tensor:
    """Mean squared error of v (Salimans & Ho 2022), timesteps stratified over the batch, more of the late ones.

    Unweighted: in terms of the clean latent that is 1 + SNR, which unlike min-SNR keeps the noisy levels where the
    text decides the shape, the ones that distillation leans on. They are also the slow ones to learn, so a
    timestep is drawn as often as it is late.
    """
    g = _generator(recipe, step)
    batch = recipe.batch // _rank()[1]
    pick = torch.randint(len(latents), (batch,), generator=g)
    x0 = latents[pick]
    noise = torch.randn(x0.shape, generator=g)
    t = (((torch.arange(batch) + torch.rand(batch, generator=g)) / batch).sqrt() * 1000).long().clamp(max=999)
    kept = _alphas()[t].view(-1, 1, 1, 1)
    signal, sigma = kept.sqrt(), (1 - kept).sqrt()
    ids = torch.tensor([tokenize(c) for c in captions(labels[pick.numpy()], recipe, step)])
    noisy = (signal * x0 + sigma * noise).to(recipe.device, memory_format=torch.channels_last)
    target = (signal * noise - sigma * x0).to(recipe.device)
    with _autocast(recipe):
        text = model["text_encoder"](ids.to(recipe.device))[0]
        v = model["unet"](noisy, t.to(recipe.device), text).sample
    return (v.float() - target).square().mean()


@functools.cache
def _alphas() -> torch.Tensor:
    from diffusers import DDIMScheduler

    scheduler: Any = DDIMScheduler(**SCHEDULE)
    return scheduler.alphas_cumprod


def export_pipeline(vae: Any, denoiser: Any, tokenizer: Any, recipe: Recipe) -> None:
    """Write the float16 pipeline beside `output`, then swap it in file by file: readers never see half a file."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    fresh = recipe.work / "export"
    shutil.rmtree(fresh, ignore_errors=True)
    vae, text_encoder, unet = (
        copy.deepcopy(part).cpu().half() for part in (vae, denoiser["text_encoder"], denoiser["unet"])
    )
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(fresh, safe_serialization=True)
    for file in sorted(p for p in fresh.rglob("*") if p.is_file()):
        target = recipe.output / file.relative_to(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target.with_suffix(".new"))
        os.replace(target.with_suffix(".new"), target)


def train(recipe: Recipe, halt: int | None = None) -> None:
    """Run or resume every stage; `halt` stops each unfinished stage at that step, with its checkpoint written.

    Each worker is a process of one thread with its share of the batch: they meet once a step, where threads would
    meet in every layer and stall whenever the machine is busy.
    """
    recipe.work.mkdir(parents=True, exist_ok=True)
    pictures, _ = corpus(recipe)
    print(f"corpus: {len(pictures)} pictures", flush=True)
    if not (recipe.work / "tokenizer").exists():
        build_tokenizer(recipe.work / "tokenizer")
    if recipe.workers == 1:
        _stages(recipe, halt)
    else:
        meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # any free port
        multiprocessing.spawn(_worker, (recipe, halt, meeting.port), nprocs=recipe.workers)


def _worker(rank: int, recipe: Recipe, halt: int | None, port: int) -> None:
    torch.set_num_threads(1)
    meeting = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=recipe.workers)
    _stages(recipe, halt)
    dist.destroy_process_group()


def _stages(recipe: Recipe, halt: int | None) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(recipe.work / "tokenizer", local_files_only=True)
    pictures, labels = corpus(recipe)
    torch.manual_seed(recipe.seed)
    started = load_pipeline(recipe.start) if recipe.start else None
    vae = build_vae(recipe).to(recipe.device, memory_format=torch.channels_last)
    if started:
        vae.load_state_dict(started.vae.state_dict())
        vae.register_to_config(scaling_factor=started.vae.config.scaling_factor)
    elif not fit(
        "vae",
        vae,
        lambda step: vae_loss(vae, pictures, recipe, step),
        recipe,
        recipe.vae_minutes,
        recipe.vae_steps,
        recipe.vae_rate,
        halt=halt,
    ):
        return
    vae.requires_grad_(False)
    latents = encode(vae, pictures, recipe)
    if not started:
        latents = whiten(vae.cpu(), latents)

    torch.manual_seed(recipe.seed)
    denoiser = build_denoiser(recipe, tokenizer)
    if started:
        denoiser["unet"].load_state_dict(started.unet.state_dict())
        carry_words(started.text_encoder, started.tokenizer, denoiser["text_encoder"], tokenizer)
    denoiser.to(recipe.device, memory_format=torch.channels_last)

    @functools.cache
    def tokenize(text: str) -> list[int]:
        return tokenizer(text, padding="max_length", max_length=TOKENS, truncation=True).input_ids

    def export() -> None:
        export_pipeline(vae, denoiser, tokenizer, recipe)
        if recipe.sheet:
            contact_sheet(recipe.output, recipe.work / "sheet.png", recipe.sheet)

    if (
        fit(
            "denoiser",
            denoiser,
            lambda step: denoiser_loss(denoiser, tokenize, latents, labels, recipe, step),
            recipe,
            recipe.minutes,
            recipe.steps,
            recipe.rate,
            export,
            halt,
        )
        and _rank()[0] == 0
    ):
        export()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--work", type=expanded, default=Recipe.work, help="corpus, checkpoints, curves, contact sheet")
    parser.add_argument("--output", type=expanded, default=MODEL, help="diffusers folder to write")
    parser.add_argument(
        "--start",
        type=expanded,
        metavar="DIR",
        help="an exported folder to train further, in a work "
        "folder of its own: its VAE stays, U-Net and text encoder go on, new words begin anew",
    )
    parser.add_argument("--images", type=int, default=Recipe.images)
    parser.add_argument("--vae-minutes", type=float, default=Recipe.vae_minutes)
    parser.add_argument("--minutes", type=float, default=Recipe.minutes, help="wall clock of the U-Net's training")
    parser.add_argument("--batch", type=int, default=Recipe.batch, help="of the U-Net")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--workers", type=int, default=Recipe.workers, help="processes of one thread, on a CPU")
    parser.add_argument("--device", default=Recipe.device, help="cpu or cuda")
    recipe = Recipe(**vars(parser.parse_args()))
    if recipe.device != "cpu":
        recipe = replace(recipe, workers=1, half=True)
    train(recipe)


if __name__ == "__main__":
    main()
