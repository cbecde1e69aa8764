# SPDX-License-Identifier: GPL-3.0-or-later
"""`nvdiffrast.torch` for the emulated device: it refuses what nvdiffrast 0.4.0 refuses, and draws with our kernels.

nvdiffrast's C++ takes tensors of one CUDA device that are contiguous, float32 and int32, with at least one triangle;
its Python adds no `.contiguous()`. A job that passes here does not die of those checks on a card.
"""

from __future__ import annotations

import torch

from server.rendering.rasterize.cpu import CpuRasterizer
from tests.emulated import DEVICE, EmulatedTensor

_cpu = CpuRasterizer()
MAX_SIZE = 1 << 15  # of a texture with mipmaps, texels along an edge
MAX_TRIANGLES = 1 << 24


class _OnHost(torch.autograd.Function):
    """A function of the CPU on tensors of the device, without copies that a card would not make."""

    @staticmethod
    def forward(ctx, function, *inputs):
        with torch.enable_grad():
            ctx.inputs = [each.held.detach().requires_grad_(each.is_floating_point()) for each in inputs]
            ctx.out = function(*ctx.inputs)
        return EmulatedTensor(ctx.out.detach())

    @staticmethod
    def backward(ctx, grad):
        leaves = [each for each in ctx.inputs if each.requires_grad]
        if not ctx.out.requires_grad:
            return None, *[None for _ in ctx.inputs]
        found = iter(torch.autograd.grad(ctx.out, leaves, grad.held, allow_unused=True, retain_graph=True))
        grads = [next(found) if each.requires_grad else None for each in ctx.inputs]
        return None, *[None if each is None else EmulatedTensor(each) for each in grads]


def _check(**tensors):
    """Device, order, type and alignment, which its kernels need to read four numbers at once."""
    for name, tensor in tensors.items():
        assert isinstance(tensor, torch.Tensor) and tensor.device == DEVICE, f"{name} must be a CUDA tensor"
        assert tensor.is_contiguous(), f"{name} must be contiguous"
        wanted = torch.int32 if name == "tri" else torch.float32
        assert tensor.dtype == wanted, f"{name} must be {wanted}, not {tensor.dtype}"
        width = {"pos": 16, "rast": 16, "rast_db": 16, "uv_da": 16, "uv": 8}.get(name, 4)
        if name == "tex":
            width = 16 if tensor.shape[-1] % 4 == 0 else 8 if tensor.shape[-1] % 2 == 0 else 4
        assert tensor.held.data_ptr() % width == 0, f"{name} is not aligned to {width} bytes"


def _check_triangles(tri):
    assert tri.ndim == 2 and 0 < tri.shape[0] <= MAX_TRIANGLES and tri.shape[1] == 3, "tri must have shape [>0, 3]"


class RasterizeCudaContext:
    def __init__(self, device=None):
        assert device is None or torch.device(device) == DEVICE, f"Expected a cuda device, but got: {device}"


def rasterize(glctx, pos, tri, resolution, ranges=None, grad_db=True):
    assert isinstance(glctx, RasterizeCudaContext) and ranges is None and type(grad_db) is bool
    assert isinstance(resolution, (tuple, list)) and len(resolution) == 2 and all(type(n) is int for n in resolution)
    _check(pos=pos, tri=tri)
    _check_triangles(tri)
    assert pos.ndim == 3 and pos.shape[0] > 0 and pos.shape[1] > 0 and pos.shape[2] == 4, "pos must be [>0, >0, 4]"
    assert all(n > 0 for n in resolution), "resolution must be [>0, >0]"
    rast = _OnHost.apply(lambda pos, tri: _cpu.rasterize(pos, tri, tuple(resolution)), pos, tri)
    corners = torch.arange(tri.numel(), dtype=torch.int32).view(-1, 3)
    weights = torch.eye(3)[None, :, :2].repeat(1, len(tri), 1)
    with torch.no_grad():  # (du/dX, du/dY, dv/dX, dv/dY)
        slopes = _cpu.footprint(weights, rast.held, corners, pos.held, tri.held)
    return rast, EmulatedTensor(slopes)


def interpolate(attr, rast, tri, rast_db=None, diff_attrs=None):
    _check(attr=attr, rast=rast, tri=tri)
    _check_triangles(tri)
    assert rast.ndim == 4 and min(rast.shape[:3]) > 0 and rast.shape[3] == 4, "rast must be [>0, >0, >0, 4]"
    assert attr.ndim == 3 and min(attr.shape) > 0 and attr.shape[0] in (1, rast.shape[0]), (
        "attr must be [>0, >0, >0], its minibatch 1 or that of rast"
    )
    out = _OnHost.apply(_cpu.interpolate, attr, rast, tri)
    if diff_attrs is None:
        return out, EmulatedTensor(torch.empty(*rast.shape[:3], 0))
    assert diff_attrs == "all" and rast_db is not None
    _check(rast_db=rast_db)
    assert rast_db.shape == rast.shape, "rast_db must have the size of rast"
    seen = rast.held[..., 3].long()
    view = torch.arange(len(seen))[:, None, None, None] if len(attr) > 1 else torch.zeros((), dtype=torch.long)
    first, second, third = attr.held[view, tri.held.long()[(seen - 1).clamp(min=0)]].unbind(dim=3)
    along = torch.stack([first - third, second - third], dim=-1) @ rast_db.held.unflatten(-1, (2, 2)).detach()
    return out, EmulatedTensor(along.flatten(-2).detach() * (seen > 0)[..., None])


def texture(
    tex, uv, uv_da=None, mip_level_bias=None, mip=None, filter_mode="auto", boundary_mode="wrap", max_mip_level=None
):
    _check(tex=tex, uv=uv)
    assert tex.ndim == 4 and min(tex.shape) > 0 and tex.shape[0] in (1, uv.shape[0]) and max(tex.shape[1:3]) <= MAX_SIZE
    assert uv.ndim == 4 and min(uv.shape) > 0 and uv.shape[3] == 2
    assert boundary_mode in ("wrap", "clamp", "zero") and mip is None and mip_level_bias is None
    if filter_mode == "linear":
        return _OnHost.apply(lambda tex, uv: _cpu.texture(tex, uv, None, boundary_mode), tex, uv)
    assert filter_mode == "linear-mipmap-linear" and type(max_mip_level) is int and max_mip_level >= 0
    _check(uv_da=uv_da)
    assert uv_da.shape == (*uv.shape[:3], 4)
    height, width = tex.shape[1:3]
    for _ in range(max_mip_level):
        assert all(edge == 1 or edge % 2 == 0 for edge in (height, width)), "a mipmap of an odd edge"
        height, width = max(1, height // 2), max(1, width // 2)
    return _OnHost.apply(lambda tex, uv, uv_da: _cpu.texture(tex, uv, uv_da.detach(), boundary_mode), tex, uv, uv_da)
