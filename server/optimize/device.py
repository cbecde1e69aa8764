# SPDX-License-Identifier: GPL-3.0-or-later
"""The device that a job runs on, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

LABELS = {"cuda": "CUDA", "mps": "Apple", "xpu": "Intel"}
# Each library says in its own words that an allocation failed; 2 is cudaErrorMemoryAllocation.
OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|out of memory|out_of_memory|Cuda error: 2\b|alloc_failed|_ALLOCATION_FAILED"
    r"|unable to find an engine|valid cudnn algorithm",
    re.IGNORECASE,
)
DEVICE_FAULT = re.compile(r"\b(CUDA|HIP)( driver)? error|cuDNN error|CU(BLAS|DNN|SPARSE|SOLVER)_STATUS_", re.IGNORECASE)


def choose_device(name: str) -> torch.device:
    """The device of a request: "auto" is the first of CUDA, MPS, XPU and the CPU that is here; CUDA is ROCm, too.

    Raises ValueError for one that is not here.
    """
    places = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": torch.xpu}
    here = [*(each for each, place in places.items() if place.is_available()), "cpu"]
    if name == "auto":
        return torch.device(here[0])
    if name not in here:
        raise ValueError(f"There is no {LABELS[name]} device here: choose the device {' or '.join(here)}, or auto.")
    return torch.device(name)


def backend(name: str) -> Any:
    """PyTorch's module of a type of device, such as `torch.cuda`."""
    return {"cuda": torch.cuda, "mps": torch.mps, "xpu": torch.xpu}[name]


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """A block in which PyTorch gives the same bits every time on the CPU; on CUDA atomic adds may differ.

    Without it several threads add up an indexing's gradient in any order.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def device_in_use() -> dict[str, str | int]:
    """The device of jobs whose request leaves it open: its name, the bytes this process holds of it and all it has."""
    device = choose_device("auto").type
    if device == "mps":
        held, total = torch.mps.driver_allocated_memory(), torch.mps.recommended_max_memory()
        return {"device": "Apple GPU", "memory": held, "memory_total": total}
    if device != "cpu":
        card = backend(device).get_device_properties(0)
        return {"device": card.name, "memory": backend(device).memory_reserved(0), "memory_total": card.total_memory}
    cores = torch.get_num_threads()
    return {
        "device": f"CPU, {cores} core{'s' if cores > 1 else ''}",
        "memory": psutil.Process().memory_info().rss,
        "memory_total": psutil.virtual_memory().total,
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the machine or of its card ran out, by the error or by one that it was raised from."""
    return any(
        isinstance(each, (MemoryError, torch.OutOfMemoryError))
        or isinstance(each, RuntimeError)
        and OUT_OF_MEMORY.search(str(each)) is not None
        for each in _causes(error)
    )


def is_device_fault(error: BaseException) -> bool:
    """Whether the device refused, other than for lack of memory: CUDA then refuses all that this process asks next."""
    if is_out_of_memory(error):
        return False
    accelerator = getattr(torch, "AcceleratorError", ())  # of PyTorch 2.8 and later
    return any(
        isinstance(each, accelerator) or isinstance(each, RuntimeError) and DEVICE_FAULT.search(str(each)) is not None
        for each in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
