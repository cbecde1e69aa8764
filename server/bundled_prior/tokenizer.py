# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled prior's tokenizer: each word of the captions is one token, other words are split into letters."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from .captions import vocabulary

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

TOKENS = 16  # per caption


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich et al. 2016) that make each word one token; of equally frequent pairs the first in
    the alphabet comes first."""
    split = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for pieces in split for pair in itertools.pairwise(pieces)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for pieces in split:
            for i in range(len(pieces) - 1, 0, -1):
                if (pieces[i - 1], pieces[i]) == best:
                    pieces[i - 1 : i + 1] = ["".join(best)]
    return merges


def build_tokenizer(folder: Path, words: list[str] | None = None) -> CLIPTokenizer:
    """Save and return a CLIPTokenizer in which each word is one token: by default those of `captions.vocabulary`."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters, merges = sorted(ByteLevel.alphabet()), _merges(words or vocabulary())
    tokens = [*letters, *(c + "</w>" for c in letters), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)  # type: ignore[arg-type]
    tokenizer.save_pretrained(folder)
    return tokenizer
