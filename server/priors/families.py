# SPDX-License-Identifier: GPL-3.0-or-later
"""What a safetensors file holds, and for which family of models, told by the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor -> its shape."""

SD1, SD2, SDXL, SD3, FLUX = FAMILIES = "SD 1.x", "SD 2.x", "SDXL", "SD3", "Flux"
# Kinds of files. A NETWORK is a model's denoising network without its VAE and text encoders.
MODEL, NETWORK, LORA, CONTROLNET, IP_ADAPTER, VAE, TEXT_ENCODER, EMBEDDING, UPSCALER, UNKNOWN = (
    "model",
    "network",
    "LoRA",
    "ControlNet",
    "IP-Adapter",
    "VAE",
    "text encoder",
    "embedding",
    "upscaler",
    "unknown",
)

_WIDTHS = {768: SD1, 1024: SD2, 2048: SDXL, 1280: SDXL}  # of the texts that a U-Net attends to; 1280: the refiner's
_STREAM_WIDTHS = {1536: SD3, 2432: SD3, 3072: FLUX}  # of transformers in which text and picture attend to each other
_CHANNELS = {5: "depth", 8: "instruction", 9: "inpainting"}  # of a U-Net that takes more than four latent channels
_PREFIX = "model.diffusion_model."
_LORA = re.compile(r"lora\d?[._](down|up|A|B)\b|\.(hada_w\d_[ab]|lokr_w\d(_[ab])?|oft_blocks)$")
_LYCORIS = re.compile(r"\.(hada_w\d_[ab]|lokr_w\d(_[ab])?|oft_blocks)$")
_LORA_DOWN = re.compile(r"(lora\d?[._](down|A)(\.default)?\.weight|hada_w1_b)$")
_QUANTIZED = re.compile(r"(\.scale_weight|scaled_fp8|\.weight_scale|\.quant_map|bitsandbytes__\w+)$")


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Args:
        kind: MODEL, NETWORK, LORA, …
        family: one of `FAMILIES`; "" where it cannot be told, or is another one.
        variant: what sets it apart within its kind: "inpainting", "depth", "instruction" (InstructPix2Pix), "refiner",
            "EDM" (Playground 2.5, CosXL), "fill", "control" (Flux), "dev", "schnell", "union" (ControlNet),
            "control LoRA", "LLLite", "LyCORIS" (LoHa, LoKr, OFT), "CLIP", "T5", "quantized"; "" for the plain kind.
        text_width: of the texts that its cross-attention takes; None where nothing tells.
    """

    kind: str = UNKNOWN
    family: str = ""
    variant: str = ""
    text_width: int | None = None


def misfit(addition: Contents, family: str, text_width: int | None = None) -> str:
    """Why a LoRA, a ControlNet or an IP-Adapter does not fit a model, as the end of a sentence that names it.

    Args:
        family: of the model; "" is an unknown one, which contradicts nothing.
        text_width: of the model's texts.

    Returns:
        "is for SDXL, but the model is SD 1.x"; "" where nothing contradicts.
    """
    if addition.family and family and addition.family != family:
        return f"is for {addition.family}, but the model is {family}"
    if addition.text_width and text_width and addition.text_width != text_width:
        return f"is for texts of width {addition.text_width}, but the model's have {text_width}"
    return ""


def identify(shapes: Shapes) -> Contents:
    """The contents of a file. Layouts: of Stability AI and Black Forest Labs, of diffusers, kohya-ss and peft."""
    for tell in (_lora, _ip_adapter, _controlnet, _network, _rest):
        if contents := tell(shapes):
            return contents
    return Contents()


def _lora(shapes: Shapes) -> Contents | None:
    names = [name for name in shapes if _LORA.search(name)]
    if not names or any(name.startswith("lllite_") for name in shapes):
        return None
    variant = "LyCORIS" if any(map(_LYCORIS.search, names)) else ""
    down = {name: shapes[name] for name in names if _LORA_DOWN.search(name) and len(shapes[name]) >= 2}
    if any(
        re.search(r"(?<!single_transformer_)(double|single)_blocks|single_transformer_blocks", name) for name in names
    ):
        return Contents(LORA, FLUX, variant)
    if any("joint_blocks" in name for name in names):
        return Contents(LORA, SD3, variant)
    if any(re.search(r"add_[qkv]_proj|norm1_context|ff_context", name) for name in names):
        widths = {shape[1] for name, shape in down.items() if re.search(r"add_[qkv]_proj", name)}
        return Contents(
            LORA, next((_STREAM_WIDTHS[width] for width in widths if width in _STREAM_WIDTHS), SD3), variant
        )
    width = _text_width(down)
    unet = any(re.match(r"(lora_)?unet[._]|(down|up|mid)_block", name) for name in names)
    if any(re.search(r"^lora_te2_|text_encoder_2\.|^lora_unet_(in|out)put_blocks_", name) for name in names):
        family = SDXL
    elif width is not None:
        family = _WIDTHS.get(width, "")
    elif unet and any(re.search(r"transformer_blocks[._][1-9]", name) for name in names):
        family = SDXL  # the others have one transformer block in each attention
    else:
        widths = {shape[1] for name, shape in down.items() if re.search(r"^lora_te_|^text_encoder\.", name)}
        family = next((_WIDTHS[each] for each in sorted(widths) if each in (768, 1024)), "")
    return Contents(LORA, family, variant, width)


def _ip_adapter(shapes: Shapes) -> Contents | None:
    if not any(name.startswith("ip_adapter.") for name in shapes):
        return None
    width = next((shape[-1] for name, shape in shapes.items() if name.endswith(".to_k_ip.weight")), None)
    return Contents(IP_ADAPTER, _WIDTHS.get(width or 0, ""), text_width=width)


def _controlnet(shapes: Shapes) -> Contents | None:
    if any(name.startswith("lllite_") for name in shapes):
        return Contents(CONTROLNET, SDXL, "LLLite")
    if "lora_controlnet" in shapes:
        return Contents(CONTROLNET, _unet_family(shapes), "control LoRA", _text_width(shapes))
    if "controlnet_x_embedder.weight" in shapes or {
        "controlnet_blocks.0.weight",
        "double_blocks.0.img_attn.qkv.weight",
    } <= (shapes.keys()):
        return Contents(CONTROLNET, FLUX, "union" if "controlnet_mode_embedder.weight" in shapes else "")
    if "controlnet_blocks.0.weight" in shapes:
        return Contents(CONTROLNET, SD3)
    original = any(name.removeprefix("control_model.") == "input_hint_block.0.weight" for name in shapes)
    if not original and "controlnet_cond_embedding.conv_in.weight" not in shapes:
        return None
    union = any(
        name.removeprefix("control_model.").startswith(("control_add_embedding.", "task_embedding")) for name in shapes
    )
    inner = {name: shape for name, shape in shapes.items() if name.startswith("control_model.")} or shapes
    return Contents(CONTROLNET, _unet_family(inner), "union" if union else "", _text_width(inner))


def _network(shapes: Shapes) -> Contents | None:
    """A model, or its denoising network alone."""
    wrapped = any(name.startswith(_PREFIX) for name in shapes)
    inner = {name.removeprefix(_PREFIX): shape for name, shape in shapes.items()}
    family, variant, width = "", "", None
    if "input_blocks.0.0.weight" in inner or {"conv_in.weight", "time_embedding.linear_1.weight"} <= inner.keys():
        family, width = _unet_family(shapes), _text_width(inner)
        first = inner.get("input_blocks.0.0.weight") or inner["conv_in.weight"]
        variant = _CHANNELS.get(first[1], "") if len(first) == 4 else ""
        if family == SDXL and _is_refiner(shapes, width):
            variant = "refiner"
        if "edm_mean" in shapes or "edm_vpred.sigma_max" in shapes:
            variant = "EDM"
    elif "joint_blocks.0.context_block.adaLN_modulation.1.weight" in inner:
        family = SD3
    elif "double_blocks.0.img_attn.qkv.weight" in inner or "single_transformer_blocks.0.attn.to_q.weight" in inner:
        if any(name.startswith(("distilled_guidance_layer.", "single_stream_modulation.")) for name in inner):
            return Contents(MODEL if wrapped else NETWORK)  # Chroma, Flux 2
        family = FLUX
        first = inner.get("img_in.weight") or inner.get("x_embedder.weight", (0, 64))
        guided = any(re.match(r"guidance_in\.|time_text_embed\.guidance_embedder\.", name) for name in inner)
        # A pixel has 4 × 16 latent values; control has those of a second picture beside it, fill a mask's too.
        variant = {2: "control", 6: "fill"}.get(first[1] // _flux_channels(inner), "dev" if guided else "schnell")
    elif "transformer_blocks.0.attn.add_k_proj.weight" in inner:
        family = SD3
    else:
        return None
    if any(map(_QUANTIZED.search, shapes)):
        variant = "quantized"
    other = re.compile(r"(first_stage_model|vae|cond_stage_model|conditioner|text_encoders)\.")
    kind = MODEL if wrapped and any(map(other.match, shapes)) else NETWORK
    return Contents(kind, family, variant, width)


def _flux_channels(inner: Shapes) -> int:
    last = inner.get("final_layer.linear.weight") or inner.get("proj_out.weight") or (64,)
    return max(last[0], 1)


def _unet_family(shapes: Shapes) -> str:
    """The family of a U-Net or its ControlNet: by its text encoders, by what it takes, by the width of its texts."""
    if any(name.startswith("conditioner.embedders.") for name in shapes):
        return SDXL
    if any(name.startswith("cond_stage_model.model.") for name in shapes):
        return SD2
    if any(name.startswith("cond_stage_model.transformer.") for name in shapes):
        return SD1
    if any(re.search(r"(^|\.)(label_emb|add_embedding)\.", name) for name in shapes):
        return SDXL
    if (family := _WIDTHS.get(_text_width(shapes) or 0)) is not None:
        return family
    # Only the first generation projects into its attention by a convolution.
    inside = next((shape for name, shape in shapes.items() if name.endswith(".proj_in.weight")), ())
    return {4: SD1, 2: SD2}.get(len(inside), "")


def _is_refiner(shapes: Shapes, width: int | None) -> bool:
    if any(name.startswith("conditioner.embedders.") for name in shapes):
        return not any(name.startswith("conditioner.embedders.1.") for name in shapes)
    return width == 1280


def _text_width(shapes: Shapes) -> int | None:
    """The width of the texts that the keys of cross-attention are made from."""
    return next(
        (
            shape[1]
            for name, shape in shapes.items()
            if len(shape) >= 2 and re.search(r"attn2[._](processor\.)?to_k", name)
        ),
        None,
    )


def _rest(shapes: Shapes) -> Contents | None:
    """Parts of a model, and files of other programs."""
    bare = {re.sub(r"^(first_stage_model|vae)\.", "", name) for name in shapes}
    if {"encoder.conv_in.weight", "decoder.conv_in.weight"} <= bare:
        return Contents(VAE)
    if any(re.search(r"(^|\.)vision_model\.|^visual\.", name) for name in shapes):
        return Contents()
    if any(re.search(r"(^|\.)text_model\.encoder\.layers\.0\.|(^|\.)resblocks\.0\.", name) for name in shapes):
        return Contents(TEXT_ENCODER, variant="CLIP")
    if any(re.search(r"(^|\.)encoder\.block\.0\.layer\.0\.SelfAttention\.", name) for name in shapes):
        return Contents(TEXT_ENCODER, variant="T5")
    if shapes and shapes.keys() <= {"emb_params", "clip_l", "clip_g", "t5xxl"}:
        width = shapes["emb_params"][-1] if shapes.get("emb_params") else 0
        return Contents(EMBEDDING, SDXL if "clip_g" in shapes else _WIDTHS.get(width, ""))
    if any(re.search(r"^(conv_first\.weight|model\.1\.sub\.\d+\.|body\.\d+\.rdb1\.)", name) for name in shapes):
        return Contents(UPSCALER)
    return None
