# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop that joins prior, guidance, rendering and geometry: a prompt in, a mesh out."""

import numpy as np

from ..geometry.check import check
from ..geometry.mesh import Mesh
from .generate import Paused, generate, load_prior
from .settings import Settings

__all__ = ["Paused", "Settings", "checked", "device_in_use", "generate", "is_out_of_memory", "warm_up"]


def checked(arrays: dict[str, np.ndarray]) -> Mesh:
    """The mesh of an upload's arrays. Raises ValueError with one sentence where it cannot be worked on."""
    return check(Mesh.of(arrays))


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory of the machine or of its card ran out."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def device_in_use() -> dict[str, str | int]:
    """What jobs run on where their request leaves it open: its name, and the bytes that this process holds and all."""
    import psutil
    import torch

    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return {"device": card.name, "memory": torch.cuda.memory_reserved(0), "memory_total": card.total_memory}
    cores = torch.get_num_threads()
    return {"device": f"CPU, {cores} core{'s' if cores > 1 else ''}", "memory": psutil.Process().memory_info().rss,
            "memory_total": psutil.virtual_memory().total}


def warm_up() -> None:
    """Load the bundled prior and compile the rasterizer's kernels, so that the first job starts at once."""
    from ..priors import PriorError
    from ..rendering.rasterize import cpu

    cpu.warm_up()
    try:
        load_prior("", "cpu")
    except PriorError:
        pass                                # a job that names its own model needs no bundled one
