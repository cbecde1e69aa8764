# SPDX-License-Identifier: GPL-3.0-or-later
"""Models of published sizes with random weights: they cost what the real ones cost, and nothing is downloaded."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPTokenizer

from server.priors.base import TextToImagePrior
from server.priors.families.stable_diffusion import StableDiffusion
from server.priors.families.stable_diffusion_xl import StableDiffusionXL

Config = dict[str, Any]

_VAE: Config = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
}
_CLIP_L: Config = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "bos_token_id": 52,
    "eos_token_id": 53,
    "pad_token_id": 53,
}
_SCHEDULER: Config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

# part -> the numbers of its published config.json that are not diffusers' or transformers' defaults
FAMILIES: dict[str, dict[str, Config]] = {
    "sd15": {
        "unet": {"sample_size": 64, "cross_attention_dim": 768},
        "vae": {**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
        "text_encoder": _CLIP_L,
        "scheduler": _SCHEDULER,
    },
    "sdxl": {
        "unet": {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "use_linear_projection": True,
        },
        "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
        "text_encoder": _CLIP_L,
        "text_encoder_2": {
            **_CLIP_L,
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
            "hidden_act": "gelu",
        },
        "scheduler": _SCHEDULER,
    },
    # Seconds instead of minutes: to see that a benchmark runs.
    "tiny": {
        "unet": {
            "sample_size": 8,
            "block_out_channels": (32, 32),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 16,
            "layers_per_block": 1,
        },
        "vae": {**_VAE, "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "sample_size": 64},
        "text_encoder": {
            **_CLIP_L,
            "vocab_size": 54,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        "scheduler": _SCHEDULER,
    },
}


class RandomParts:
    """As `priors.parts.Parts`, of a model in `FAMILIES`. Its tokenizer knows the letters only.

    edge: of the latents, instead of the family's own.
    """

    def __init__(self, family: str, edge: int | None = None):
        self.place = Path(f"random {family}")
        self.index: dict[str, object] = {}
        self._configs = FAMILIES[family]
        if edge is not None:
            self._configs = {**self._configs, "unet": {**self._configs["unet"], "sample_size": edge}}

    def config(self, part: str) -> dict[str, object]:
        return self._configs[part]

    def network(self, part: str, kind: Any, **options: Any) -> Any:
        """Weights of variance 1 / inputs, which keep activations at the size of a trained network's."""
        config, dtype = self._configs[part], options.get("torch_dtype") or options.get("dtype")
        if hasattr(kind, "config_class"):  # of transformers, whose buffers need values
            network = kind(kind.config_class(**config)).to(dtype)
        else:
            with torch.device("meta"):
                network = nn.Module.to(kind(**config), dtype)
            network = network.to_empty(device="cpu")
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in network.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=weight[0].numel() ** -0.5)
            for module in network.modules():
                if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
                    module.weight.fill_(1)
                if getattr(module, "bias", None) is not None:
                    module.bias.zero_()
        return network.requires_grad_(False).eval()

    def load(self, part: str, kind: Any) -> Any:
        if not part.startswith("tokenizer"):
            return kind(**self._configs[part])
        letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
        words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
        with tempfile.TemporaryDirectory() as name:
            vocabulary, merges = Path(name, "vocab.json"), Path(name, "merges.txt")
            vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}))
            merges.write_text("#version: 0.2\n")
            return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77)


def random_prior(
    family: str, device: torch.device | str, dtype: torch.dtype, edge: int | None = None
) -> TextToImagePrior:
    """A prior of a family's size. edge: see `RandomParts`."""
    kind = StableDiffusionXL if family == "sdxl" else StableDiffusion
    return kind(RandomParts(family, edge), device, dtype)
