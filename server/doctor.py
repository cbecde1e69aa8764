# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m server doctor``: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .priors import BUNDLED_MODEL, PriorError, check

GOOD, NOTE, BAD = "ok", "note", "MISSING"
ROOM = 2 << 30  # bytes that jobs should find on the disk
# CUDA's major version -> the lowest driver for Linux that runs all of it (NVIDIA, CUDA Compatibility).
DRIVERS = {13: "580.65.06", 12: "525.60.13", 11: "450.80.02"}


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
    yield from graphics()
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


def graphics() -> Iterator[Finding]:
    try:
        known = facts()
    except Exception as error:
        yield Finding(BAD, f"torch cannot be imported ({error})", "rm -r .venv && make setup")
        return
    yield from cuda(known)


@dataclass(frozen=True)
class Card:
    """A graphics card; capability: its compute capability, (0, 0) where it is not known."""

    name: str
    capability: tuple[int, int] = (0, 0)
    memory: int = 0  # bytes


@dataclass(frozen=True)
class Cuda:
    """What is known of a machine's NVIDIA cards, and of the torch that is to use them."""

    torch: str = ""  # versions; "" where there is none
    cuda: str = ""  # that torch was built for
    driver: str = ""
    toolkit: str = ""  # nvcc's
    kernels: tuple[str, ...] = ()  # of torch, as torch.cuda.get_arch_list says: sm_75, compute_120, …
    on_the_bus: int = 0  # NVIDIA cards, whether or not there is a driver for them
    listed: tuple[Card, ...] = ()  # by the driver
    usable: tuple[Card, ...] = ()  # by torch
    visible: str | None = None  # CUDA_VISIBLE_DEVICES
    fault: str = ""  # the reason for which CUDA does not start
    nvdiffrast: bool = False
    lacking: tuple[str, ...] = ()  # of g++, ninja and wheel, which nvdiffrast's build needs


