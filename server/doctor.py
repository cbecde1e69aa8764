# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m server doctor``: check this machine, and print a fix for each missing part."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .priors import BUNDLED_MODEL, PriorError, check
from .priors.catalogue import catalogue
from .priors.files.kinds import MODEL
from .priors.files.places import is_model

GOOD, NOTE, BAD = "ok", "note", "MISSING"
FREE_BYTES = 2 << 30  # bytes of free disk space that jobs may need
# CUDA's major version -> the lowest driver that runs all of it (NVIDIA, CUDA Compatibility).
DRIVERS = (
    {13: "580", 12: "528.33", 11: "452.39"}
    if sys.platform == "win32"
    else {13: "580.65.06", 12: "525.60.13", 11: "450.80.02"}
)
_PROJECT = (Path(__file__).parents[1] / "Makefile").is_file() and os.name != "nt"
SETUP = "make setup" if _PROJECT else "python install.py"
SETUP_AGAIN = "rm -r .venv && make setup" if _PROJECT else "python install.py --uninstall, and then python install.py"


@dataclass
class Finding:
    """One line of the report.

    grade: GOOD; NOTE, something optional is missing; or BAD, the server will not work. mend: the fix.
    """

    grade: str
    what: str
    mend: str = ""


def examine(host: str, port: int, data: Path, models: list[Path]) -> Iterator[Finding]:
    """Check one part after another."""
    yield python()
    yield from packages()
    yield from graphics()
    yield bundled()
    yield from listed(models)
    yield disk(data)
    yield listening(host, port)


def python() -> Finding:
    installed = f"Python {sys.version.split()[0]}"
    if sys.version_info[:2] in ((3, 11), (3, 13)):
        return Finding(GOOD, installed)
    if sys.version_info[:2] == (3, 12):
        return Finding(
            NOTE,
            f"{installed}: there is no bpy for it, so only Blender itself writes .blend files",
            f"to write them without Blender, install Python 3.11 or 3.13, then: {SETUP}",
        )
    return Finding(BAD, f"{installed}, but 3.11, 3.12 or 3.13 is needed", f"install one of them, then: {SETUP}")


