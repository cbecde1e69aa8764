# SPDX-License-Identifier: GPL-3.0-or-later
"""Rasterizers by name, behind one interface.

To add a rasterizer: write a module here with a class that has the methods of `Rasterizer`, and with `is_available` and
`create` as `Backend` has them; then add its line to `BACKENDS`. A job may ask for those in `protocol.RASTERIZERS`.
"""

from __future__ import annotations

from typing import Protocol

import torch

from . import cpu, nvdiffrast
from .base import Rasterizer

__all__ = ["BACKENDS", "Backend", "Rasterizer", "create"]


class Backend(Protocol):
    """A module with a rasterizer."""

    def is_available(self, device: str | torch.device) -> bool:
        """Whether it is installed and draws on this device."""
        ...

    def create(self, device: str | torch.device) -> Rasterizer:
        """Its rasterizer for tensors on this device. Raises ValueError with one sentence where there is none."""
        ...


# "auto" is the first that is available.
BACKENDS: dict[str, Backend] = {"nvdiffrast": nvdiffrast, "cpu": cpu}


def create(name: str = "auto", device: str | torch.device = "cpu") -> Rasterizer:
    """The rasterizer of that name in `BACKENDS`; "auto" is nvdiffrast where the device is CUDA and it is installed.

    Raises ValueError for another name, and for nvdiffrast without CUDA or without its package.
    """
    if name == "auto":
        name = next(each for each, backend in BACKENDS.items() if backend.is_available(device))
    if name not in BACKENDS:
        *others, last = "auto", *BACKENDS
        raise ValueError(f"There is no rasterizer {name!r}: choose {', '.join(others)} or {last}.")
    return BACKENDS[name].create(device)