def facts() -> Cuda:
    """This machine's. Raises ImportError and whatever else torch's import does."""
    import torch

    driver, listed = _driver()
    usable: tuple[Card, ...] = ()
    fault = ""
    with warnings.catch_warnings():  # they say at more length what the findings say
        warnings.simplefilter("ignore")
        if torch.version.cuda and driver:
            try:
                torch.cuda.init()
                usable = tuple(
                    Card(card.name, (card.major, card.minor), card.total_memory)
                    for card in (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
                )
            except Exception as error:
                fault = str(error).strip().split("\n")[0]
        kernels = tuple(torch.cuda.get_arch_list())
    here = Path(sys.executable).parent
    lacking = tuple(tool for tool in ("g++", "ninja") if not (shutil.which(tool) or shutil.which(tool, path=here)))
    return Cuda(
        torch.__version__,
        torch.version.cuda or "",
        driver,
        _toolkit(),
        kernels,
        _on_the_bus(),
        listed,
        usable,
        os.environ.get("CUDA_VISIBLE_DEVICES"),
        fault,
        bool(importlib.util.find_spec("nvdiffrast")),
        lacking + (() if importlib.util.find_spec("wheel") else ("wheel",)),
    )


def _said(*command: str) -> str:
    """A program's output; "" where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _driver() -> tuple[str, tuple[Card, ...]]:
    """Its version, and the cards that it lists."""
    rows = [
        line.split(", ")
        for line in _said(
            "nvidia-smi", "--query-gpu=driver_version,name,compute_cap,memory.total", "--format=csv,noheader,nounits"
        ).splitlines()
    ]
    if rows and all(len(row) == 4 for row in rows):
        return rows[0][0], tuple(
            Card(name, _pair(capability), int(memory) << 20 if memory.isdigit() else 0)
            for _, name, capability, memory in rows
        )
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "", ()
    version = re.search(r"\d{3,}\.\d+(\.\d+)?", text.partition("\n")[0])
    names = [
        re.search(r"Model:\s*(.+)", path.read_text())
        for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    ]
    return version[0] if version else "", tuple(Card(name[1] if name else "a card") for name in names)


def _toolkit() -> str:
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    nvcc = next((f"{home}/bin/nvcc" for home in homes if home), shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    found = re.search(r"release (\d+\.\d+)", _said(nvcc, "--version"))
    return found[1] if found else ""


def _on_the_bus() -> int:
    def holds(path: Path, start: str) -> bool:
        try:
            return path.read_text().startswith(start)
        except OSError:
            return False

    return sum(
        holds(device / "vendor", "0x10de") and holds(device / "class", "0x03")
        for device in Path("/sys/bus/pci/devices").glob("*")
    )


def _pair(version: str) -> tuple[int, int]:
    """(12, 6) of "12.6"; (0, 0) of what is no version."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _runs(kernel: str, capability: tuple[int, int]) -> bool:
    """Whether a card runs a kernel: of its own generation, up to its own capability; of any older one as PTX."""
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", kernel)
    if not found:
        return False
    made = int(found[2]), int(found[3])
    if found[4] == "a":  # for this very one
        return made == capability
    return made <= capability and (found[1] == "compute" and not found[4] or made[0] == capability[0])


def cuda(known: Cuda) -> Iterator[Finding]:
    """What there is to say of a machine of which this is known."""
    need = next((driver for major, driver in DRIVERS.items() if _pair(known.cuda)[0] >= major), "")
    if not known.driver:
        if known.on_the_bus:
            newest = next(iter(DRIVERS.values()))
            yield Finding(
                NOTE,
                "there is an NVIDIA card, but no driver for it: jobs run on the CPU",
                f"install NVIDIA's driver, {need or newest} or newer, then: rm -r .venv && make setup",
            )
        else:
            yield Finding(NOTE, "no NVIDIA card: jobs run on the CPU")
        return
    yield Finding(GOOD, f"NVIDIA driver {known.driver}: {', '.join(card.name for card in known.listed) or 'no card'}")
    if not known.cuda:
        yield Finding(
            NOTE,
            f"torch {known.torch} has no CUDA: jobs run on the CPU",
            "rm -r .venv && make setup (it installs CUDA's torch where nvidia-smi lists a card)",
        )
        return
    if need and _numbers(known.driver) < _numbers(need):
        older = [
            f"{major} (from {driver} on)"
            for major, driver in DRIVERS.items()
            if _numbers(known.driver) >= _numbers(driver)
        ]
        yield Finding(
            NOTE,
            f"driver {known.driver} is too old: torch {known.torch} is built for CUDA {known.cuda}, "
            f"which needs driver {need} or newer",
            f"install driver {need} or newer" + (f", or a torch built for CUDA {older[0]}" if older else ""),
        )
        return
    if not known.usable:
        if known.visible is not None:
            yield Finding(
                NOTE,
                f"CUDA_VISIBLE_DEVICES is {known.visible!r}, which hides every card: jobs run on the CPU",
                "unset it, or name a card: CUDA_VISIBLE_DEVICES=0",
            )
        else:
            yield Finding(
                NOTE,
                f"CUDA does not start ({known.fault or 'it finds no card'}): jobs run on the CPU",
                "restart the machine if its driver is new; a container must be started with --gpus all",
            )
        return
    if known.visible is not None and len(known.usable) < len(known.listed):
        yield Finding(
            GOOD,
            f"CUDA_VISIBLE_DEVICES is {known.visible!r}: {len(known.usable)} of {len(known.listed)} cards are used",
        )
    for card in known.usable:
        yield _card(card, known)
    yield _nvdiffrast(known)


def _card(card: Card, known: Cuda) -> Finding:
    capability = ".".join(map(str, card.capability))
    if not known.kernels or any(_runs(kernel, card.capability) for kernel in known.kernels):
        return Finding(
            GOOD, f"CUDA {known.cuda}: {card.name}, {card.memory / 2**30:.0f} GiB, compute capability {capability}"
        )
    made = [kernel for kernel in known.kernels if kernel.startswith("sm_")]
    older = all(card.capability < _pair(f"{kernel[3:-1]}.{kernel[-1]}") for kernel in made)
    return Finding(
        BAD,
        f"{card.name} has compute capability {capability}, but torch {known.torch} for CUDA "
        f"{known.cuda} has kernels for {', '.join(made)} only",
        (
            "install a torch built for CUDA 12.6, the last one for cards from 5.0 on"
            if older
            else "install a newer torch"
        )
        + ", or hide the card with CUDA_VISIBLE_DEVICES",
    )


def _nvdiffrast(known: Cuda) -> Finding:
    if known.nvdiffrast:
        return Finding(GOOD, "nvdiffrast")
    major = _pair(known.cuda)[0]
    needs = list(known.lacking)
    if _pair(known.toolkit)[0] != major:
        found = f"CUDA {known.toolkit}" if known.toolkit else "none"
        needs.insert(0, f"the CUDA {major} toolkit with nvcc ({found} is found; CUDA_HOME names its folder)")
    return Finding(
        NOTE,
        "nvdiffrast is not installed: the CPU rasterizer draws",
        "see the README, On a GPU, for the command and its licence"
        + (f"; its build lacks {', '.join(needs)}" if needs else ""),
    )


def bundled() -> Finding:
    found = model(BUNDLED_MODEL)
    if found.grade == GOOD:
        return Finding(GOOD, "bundled model")
    return Finding(BAD, f"bundled model: {found.what}", "git checkout server/bundled_prior/model")


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
            return Finding(
                NOTE,
                f"{host}:{port} cannot be listened on ({error.strerror})",
                "a server may run there already; else choose another --port",
            )
    return Finding(GOOD, f"{host}:{port} is free")


def main(host: str, port: int, data: Path, models: list[Path] | None) -> int:
    """Print the findings; 1 where the server will not work, 0 otherwise."""
    bad = False
    for finding in examine(host, port, data, models or []):
        bad |= finding.grade == BAD
        print(f"{finding.grade:8}{finding.what}" + (f"\n        -> {finding.mend}" if finding.mend else ""), flush=True)
    return int(bad)
