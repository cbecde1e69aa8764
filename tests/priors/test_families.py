# SPDX-License-Identifier: GPL-3.0-or-later
"""Published files are told by a few of their tensors' names and shapes."""

import pytest

from server.priors.files.kinds import (
    CONTROLNET,
    EMBEDDING,
    FLUX,
    IP_ADAPTER,
    LORA,
    MODEL,
    NETWORK,
    SD1,
    SD2,
    SD3,
    SDXL,
    TEXT_ENCODER,
    UNKNOWN,
    UPSCALER,
    VAE,
    Contents,
    identify,
    misfit,
)

NET = "model.diffusion_model."


def unet(width, channels=4, projection=2, prefix=NET):
    return {
        f"{prefix}input_blocks.0.0.weight": (320, channels, 3, 3),
        f"{prefix}input_blocks.4.1.proj_in.weight": (640, 640, 1, 1)[:projection],
        f"{prefix}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, width),
    }


VAE_PARTS = {
    "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
    "first_stage_model.decoder.conv_in.weight": (1,),
}
SD1_TEXT = {"cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768), **VAE_PARTS}
SD2_TEXT = {"cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.weight": (4096, 1024), **VAE_PARTS}
XL_TEXT = {
    f"{NET}label_emb.0.0.weight": (1280, 2816),
    "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768),
    "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight": (5120, 1280),
    **VAE_PARTS,
}
REFINER_TEXT = {f"{NET}label_emb.0.0.weight": (1280, 2560), "conditioner.embedders.0.model.ln_final.weight": (1280,)}


def flux(channels=64, guided=True, prefix="", **more):
    return {
        f"{prefix}double_blocks.0.img_attn.qkv.weight": (9216, 3072),
        f"{prefix}img_in.weight": (3072, channels),
        f"{prefix}final_layer.linear.weight": (64, 3072),
        **({f"{prefix}guidance_in.in_layer.weight": (3072, 256)} if guided else {}),
        **more,
    }


SD3_NET = {
    "joint_blocks.0.context_block.adaLN_modulation.1.weight": (9216, 1536),
    "x_embedder.proj.weight": (1536, 16, 2, 2),
}

FILES = [
    # whole models
    (unet(768, projection=4) | SD1_TEXT, Contents(MODEL, SD1, "", 768)),
    (unet(16, projection=4) | SD1_TEXT, Contents(MODEL, SD1, "", 16)),
    (unet(768, 9, 4) | SD1_TEXT, Contents(MODEL, SD1, "inpainting", 768)),
    (unet(768, 8, 4) | SD1_TEXT, Contents(MODEL, SD1, "instruction", 768)),
    (unet(1024) | SD2_TEXT, Contents(MODEL, SD2, "", 1024)),
    (unet(1024, 5) | SD2_TEXT, Contents(MODEL, SD2, "depth", 1024)),
    (unet(2048) | XL_TEXT, Contents(MODEL, SDXL, "", 2048)),
    (unet(2048, 9) | XL_TEXT, Contents(MODEL, SDXL, "inpainting", 2048)),
    (unet(1280) | REFINER_TEXT, Contents(MODEL, SDXL, "refiner", 1280)),
    (unet(2048) | XL_TEXT | {"edm_mean": (4,)}, Contents(MODEL, SDXL, "EDM", 2048)),
    ({f"{NET}{name}": shape for name, shape in SD3_NET.items()} | VAE_PARTS, Contents(MODEL, SD3)),
    (flux(prefix=NET) | {"vae.encoder.conv_in.weight": (1,)}, Contents(MODEL, FLUX, "dev")),
    # denoising networks alone
    (unet(768, projection=4, prefix=""), Contents(NETWORK, SD1, "", 768)),
    (unet(1024, projection=2), Contents(NETWORK, SD2, "", 1024)),
    (SD3_NET, Contents(NETWORK, SD3)),
    (flux(), Contents(NETWORK, FLUX, "dev")),
    (flux(guided=False), Contents(NETWORK, FLUX, "schnell")),
    (flux(128), Contents(NETWORK, FLUX, "control")),
    (flux(384), Contents(NETWORK, FLUX, "fill")),
    (flux(**{"double_blocks.0.img_attn.qkv.scale_weight": ()}), Contents(NETWORK, FLUX, "quantized")),
    (flux(**{"distilled_guidance_layer.in_proj.bias": (1,)}), Contents(NETWORK)),
    (
        {
            "conv_in.weight": (320, 4, 3, 3),
            "time_embedding.linear_1.weight": (1280, 320),
            "add_embedding.linear_1.weight": (1280, 2816),
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
        },
        Contents(NETWORK, SDXL, "", 2048),
    ),
    (
        {"single_transformer_blocks.0.attn.to_q.weight": (3072, 3072), "x_embedder.weight": (3072, 64)},
        Contents(NETWORK, FLUX, "schnell"),
    ),
    ({"transformer_blocks.0.attn.add_k_proj.weight": (1536, 1536)}, Contents(NETWORK, SD3)),
    # LoRAs: kohya, peft, diffusers before peft
    (
        {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (8, 768)},
        Contents(LORA, SD1, "", 768),
    ),
    (
        {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (8, 1024)},
        Contents(LORA, SD2, "", 1024),
    ),
    (
        {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (8, 2048)},
        Contents(LORA, SDXL, "", 2048),
    ),
    ({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 768)}, Contents(LORA, SD1)),
    ({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 1024)}, Contents(LORA, SD2)),
    ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 1280)}, Contents(LORA, SDXL)),
    (
        {"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (8, 2048)},
        Contents(LORA, SDXL, "", 2048),
    ),
    (
        {"unet.down_blocks.2.attentions.0.transformer_blocks.5.attn1.to_k.lora_A.weight": (8, 1280)},
        Contents(LORA, SDXL),
    ),
    ({"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.weight": (8, 1280)}, Contents(LORA)),
    (
        {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight": (4, 768)},
        Contents(LORA, SD1, "", 768),
    ),
    (
        {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.hada_w1_b": (8, 768)},
        Contents(LORA, SD1, "LyCORIS", 768),
    ),
    ({"transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": (16, 3072)}, Contents(LORA, FLUX)),
    ({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": (16, 3072)}, Contents(LORA, FLUX)),
    ({"double_blocks.0.processor.proj_lora1.down.weight": (16, 3072)}, Contents(LORA, FLUX)),
    ({"transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight": (16, 1536)}, Contents(LORA, SD3)),
    ({"transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight": (16, 3072)}, Contents(LORA, FLUX)),
    ({"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": (16, 1536)}, Contents(LORA, SD3)),
    # ControlNets
    (
        {f"control_model.{name}": shape for name, shape in unet(768, projection=4, prefix="").items()}
        | {"control_model.input_hint_block.0.weight": (16, 3, 3, 3)},
        Contents(CONTROLNET, SD1, "", 768),
    ),
    (unet(1024, prefix="") | {"input_hint_block.0.weight": (16, 3, 3, 3)}, Contents(CONTROLNET, SD2, "", 1024)),
    (
        {
            "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
            "add_embedding.linear_1.weight": (1280, 2816),
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
        },
        Contents(CONTROLNET, SDXL, "", 2048),
    ),
    (
        {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3), "add_embedding.linear_1.weight": (1280, 2816)},
        Contents(CONTROLNET, SDXL),  # the small one has no attention
    ),
    (
        {
            "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
            "control_add_embedding.linear_1.weight": (1280, 2048),
            "add_embedding.linear_1.weight": (1280, 2816),
        },
        Contents(CONTROLNET, SDXL, "union"),
    ),
    ({"controlnet_x_embedder.weight": (3072, 64)}, Contents(CONTROLNET, FLUX)),
    ({"controlnet_blocks.0.weight": (1536, 1536)}, Contents(CONTROLNET, SD3)),
    ({"lllite_unet_input_blocks_4_1.down.0.weight": (1, 1)}, Contents(CONTROLNET, SDXL, "LLLite")),
    (
        {"lora_controlnet": (), "label_emb.0.0.down": (1, 1), "input_blocks.4.1.proj_in.up": (1,)},
        Contents(CONTROLNET, SDXL, "control LoRA"),
    ),
    # the rest
    (
        {"image_proj.proj.weight": (3072, 1024), "ip_adapter.1.to_k_ip.weight": (320, 768)},
        Contents(IP_ADAPTER, SD1, "", 768),
    ),
    ({"ip_adapter.1.to_k_ip.weight": (640, 2048)}, Contents(IP_ADAPTER, SDXL, "", 2048)),
    ({"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_in.weight": (512, 16, 3, 3)}, Contents(VAE)),
    (VAE_PARTS, Contents(VAE)),
    ({"text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768)}, Contents(TEXT_ENCODER, variant="CLIP")),
    ({"encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096)}, Contents(TEXT_ENCODER, variant="T5")),
    ({"vision_model.encoder.layers.0.mlp.fc1.weight": (1, 1)}, Contents(UNKNOWN)),
    ({"emb_params": (4, 768)}, Contents(EMBEDDING, SD1)),
    ({"clip_g": (4, 1280), "clip_l": (4, 768)}, Contents(EMBEDDING, SDXL)),
    ({"conv_first.weight": (64, 3, 3, 3), "body.0.rdb1.conv1.weight": (32, 64, 3, 3)}, Contents(UPSCALER)),
    ({"model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)}, Contents(UPSCALER)),
    ({"weight": (3, 3)}, Contents(UNKNOWN)),
    ({}, Contents(UNKNOWN)),
]


@pytest.mark.parametrize(("shapes", "contents"), FILES)
def test_a_file_is_told_by_its_tensors(shapes, contents):
    assert identify(shapes) == contents


@pytest.mark.parametrize(
    ("addition", "model", "sentence"),
    [
        (Contents(LORA, SDXL), (SD1, 768), "is for SDXL, but the model is SD 1.x"),
        (Contents(LORA, SD1, "", 768), (SD1, 768), ""),
        (Contents(LORA), (FLUX, None), ""),
        (Contents(CONTROLNET, SD2, "", 1024), ("", None), ""),
        (Contents(LORA, "", "", 16), ("", 32), "is for texts of width 16, but the model's have 32"),
        (Contents(LORA, "", "", 16), (SD1, 16), ""),
    ],
)
def test_an_addition_fits_a_model_unless_something_contradicts(addition, model, sentence):
    assert misfit(addition, *model) == sentence
