# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths on the command lines, and results that overwrite neither inputs nor other programs' files."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msd_blender.protocol import FILES

from .system import replace


class PathError(Exception):
    """A path that cannot be read or written as asked, in one sentence."""


def expanded(text: str) -> Path:
    """A path argument with ~ expanded: a `type` for argparse."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"there is no home folder for {text}") from None


def expanded_text(text: str) -> str:
    """As `expanded`, for an argument that may be empty."""
    return str(expanded(text)) if text else ""


def is_full(error: OSError) -> bool:
    """Whether the disk or the user's quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def writable(folder: Path) -> Path:
    """Create the folder if it is missing. Raises `PathError` if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        if is_full(error):
            raise PathError(f"The disk of {folder} is full: make room there, or choose another folder.") from None
        raise PathError(f"The folder {folder} cannot be written: {error.strerror}.") from None
    return folder


@contextmanager
def opened() -> Iterator[set[str]]:
    """Collect the files that this process opens in the with block, by any library, from Python's audit events."""
    paths: set[str] = set()
    listening = True

    def record(event: str, arguments: tuple) -> None:  # an audit hook cannot be removed
        if event == "open" and listening and isinstance(arguments[0], (str, bytes)):
            paths.add(os.fsdecode(arguments[0]))

    sys.addaudithook(record)
    try:
        yield paths
    finally:
        listening = False


class Results:
    """Moves the files of a command to its folder once all are complete.

    An input of the command is never replaced. Another existing file is replaced only if job.json shows that it is a
    result of the same command, or with `overwrite`.

    Args:
        mode: the command, one of `protocol.MODES`.
        read: the inputs.
    """

    def __init__(self, folder: Path, mode: str, overwrite: bool = False, read: Iterable[str | Path] = ()):
        self.folder = folder
        self.replace = overwrite or _made_by(folder / "job.json", mode)
        self._read = {identity for each in read if (identity := _identity(each))}

    def check(self, names: Iterable[str]) -> None:
        """Raise `PathError` if a file of one of these names exists and may not be replaced."""
        for name in sorted(names):
            path = self.folder / name
            if _identity(path) in self._read:
                raise PathError(f"{path} would be written over, and it is the input: choose another --output.")
            if path.is_dir() and not path.is_symlink():
                raise PathError(f"{path} is a folder: choose another --output.")
            if os.path.lexists(path) and not self.replace:
                raise PathError(
                    f"{path} is there already, and is no result of this command: choose another --output, "
                    "or replace it with --overwrite."
                )

    def expect(self, suffixes: Iterable[str] = ()) -> None:
        """`check` before the work begins: a job's files, and a mesh of each suffix with its material and pictures."""
        names = {*FILES, *(f"mesh{suffix}" for suffix in suffixes)}
        if suffixes:
            names |= {"mesh.mtl"}
            names |= {each for each in map(str.lower, os.listdir(self.folder)) if re.fullmatch(r"mesh_.*\.png", each)}
        self.check(names)

    @contextmanager
    def written(self) -> Iterator[Path]:
        """A temporary folder inside the results' folder; its files become results if the with block raises nothing."""
        part = Path(tempfile.mkdtemp(prefix=".msd-", dir=self.folder))
        try:
            yield part
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        files = sorted(part.iterdir(), key=lambda each: (each.name == "job.json", each.name))
        try:
            self.check(each.name for each in files)
        except PathError as error:
            raise PathError(f"{error} The results are in {part}.") from None
        for each in files:
            replace(each, self.folder / each.name)
        part.rmdir()


def _made_by(record: Path, mode: str) -> bool:
    """Whether job.json was written by this command."""
    try:
        job = json.loads(record.read_text(encoding="utf-8"))
        return bool(job["versions"]["msd_blender"]) and job["request"]["mode"] == mode and "blender" not in job
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Device and inode, equal for all names of a file (links, other letter case); None if it does not exist."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
