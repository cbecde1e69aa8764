# SPDX-License-Identifier: GPL-3.0-or-later
"""The Warp backend: kernels that NVIDIA Warp (Apache-2.0) compiles for CUDA and for the CPU, without a toolkit."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor

from .antialias import adjacency
from .base import BOUNDARIES
from .texture import mip_sizes

LARGE = 256  # pixels of a triangle's box above which many threads draw it
WORKERS = 1 << 16  # threads that share the tiles of a view's large triangles
MAX_TRIANGLES = (1 << 24) - 1  # ids beyond are no longer whole numbers of float32


def is_available(device: str | torch.device) -> bool:
    """Whether the device is CUDA, and the package is installed and finds its driver new enough.

    On the CPU it works, too, but "auto" leaves that to the CPU backend, which is faster there.
    """
    if torch.device(device).type != "cuda" or find_spec("warp") is None:
        return False
    return bool(_package().is_cuda_available())


def create(device: str | torch.device) -> WarpRasterizer:
    """Raises ValueError without the package, and for a device that is neither CUDA nor the CPU."""
    if torch.device(device).type not in ("cuda", "cpu"):
        raise ValueError("Warp draws on CUDA devices and on the CPU only: choose the rasterizer cpu or auto.")
    return WarpRasterizer()


def _package() -> ModuleType:
    """Warp, which takes a second to import and prints its version, if nobody tells it not to."""
    try:
        import warp
    except ImportError:
        raise ValueError("Warp is not installed: pip install warp-lang, or choose the rasterizer cpu.") from None
    warp.config.log_level = max(warp.config.log_level, warp.LOG_WARNING)
    return warp


@cache
def kernels(dtype: torch.dtype) -> SimpleNamespace:
    """The kernels for tensors of this type, by name. Raises ValueError without the package."""
    wp = _package()
    from . import warp_kernels

    return warp_kernels.kernels(wp.dtype_from_torch(dtype))


def launch(kernel: Any, dim: int | tuple[int, ...], *arguments: Tensor | int) -> None:
    """Run a kernel on its tensors, without copies, on PyTorch's current stream. The host does not wait.

    A tensor has as many axes as the kernel's array, and one more where the array is of vectors.
    """
    wp = _package()
    device = next(each.device for each in arguments if isinstance(each, Tensor))
    values = [
        wp.from_torch(each, dtype=kind.dtype, requires_grad=False, return_ctype=True)
        if isinstance(each, Tensor)
        else each
        for each, kind in zip(arguments, kernel.func.__annotations__.values())
    ]
    if device.type == "cuda":
        wp.launch(kernel, dim, values, stream=wp.stream_from_torch(torch.cuda.current_stream(device)))
    else:
        wp.launch(kernel, dim, values, device="cpu")


class _Context(Protocol):
    """The context that autograd hands to both passes of an operation."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _TextureContext(_Context, Protocol):
    sizes: list[tuple[int, int]]  # height and width of each mip level
    wrap: bool


def _pixels(picture: Tensor) -> Tensor:
    """(P, C) of (B, H, W, C)."""
    return picture.reshape(-1, picture.shape[-1])


def _corners(clip: Tensor) -> Tensor:
    return clip.reshape(-1, 4)


def _to_clip(grad: Tensor, clip: Tensor) -> Tensor:
    """The gradient (B V, 3) of x, y and w, as that of clip."""
    x, y, w = grad.to(clip.dtype).unbind(1)
    return torch.stack([x, y, torch.zeros_like(x), w], dim=1).view_as(clip)


