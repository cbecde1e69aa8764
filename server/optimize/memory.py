# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory of a run: how much it will need, and how much it held at most."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

GIB = 2**30


class PeakMemory:
    """The most bytes that were held since it was made: by PyTorch's tensors on a card, by this process on the CPU.

    On a CPU without Linux's count of its own, only what is held whenever `bytes` is asked for is seen.
    """

    def __init__(self, device: torch.device):
        self._cuda, self._highest = device.type == "cuda", 0
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see man 5 proc
            except OSError:
                pass

    @property
    def bytes(self) -> int:
        if self._cuda:
            return torch.cuda.max_memory_allocated()
        self._highest = max(self._highest, psutil.Process().memory_info().rss, _resident_peak())
        return self._highest


def _resident_peak() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
