# SPDX-License-Identifier: GPL-3.0-or-later
"""The CPU backend: numba kernels with hand-written gradients, for float32 and float64."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from . import kernels
from . import texture as texture_kernels
from .base import BOUNDARIES


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


class _Context(Protocol):
    """The context that autograd hands to both passes of an operation."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _TextureContext(_Context, Protocol):
    """The context of a texture lookup, whose backward pass needs more than tensors."""

    sizes: np.ndarray  # (L, 2) height and width of each mip level
    wrap: bool
    shape: torch.Size  # of the texture


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, clip: Tensor, faces: Tensor, resolution: tuple[int, int]) -> Tensor:
        rast = clip.new_zeros(len(clip), *resolution, 4)
        kernels.rasterize(_array(clip), _array(faces), rast.numpy())
        ctx.save_for_backward(clip, faces, rast)
        return rast

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        clip, faces, rast = ctx.saved_tensors
        total = torch.zeros(clip.shape, dtype=torch.float64)
        kernels.rasterize_backward(_array(clip), _array(faces), _array(rast), _array(grad), total.numpy())
        return total.to(clip.dtype), None, None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, attributes: Tensor, rast: Tensor, faces: Tensor) -> Tensor:
        out = attributes.new_zeros(*rast.shape[:3], attributes.shape[2])
        kernels.interpolate(_array(attributes), _array(rast), _array(faces), out.numpy())
        ctx.save_for_backward(attributes, rast, faces)
        return out

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        attributes, rast, faces = ctx.saved_tensors
        to_attributes, to_rast = torch.zeros_like(attributes), torch.zeros_like(rast)
        kernels.interpolate_backward(
            _array(attributes), _array(rast), _array(faces), _array(grad), to_attributes.numpy(), to_rast.numpy()
        )
        return to_attributes, to_rast, None


class _Texture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _TextureContext, texture: Tensor, uv: Tensor, footprint: Tensor | None, wrap: bool) -> Tensor:
        batch, height, width, channels = texture.shape
        sizes = texture_kernels.mip_sizes(height, width) if footprint is not None else np.array([[height, width]])
        levels = texture.detach().reshape(batch, -1, channels)
        if footprint is None:
            footprint = uv.new_zeros(0, 0, 0, 4)
        else:
            footprint = footprint.detach() * footprint.new_tensor([width, width, height, height])
            rest = levels.new_empty(batch, int(sizes[1:].prod(axis=1).sum()), channels)
            levels = torch.cat([levels, rest], dim=1)
            texture_kernels.build_mips(_array(levels), sizes)
        out = texture.new_zeros(*uv.shape[:3], channels)
        texture_kernels.sample(_array(levels), sizes, _array(uv), _array(footprint), wrap, out.numpy())
        ctx.save_for_backward(levels, uv, footprint)
        ctx.sizes, ctx.wrap, ctx.shape = sizes, wrap, texture.shape
        return out

    @staticmethod
    def backward(ctx: _TextureContext, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        levels, uv, footprint = ctx.saved_tensors
        to_levels, to_uv = torch.zeros_like(levels), torch.zeros_like(uv)
        texture_kernels.sample_backward(
            _array(levels),
            ctx.sizes,
            _array(uv),
            _array(footprint),
            ctx.wrap,
            _array(grad),
            to_levels.numpy(),
            to_uv.numpy(),
        )
        texture_kernels.build_mips_backward(to_levels.numpy(), ctx.sizes)
        height, width = ctx.shape[1:3]
        return to_levels[:, : height * width].reshape(ctx.shape), to_uv, None, None


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, colour: Tensor, rast: Tensor, clip: Tensor, faces: Tensor) -> Tensor:
        across = torch.from_numpy(kernels.adjacency(_array(faces), clip.shape[1]))
        out = colour.detach().clone(memory_format=torch.contiguous_format)
        kernels.antialias(_array(colour), _array(rast), _array(clip), _array(faces), across.numpy(), out.numpy())
        ctx.save_for_backward(colour, rast, clip, faces, across)
        return out

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        colour, rast, clip, faces, across = ctx.saved_tensors
        to_colour = grad.clone(memory_format=torch.contiguous_format)
        total = torch.zeros(clip.shape, dtype=torch.float64)
        kernels.antialias_backward(
            _array(colour),
            _array(rast),
            _array(clip),
            _array(faces),
            across.numpy(),
            _array(grad),
            to_colour.numpy(),
            total.numpy(),
        )
        return to_colour, None, total.to(clip.dtype), None


class CpuRasterizer:
    """See `base.Rasterizer`. The same inputs give the same bytes.

    Tensors of another device are copied to the CPU and the result back, so that a GPU without a rasterizer of its own
    can be used. Antialiasing walks over the mesh to the silhouette, whose gradient thus reaches triangles finer than a
    pixel. `rasterize` raises ValueError for faces with corners outside of the vertices, `texture` for an unknown
    boundary.
    """

    def rasterize(self, clip: Tensor, faces: Tensor, resolution: tuple[int, int]) -> Tensor:
        faces = faces.cpu()
        if len(faces) and not 0 <= int(faces.min()) <= int(faces.max()) < clip.shape[1]:
            raise ValueError("A face names a vertex that is not there.")
        return _back(_Rasterize.apply(clip.cpu(), faces, resolution), clip)

    def interpolate(self, attributes: Tensor, rast: Tensor, faces: Tensor) -> Tensor:
        return _back(_Interpolate.apply(attributes.cpu(), rast.cpu(), faces.cpu()), rast)

    @torch.no_grad()
    def footprint(
        self, attributes: Tensor, rast: Tensor, attribute_faces: Tensor, clip: Tensor, faces: Tensor
    ) -> Tensor:
        attributes = attributes.cpu()
        out = attributes.new_zeros(*rast.shape[:3], 2 * attributes.shape[2])
        texture_kernels.footprint(
            _array(attributes),
            _array(rast.cpu()),
            _array(attribute_faces.cpu()),
            _array(clip.cpu()),
            _array(faces.cpu()),
            out.numpy(),
        )
        return _back(out, rast)

    def texture(self, texture: Tensor, uv: Tensor, footprint: Tensor | None = None, boundary: str = "wrap") -> Tensor:
        if boundary not in BOUNDARIES:
            raise ValueError(f"There is no boundary {boundary!r}: choose wrap or clamp.")
        level = None if footprint is None else footprint.cpu()
        return _back(_Texture.apply(texture.cpu(), uv.cpu(), level, boundary == "wrap"), uv)

    def antialias(self, colour: Tensor, rast: Tensor, clip: Tensor, faces: Tensor) -> Tensor:
        return _back(_Antialias.apply(colour.cpu(), rast.cpu(), clip.cpu(), faces.cpu()), colour)


def is_available(device: str | torch.device) -> bool:
    """True: tensors of any device are copied."""
    return True


def create(device: str | torch.device) -> CpuRasterizer:
    return CpuRasterizer()


def _back(picture: Tensor, like: Tensor) -> Tensor:
    return picture.to(like.device, non_blocking=True)
