# SPDX-License-Identifier: GPL-3.0-or-later
"""Conditions of a denoiser, which a prior makes of a prompt and the views of its pictures."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Condition(Protocol):
    """A dataclass with one entry for each latent of a batch, or one for all.

    A guidance hands it to `Denoiser.denoise` as it is.
    """

    @property
    def nfe(self) -> int:
        """Evaluations of the network by one `denoise`: 2 under classifier-free guidance."""
        ...

    def without_cfg(self) -> Condition:
        """The same condition without classifier-free guidance."""
        ...


def nfe(condition: Condition | None) -> int:
    """Evaluations of the network by one `denoise` with this condition."""
    return 1 if condition is None else condition.nfe


def without_cfg(condition: Condition | None) -> Condition | None:
    """The same condition without classifier-free guidance."""
    return None if condition is None else condition.without_cfg()


def part(condition: Any, latents: slice) -> Any:
    """The condition, a dataclass, of some latents of the batch: those entries of its tensors (B, …).

    Tensors with one entry for all stay.
    """
    if condition is None:
        return None
    values = {each.name: getattr(condition, each.name) for each in fields(condition)}
    rows = {name: len(value) for name, value in values.items() if hasattr(value, "shape")}
    return replace(condition, **{name: values[name][latents] for name, count in rows.items() if count > 1})


@dataclass(frozen=True)
class Light:
    """How B pictures are lit, as `rendering.shading.Lights` has it, and the colours of their backgrounds."""

    direction: Tensor  # (B, 3) unit, toward the lamp, in the world
    ambient: Tensor  # (B,)
    diffuse: Tensor  # (B,)
    sky: Tensor | None  # (B, 3)
    background: Tensor  # (B, 3) sRGB


@dataclass(frozen=True)
class Views:
    """How B pictures of an object are seen: each prior uses what its kind of condition needs.

    A camera at azimuth 0 looks along +Y at the front, one at 90 stands at +X and sees the right side; elevation grows
    upward.
    """

    azimuth: Tensor  # (B,) degrees
    elevation: Tensor  # (B,) degrees
    distance: Tensor | None = None  # (B,) metres
    field_of_view: Tensor | None = None  # (B,) degrees
    depth: Tensor | None = None  # (B, H, W) metres along the view, inf in the background; top row first
    normals: Tensor | None = None  # (B, H, W, 3) unit, in the camera's axes (right, up, backward); top row first
    light: Light | None = None

    def __len__(self) -> int:
        return len(self.azimuth)


@dataclass(frozen=True)
class TextCondition:
    """Encoded prompts. `negative` is None when classifier-free guidance is off: at scale 1, or where the network takes
    the guidance scale as an input."""

    embeddings: Tensor  # (B or 1, tokens, width)
    negative: Tensor | None = None  # as embeddings
    guidance_scale: float = 1.0
    pooled: Tensor | None = None  # (B or 1, width) of a whole text, from CLIP
    negative_pooled: Tensor | None = None  # as pooled
    mask: Tensor | None = None  # (B or 1, tokens), 1 for a token, 0 for padding that the network must not see
    negative_mask: Tensor | None = None  # as mask
    hints: Tensor | None = None  # (B or 1, K, 3, H, W) in [0, 1], a picture for each of K ControlNets
    image: Tensor | None = None  # (B or 1, 1, …) an image prompt, as the image encoder of an IP-Adapter answers
    negative_image: Tensor | None = None  # as image

    @property
    def nfe(self) -> int:
        return 1 if self.negative is None else 2

    def without_cfg(self) -> TextCondition:
        return replace(
            self, negative=None, guidance_scale=1.0, negative_pooled=None, negative_mask=None, negative_image=None
        )


@dataclass(frozen=True)
class MultiViewCondition(TextCondition):
    """Encoded prompts, and the cameras of one or more objects: each has `views_at_once` rows, one after the other."""

    cameras: Tensor | None = None  # (B, 16), as the model's convention has them
    views_at_once: int = 1


def views_at_once(condition: Condition | None) -> int:
    """Latents in a row that are views of one object and are denoised together, at one noise level."""
    return condition.views_at_once if isinstance(condition, MultiViewCondition) else 1
