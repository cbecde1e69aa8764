# SPDX-License-Identifier: GPL-3.0-or-later
"""Rasterizers by name, behind one interface.

To add a rasterizer: write a module here with a class that has the methods of `Rasterizer`, and with `is_available` and
`create` as `Backend` has them; then add its line to `BACKENDS`. A job may ask for those in `protocol.RASTERIZERS`.
"""

from __future__ import annotations

from typing import Protocol

import torch

from . import cpu, nvdiffrast, warp
from .base import Rasterizer

__all__ = ["BACKENDS", "Backend", "Rasterizer", "create", "name_of", "warm_up"]


class Backend(Protocol):
    """A module with a rasterizer."""

    def is_available(self, device: str | torch.device) -> bool:
        """Whether it is installed and draws on this device."""
        ...

    def create(self, device: str | torch.device) -> Rasterizer:
        """Its rasterizer for tensors on this device. Raises ValueError with one sentence where there is none."""
        ...


# "auto" is the first that is available.
BACKENDS: dict[str, Backend] = {"nvdiffrast": nvdiffrast, "warp": warp, "cpu": cpu}


def create(name: str = "auto", device: str | torch.device = "cpu") -> Rasterizer:
    """The rasterizer of that name in `BACKENDS`. "auto" is on CUDA nvdiffrast, else Warp, where they are installed, and
    the CPU backend everywhere else.

    Raises ValueError for another name, for nvdiffrast without CUDA, and for either without its package.
    """
    if name == "auto":
        name = next(each for each, backend in BACKENDS.items() if backend.is_available(device))
    if name not in BACKENDS:
        *others, last = "auto", *BACKENDS
        raise ValueError(f"There is no rasterizer {name!r}: choose {', '.join(others)} or {last}.")
    return BACKENDS[name].create(device)


def name_of(rasterizer: Rasterizer) -> str:
    """The name of a rasterizer in `BACKENDS`: that of its module."""
    return type(rasterizer).__module__.rpartition(".")[2]


def warm_up(rasterizer: Rasterizer, device: str | torch.device = "cpu") -> None:
    """Compile every kernel for float32, or load it from the cache on disk, by drawing a triangle."""
    clip = torch.tensor([[[-0.5, -0.5, 0, 1], [0.5, -0.5, 0, 1], [0, 0.5, 0, 1]]], device=device, requires_grad=True)
    faces = torch.tensor([[0, 1, 2]], dtype=torch.int32, device=device)
    rast = rasterizer.rasterize(clip, faces, (4, 4))
    uv = rasterizer.interpolate(clip, rast, faces)[..., :2].contiguous()
    footprint = rasterizer.footprint(clip[..., :2].contiguous(), rast, faces, clip, faces)
    colour = rasterizer.texture(clip[:, None], uv, footprint)
    rasterizer.antialias(colour, rast, clip, faces).sum().backward()
