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

MVDREAM, IMAGEDREAM = "MVDream", "ImageDream"  # variants that take cameras
_WIDTHS = {768: SD1, 1024: SD2, 2048: SDXL, 1280: SDXL}  # of the texts that a U-Net attends to; 1280: the refiner's
_STREAM_WIDTHS = {1536: SD3, 2432: SD3, 3072: FLUX}  # of transformers in which text and picture attend to each other
_CHANNELS = {5: "depth", 8: "instruction", 9: "inpainting"}  # of a U-Net that takes more than four latent channels
NETWORK_PREFIX = "model.diffusion_model."
_LORA = r"lora\d?[._](down|up|A|B)\b|\.(hada_w\d_[ab]|lokr_w\d(_[ab])?|oft_blocks)$"
_LYCORIS = r"\.(hada_w\d_[ab]|lokr_w\d(_[ab])?|oft_blocks)$"
_LORA_DOWN = re.compile(r"(lora\d?[._](down|A)(\.default)?\.weight|hada_w1_b)$")
_QUANTIZED = r"(\.scale_weight|scaled_fp8|\.weight_scale|\.quant_map|bitsandbytes__\w+)$"


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Args:
        kind: MODEL, NETWORK, LORA, …
        family: one of `FAMILIES`; "" where it cannot be told, or is another one.
        variant: what sets it apart within its kind: "inpainting", "depth", "instruction" (InstructPix2Pix), "refiner",
            "EDM" (Playground 2.5, CosXL), "fill", "control" (Flux), "dev", "schnell", "union" (ControlNet),
            "control LoRA", "LLLite", "FaceID" (IP-Adapter), "LyCORIS" (LoHa, LoKr, OFT), "CLIP", "T5", "quantized",
            "MVDream", "ImageDream"; "" for the plain kind.
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
    names = "\n".join(shapes)
    for tell in (_ip_adapter, _lora, _controlnet, _network, _rest):
        if contents := tell(shapes, names):
            return contents
    return Contents()


def _any(pattern: str, names: str) -> bool:
    """Whether one of the names matches: a search in all of them, one a line, which a loop over them is too slow for."""
    return re.search(pattern, names, re.MULTILINE) is not None


def _lora(shapes: Shapes, names: str) -> Contents | None:
    if not _any(_LORA, names) or _any("^lllite_", names):
        return None
    variant = "LyCORIS" if _any(_LYCORIS, names) else ""
    down = {name: shape for name, shape in shapes.items() if len(shape) >= 2 and _LORA_DOWN.search(name)}
    if _any("(double|single|single_transformer)_blocks", names):
        return Contents(LORA, FLUX, variant)
    if "joint_blocks" in names:
        return Contents(LORA, SD3, variant)
    if _any("add_[qkv]_proj|norm1_context|ff_context", names):
        widths = {shape[1] for name, shape in down.items() if re.search(r"add_[qkv]_proj", name)}
        return Contents(
            LORA, next((_STREAM_WIDTHS[width] for width in widths if width in _STREAM_WIDTHS), SD3), variant
        )
    width = _text_width(down)
    if _any(r"^lora_te2_|text_encoder_2\.|^lora_unet_(in|out)put_blocks_", names):
        family = SDXL
    elif width is not None:
        family = _WIDTHS.get(width, "")
    elif _any("^((lora_)?unet[._]|(down|up|mid)_block).*transformer_blocks[._][1-9]", names):
        family = SDXL  # the others have one transformer block in each attention
    else:
        widths = {shape[1] for name, shape in down.items() if re.search(r"^lora_te_|^text_encoder\.", name)}
        family = next((_WIDTHS[each] for each in sorted(widths) if each in (768, 1024)), "")
    return Contents(LORA, family, variant, width)


def _ip_adapter(shapes: Shapes, names: str) -> Contents | None:
    if not _any(r"^ip_adapter\.", names):
        return None
    width = next((shape[-1] for name, shape in shapes.items() if name.endswith(".to_k_ip.weight")), None)
    faces = (
        _any(r"^image_proj\.perceiver_resampler\.|^ip_adapter\..*_lora\.", names)
        or {"image_proj.proj.0.weight", "image_proj.norm.weight"} <= shapes.keys()
    )
    return Contents(IP_ADAPTER, _WIDTHS.get(width or 0, ""), "FaceID" if faces else "", width)


def _controlnet(shapes: Shapes, names: str) -> Contents | None:
    if _any("^lllite_", names):
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
    if not _any(r"^((control_model\.)?input_hint_block\.0|controlnet_cond_embedding\.conv_in)\.weight$", names):
        return None
    union = _any(r"^(control_model\.)?(control_add_embedding\.|task_embedding)", names)
    inner = {name: shape for name, shape in shapes.items() if name.startswith("control_model.")} or shapes
    return Contents(CONTROLNET, _unet_family(inner), "union" if union else "", _text_width(inner))


