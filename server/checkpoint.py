# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints: tensors and JSON in one safetensors file, written so that a crash leaves no partial file.

Only the functions that handle tensors import torch, because the server process only stores the bytes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .system import replace, sync_folder

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


def serialize(tensors: dict[str, Tensor], state: dict[str, object]) -> bytes:
    """The bytes of a checkpoint: a safetensors file whose metadata has `state` as JSON."""
    from safetensors.torch import save as to_bytes

    return to_bytes(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, {"state": json.dumps(state)}
    )


def deserialize(data: bytes) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The (tensors, state) of `serialize`. Raises ValueError if the bytes are no valid checkpoint."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        tensors = from_bytes(data)  # validates the header, but gives no access to its metadata
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return tensors, json.loads(header["__metadata__"]["state"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The checkpoint cannot be read ({error}).") from None


def write(path: Path, data: bytes) -> None:
    """Write a file atomically: to a temporary file, synced to the disk, then renamed.

    Raises OSError, for instance on a full disk; the previous file at `path` then stays.
    """
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


# A warning to the user, with the system's reason.
NOT_WRITTEN = (
    "A checkpoint could not be written ({}): the job goes on, but make room, or what it does from here is lost if the "
    "server stops."
)


def save(path: Path, tensors: dict[str, Tensor], state: dict[str, object]) -> None:
    """Write a checkpoint as `write` does. Raises OSError."""
    write(path, serialize(tensors, state))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The (tensors, state) of `save`. Raises ValueError if the file is no valid checkpoint."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"The checkpoint {path.name} cannot be read ({error}).") from None


def is_readable(path: Path) -> bool:
    """Whether a file is a complete checkpoint, by its header, length and state; does not import torch."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            json.loads(file.metadata()["state"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError):
        return False
    return True


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimizer's state by flat names, without the settings of its parameter groups."""
    return {
        f"optimizer.{i}.{name}": value
        for i, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the state of `optimizer_tensors`; ignores other names."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".")
            state.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Checkpoints:
    """The newest checkpoints of one run, in a folder of their own.

    Args:
        count: the number to keep.
        size: their total bytes at most; the newest is always kept.
    """

    def __init__(self, folder: Path, count: int = 2, size: int = 1 << 30):
        self.folder, self.count, self.size = folder, count, size

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, object]) -> None:
        """Add the checkpoint of a step, then drop the oldest. Raises OSError; the older ones then remain."""
        self.write(step, serialize(tensors, state))

    def write(self, step: int, data: bytes) -> None:
        """As `save`, with the bytes of `serialize`."""
        self.folder.mkdir(exist_ok=True)
        write(self.folder / f"{step:09}.safetensors", data)
        kept = 0
        for i, path in enumerate(self._newest_first()):
            kept += path.stat().st_size
            if i and (i >= self.count or kept > self.size):
                path.unlink()

    def newest(self) -> tuple[dict[str, Tensor], dict[str, object]] | None:
        """The (tensors, state) of the newest checkpoint that can be read; None if there is none."""
        for path in self._newest_first():
            try:
                return load(path)
            except ValueError:
                continue
        return None

    def read(self) -> tuple[int, bytes] | None:
        """The (step, bytes) of the newest checkpoint that can be read; None if there is none."""
        for path in self._newest_first():
            if is_readable(path):
                return int(path.stem), path.read_bytes()
        return None

    @property
    def step(self) -> int:
        """The step of the newest checkpoint; -1 if there is none."""
        return next((int(path.stem) for path in self._newest_first()), -1)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"), reverse=True)
