# SPDX-License-Identifier: GPL-3.0-or-later
"""Multi-view priors: a U-Net that denoises several views of one object at once and knows their cameras.

After MVDream (Shi et al. 2023, arXiv 2308.16512): self-attention goes over the tokens of all views of an object, and an
embedding of each camera is added to that of the timestep. Everything else is Stable Diffusion's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor

from ..base import PriorError
from ..conditions import Condition, MultiViewCondition, TextCondition, Views
from ..files.multi_view_layouts import CAMERA_WEIGHTS, CAMERA_WIDTH, ViewGroup, view_group
from ..files.parts import Parts, check_weights, not_finite, read_weights
from ..prompts import without_view
from .stable_diffusion import StableDiffusion


class JointAttention(AttnProcessor2_0):
    """Self-attention over the tokens of several pictures; cross-attention stays each picture's own."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        views: int = 1,
    ) -> Tensor:
        """As diffusers' processor, for hidden states (B, N, C): every `views` in a row see each other."""
        batch, tokens, width = hidden_states.shape
        if encoder_hidden_states is None:
            hidden_states = hidden_states.reshape(batch // views, views * tokens, width)
        attended: Tensor = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return attended.reshape(batch, tokens, width)


class CameraEmbedding(TimestepEmbedding):
    """A projection of cameras (B, 16) to the width of the timestep's embedding.

    A row of zeros, which no camera is, is embedded as zeros, so that its picture gets the timestep alone.
    """

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        embedded: Tensor = super().forward(sample, condition)
        return embedded * sample.any(dim=-1, keepdim=True)


def camera_to_world(views: Views, front: float = 0.0) -> Tensor:
    """(B, 16) matrices from camera to world, row by row, of cameras at distance 1.

    The camera looks along its -Z, with X to the right and Y up; the world has Z up. Distance and field of view are left
    out, as MVDream scales every camera's position to length 1.

    Args:
        front: degrees, the azimuth of the front in the model's world; our front, azimuth 0, stands at -Y.
    """
    azimuth, elevation = (views.azimuth + front).deg2rad(), views.elevation.deg2rad()
    zero, one = torch.zeros_like(azimuth), torch.ones_like(azimuth)
    right = torch.stack([azimuth.cos(), azimuth.sin(), zero], dim=1)
    level, height = elevation.cos(), elevation.sin()
    backward = torch.stack([azimuth.sin() * level, -azimuth.cos() * level, height], dim=1)
    rows = torch.stack([right, torch.linalg.cross(backward, right), backward, backward], dim=2)
    last = torch.stack([zero, zero, zero, one], dim=1)
    return torch.cat([rows, last[:, None]], dim=1).flatten(1)


class MultiView(StableDiffusion):
    """A frozen multi-view model, as a `MultiViewPrior`.

    Its folder is Stable Diffusion's with a multiview.json. The cameras' projection is in the U-Net, as its
    `class_embed_type` "projection", or beside it in camera_embedding.safetensors under the same names.
    """

    def __init__(self, parts: Parts, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__(parts, device, dtype)
        self.group = self._view_group()
        self.view_words = self.group.view_words
        processor: Any = JointAttention
        self.unet.set_attn_processor(processor())
        self.unet.class_embedding = self._camera_embedding()

    @property
    def views_at_once(self) -> int:
        """As `MultiViewPrior.views_at_once`."""
        return self.group.views

    @property
    def elevation(self) -> tuple[float, float] | None:
        """As `MultiViewPrior.elevation`."""
        return self.group.elevation

    def _view_group(self) -> ViewGroup:
        return view_group(self.parts.place)

    def _camera_embedding(self) -> CameraEmbedding:
        """The U-Net's own projection of cameras, or the one that lies beside it."""
        embedding = CameraEmbedding(CAMERA_WIDTH, self.unet.time_embedding.linear_2.out_features)
        if self.unet.class_embedding is not None:
            weights = self.unet.class_embedding.state_dict()
        else:
            path = self.parts.place / CAMERA_WEIGHTS
            weights = read_weights(path)
            check_weights(path, weights, embedding.state_dict())
            if not all(weight.isfinite().all() for weight in weights.values()):
                raise not_finite(f"The weights in {path}", self.device, self.dtype)
        embedding.load_state_dict(weights)
        return embedding.requires_grad_(False).eval().to(self.device, self.dtype)

    def condition(
        self,
        views: Views,
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        guidance_scale: float = 5.0,
        against_overhead: Tensor | None = None,
    ) -> TextCondition:
        """As `TextToImagePrior.condition`, for groups of `views_at_once` views of one object in a row."""
        text = super().condition(views, prompt, negative_prompt, guidance_scale, against_overhead)
        cameras = camera_to_world(views, self.group.front).to(self.device, self.dtype)
        return MultiViewCondition(**vars(text), cameras=cameras, views_at_once=self.group.views)

    def _view_texts(
        self, views: Views, prompt: str | Sequence[str], negative_prompt: str, against_overhead: Tensor | None
    ) -> tuple[list[str], list[str]]:
        """As `DiffusersPrior._view_texts`, without words for the views unless the model was trained with them."""
        suffix = self.group.suffix
        if self.view_words:
            whole = prompt + suffix if isinstance(prompt, str) else [text + suffix for text in prompt]
            return super()._view_texts(views, whole, negative_prompt, against_overhead)
        texts = [without_view(text) + suffix for text in ([prompt] if isinstance(prompt, str) else prompt)]
        return texts, [negative_prompt] * len(texts)

    def prompt_warnings(self, prompt: str, negative_prompt: str = "", against_overhead: bool = False) -> list[str]:
        """As `TextToImagePrior.prompt_warnings`."""
        against_overhead &= self.view_words
        return super().prompt_warnings(prompt + self.group.suffix, negative_prompt, against_overhead)

    def _predict(self, x: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        if isinstance(condition, MultiViewCondition) and condition.cameras is not None:
            views, batch, cameras = condition.views_at_once, len(x), len(condition.cameras)
            if cameras != batch or batch % views:
                raise PriorError(
                    f"This model denoises {views} views of an object at once: give it a multiple of {views} latents "
                    f"and a camera each, not {batch} latents and {cameras} cameras."
                )
        return super()._predict(x, timestep, condition)

    def _inputs(self, text: TextCondition) -> dict[str, Any]:
        cameras, views = torch.zeros(len(text.embeddings), CAMERA_WIDTH, device=self.device, dtype=self.dtype), 1
        if isinstance(text, MultiViewCondition) and text.cameras is not None:
            cameras, views = text.cameras.repeat(len(cameras) // len(text.cameras), 1), text.views_at_once
        return {"class_labels": cameras, "cross_attention_kwargs": {"views": views}}
