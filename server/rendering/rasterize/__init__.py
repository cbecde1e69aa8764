# SPDX-License-Identifier: GPL-3.0-or-later
"""Rasterizers by name, behind one interface."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from .base import Rasterizer
from .cpu import CpuRasterizer
from .nvdiffrast import NvdiffrastRasterizer

__all__ = ["Rasterizer", "create"]


def create(name: str = "auto", device: str | torch.device = "cpu") -> Rasterizer:
    """The rasterizer "nvdiffrast" or "cpu"; "auto" is nvdiffrast where the device is CUDA and it is installed.

    Raises ValueError for another name, and for nvdiffrast without CUDA or without its package.
    """
    cuda = torch.device(device).type == "cuda"
    if name == "auto":
        name = "nvdiffrast" if cuda and find_spec("nvdiffrast") else "cpu"
    if name == "nvdiffrast":
        if not cuda:
            raise ValueError("nvdiffrast draws on CUDA devices only: choose the rasterizer cpu or auto.")
        return NvdiffrastRasterizer(device)
    if name == "cpu":
        return CpuRasterizer()
    raise ValueError(f"There is no rasterizer {name!r}: choose auto, nvdiffrast or cpu.")
