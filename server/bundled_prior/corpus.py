# SPDX-License-Identifier: GPL-3.0-or-later
"""The corpus of the bundled prior: pictures of random objects, their labels, and captions drawn for them."""

from __future__ import annotations

import numpy as np

from ..priors.prompts import VIEWS
from . import objects, shapes
from .captions import caption
from .config import TrainConfig
from .workers import seeds


def load_corpus(config: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (N, 64, 64, 3) and labels uint8 (N, 4), rendered into the work folder on the first call.

    The columns of the labels are indices of noun, colour, view and finish.
    """
    pictures, labels = config.work / "pictures.npy", config.work / "labels.npy"
    if not labels.exists() or len(np.load(labels)) != config.images:
        nouns, colours, size = list(shapes.NOUNS), list(shapes.COLOURS), objects.RESOLUTION
        out = np.lib.format.open_memmap(pictures, "w+", np.uint8, (config.images, size, size, 3))
        rows = []
        for start in range(0, config.images, 500):
            rng = np.random.default_rng([config.seed, start])
            picks = objects.sample_labels(min(500, config.images - start), rng)
            scenes = [objects.scene(c, n, rng, finish=f) for c, n, f in picks]
            out[start : start + len(picks)] = objects.render(scenes)
            rows += [
                (nouns.index(n), colours.index(c), VIEWS.index(each.view), shapes.FINISHES.index(f))
                for (c, n, f), each in zip(picks, scenes)
            ]
        out.flush()
        np.save(labels, np.array(rows, np.uint8))
    return np.load(pictures, mmap_mode="r"), np.load(labels)


def draw_captions(labels: np.ndarray, config: TrainConfig, step: int) -> list[str]:
    """A caption for each row of labels (B, 4), empty with probability `dropout`; the same step draws the same."""
    rng = np.random.default_rng(seeds(config, step))
    nouns, colours = list(shapes.NOUNS), list(shapes.COLOURS)
    return [
        "" if rng.random() < config.dropout else caption(colours[c], nouns[n], VIEWS[v], rng, shapes.FINISHES[f])
        for n, c, v, f in labels
    ]
