# SPDX-License-Identifier: GPL-3.0-or-later
"""A trainable copy of a denoiser for the cost of a few parameters: low-rank updates of its frozen network."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from .base import Denoiser
from .conditions import Condition, without_cfg

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


class LoRADenoiser(nn.Module):
    """A denoiser with updates W + B A of its linear and convolutional layers (Hu et al. 2021, section 4.1).

    B starts at zero, so that untrained it is the denoiser without classifier-free guidance. The network itself stays
    as it is: hooks add the updates while this denoiser is asked. All linear and convolutional layers get one, since
    with attention's alone text-to-3D left floaters (docs/guidance.md).

    Args:
        denoiser: asked through its own `denoise`.
        network: the module of it that gets the updates.
        rank: channels between A and B, which come down to it and up from it.
    """

    def __init__(self, denoiser: Denoiser, network: nn.Module, rank: int = 16):
        super().__init__()
        self._denoiser = denoiser
        self._layers = [layer for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
        device = next(network.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.updates = nn.ModuleList([_update(layer, rank) for layer in self._layers]).to(device)

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """As `Denoiser.denoise`, without classifier-free guidance; differentiable in the updates."""

        def add(update: nn.Module) -> Hook:
            return lambda layer, inputs, output: output + update(inputs[0].float()).to(output.dtype)

        hooks = [layer.register_forward_hook(add(update)) for layer, update in zip(self._layers, self.updates)]
        try:
            return self._denoiser.denoise(x, sigma, without_cfg(condition))
        finally:
            for hook in hooks:
                hook.remove()


def _update(layer: nn.Linear | nn.Conv2d, rank: int) -> nn.Sequential:
    """B A for a layer: A down to `rank` channels as the layer itself would, B up to its own, zero at first."""
    down: nn.Linear | nn.Conv2d
    up: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Conv2d):
        kernel = cast(tuple[int, int], layer.kernel_size)
        stride, padding = cast(tuple[int, int], layer.stride), cast(tuple[int, int], layer.padding)
        down = nn.Conv2d(layer.in_channels, rank, kernel, stride=stride, padding=padding, bias=False)
        up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
    else:
        down, up = nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=False)
    nn.init.normal_(down.weight, std=layer.weight[0].numel() ** -0.5)
    nn.init.zeros_(up.weight)
    return nn.Sequential(down, up)
