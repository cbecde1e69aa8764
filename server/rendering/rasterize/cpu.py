# SPDX-License-Identifier: GPL-3.0-or-later
"""The CPU backend: numba kernels with hand-written gradients, for float32 and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import kernels


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, clip: Tensor, faces: Tensor, resolution: tuple[int, int]) -> Tensor:
        rast = clip.new_zeros(len(clip), *resolution, 4)
        kernels.rasterize(_array(clip), _array(faces), rast.numpy())
        ctx.save_for_backward(clip, faces, rast)
        return rast

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        clip, faces, rast = ctx.saved_tensors
        total = torch.zeros(clip.shape, dtype=torch.float64)
        kernels.rasterize_backward(_array(clip), _array(faces), _array(rast), _array(grad), total.numpy())
        return total.to(clip.dtype), None, None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, attributes: Tensor, rast: Tensor, faces: Tensor) -> Tensor:
        out = attributes.new_zeros(*rast.shape[:3], attributes.shape[2])
        kernels.interpolate(_array(attributes), _array(rast), _array(faces), out.numpy())
        ctx.save_for_backward(attributes, rast, faces)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        attributes, rast, faces = ctx.saved_tensors
        to_attributes, to_rast = torch.zeros_like(attributes), torch.zeros_like(rast)
        kernels.interpolate_backward(_array(attributes), _array(rast), _array(faces), _array(grad),
                                     to_attributes.numpy(), to_rast.numpy())
        return to_attributes, to_rast, None


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, colour: Tensor, rast: Tensor, clip: Tensor, faces: Tensor) -> Tensor:
        across = torch.from_numpy(kernels.adjacency(_array(faces), clip.shape[1]))
        out = colour.detach().clone(memory_format=torch.contiguous_format)
        kernels.antialias(_array(colour), _array(rast), _array(clip), _array(faces), across.numpy(), out.numpy())
        ctx.save_for_backward(colour, rast, clip, faces, across)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        colour, rast, clip, faces, across = ctx.saved_tensors
        to_colour = grad.clone(memory_format=torch.contiguous_format)
        total = torch.zeros(clip.shape, dtype=torch.float64)
        kernels.antialias_backward(_array(colour), _array(rast), _array(clip), _array(faces), across.numpy(),
                                   _array(grad), to_colour.numpy(), total.numpy())
        return to_colour, None, total.to(clip.dtype), None


class CpuRasterizer:
    """See `base.Rasterizer`. The same inputs give the same bytes.

    Antialiasing walks over the mesh to the silhouette, so triangles finer than a pixel keep its gradient.
    """

    supersample = 1

    def rasterize(self, clip: Tensor, faces: Tensor, resolution: tuple[int, int]) -> Tensor:
        if len(faces) and int(faces.max()) >= clip.shape[1]:
            raise ValueError("A face names a vertex that is not there.")
        return _Rasterize.apply(clip, faces, resolution)  # type: ignore[no-any-return]

    def interpolate(self, attributes: Tensor, rast: Tensor, faces: Tensor) -> Tensor:
        return _Interpolate.apply(attributes, rast, faces)  # type: ignore[no-any-return]

    def antialias(self, colour: Tensor, rast: Tensor, clip: Tensor, faces: Tensor) -> Tensor:
        return _Antialias.apply(colour, rast, clip, faces)  # type: ignore[no-any-return]


def warm_up() -> None:
    """Compile every kernel, or load it from numba's cache on disk."""
    rasterizer = CpuRasterizer()
    clip = torch.tensor([[[-0.5, -0.5, 0, 1], [0.5, -0.5, 0, 1], [0, 0.5, 0, 1]]], requires_grad=True)
    faces = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    rast = rasterizer.rasterize(clip, faces, (4, 4))
    colour = rasterizer.interpolate(clip, rast, faces)
    rasterizer.antialias(colour, rast, clip, faces).sum().backward()
