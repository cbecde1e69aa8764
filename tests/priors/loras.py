# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRAs of known matrices, in the layouts that people have."""

import itertools

import torch
from safetensors.torch import save_file
from torch import nn

ENDS = (
    "to_q to_k to_v to_out.0 proj_in ff.net.0.proj conv1 time_emb_proj conv_out q_proj k_proj v_proj out_proj fc1 fc2"
)


def networks(prior):
    names = ("unet", "text_encoder", "text_encoder_2")
    return {name: getattr(prior, name) for name in names if hasattr(prior, name)}


def kohya(part, layer):
    prefix = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}[part]
    return f"{prefix}_{layer}".replace(".", "_")


def make(prior, file, layout="kohya", ranks=(2, 3), alphas=None, parts=None, seed=0):
    """Write a LoRA with matrices of all layers that end in `ENDS`; each one's alpha / rank B A by part and layer.

    ranks, alphas: of the layers, in turn; alphas None are the ranks. "peft's own" has the U-Net alone.
    """
    generator = torch.Generator().manual_seed(seed)
    ranks, given = itertools.cycle(ranks), itertools.cycle(alphas or (None,))
    tensors, updates, has_two = {}, {}, hasattr(prior, "text_encoder_2")
    for part, network in networks(prior).items():
        if parts and part not in parts or layout == "peft's own" and part != "unet":
            continue
        for layer, module in network.named_modules():
            if not layer.endswith(tuple(ENDS.split())) or not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            rank = next(ranks)
            alpha = next(given) or rank
            weight = module.weight
            a = 0.1 * torch.randn(rank, *weight.shape[1:], generator=generator)
            b = torch.randn(len(weight), rank, *(1,) * (weight.ndim - 2), generator=generator)
            updates[part, layer] = alpha / rank * (b.flatten(1) @ a.flatten(1)).reshape(weight.shape)
            whole = layer if part == "unet" else f"text_model.{layer.removeprefix('text_model.')}"
            if layout == "kohya":
                key = kohya("text_encoder" if part == "text_encoder" and not has_two else part, whole)
                key = key.replace("lora_te_", "lora_te1_") if has_two else key
                tensors |= {f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b}
                if alphas:
                    tensors[f"{key}.alpha"] = torch.tensor(float(alpha))
                continue
            down, up = ".lora_A.weight", ".lora_B.weight"
            name = f"{part}.{whole}"
            if layout == "peft's own":
                name = f"base_model.model.{layer}"
            elif layout == "diffusers":
                down, up = (
                    (".lora.down.weight", ".lora.up.weight")
                    if part == "unet"
                    else (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")
                )
            elif layout == "old diffusers":
                if part == "unet" and ".attn" not in layer:
                    del updates[part, layer]
                    continue
                if part == "unet":
                    at, end = layer.split(".to_")
                    name = f"unet.{at}.processor.to_{end.removesuffix('.0')}_lora"
                    down, up = ".down.weight", ".up.weight"
                else:
                    down, up = ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"
            tensors |= {name + down: a, name + up: b}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return updates
