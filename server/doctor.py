# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m server doctor``: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .priors import BUNDLED_MODEL, PriorError
from .priors.files import check

GOOD, NOTE, BAD = "ok", "note", "MISSING"
ROOM = 2 << 30                              # bytes that jobs should find on the disk


@dataclass
class Finding:
    """One line. grade: GOOD; NOTE, something optional is not there; or BAD, the server will not work."""

    grade: str
    what: str
    mend: str = ""


def examine(host: str, port: int, data: Path, models: list[Path]) -> Iterator[Finding]:
    """All findings, one after another."""
    yield python()
    yield from packages()
    yield from cuda()
    yield bundled()
    for folder in models:
        yield model(folder)
    yield disk(data)
    yield listening(host, port)


def python() -> Finding:
    found = f"Python {sys.version.split()[0]}"
    if sys.version_info[:2] == (3, 11):
        return Finding(GOOD, found)
    return Finding(BAD, f"{found}, but 3.11 is needed", "install Python 3.11, then: PYTHON=python3.11 make setup")


def packages() -> Iterator[Finding]:
    for name in ("torch", "diffusers", "transformers", "numba", "fastapi", "uvicorn", "xatlas", "trimesh"):
        try:
            yield Finding(GOOD, f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding(BAD, f"{name} is not installed", "make setup")


def cuda() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:
        yield Finding(BAD, f"torch cannot be imported ({error})", "rm -r .venv && make setup")
        return
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(i)
            yield Finding(GOOD, f"CUDA {torch.version.cuda}: {card.name}, {card.total_memory / 2**30:.0f} GiB")
        if importlib.util.find_spec("nvdiffrast"):
            yield Finding(GOOD, "nvdiffrast")
        else:
            yield Finding(NOTE, "nvdiffrast is not installed: the CPU rasterizer draws",
                          "see the README, On a GPU, for the command and its licence")
    elif list(Path("/proc/driver/nvidia/gpus").glob("*")):
        yield Finding(NOTE, "there is an NVIDIA card, but this torch has no CUDA",
                      "rm -r .venv && make setup (it asks nvidia-smi)")
    else:
        yield Finding(NOTE, "no CUDA device: jobs run on the CPU")


def bundled() -> Finding:
    found = model(BUNDLED_MODEL)
    if found.grade == GOOD:
        return Finding(GOOD, "bundled model")
    return Finding(BAD, f"bundled model: {found.what}", "git checkout server/bundled/model")


def model(folder: Path) -> Finding:
    try:
        check(folder)
    except PriorError as error:
        return Finding(BAD, str(error))
    return Finding(GOOD, f"model {folder}")


def disk(data: Path) -> Finding:
    place = data
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    what = f"{free / 2**30:.1f} GiB free for {data}"
    probe = place / ".msd-doctor"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Finding(BAD, f"{place} cannot be written ({error.strerror})", "choose another folder with --data")
    if free < ROOM:
        return Finding(NOTE, what, f"jobs may need {ROOM / 2**30:.0f} GiB: make room, or choose another --data")
    return Finding(GOOD, what)


def listening(host: str, port: int) -> Finding:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Finding(NOTE, f"{host}:{port} cannot be listened on ({error.strerror})",
                           "a server may run there already; else choose another --port")
    return Finding(GOOD, f"{host}:{port} is free")


def main(host: str, port: int, data: Path, models: list[Path] | None) -> int:
    """Print the findings; 1 where the server will not work, 0 otherwise."""
    bad = False
    for finding in examine(host, port, data, models or []):
        bad |= finding.grade == BAD
        print(f"{finding.grade:8}{finding.what}" + (f"\n        -> {finding.mend}" if finding.mend else ""), flush=True)
    return int(bad)
