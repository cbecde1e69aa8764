# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of multi-view models, read and checked without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

from ..base import PriorError
from . import layouts

CAMERA_WIDTH = 16  # numbers of a camera: its 4 x 4 matrix from camera to world, row by row
CAMERA_WEIGHTS = "camera_embedding.safetensors"
CAMERA_NAMES = {f"linear_{layer}.{part}" for layer in (1, 2) for part in ("weight", "bias")}
MULTI_VIEW = replace(
    layouts.STABLE_DIFFUSION,
    pipeline=f"{layouts.STABLE_DIFFUSION.pipeline} with {layouts.MULTI_VIEW_FILE}",
    class_embeddings=(None, "projection"),
)
MVDREAM = layouts.Layout(
    "MVDreamPipeline",
    "MVDream",
    {**layouts.STABLE_DIFFUSION.classes, "unet": ("MultiViewUNetModel",)},
    ("text_encoder",),
    own_names={"cross_attention_dim": "context_dim", "sample_size": "image_size"},
)


@dataclass(frozen=True)
class ViewGroup:
    """How a model takes the views of one object, from `multiview.json` in its folder (docs/models.md).

    Args:
        views: that it denoises at once.
        front: degrees, the azimuth in the model's own world of the camera that sees an object's front: 0 stands at -Y,
            90 at +X.
        elevation: lowest and highest, degrees, of the cameras that it was trained with; None for any.
        view_words: whether its captions name the side that a camera sees.
        suffix: of every prompt.
    """

    views: int
    front: float = 0.0
    elevation: tuple[float, float] | None = None
    view_words: bool = False
    suffix: str = ""


PUBLISHED = ViewGroup(4, front=90.0, elevation=(0.0, 30.0), suffix=", 3d asset")  # MVDream's own


def view_group(folder: Path) -> ViewGroup:
    """What a folder's multiview.json says. Raises PriorError, with one sentence, for values that mean nothing."""
    path = folder / layouts.MULTI_VIEW_FILE
    said = layouts.read_json(path)
    views, front, elevation = said.get("views"), said.get("front", 0.0), said.get("elevation")
    view_words, suffix = said.get("view_words", False), said.get("suffix", "")
    if type(views) is not int or views < 1:
        raise PriorError(f'{path} says no number of views: add "views": 4, or as many as the model denoises at once.')
    bounds = [each for each in elevation if _is_angle(each)] if isinstance(elevation, list) else []
    if elevation is not None and (len(bounds) != 2 or elevation != sorted(bounds)):
        raise PriorError(f"The elevation in {path} is {elevation}: give the lowest and the highest, as [0, 30].")
    if not _is_angle(front) or not isinstance(view_words, bool) or not isinstance(suffix, str):
        raise PriorError(f"In {path}, front is a number of degrees, view_words true or false, and suffix a text.")
    return ViewGroup(views, float(front), (bounds[0], bounds[1]) if bounds else None, view_words, suffix)


def _is_angle(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and -360 <= value <= 360


def check_multi_view(folder: Path) -> None:
    """As `layouts.check_layout`, for a folder with multiview.json."""
    layouts.check_layout(folder, MULTI_VIEW, layouts.check_discrete_noise, layouts.check_fit)
    view_group(folder)
    config = folder / "unet" / "config.json"
    unet = layouts.read_json(config)
    if unet.get("class_embed_type") is None:
        beside = folder / CAMERA_WEIGHTS
        if not beside.is_file():
            raise PriorError(
                f"{folder} has a {layouts.MULTI_VIEW_FILE}, but nothing that takes cameras: it needs "
                f'{CAMERA_WEIGHTS}, or a U-Net with "class_embed_type": "projection".'
            )
        shapes = layouts.read_header(beside).shapes
        if missing := sorted(CAMERA_NAMES - shapes.keys()):
            raise PriorError(f"{beside} lacks {missing[0]}: {layouts.AGAIN}.")
        if (found := shapes["linear_1.weight"][-1]) != CAMERA_WIDTH:
            raise wrong_width(beside, found)
    elif (width := unet.get("projection_class_embeddings_input_dim")) != CAMERA_WIDTH:
        raise wrong_width(config, width)


def wrong_width(path: Path, width: object) -> PriorError:
    """The error for a model that takes cameras of another kind."""
    return PriorError(
        f"{path} takes cameras of {width} numbers: use a model that takes {CAMERA_WIDTH}, a 4 x 4 matrix."
    )


def check_mvdream(folder: Path) -> None:
    """As `layouts.check_layout`, for MVDream's U-Net in a folder of diffusers, without reading its Python files."""
    layouts.check_layout(folder, MVDREAM, layouts.check_discrete_noise, layouts.check_fit)
    config = folder / "unet" / "config.json"
    unet = layouts.read_json(config)
    if unet.get("ip_dim"):
        raise PriorError(f"{folder} needs a picture beside the prompt, as ImageDream does: use MVDream.")
    if (width := unet.get("camera_dim")) != CAMERA_WIDTH:
        raise wrong_width(config, width)
