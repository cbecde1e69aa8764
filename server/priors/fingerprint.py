# SPDX-License-Identifier: GPL-3.0-or-later
"""A fingerprint of the files that a job's model needs, by which two machines tell whether they have the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

from msd_blender.protocol import JobRequest

from .files import places
from .loading import Selection

SAMPLE = 1 << 16  # bytes at both ends of a file: the whole of a model would take minutes to read


def fingerprint(request: JobRequest) -> str:
    """Of the model and all that a request puts on it; "" where it needs the bundled model alone.

    It covers the names and sizes of all files below these places, and both ends of each. Raises PriorError or OSError
    where one is missing.
    """
    selection = Selection.of(request)
    needed = [places.resolve(selection.model)] if selection.model else []
    needed += [Path(lora.file).expanduser() for lora in selection.loras]
    needed += [Path(selection.control_model).expanduser()] if selection.control_model else []
    if adapter := selection.adapter_file():
        needed += [adapter.file, adapter.encoder]
    digest = hashlib.sha256()
    for place in needed:
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file():
                name = path.relative_to(place).as_posix() if path != place else path.name
                digest.update(f"{name} {path.stat().st_size}\n".encode())
                digest.update(_ends(path))
    return digest.hexdigest() if needed else ""


def _ends(path: Path) -> bytes:
    with open(path, "rb") as file:
        start = file.read(SAMPLE)
        file.seek(max(SAMPLE, path.stat().st_size - SAMPLE))
        return start + file.read()
