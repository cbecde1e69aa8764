# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints: tensors and JSON in one safetensors file, whole on the disk or not there.

The server itself only counts them: torch is imported where tensors are.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


def save(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a file that survives a crash at any moment: beside it first, to the disk, then in its place.

    Raises OSError, for instance on a full disk; what was at `path` then still is.
    """
    from safetensors.torch import save as serialize

    data = serialize(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, {"state": json.dumps(state)}
    )
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The (tensors, state) of `save`. Raises ValueError for a file that is damaged or something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"The checkpoint {path.name} cannot be read ({error}).") from None


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimizer's state by flat names; its groups' settings are the caller's."""
    return {
        f"optimizer.{i}.{name}": value
        for i, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave; other names are left alone."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".")
            state.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Checkpoints:
    """The newest checkpoints of one run, in a folder of their own.

    count: how many are kept. size: bytes that they may take together; the newest is always kept.
    """

    def __init__(self, folder: Path, count: int = 2, size: int = 1 << 30):
        self.folder, self.count, self.size = folder, count, size

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Add the checkpoint of a step, then drop what is too old. Raises OSError; the older ones then stay."""
        self.folder.mkdir(exist_ok=True)
        save(self.folder / f"{step:09}.safetensors", tensors, state)
        kept = 0
        for i, path in enumerate(self._newest_first()):
            kept += path.stat().st_size
            if i and (i >= self.count or kept > self.size):
                path.unlink()

    def newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint that can be read; None where there is none."""
        for path in self._newest_first():
            try:
                return load(path)
            except ValueError:
                continue
        return None

    @property
    def step(self) -> int:
        """Of the newest checkpoint; -1 where there is none."""
        return next((int(path.stem) for path in self._newest_first()), -1)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"), reverse=True)
