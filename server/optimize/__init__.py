# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop that joins prior, guidance, rendering and geometry: a prompt in, a mesh out."""

import gc
import logging
import time

import numpy as np
import torch
from numpy.typing import NDArray

from .. import priors
from ..assets.colour_grid import DENSE, ColourGrid
from ..geometry.mesh import Mesh
from ..geometry.validation import validate
from ..rendering import rasterize
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


log = logging.getLogger(__name__)


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
    """Load the bundled prior and compile the rasterizers' kernels, so that the first job starts at once.

    On a card that is the rasterizer that a job takes there, too; the log says how long it took.
    """
    rasterize.warm_up(rasterize.create("cpu"))
    centre = torch.zeros(1, 3)
    ColourGrid((2, 2 * DENSE - 1), 1, surface=[centre])(centre).sum().backward()
    device = choose_device("auto")
    if device.type == "cuda":
        rasterizer = rasterize.create("auto", device)
        name, start = rasterize.name_of(rasterizer), time.perf_counter()
        log.info("Loading the kernels of the %s rasterizer, which are compiled the first time …", name)
        rasterize.warm_up(rasterizer, device)
        log.info("The kernels of the %s rasterizer are ready after %.1f s", name, time.perf_counter() - start)
    try:
        priors.load_cached(priors.Selection(), torch.device("cpu"))
    except priors.PriorError:
        pass  # a job that names its own model needs no bundled one
