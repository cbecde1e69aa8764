# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop that joins prior, guidance, rendering and geometry: a prompt in, a mesh out."""

from .generate import generate, load_prior

__all__ = ["generate", "warm_up"]


def warm_up() -> None:
    """Load the bundled prior and compile the rasterizer's kernels, so that the first job starts at once."""
    from ..priors import PriorError
    from ..rendering.rasterize import cpu

    cpu.warm_up()
    try:
        load_prior("", "cpu")
    except PriorError:
        pass                                # a job that names its own model needs no bundled one
