# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between Linux, macOS and Windows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

WINDOWS = os.name == "nt"
PATIENCE = 2.0  # seconds that another program may hold a file open on Windows


def replace(source: Path, target: Path) -> None:
    """Rename a file or folder, over a file that is there. Raises OSError.

    Windows refuses while another program has either open, as a virus scanner or a reader has for a moment.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if not WINDOWS or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def write_private(path: Path, text: str) -> None:
    """Write a file atomically that nobody but its owner can read. Raises OSError."""
    part = path.with_name(f".{path.name}")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    if WINDOWS:
        with suppress(OSError):  # a disk without rights, such as FAT32
            subprocess.run(owner_only(part), check=False, capture_output=True)
    part.write_text(text, encoding="utf-8")
    replace(part, path)


def owner_only(path: Path) -> list[str]:
    """The command that lets only the owner read a file on Windows, whose modes know no others."""
    return ["icacls", str(path), "/inheritance:r", "/grant:r", "*S-1-3-4:F"]


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable. Windows opens no folders, and keeps renames in its journal."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def reserve(path: Path, size: int) -> None:
    """Make a file that takes `size` bytes of the disk. Raises OSError."""
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.write(bytes(size))


def wait_for_end(pid: int) -> None:
    """Return when a process has ended, also while nobody has reaped it."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)


def peak_memory() -> int:
    """The most bytes of memory that this process has held since the last reset; where the system does not count them,
    those it holds now."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    return int(psutil.Process().memory_info().rss)


def reset_peak_memory() -> bool:
    """Let `peak_memory` count from now on; False where the system cannot, and only the present counts."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM, see man 5 proc
    except OSError:
        return False
    return True


def speak_utf8() -> None:
    """Let paths and prompts of any language be printed: Windows' own encoding refuses most, which ends a program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
