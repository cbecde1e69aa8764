# SPDX-License-Identifier: GPL-3.0-or-later
"""A second denoiser that learns, at the cost of a few parameters: low-rank updates of a frozen U-Net."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .base import unguided

if TYPE_CHECKING:
    from .latent_diffusion import Condition, LatentDiffusion


class Student(nn.Module):
    """The prior with trainable updates of its attention's projections, W + A B (Hu et al. 2021, section 4.1).

    B starts at zero: untrained, it is the prior without guidance. The U-Net itself is not touched; hooks add
    the updates while the student is asked.
    """

    def __init__(self, prior: "LatentDiffusion", rank: int = 4, seed: int = 0):
        super().__init__()
        self._prior = prior
        self._layers = [layer for name, layer in prior.unet.named_modules()
                        if isinstance(layer, nn.Linear) and ".attn" in name]
        generator = torch.Generator().manual_seed(seed)

        def down(layer: nn.Linear) -> Tensor:
            return (torch.randn(layer.in_features, rank, generator=generator) / layer.in_features**0.5).to(prior.device)

        self.down = nn.ParameterList([nn.Parameter(down(layer)) for layer in self._layers])
        self.up = nn.ParameterList(
            [nn.Parameter(torch.zeros(rank, layer.out_features, device=prior.device)) for layer in self._layers])

    def denoise(self, x: Tensor, sigma: Tensor, condition: "Condition | None" = None) -> Tensor:
        """As `LatentDiffusion.denoise`, without classifier-free guidance; differentiable in the updates."""
        def added(down: Tensor, up: Tensor) -> Any:
            return lambda layer, inputs, output: output + (inputs[0].float() @ down @ up).to(output.dtype)

        hooks = [layer.register_forward_hook(added(down, up))
                 for layer, down, up in zip(self._layers, self.down, self.up)]
        try:
            return self._prior.denoise(x, sigma, unguided(condition))
        finally:
            for hook in hooks:
                hook.remove()
