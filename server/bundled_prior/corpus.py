# SPDX-License-Identifier: GPL-3.0-or-later
"""The corpus of the bundled prior: pictures of random objects, their labels, and captions drawn for them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..priors.additions.control_pictures import depth_picture
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
        for start, picks, scenes in _scenes(config):
            out[start : start + len(picks)] = objects.render(scenes)
            rows += [
                (nouns.index(n), colours.index(c), VIEWS.index(each.view), shapes.FINISHES.index(f))
                for (c, n, f), each in zip(picks, scenes)
            ]
        out.flush()
        np.save(labels, np.array(rows, np.uint8))
    return np.load(pictures, mmap_mode="r"), np.load(labels)


def load_depths(config: TrainConfig) -> np.ndarray:
    """Depth maps uint8 (N, 64, 64) of the corpus' pictures, `depth_picture` times 255; rendered on the first call."""
    path = config.work / "depths.npy"
    if not path.exists() or len(np.load(path, mmap_mode="r")) != config.images:
        fresh = path.with_suffix(".new")
        out = np.lib.format.open_memmap(fresh, "w+", np.uint8, (config.images, *[objects.RESOLUTION] * 2))
        for start, picks, scenes in _scenes(config):
            depth = torch.from_numpy(objects.render_depth(scenes))
            out[start : start + len(picks)] = (255 * depth_picture(depth)).round().byte().numpy()
        out.flush()
        fresh.replace(path)
    return np.load(path, mmap_mode="r")


def _scenes(config: TrainConfig) -> Iterator[tuple[int, list[tuple[str, str, str]], list[objects.Scene]]]:
    """The corpus in pieces of 500: where each starts, its colours, nouns and finishes, its scenes."""
    for start in range(0, config.images, 500):
        rng = np.random.default_rng([config.seed, start])
        picks = objects.sample_labels(min(500, config.images - start), rng)
        yield start, picks, [objects.scene(c, n, rng, finish=f) for c, n, f in picks]


def draw_captions(labels: np.ndarray, config: TrainConfig, step: int) -> list[str]:
    """A caption for each row of labels (B, 4), empty with probability `dropout`; the same step draws the same."""
    rng = np.random.default_rng(seeds(config, step))
    nouns, colours = list(shapes.NOUNS), list(shapes.COLOURS)
    return [
        "" if rng.random() < config.dropout else caption(colours[c], nouns[n], VIEWS[v], rng, shapes.FINISHES[f])
        for n, c, v, f in labels
    ]
