# SPDX-License-Identifier: GPL-3.0-or-later
"""The widest floating-point numbers that a device has."""

from __future__ import annotations

from torch import Tensor

NO_FLOAT64 = {"mps", "xpu"}  # types of devices: Apple's have none, and many of Intel's


def widest(values: Tensor) -> Tensor:
    """As float64, or as float32 on a device without."""
    return values.float() if values.device.type in NO_FLOAT64 else values.double()
