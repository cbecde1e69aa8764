# SPDX-License-Identifier: GPL-3.0-or-later
"""Data-parallel training: each process has its share of a batch, and all average their gradients.

Without a process group there is one worker, of rank 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import distributed as dist
from torch import nn

from .config import TrainConfig


def rank_and_size() -> tuple[int, int]:
    """This worker's rank and the number of workers."""
    alone = not dist.is_initialized()
    return (0, 1) if alone else (dist.get_rank(), dist.get_world_size())


def average_gradients(weights: list[nn.Parameter], spent: float) -> float:
    """Average the workers' gradients in place; returns the average of `spent`, seconds, so that all stop at once."""
    gradients = [w.grad for w in weights if w.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients] + [torch.tensor([spent])]) / dist.get_world_size()
    dist.all_reduce(flat)
    parts = flat.split([g.numel() for g in gradients] + [1])
    for gradient, part in zip(gradients, parts):
        gradient.copy_(part.view_as(gradient))
    return parts[-1].item()


def seeds(config: TrainConfig, step: int) -> list[int]:
    """The seed of a step's random numbers in this worker, for NumPy; a resumed run draws the same ones."""
    return [config.seed, step, rank_and_size()[0]]


def generator(config: TrainConfig, step: int) -> torch.Generator:
    """The step's random numbers, for PyTorch; see `seeds`."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seeds(config, step)).generate_state(1)[0]))


def autocast(config: TrainConfig) -> torch.autocast:
    """bfloat16 in the forward pass, where the configuration says so."""
    return torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.bfloat16)
