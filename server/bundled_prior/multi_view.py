# SPDX-License-Identifier: GPL-3.0-or-later
"""The multi-view model of the bundled prior: its corpus of descriptions, its loss and its export (docs/models.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..priors.conditions import Views
from ..priors.families.multi_view import CameraEmbedding, JointAttention, camera_to_world
from ..priors.files.layouts import MULTI_VIEW_FILE
from ..priors.files.multi_view_layouts import CAMERA_WEIGHTS, CAMERA_WIDTH
from ..priors.prompts import VIEWS, view_word
from . import objects, scenes
from .captions import describe, plainest
from .config import TrainConfig
from .denoiser import noisy_latents
from .descriptions import Description, decode, encode, random_description
from .workers import autocast, generator, rank_and_size, seeds


def turned(scene: objects.Scene, turn: float, rng: np.random.Generator) -> tuple[objects.Scene, float, float]:
    """The scene from another side at the same elevation and distance, under a lamp of its own, as jobs have them.

    Args:
        turn: degrees round the object.

    Returns:
        The scene, and its camera's azimuth and elevation in degrees.
    """
    x, y, z = scene.eye
    distance = float(np.linalg.norm(scene.eye))
    azimuth = float(np.degrees(np.arctan2(x, -y)) + turn) % 360
    elevation = float(np.degrees(np.arcsin(z / distance)))
    eye = objects.camera_position(azimuth, elevation, distance)
    seen = replace(scene, eye=eye, light=objects.random_light(rng, eye), view=view_word(azimuth, elevation))
    return seen, azimuth, elevation


def load_views(config: TrainConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures uint8 (N, H, H, 3), labels uint8 (N, F + 1) and angles (N, 2), each object from `views` sides in a row.

    The labels' columns are those of `descriptions.FIELDS` and the view's index; the angles are the cameras' azimuth and
    elevation in degrees. Rendered into the work folder on the first call; `scenes_of` gives a row's scene again.
    """
    paths = [config.work / f"{name}.npy" for name in ("views", "view_labels", "view_angles")]
    if not paths[2].exists() or len(np.load(paths[2], mmap_mode="r")) != config.images:
        views, size = config.views, config.pixels
        out = np.lib.format.open_memmap(paths[0], "w+", np.uint8, (config.images, size, size, 3))
        labels, angles = [], []
        for start in range(0, config.images // views, 125):
            several = []
            for i in range(start, min(start + 125, config.images // views)):
                description, sides, cameras = scenes_of(config, i)
                several += sides
                angles += cameras
                labels += [(*encode(description), VIEWS.index(each.view)) for each in sides]
            out[views * start : views * start + len(several)] = objects.render(several, size)
        out.flush()
        np.save(paths[1], np.array(labels, np.uint8))
        np.save(paths[2], np.array(angles, np.float32))
    return np.load(paths[0], mmap_mode="r"), np.load(paths[1]), np.load(paths[2])


def scenes_of(config: TrainConfig, i: int) -> tuple[Description, list[objects.Scene], list[tuple[float, float]]]:
    """The i-th object of a configuration's corpus: its description, and its views with their angles in degrees."""
    rng = np.random.default_rng([config.seed, config.views, i])
    description = random_description(rng)
    first = scenes.scene(description, rng)
    seen = [turned(first, 360 * k / config.views, rng) for k in range(config.views)]
    return description, [each for each, *_ in seen], [(azimuth, elevation) for _, azimuth, elevation in seen]


def sheet_prompts(count: int = 48) -> list[str]:
    """Prompts of random descriptions, for `pipeline.contact_sheet`."""
    rng = np.random.default_rng(0)
    return [plainest(random_description(rng), VIEWS[i % len(VIEWS)]) for i in range(count)]


def add_cameras(unet: Any, start: Path | None) -> None:
    """Give a U-Net joint attention and a projection of cameras: that of a folder, or one that adds nothing yet."""
    processor: Any = JointAttention
    unet.set_attn_processor(processor())
    embedding = CameraEmbedding(CAMERA_WIDTH, unet.time_embedding.linear_2.out_features)
    if start and (start / CAMERA_WEIGHTS).is_file():
        embedding.load_state_dict(load_file(start / CAMERA_WEIGHTS))
    else:
        nn.init.zeros_(embedding.linear_2.weight)
        nn.init.zeros_(embedding.linear_2.bias)
    unet.class_embedding = embedding


def views_loss(
    model: nn.ModuleDict,
    tokenize: Callable[[str], list[int]],
    latents: torch.Tensor,
    labels: np.ndarray,
    angles: np.ndarray,
    config: TrainConfig,
    step: int,
) -> torch.Tensor:
    """As `denoiser.denoiser_loss`, for objects seen from several sides; some batches are of single pictures."""
    g = generator(config, step)
    views = 1 if torch.rand(1, generator=g) < config.single else config.views
    pick, noisy, t, target = noisy_latents(latents, config.batch // rank_and_size()[1], g, views)
    ids = torch.tensor([tokenize(text) for text in captions(labels[pick.numpy()], views, config, step)])
    cameras = torch.zeros(len(pick), CAMERA_WIDTH)
    if views > 1:
        azimuth, elevation = torch.from_numpy(angles[pick.numpy()]).T
        cameras = camera_to_world(Views(azimuth, elevation))
    noisy = noisy.to(config.device, memory_format=torch.channels_last)
    with autocast(config):
        text = model["text_encoder"](ids.to(config.device))[0]
        v = model["unet"](
            noisy,
            t.to(config.device),
            text,
            class_labels=cameras.to(config.device),
            cross_attention_kwargs={"views": views},
        ).sample
    return (v.float() - target.to(config.device)).square().mean()


def captions(labels: np.ndarray, views: int, config: TrainConfig, step: int) -> list[str]:
    """Captions of labels (B, F + 1); those of one object differ in the view's words only, or are all empty."""
    texts = []
    for first in range(0, len(labels), views):
        for *label, view in labels[first : first + views]:
            rng = np.random.default_rng([*seeds(config, step), first])
            empty = rng.random() < config.dropout
            texts.append("" if empty else describe(decode(label), VIEWS[view], rng))
    return texts


def export_cameras(unet: Any, folder: Path, views: int) -> None:
    """Move a U-Net's projection of cameras into a file of its own, so that the rest is a plain one, and say so."""
    embedding, unet.class_embedding = unet.class_embedding, None
    save_file(embedding.state_dict(), folder / CAMERA_WEIGHTS)
    said = {"views": views, "front": 0, "view_words": True}
    (folder / MULTI_VIEW_FILE).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