def packages() -> Iterator[Finding]:
    for name in ("torch", "diffusers", "transformers", "numba", "fastapi", "uvicorn", "xatlas", "trimesh"):
        try:
            yield Finding(GOOD, f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding(BAD, f"{name} is not installed", SETUP)


def graphics() -> Iterator[Finding]:
    try:
        known = facts()
    except Exception as error:
        yield Finding(BAD, f"torch cannot be imported ({error})", SETUP_AGAIN)
        return
    yield from cuda(known)
    yield rasterizer(known)


@dataclass(frozen=True)
class Card:
    """A graphics card; capability: its compute capability, (0, 0) if unknown."""

    name: str
    capability: tuple[int, int] = (0, 0)
    memory: int = 0  # bytes


@dataclass(frozen=True)
class Cuda:
    """A machine's NVIDIA cards, their driver, and the torch that uses them."""

    torch: str = ""  # this and the next two are versions, "" where there is none
    cuda: str = ""  # for which torch was built
    driver: str = ""
    kernels: tuple[str, ...] = ()  # of torch, as torch.cuda.get_arch_list lists them: sm_75, compute_120, …
    on_the_bus: int = 0  # number of NVIDIA cards, with or without a driver
    listed: tuple[Card, ...] = ()  # by the driver
    usable: tuple[Card, ...] = ()  # by torch
    visible: str | None = None  # CUDA_VISIBLE_DEVICES
    fault: str = ""  # why CUDA does not start
    rasterizer: str = "cpu"  # of jobs that leave it open
    other: str = ""  # a device of another maker that torch uses


def facts() -> Cuda:
    """Examine this machine. Raises any exception of importing torch."""
    import torch

    from .rendering.rasterize import BACKENDS

    driver, listed = _driver()
    usable: tuple[Card, ...] = ()
    fault = ""
    with warnings.catch_warnings():  # the findings repeat these warnings in fewer words
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
        kernels = tuple(torch.cuda.get_arch_list()) if torch.version.cuda else ()
        other = ""
        if torch.version.hip and torch.cuda.is_available():
            other = f"ROCm {torch.version.hip}: {torch.cuda.get_device_name(0)}"
        elif torch.backends.mps.is_available():
            other = "Apple GPU"
        elif torch.xpu.is_available():
            other = f"Intel GPU: {torch.xpu.get_device_name(0)}"
    return Cuda(
        torch.__version__,
        torch.version.cuda or "",
        driver,
        kernels,
        _on_the_bus(),
        listed,
        usable,
        os.environ.get("CUDA_VISIBLE_DEVICES"),
        fault,
        next(name for name, backend in BACKENDS.items() if backend.is_available("cuda")) if usable else "cpu",
        other,
    )


def _output(*command: str) -> str:
    """A program's output; "" if it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _driver() -> tuple[str, tuple[Card, ...]]:
    """The driver's version, and the cards that it lists."""
    rows = [
        line.split(", ")
        for line in _output(
            "nvidia-smi", "--query-gpu=driver_version,name,compute_cap,memory.total", "--format=csv,noheader,nounits"
        ).splitlines()
    ]
    if rows and all(len(row) == 4 for row in rows):
        return rows[0][0], tuple(
            Card(name, _pair(capability), int(memory) << 20 if memory.isdigit() else 0)
            for _, name, capability, memory in rows
        )
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return "", ()
    version = re.search(r"\d{3,}\.\d+(\.\d+)?", text.partition("\n")[0])
    names = [
        re.search(r"Model:\s*(.+)", path.read_text(encoding="utf-8"))
        for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    ]
    return version[0] if version else "", tuple(Card(name[1] if name else "a card") for name in names)


def _on_the_bus() -> int:
    def holds(path: Path, start: str) -> bool:
        try:
            return path.read_text(encoding="utf-8").startswith(start)
        except OSError:
            return False

    return sum(
        holds(device / "vendor", "0x10de") and holds(device / "class", "0x03")
        for device in Path("/sys/bus/pci/devices").glob("*")
    )


def _pair(version: str) -> tuple[int, int]:
    """(12, 6) of "12.6"; (0, 0) if the text is no version."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _runs(kernel: str, capability: tuple[int, int]) -> bool:
    """Whether a card runs a kernel: binaries of its own major version up to its capability; PTX of any older one."""
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", kernel)
    if not match:
        return False
    made = int(match[2]), int(match[3])
    if match[4] == "a":  # for this capability only
        return made == capability
    return made <= capability and (match[1] == "compute" and not match[4] or made[0] == capability[0])


def cuda(known: Cuda) -> Iterator[Finding]:
    """Findings about the graphics cards of a machine."""
    need = next((driver for major, driver in DRIVERS.items() if _pair(known.cuda)[0] >= major), "")
    if known.other:
        yield Finding(GOOD, known.other)
        return
    if not known.driver:
        if known.on_the_bus:
            newest = next(iter(DRIVERS.values()))
            yield Finding(
                NOTE,
                "there is an NVIDIA card, but no driver for it: jobs run on the CPU",
                f"install NVIDIA's driver, {need or newest} or newer, then: {SETUP_AGAIN}",
            )
        else:
            yield Finding(NOTE, "no NVIDIA card: jobs run on the CPU")
        return
    yield Finding(GOOD, f"NVIDIA driver {known.driver}: {', '.join(card.name for card in known.listed) or 'no card'}")
    if not known.cuda:
        yield Finding(
            NOTE,
            f"torch {known.torch} has no CUDA: jobs run on the CPU",
            f"{SETUP_AGAIN} (it installs CUDA's torch where nvidia-smi lists a card)",
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
                "restart the machine if its driver is new; start a container with --gpus all",
            )
        return
    if known.visible is not None and len(known.usable) < len(known.listed):
        yield Finding(
            GOOD,
            f"CUDA_VISIBLE_DEVICES is {known.visible!r}: {len(known.usable)} of {len(known.listed)} cards are used",
        )
    for card in known.usable:
        yield _card(card, known)


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


def rasterizer(known: Cuda) -> Finding:
    """The rasterizer of jobs that leave it open; on a card, whether it is the card's own."""
    if known.rasterizer != "cpu" or not known.usable:
        return Finding(GOOD, f"rasterizer: {known.rasterizer}")
    return Finding(
        NOTE,
        "rasterizer: cpu, because neither nvdiffrast nor a Warp that takes this driver is installed",
        "make setup, which installs Warp; if it has, install a newer driver",
    )


def bundled() -> Finding:
    finding = model(BUNDLED_MODEL)
    if finding.grade == GOOD:
        return Finding(GOOD, "bundled model")
    return Finding(BAD, f"bundled model: {finding.what}", "git checkout server/bundled_prior/model")


def model(place: Path) -> Finding:
    try:
        check(place)
    except PriorError as error:
        return Finding(BAD, str(error))
    return Finding(GOOD, f"model {place}")


def listed(places: list[Path]) -> Iterator[Finding]:
    """Findings about models, and about everything in folders of models; without any, in those that programs keep."""
    roots = [place for place in places if len(catalogue([place])) > 1 and not is_model(place)]
    yield from (model(place) for place in places if place not in roots)
    found = [each for each in catalogue(roots if places else None) if each.place]
    for each in found:
        if each.problem:
            yield Finding(NOTE, each.problem)
        elif each.kind == MODEL:
            yield Finding(GOOD, f"model {each.place}: {each.family}, {each.resolution} px, {each.size / 2**30:.1f} GiB")
    counts = Counter(each.kind for each in found if not each.problem and each.kind != MODEL)
    if counts:
        yield Finding(GOOD, ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items()))


def disk(data: Path) -> Finding:
    place = data
    while not place.exists() and place != place.parent:  # a drive of Windows may be missing, too
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding(BAD, f"cannot use {place} ({error.strerror})", "choose another folder with --data")
    space = f"{free / 2**30:.1f} GiB free for {data}"
    probe = place / ".msd-doctor"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Finding(BAD, f"cannot write to {place} ({error.strerror})", "choose another folder with --data")
    if free < FREE_BYTES:
        return Finding(NOTE, space, f"jobs may need {FREE_BYTES / 2**30:.0f} GiB: free some, or choose another --data")
    return Finding(GOOD, space)


def listening(host: str, port: int) -> Finding:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        if sys.platform != "win32":  # where it lets two programs have one port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Finding(
                NOTE,
                f"cannot listen on {host}:{port} ({error.strerror})",
                "a server may already run there; if not, choose another --port",
            )
    return Finding(GOOD, f"{host}:{port} is free")


def main(host: str, port: int, data: Path, models: list[Path] | None) -> int:
    """Print the findings; returns 1 if the server will not work, else 0."""
    bad = False
    for finding in examine(host, port, data, models or []):
        bad |= finding.grade == BAD
        print(f"{finding.grade:8}{finding.what}" + (f"\n        -> {finding.mend}" if finding.mend else ""), flush=True)
    return int(bad)
