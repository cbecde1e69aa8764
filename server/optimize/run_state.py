# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a run at one iteration, as a checkpoint keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Protocol

from torch import Tensor

from ..assets import AssetState


class CheckpointStore(Protocol):
    """Where a run keeps its checkpoints, such as `checkpoint.Checkpoints`."""

    @property
    def step(self) -> int:
        """Of the newest checkpoint; -1 where there is none."""
        ...

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, object]) -> None:
        """Keep the checkpoint of a step. Raises OSError where it cannot be written; older ones then stay."""
        ...

    def newest(self) -> tuple[dict[str, Tensor], dict[str, object]] | None:
        """The tensors and state of the newest checkpoint that can be read."""
        ...


@dataclass
class Counters:
    """The state of a run that is no tensor, as a checkpoint keeps it."""

    phase: int  # number in the plan
    asset: str  # key in `ASSETS`
    edit: str  # the last edit that was taken up
    iteration: int
    denoiser_calls: int
    version: int  # of the last snapshot
    seconds: dict[str, float]
    elapsed: float
    details: bool = False  # see `AssetState.keep_details`
    prompts: list[str] | None = None  # the prompt and the negative one; None: not known
    finish_at: int | None = None  # the iteration at which the run was asked to finish
    repeated: list[int] | None = None  # iterations of each phase before an edit of the prompt began it anew; None: none

    @classmethod
    def of(cls, state: Mapping[str, object]) -> Counters:
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in state.items() if name in known})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Checkpoint:
    """A run at one iteration."""

    tensors: dict[str, Tensor]
    counters: Counters

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, under the rest of their names."""
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}

    @property
    def asset(self) -> AssetState:
        return AssetState(self.counters.asset, self.part("asset."), self.counters.details)
