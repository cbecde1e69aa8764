# SPDX-License-Identifier: GPL-3.0-or-later
"""A second denoiser that learns, at the cost of a few parameters: low-rank updates of a frozen U-Net."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .base import unguided

if TYPE_CHECKING:
    from .latent_diffusion import Condition, LatentDiffusion


class Student(nn.Module):
    """The prior with trainable updates of its linear and convolutional layers, W + A B (Hu et al. 2021, section 4.1).

    A starts at zero: untrained, it is the prior without guidance. The U-Net itself is not touched; hooks add
    the updates while the student is asked. All of these layers, because with attention's alone text-to-3D left
    floaters (docs/guidance.md).
    """

    def __init__(self, prior: "LatentDiffusion", rank: int = 16):
        super().__init__()
        self._prior = prior
        self._layers = [layer for layer in prior.unet.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.updates = nn.ModuleList([_update(layer, rank) for layer in self._layers]).to(prior.device)

    def denoise(self, x: Tensor, sigma: Tensor, condition: "Condition | None" = None) -> Tensor:
        """As `LatentDiffusion.denoise`, without classifier-free guidance; differentiable in the updates."""

        def added(update: nn.Module) -> Any:
            return lambda layer, inputs, output: output + update(inputs[0].float()).to(output.dtype)

        hooks = [layer.register_forward_hook(added(update)) for layer, update in zip(self._layers, self.updates)]
        try:
            return self._prior.denoise(x, sigma, unguided(condition))
        finally:
            for hook in hooks:
                hook.remove()


def _update(layer: nn.Linear | nn.Conv2d, rank: int) -> nn.Sequential:
    """A B for a layer: B down to `rank` channels as the layer itself would, A up to its own, zero at first."""
    down: nn.Module
    up: nn.Module
    if isinstance(layer, nn.Conv2d):
        place: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "bias": False}
        down = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, **place)  # type: ignore[arg-type]
        up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
    else:
        down, up = nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=False)
    nn.init.normal_(down.weight, std=layer.weight[0].numel() ** -0.5)
    nn.init.zeros_(up.weight)
    return nn.Sequential(down, up)
