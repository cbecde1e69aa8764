# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable Diffusion XL, base and fine-tunes (Podell et al. 2023, arXiv 2307.01952)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from ..conditions import TextCondition
from ..files.parts import Parts
from .stable_diffusion import StableDiffusion


class StableDiffusionXL(StableDiffusion):
    """A frozen Stable Diffusion XL model, as a `TextToImagePrior`.

    The U-Net takes the last hidden layers but one of two text encoders side by side, the second one's pooled text, and
    the size of the pictures that it was trained on, which is here the model's own resolution without a crop.
    """

    def __init__(self, parts: Parts, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__(parts, device, dtype)
        self.text_encoder_2 = self._encoder("text_encoder_2", CLIPTextModelWithProjection)
        self.encoders = (self.text_encoder, self.text_encoder_2)
        self.tokenizer_2: CLIPTokenizer = parts.load("tokenizer_2", CLIPTokenizer)
        self._zeros_for_empty = bool(parts.index.get("force_zeros_for_empty_prompt", True))

    def _encode_text(self, text: str) -> TextCondition:
        def encoder(network: Any) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
            def encode(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
                encoded = network(ids, output_hidden_states=True)
                return encoded.hidden_states[-2], encoded[0]

            return encode

        first, second = (
            self._encode_windows(tokenizer, text, encoder(network))
            for tokenizer, network in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2))
        )
        embeddings, pooled = torch.cat([first.embeddings, second.embeddings], dim=-1), second.pooled
        assert pooled is not None
        if not text and self._zeros_for_empty:
            return TextCondition(torch.zeros_like(embeddings), pooled=torch.zeros_like(pooled))
        return TextCondition(embeddings, pooled=pooled)

    def _inputs(self, text: TextCondition) -> dict[str, Any]:
        assert text.pooled is not None
        size = float(self.resolution)
        # Original height and width, the crop's top and left, target height and width.
        ids = torch.tensor([size, size, 0, 0, size, size], dtype=self.dtype).to(self.device, non_blocking=True)
        added = {"text_embeds": text.pooled, "time_ids": ids.expand(len(text.pooled), -1)}
        return {"added_cond_kwargs": added}
