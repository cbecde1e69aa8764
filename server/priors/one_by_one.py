# SPDX-License-Identifier: GPL-3.0-or-later
"""The pictures of a batch worked on one after another, in little more memory than one of them needs.

Views that a model denoises together stay together.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .base import Denoiser
from .conditions import Condition, part, views_at_once

Prior = TypeVar("Prior", bound=Denoiser)


def one_by_one(prior: Prior) -> Prior:
    """The same prior, asked for as few pictures at a time as can be.

    Its answers and all gradients are equal up to rounding, and a guidance that uses it draws the same random numbers.
    """
    return cast(Prior, _OneByOne(prior))


class _OneByOne:
    def __init__(self, prior: Any):
        self._prior = prior

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """As `Denoiser.denoise`. For its gradient, which only a student has, each picture is denoised once more."""
        ask = self._prior.denoise
        if torch.is_grad_enabled():
            ask = partial(checkpoint, ask, use_reentrant=False, preserve_rng_state=False)
        return torch.cat(
            [ask(x[view], sigma[view], part(condition, view)) for view in _views(x, views_at_once(condition))]
        )

    def encode(self, images: Tensor) -> Tensor:
        """As `TextToImagePrior.encode`."""
        return torch.cat([self._prior.encode(images[view]) for view in _views(images)])

    def student(self) -> Any:
        """As `HasStudent.student`."""
        return one_by_one(self._prior.student())


def _views(batch: Tensor, together: int = 1) -> Iterator[slice]:
    return (slice(i, i + together) for i in range(0, len(batch), together))
