# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop that joins prior, guidance, rendering and geometry: a prompt in, a mesh out."""

import gc

import numpy as np
import torch
from numpy.typing import NDArray

from .. import priors
from ..geometry.mesh import Mesh
from ..geometry.validation import validate
from ..rendering.rasterize import cpu
from .device import backend, choose_device, device_in_use, is_device_fault, is_out_of_memory
from .loop import Optimization, Paused, generate
from .settings import Settings

__all__ = [
    "Optimization",
    "Paused",
    "Settings",
    "checked",
    "device_in_use",
    "generate",
    "is_device_fault",
    "is_out_of_memory",
    "release",
    "warm_up",
]


def checked(arrays: dict[str, NDArray[np.generic]]) -> Mesh:
    """The mesh of an upload's arrays. Raises ValueError with one sentence where it cannot be worked on."""
    return validate(Mesh.from_arrays(arrays))


def release() -> None:
    """Give back the memory that only the next job needs: the loaded prior, and PyTorch's reserve on the card."""
    priors.clear_cache()
    gc.collect()
    if (device := choose_device("auto").type) != "cpu":
        backend(device).empty_cache()


def warm_up() -> None:
    """Load the bundled prior and compile the rasterizer's kernels, so that the first job starts at once."""
    cpu.warm_up()
    try:
        priors.load_cached(priors.Selection(), torch.device("cpu"))
    except priors.PriorError:
        pass  # a job that names its own model needs no bundled one
