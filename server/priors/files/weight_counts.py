# SPDX-License-Identifier: GPL-3.0-or-later
"""How many weights a model's files have, by their headers alone."""

from __future__ import annotations

import math
from pathlib import Path

from .kinds import NETWORK_PREFIX
from .layouts import STEMS, entries, has_weights, read_header, read_json, variant


def count_weights(place: Path) -> tuple[int, int]:
    """Numbers of weights, by the headers of a model's files: of its denoising network, and of all its networks.

    Weights of training that a single file may keep beside the others, its EMA, do not count.
    """
    if place.is_file():
        counts = {name: count for name, count in _counts(place).items() if not name.startswith("model_ema.")}
        network = [count for name, count in counts.items() if name.startswith(NETWORK_PREFIX)] or counts.values()
        return sum(network), sum(counts.values())
    names = [part for part in STEMS if part != "image_encoder" and has_weights(place / part)]
    parts = {part: part_weights(place / part) for part in names}
    return parts.get("unet", 0) + parts.get("transformer", 0), sum(parts.values())


def part_weights(place: Path) -> int:
    """Number of weights in a part's folder, or in a file."""
    if place.is_file():
        return sum(_counts(place).values())
    single, *_ = entries(place)[variant(place) or ""]
    if single.suffix == ".safetensors":
        return sum(_counts(single).values())
    shards = read_json(single).get("weight_map")
    names = set(shards.values()) if isinstance(shards, dict) else set()
    return sum(sum(_counts(place / name).values()) for name in names)


def _counts(path: Path) -> dict[str, int]:
    """Name -> number of values of the tensors of floating point in a safetensors file."""
    tensors = read_header(path).tensors.items()
    return {name: math.prod(entry["shape"]) for name, entry in tensors if "F" in entry["dtype"]}
