# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRAs as texts: "FILE" or "FILE:WEIGHT" in a request's list, "<lora:NAME:WEIGHT>" in a prompt."""

from __future__ import annotations

import re

_WEIGHT = re.compile(r"(?P<file>.+):(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))", re.DOTALL)
MAX_LORA_WEIGHT = 100.0


def split_lora(text: str) -> tuple[str, float]:
    """The file and the weight of "FILE" or "FILE:WEIGHT"; the weight is 1 where none is said.

    The colon of a drive, as in "C:\\LoRAs\\shiny.safetensors", is no weight's.
    """
    match = _WEIGHT.fullmatch(text)
    return (match["file"], float(match["weight"])) if match else (text, 1.0)


def join_lora(file: str, weight: float) -> str:
    """The inverse of `split_lora`."""
    return file if weight == 1 and split_lora(file) == (file, 1) else f"{file}:{_decimal(weight)}"


def _decimal(weight: float) -> str:
    return f"{weight:.6f}".rstrip("0").rstrip(".")
