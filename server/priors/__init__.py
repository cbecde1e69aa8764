# SPDX-License-Identifier: GPL-3.0-or-later
"""Priors: text-to-image models behind one contract, and the conditions that they are asked with."""

from .base import Denoiser, HasCost, Prior, PriorError, SavesMemory, TextToImagePrior, TrainableDenoiser
from .conditions import Condition, Views
from .loading import (
    BUNDLED_MODEL,
    PIPELINES,
    Pipeline,
    Selection,
    check,
    clear_cache,
    least_memory,
    load,
    load_cached,
    reading,
)

__all__ = [
    "BUNDLED_MODEL",
    "PIPELINES",
    "Condition",
    "Denoiser",
    "HasCost",
    "Pipeline",
    "Prior",
    "PriorError",
    "SavesMemory",
    "Selection",
    "TextToImagePrior",
    "TrainableDenoiser",
    "Views",
    "check",
    "clear_cache",
    "least_memory",
    "load",
    "load_cached",
    "reading",
]