def _network(shapes: Shapes, names: str) -> Contents | None:
    """A model, or its denoising network alone."""
    wrapped = _any(f"^{re.escape(NETWORK_PREFIX)}", names)
    inner = {name.removeprefix(NETWORK_PREFIX): shape for name, shape in shapes.items()}
    family, variant, width = "", "", None
    if "input_blocks.0.0.weight" in inner or {"conv_in.weight", "time_embedding.linear_1.weight"} <= inner.keys():
        family, width = _unet_family(shapes), _text_width(inner)
        first = inner.get("input_blocks.0.0.weight") or inner["conv_in.weight"]
        variant = _CHANNELS.get(first[1], "") if len(first) == 4 else ""
        if family == SDXL and _is_refiner(shapes, width):
            variant = "refiner"
        if "camera_embed.0.weight" in inner:
            variant = IMAGEDREAM if any(name.startswith("image_embed.") for name in inner) else MVDREAM
        if "edm_mean" in shapes or "edm_vpred.sigma_max" in shapes:
            variant = "EDM"
    elif "joint_blocks.0.context_block.adaLN_modulation.1.weight" in inner:
        family = SD3
    elif "double_blocks.0.img_attn.qkv.weight" in inner or "single_transformer_blocks.0.attn.to_q.weight" in inner:
        if _any(r"(^|\.)(distilled_guidance_layer|single_stream_modulation)\.", names):
            return Contents(MODEL if wrapped else NETWORK)  # Chroma, Flux 2
        family = FLUX
        first = inner.get("img_in.weight") or inner.get("x_embedder.weight", (0, 64))
        guided = _any(r"(^|\.)(guidance_in|guidance_embedder)\.", names)
        # A pixel has 4 × 16 latent values; control has those of a second picture beside it, fill a mask's too.
        variant = {2: "control", 6: "fill"}.get(first[1] // _flux_channels(inner), "dev" if guided else "schnell")
    elif "transformer_blocks.0.attn.add_k_proj.weight" in inner:
        family = SD3
    else:
        return None
    if _any(_QUANTIZED, names):
        variant = "quantized"
    whole = wrapped and _any(r"^(first_stage_model|vae|cond_stage_model|conditioner|text_encoders)\.", names)
    kind = MODEL if whole else NETWORK
    return Contents(kind, family, variant, width)


def _flux_channels(inner: Shapes) -> int:
    last = inner.get("final_layer.linear.weight") or inner.get("proj_out.weight") or (64,)
    return max(last[0], 1)


def _unet_family(shapes: Shapes) -> str:
    """The family of a U-Net or its ControlNet: by its text encoders, by what it takes, by the width of its texts."""
    names = "\n".join(shapes)
    if _any(r"^conditioner\.embedders\.", names):
        return SDXL
    if _any(r"^cond_stage_model\.model\.", names):
        return SD2
    if _any(r"^cond_stage_model\.transformer\.", names):
        return SD1
    if _any(r"(^|\.)(label_emb|add_embedding)\.", names):
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
            if "attn2" in name and len(shape) >= 2 and re.search(r"attn2[._](processor\.)?to_k", name)
        ),
        None,
    )


def _rest(shapes: Shapes, names: str) -> Contents | None:
    """Parts of a model, and files of other programs."""
    if all(_any(rf"^((first_stage_model|vae)\.)?{half}\.conv_in\.weight$", names) for half in ("encoder", "decoder")):
        return Contents(VAE)
    if _any(r"(^|\.)vision_model\.|^visual\.", names):
        return Contents()
    if _any(r"(^|\.)text_model\.encoder\.layers\.0\.|(^|\.)resblocks\.0\.", names):
        return Contents(TEXT_ENCODER, variant="CLIP")
    if _any(r"(^|\.)encoder\.block\.0\.layer\.0\.SelfAttention\.", names):
        return Contents(TEXT_ENCODER, variant="T5")
    if shapes and shapes.keys() <= {"emb_params", "clip_l", "clip_g", "t5xxl"}:
        width = shapes["emb_params"][-1] if shapes.get("emb_params") else 0
        return Contents(EMBEDDING, SDXL if "clip_g" in shapes else _WIDTHS.get(width, ""))
    if _any(r"^(conv_first\.weight|model\.1\.sub\.\d+\.|body\.\d+\.rdb1\.)", names):
        return Contents(UPSCALER)
    return None
