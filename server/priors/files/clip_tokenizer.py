# SPDX-License-Identifier: GPL-3.0-or-later
"""CLIP's tokenizer, for models that bring none, without torch."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

from .single_file import CONFIGS

CLIP_MERGES = CONFIGS / "clip_merges.txt.gz"


def clip_tokenizer(kind: Any, **settings: object) -> Any:
    """CLIP's tokenizer (Radford et al. 2021): byte pairs, merged in the order of `configs/clip_merges.txt.gz`."""
    merges = gzip.decompress(CLIP_MERGES.read_bytes()).decode().splitlines()
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, order = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({word: number for number, word in enumerate(words)}), encoding="utf-8")
        order.write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        return kind(str(vocabulary), str(order), **settings)
