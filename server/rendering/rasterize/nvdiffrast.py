# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU backend: nvdiffrast (Laine et al. 2020), which the user installs."""

from __future__ import annotations

import torch
from torch import Tensor


class NvdiffrastRasterizer:
    """See `base.Rasterizer`. Needs CUDA, and nvdiffrast, whose licence allows research and evaluation only."""

    supersample = 4

    def __init__(self, device: str | torch.device):
        try:
            import nvdiffrast.torch as dr
        except ImportError:
            raise ValueError("nvdiffrast is not installed: install it as the README says, "
                             "or choose the rasterizer cpu.") from None
        self._dr = dr
        self._context = dr.RasterizeCudaContext(device=device)

    def rasterize(self, clip: Tensor, faces: Tensor, resolution: tuple[int, int]) -> Tensor:
        if not len(faces):
            return clip.new_zeros(len(clip), *resolution, 4)
        return self._dr.rasterize(self._context, clip, faces, resolution)[0]

    def interpolate(self, attributes: Tensor, rast: Tensor, faces: Tensor) -> Tensor:
        return self._dr.interpolate(attributes, rast, faces)[0]

    def antialias(self, colour: Tensor, rast: Tensor, clip: Tensor, faces: Tensor) -> Tensor:
        return self._dr.antialias(colour, rast, clip, faces)
