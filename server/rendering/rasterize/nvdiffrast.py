# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU backend: nvdiffrast (Laine et al. 2020), which the user installs."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from .antialias import antialias
from .texture import mip_sizes


def is_available(device: str | torch.device) -> bool:
    """Whether the device is CUDA and the package is installed."""
    return torch.device(device).type == "cuda" and find_spec("nvdiffrast") is not None


def create(device: str | torch.device) -> NvdiffrastRasterizer:
    """Raises ValueError without CUDA or without the package."""
    if torch.device(device).type != "cuda":
        raise ValueError("nvdiffrast draws on CUDA devices only: choose the rasterizer cpu or auto.")
    return NvdiffrastRasterizer(device)


class NvdiffrastRasterizer:
    """See `base.Rasterizer`. Needs CUDA, and nvdiffrast, whose licence allows research and evaluation only.

    nvdiffrast takes contiguous tensors and at least one triangle. Its own antialiasing searches for a silhouette edge
    on the visible triangle only, so the silhouettes of fine meshes get almost no gradient; `antialias` follows the CPU
    backend's rule instead.
    """

    def __init__(self, device: str | torch.device):
        try:
            import nvdiffrast.torch as dr
        except ImportError:
            raise ValueError(
                "nvdiffrast is not installed: install it as the README says, or choose the rasterizer cpu."
            ) from None
        self._dr = dr
        self._context = dr.RasterizeCudaContext(device=device)

    def rasterize(self, clip: Tensor, faces: Tensor, resolution: tuple[int, int]) -> Tensor:
        if not len(faces):
            return clip.new_zeros(len(clip), *resolution, 4)
        return self._dr.rasterize(self._context, clip.contiguous(), faces.contiguous(), resolution)[0]

    def interpolate(self, attributes: Tensor, rast: Tensor, faces: Tensor) -> Tensor:
        if not len(faces):
            return attributes.new_zeros(*rast.shape[:3], attributes.shape[2])
        return self._dr.interpolate(attributes.contiguous(), rast.contiguous(), faces.contiguous())[0]

    @torch.no_grad()
    def footprint(
        self, attributes: Tensor, rast: Tensor, attribute_faces: Tensor, clip: Tensor, faces: Tensor
    ) -> Tensor:
        if not len(faces):
            return attributes.new_zeros(*rast.shape[:3], 2 * attributes.shape[2])
        slopes = self._dr.rasterize(
            self._context, clip.contiguous(), faces.contiguous(), tuple(rast.shape[1:3]), grad_db=False
        )[1]
        return self._dr.interpolate(
            attributes.contiguous(), rast.contiguous(), attribute_faces.contiguous(), rast_db=slopes, diff_attrs="all"
        )[1]

    def texture(self, texture: Tensor, uv: Tensor, footprint: Tensor | None = None, boundary: str = "wrap") -> Tensor:
        texture, uv = texture.contiguous(), uv.contiguous()
        if footprint is None:
            return self._dr.texture(texture, uv, filter_mode="linear", boundary_mode=boundary)
        return self._dr.texture(
            texture,
            uv,
            footprint.contiguous(),
            filter_mode="linear-mipmap-linear",
            boundary_mode=boundary,
            max_mip_level=len(mip_sizes(*texture.shape[1:3])) - 1,
        )

    def antialias(self, colour: Tensor, rast: Tensor, clip: Tensor, faces: Tensor) -> Tensor:
        return antialias(colour, rast, clip, faces)
