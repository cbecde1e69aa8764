# SPDX-License-Identifier: GPL-3.0-or-later
"""The training loop of VAE and denoiser: AdamW, cosine decay, an average of the weights, checkpoints."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, safe_open, save_file
from torch import nn

from .config import TrainConfig
from .workers import average_gradients, rank_and_size


def fit(
    name: str,
    model: nn.Module,
    loss: Callable[[int], torch.Tensor],
    config: TrainConfig,
    minutes: float,
    steps: int | None,
    rate: float,
    export: Callable[[], None] | None = None,
    halt: int | None = None,
) -> bool:
    """Minimize `loss(step)` over `minutes` of training, or `steps`, and leave the average of the weights in `model`.

    Resumes from `work/name.safetensors` and saves to it. Each step draws its random numbers from (seed, step), so an
    interrupted run ends as an uninterrupted one does.

    Args:
        rate: AdamW's learning rate, which warms up over 100 steps and decays on a cosine.
        export: called every `export_minutes`, with the average in `model`.
        halt: save and stop before this step.

    Returns whether the training has finished.
    """
    path = config.work / f"{name}.safetensors"
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    ema = {k: v.detach().clone() for k, v in model.named_parameters()}
    step, spent = _load(path, model, ema, optimizer) if path.exists() else (0, 0.0)
    average = list(ema.values())
    rank, workers = rank_and_size()
    begin, saved, exported, losses = time.monotonic() - spent, spent, spent, []

    def swap() -> None:
        for a, w in zip(average, weights):
            held = w.detach().clone()
            w.data.copy_(a)
            a.copy_(held)

    while True:
        progress = step / steps if steps else spent / (60 * minutes)
        finished = progress >= 1
        if rank == 0 and (finished or step == halt or spent - saved >= 60 * config.checkpoint_minutes):
            _save(path, model, ema, optimizer, step, spent)
            saved = spent
        if finished or step == halt:
            break
        if rank == 0 and export and spent - exported >= 60 * config.export_minutes:
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
            spent = average_gradients(weights, spent)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        step += 1
        decay = min(config.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [w.detach() for w in weights], 1 - decay)
        losses.append(value.item())
        if rank == 0 and len(losses) == 50:
            mean = float(np.mean(losses))
            losses.clear()
            with open(config.work / f"{name}.csv", "a", encoding="utf-8", newline="") as file:
                csv.writer(file).writerow([step, round(spent, 1), round(mean, 5)])
            print(f"{name} step {step}, {spent / 60:.1f} min, loss {mean:.5f}", flush=True)
    if finished:
        swap()
    return finished


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