def _view(tensor: Tensor, like: Tensor) -> int:
    """Pixels of a view of `like` (B, H, W, C), or 0 if `tensor` is the same for all views."""
    return like.shape[1] * like.shape[2] if len(tensor) > 1 else 0


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, clip: Tensor, faces: Tensor, resolution: tuple[int, int], large: int) -> Tensor:
        run = kernels(clip.dtype)
        views, (height, width) = len(clip), resolution
        nearest = torch.full((views * height * width,), 2**63 - 1, dtype=torch.int64, device=clip.device)
        split = large < height * width
        queue = nearest.new_empty(views, len(faces) if split else 0)
        total = nearest.new_zeros(views)
        corners = _corners(clip)
        drawing = (nearest, queue, total)
        launch(run.rasterize, (views, len(faces)), corners, faces, height, width, large, *drawing)
        if split:
            launch(run.rasterize_large, (views, WORKERS), corners, faces, height, width, WORKERS, *drawing)
        rast = clip.new_zeros(views, height, width, 4)
        launch(run.resolve, len(nearest), corners, clip.shape[1], faces, height, width, nearest, _pixels(rast))
        ctx.save_for_backward(clip, faces, rast)
        return rast

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        clip, faces, rast = ctx.saved_tensors
        corners, pixels = _corners(clip), _pixels(rast)
        total = corners.new_zeros(len(corners), 3, dtype=torch.float64)
        launch(
            kernels(clip.dtype).rasterize_backward,
            len(pixels),
            corners,
            clip.shape[1],
            faces,
            *rast.shape[1:3],
            pixels,
            _pixels(grad.contiguous()),
            total,
        )
        return _to_clip(total, clip), None, None, None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, attributes: Tensor, rast: Tensor, faces: Tensor) -> Tensor:
        out = attributes.new_zeros(*rast.shape[:3], attributes.shape[2])
        pixels = _pixels(rast)
        launch(
            kernels(rast.dtype).interpolate,
            len(pixels),
            attributes,
            pixels,
            faces,
            _view(attributes, rast),
            _pixels(out),
        )
        ctx.save_for_backward(attributes, rast, faces)
        return out

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        attributes, rast, faces = ctx.saved_tensors
        to_attributes, to_rast, pixels = torch.zeros_like(attributes), torch.zeros_like(rast), _pixels(rast)
        launch(
            kernels(rast.dtype).interpolate_backward,
            len(pixels),
            attributes,
            pixels,
            faces,
            _view(attributes, rast),
            _pixels(grad.contiguous()),
            to_attributes,
            _pixels(to_rast),
        )
        return to_attributes, to_rast, None


class _Texture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _TextureContext, texture: Tensor, uv: Tensor, footprint: Tensor | None, wrap: bool) -> Tensor:
        run = kernels(uv.dtype)
        batch, height, width, channels = texture.shape
        sizes = [(height, width)]
        levels = texture.reshape(batch, -1, channels)
        if footprint is None:
            footprint = uv.new_zeros(0, 0, 0, 4)
        else:
            footprint = torch.cat([footprint[..., :2] * width, footprint[..., 2:] * height], dim=3)
            sizes = [(rows, columns) for rows, columns in mip_sizes(height, width).tolist()]
            rest = levels.new_empty(batch, sum(rows * columns for rows, columns in sizes[1:]), channels)
            levels = torch.cat([levels, rest], dim=1)
            for dim, edges in _halvings(batch, sizes):
                launch(run.halve, dim, levels, *edges)
        out = uv.new_zeros(*uv.shape[:3], channels)
        of = (levels, len(sizes), height, width, _pixels(uv), _pixels(footprint), _view(levels, uv), int(wrap))
        launch(run.sample, len(_pixels(uv)), *of, _pixels(out))
        ctx.save_for_backward(levels, uv, footprint)
        ctx.sizes, ctx.wrap = sizes, wrap
        return out

    @staticmethod
    def backward(ctx: _TextureContext, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        levels, uv, footprint = ctx.saved_tensors
        run = kernels(uv.dtype)
        height, width = ctx.sizes[0]
        to_levels, to_uv = torch.zeros_like(levels), torch.zeros_like(uv)
        of = (levels, len(ctx.sizes), height, width, _pixels(uv), _pixels(footprint), _view(levels, uv), int(ctx.wrap))
        launch(run.sample_backward, len(_pixels(uv)), *of, _pixels(grad.contiguous()), to_levels, _pixels(to_uv))
        for dim, edges in reversed(_halvings(len(levels), ctx.sizes)):
            launch(run.halve_backward, dim, to_levels, *edges)
        return to_levels[:, : height * width].view(len(levels), height, width, -1), to_uv, None, None


def _halvings(batch: int, sizes: list[tuple[int, int]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """For each mip level but the first: threads, and (first texel of the level before, its own, the former's edges)."""
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    fine = 0
    for before, size in zip(sizes, sizes[1:]):
        coarse = fine + before[0] * before[1]
        found.append(((batch, *size), (fine, coarse, *before)))
        fine = coarse
    return found


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, colour: Tensor, rast: Tensor, clip: Tensor, faces: Tensor) -> Tensor:
        across = adjacency(faces.long(), clip.shape[1]).int()
        out = colour.clone()
        pixels = _pixels(rast)
        of = (_pixels(colour), pixels, _corners(clip), clip.shape[1], faces, across, *rast.shape[1:3])
        launch(kernels(rast.dtype).antialias, len(pixels), *of, _pixels(out))
        ctx.save_for_backward(colour, rast, clip, faces, across)
        return out

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        colour, rast, clip, faces, across = ctx.saved_tensors
        grad, pixels, corners = grad.contiguous(), _pixels(rast), _corners(clip)
        to_colour, total = grad.clone(), corners.new_zeros(len(corners), 3, dtype=torch.float64)
        of = (_pixels(colour), pixels, corners, clip.shape[1], faces, across, *rast.shape[1:3])
        launch(kernels(rast.dtype).antialias_backward, len(pixels), *of, _pixels(grad), _pixels(to_colour), total)
        return to_colour, None, _to_clip(total, clip), None


class WarpRasterizer:
    """See `base.Rasterizer`. Tensors are float32, or float64 for checks of gradients, and those of a call are alike.

    On the CPU the same inputs give the same bytes. On CUDA so does `rasterize`; gradients and the blends of
    antialiasing are sums whose order is that of atomic additions.

    `rasterize` raises ValueError for more than `MAX_TRIANGLES`, and on the CPU for faces with corners outside of the
    vertices; on CUDA, where the host would have to wait to know, those are not drawn. `texture` raises ValueError for
    an unknown boundary.
    """

    def __init__(self, large: int | None = None):
        """large: pixels of a triangle's box above which it is divided among threads; by default only on CUDA."""
        kernels(torch.float32)
        self._large = large

    def rasterize(self, clip: Tensor, faces: Tensor, resolution: tuple[int, int]) -> Tensor:
        if len(faces) > MAX_TRIANGLES:
            raise ValueError(f"At most {MAX_TRIANGLES:,} triangles can be drawn, and these are {len(faces):,}.")
        large = self._large
        if clip.device.type == "cpu":
            if len(faces) and not 0 <= int(faces.min()) <= int(faces.max()) < clip.shape[1]:
                raise ValueError("A face names a vertex that is not there.")
            large = large or 2**31 - 1
        return _Rasterize.apply(clip.contiguous(), faces.contiguous(), resolution, large or LARGE)

    def interpolate(self, attributes: Tensor, rast: Tensor, faces: Tensor) -> Tensor:
        return _Interpolate.apply(attributes.contiguous(), rast.contiguous(), faces.contiguous())

    @torch.no_grad()
    def footprint(
        self, attributes: Tensor, rast: Tensor, attribute_faces: Tensor, clip: Tensor, faces: Tensor
    ) -> Tensor:
        out = attributes.new_zeros(*rast.shape[:3], 2 * attributes.shape[2])
        pixels = _pixels(rast.contiguous())
        launch(
            kernels(rast.dtype).footprint,
            len(pixels),
            attributes.contiguous(),
            pixels,
            attribute_faces.contiguous(),
            _corners(clip.contiguous()),
            clip.shape[1],
            faces.contiguous(),
            *rast.shape[1:3],
            _pixels(out),
        )
        return out

    def texture(self, texture: Tensor, uv: Tensor, footprint: Tensor | None = None, boundary: str = "wrap") -> Tensor:
        if boundary not in BOUNDARIES:
            raise ValueError(f"There is no boundary {boundary!r}: choose wrap or clamp.")
        level = None if footprint is None else footprint.detach().contiguous()
        return _Texture.apply(texture.contiguous(), uv.contiguous(), level, boundary == "wrap")

    def antialias(self, colour: Tensor, rast: Tensor, clip: Tensor, faces: Tensor) -> Tensor:
        return _Antialias.apply(colour.contiguous(), rast.contiguous(), clip.contiguous(), faces.contiguous())
