# SPDX-License-Identifier: GPL-3.0-or-later
"""The tensors of a diffusers pipeline under the names of the single files that Stability AI, Black Forest Labs and
ComfyUI publish: the inverse of diffusers' from_single_file. Tests write tiny single files with it; as a script it
writes the list of tensors (tensors.json.gz) that `server.priors.files.single_file` holds a file against, for each
folder in server/priors/files/configs.

.venv/bin/python scripts/original_layout.py
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONFIGS = Path(__file__).resolve().parents[1] / "server" / "priors" / "configs"
NETWORK = "model.diffusion_model."
Tensors = dict[str, Tensor]


def renamed(tensors: Tensors, rules: list[tuple[str, str]], prefix: str = "") -> Tensors:
    """The tensors with each rule's regular expression replaced in their names."""
    made = {}
    for name, tensor in tensors.items():
        for old, new in rules:
            name = re.sub(old, new, name)
        made[prefix + name] = tensor
    return made


def unet(network: Any) -> Tensors:
    step = network.config.layers_per_block + 1

    def block(match: re.Match[str]) -> str:
        side, number, kind, layer = match[1], int(match[2]), match[3], int(match[4])
        if side == "down":
            at, inner = 1 + number * step + layer, {"resnets": "0", "attentions": "1"}.get(kind, "0.op")
            return f"input_blocks.{1 + number * step + step - 1 if kind == 'downsamplers' else at}.{inner}"
        if kind == "upsamplers":
            attends = hasattr(network.up_blocks[number], "attentions")
            return f"output_blocks.{number * step + step - 1}.{2 if attends else 1}.conv"
        return f"output_blocks.{number * step + layer}.{0 if kind == 'resnets' else 1}"

    rules = [
        (r"^time_embedding\.linear_1", "time_embed.0"),
        (r"^time_embedding\.linear_2", "time_embed.2"),
        (r"^add_embedding\.linear_1", "label_emb.0.0"),
        (r"^add_embedding\.linear_2", "label_emb.0.2"),
        (r"^conv_in", "input_blocks.0.0"),
        (r"^conv_norm_out", "out.0"),
        (r"^conv_out", "out.2"),
        (r"^mid_block\.resnets\.0", "middle_block.0"),
        (r"^mid_block\.attentions\.0", "middle_block.1"),
        (r"^mid_block\.resnets\.1", "middle_block.2"),
        (r"\.norm1\.(?=weight|bias)", ".in_layers.0."),
        (r"\.conv1\.", ".in_layers.2."),
        (r"\.norm2\.(?=weight|bias)", ".out_layers.0."),
        (r"\.conv2\.", ".out_layers.3."),
        (r"\.time_emb_proj\.", ".emb_layers.1."),
        (r"\.conv_shortcut\.", ".skip_connection."),
    ]
    made = {}
    for name, tensor in network.state_dict().items():
        inside = "transformer_blocks" in name  # whose norms keep their names
        name = next(iter(renamed({name: tensor}, rules[:9] if inside else rules)))
        name = re.sub(r"^(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)(\.conv(?=\.))?", block, name)
        made[NETWORK + name] = tensor
    return made


def vae(network: Any, prefix: str = "first_stage_model.") -> Tensors:
    last = len(network.config.block_out_channels) - 1
    made = renamed(
        network.state_dict(),
        [
            (r"mid_block\.resnets\.0", "mid.block_1"),
            (r"mid_block\.resnets\.1", "mid.block_2"),
            (r"mid_block\.attentions\.0", "mid.attn_1"),
            (r"attn_1\.group_norm", "attn_1.norm"),
            (r"attn_1\.to_(\w)\.", r"attn_1.\1."),
            (r"attn_1\.to_out\.0", "attn_1.proj_out"),
            (r"conv_shortcut", "nin_shortcut"),
            (r"conv_norm_out", "norm_out"),
            (r"down_blocks\.(\d+)\.resnets", r"down.\1.block"),
            (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
        ],
    )
    up = re.compile(r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)")
    names = {
        name: up.sub(lambda m: f"up.{last - int(m[1])}.{'block' if m[2] == 'resnets' else 'upsample'}", name)
        for name in made
    }
    convolutions = re.compile(r"attn_1\.(q|k|v|proj_out)\.weight")
    return {
        prefix + names[name]: tensor[:, :, None, None] if convolutions.search(name) else tensor
        for name, tensor in made.items()
    }


def clip(network: Any, prefix: str) -> Tensors:
    """As transformers names them."""
    return {
        prefix + (name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"): tensor
        for name, tensor in network.state_dict().items()
    }


def open_clip(network: Any, prefix: str) -> Tensors:
    """As open_clip names them, with the three projections of an attention in one tensor."""
    made: Tensors = {}
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in network.state_dict().items()}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            three = [tensors[name.replace("q_proj", f"{each}_proj")] for each in "qkv"]
            made[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(three)
        elif name == "text_projection.weight":
            made["text_projection"] = tensor.T
        elif not re.search(r"\.[kv]_proj\.", name):
            made[name] = tensor
    return renamed(
        made,
        [
            (r"^encoder\.layers\.", "transformer.resblocks."),
            (r"\.self_attn\.out_proj", ".attn.out_proj"),
            (r"\.layer_norm([12])", r".ln_\1"),
            (r"\.mlp\.fc1", ".mlp.c_fc"),
            (r"\.mlp\.fc2", ".mlp.c_proj"),
            (r"^embeddings\.token_embedding", "token_embedding"),
            (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
            (r"^final_layer_norm", "ln_final"),
        ],
        prefix,
    )


def t5(network: Any, prefix: str = "text_encoders.t5xxl.transformer.") -> Tensors:
    tensors = network.state_dict()
    tensors.pop("encoder.embed_tokens.weight", None)  # is `shared`
    return {prefix + name: tensor for name, tensor in tensors.items()}


def joined(tensors: Tensors, groups: list[tuple[str, list[str]]]) -> Tensors:
    """The tensors, with each group's (a name's pattern with {}, and its names) concatenated under one name."""
    left = dict(tensors)
    for name, parts in groups:
        for kind in ("weight", "bias"):
            if f"{parts[0]}.{kind}" in left:
                left[f"{name}.{kind}"] = torch.cat([left.pop(f"{part}.{kind}") for part in parts])
    return left


def swapped(tensor: Tensor) -> Tensor:
    """Scale and shift in the other order."""
    first, second = tensor.chunk(2)
    return torch.cat([second, first])


def sd3(network: Any) -> Tensors:
    last = network.config.num_layers - 1
    blocks = [(f"transformer_blocks.{i}", f"joint_blocks.{i}") for i in range(last + 1)]
    groups = [
        (f"{new}.{side}.qkv", [f"{old}.{attention}.{each}" for each in names])
        for old, new in blocks
        for side, attention, names in (
            ("x_block.attn", "attn", ["to_q", "to_k", "to_v"]),
            ("x_block.attn2", "attn2", ["to_q", "to_k", "to_v"]),
            ("context_block.attn", "attn", ["add_q_proj", "add_k_proj", "add_v_proj"]),
        )
    ]
    tensors = joined(network.state_dict(), groups)
    for name in tensors:
        if name.startswith(("norm_out.linear.", f"transformer_blocks.{last}.norm1_context.linear.")):
            tensors[name] = swapped(tensors[name])
    rules = [
        (r"^pos_embed\.pos_embed$", "pos_embed"),
        (r"^pos_embed\.proj", "x_embedder.proj"),
        (r"^time_text_embed\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
        (r"^time_text_embed\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
        (r"^time_text_embed\.text_embedder\.linear_1", "y_embedder.mlp.0"),
        (r"^time_text_embed\.text_embedder\.linear_2", "y_embedder.mlp.2"),
        (r"^transformer_blocks\.", "joint_blocks."),
        (r"\.attn(2?)\.norm_([qk])\.", r".x_block.attn\1.ln_\2."),
        (r"\.attn\.norm_added_([qk])\.", r".context_block.attn.ln_\1."),
        (r"\.attn(2?)\.to_out\.0", r".x_block.attn\1.proj"),
        (r"\.attn\.to_add_out", ".context_block.attn.proj"),
        (r"\.norm1\.linear", ".x_block.adaLN_modulation.1"),
        (r"\.norm1_context\.linear", ".context_block.adaLN_modulation.1"),
        (r"\.ff\.net\.0\.proj", ".x_block.mlp.fc1"),
        (r"\.ff\.net\.2", ".x_block.mlp.fc2"),
        (r"\.ff_context\.net\.0\.proj", ".context_block.mlp.fc1"),
        (r"\.ff_context\.net\.2", ".context_block.mlp.fc2"),
        (r"^proj_out", "final_layer.linear"),
        (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
    ]
    return renamed(tensors, rules, NETWORK)


def flux(network: Any) -> Tensors:
    groups = []
    for i in range(network.config.num_layers):
        old, new = f"transformer_blocks.{i}.attn", f"double_blocks.{i}"
        groups.append((f"{new}.img_attn.qkv", [f"{old}.{each}" for each in ("to_q", "to_k", "to_v")]))
        groups.append((f"{new}.txt_attn.qkv", [f"{old}.{each}" for each in ("add_q_proj", "add_k_proj", "add_v_proj")]))
    for i in range(network.config.num_single_layers):
        old = f"single_transformer_blocks.{i}"
        names = [f"{old}.attn.to_q", f"{old}.attn.to_k", f"{old}.attn.to_v", f"{old}.proj_mlp"]
        groups.append((f"single_blocks.{i}.linear1", names))
    tensors = joined(network.state_dict(), groups)
    for kind in ("weight", "bias"):
        tensors[f"norm_out.linear.{kind}"] = swapped(tensors[f"norm_out.linear.{kind}"])
    rules = [
        (r"^time_text_embed\.timestep_embedder\.", "time_in."),
        (r"^time_text_embed\.text_embedder\.", "vector_in."),
        (r"^time_text_embed\.guidance_embedder\.", "guidance_in."),
        (r"^(\w+_in)\.linear_1", r"\1.in_layer"),
        (r"^(\w+_in)\.linear_2", r"\1.out_layer"),
        (r"^context_embedder", "txt_in"),
        (r"^x_embedder", "img_in"),
        (r"^single_transformer_blocks\.", "single_blocks."),
        (r"^transformer_blocks\.", "double_blocks."),
        (r"(single_blocks\.\d+)\.attn\.norm_q\.weight", r"\1.norm.query_norm.scale"),
        (r"(single_blocks\.\d+)\.attn\.norm_k\.weight", r"\1.norm.key_norm.scale"),
        (r"(single_blocks\.\d+)\.norm\.linear", r"\1.modulation.lin"),
        (r"(single_blocks\.\d+)\.proj_out", r"\1.linear2"),
        (r"\.norm1\.linear", ".img_mod.lin"),
        (r"\.norm1_context\.linear", ".txt_mod.lin"),
        (r"\.attn\.norm_q\.weight", ".img_attn.norm.query_norm.scale"),
        (r"\.attn\.norm_k\.weight", ".img_attn.norm.key_norm.scale"),
        (r"\.attn\.norm_added_q\.weight", ".txt_attn.norm.query_norm.scale"),
        (r"\.attn\.norm_added_k\.weight", ".txt_attn.norm.key_norm.scale"),
        (r"\.ff\.net\.0\.proj", ".img_mlp.0"),
        (r"\.ff\.net\.2", ".img_mlp.2"),
        (r"\.ff_context\.net\.0\.proj", ".txt_mlp.0"),
        (r"\.ff_context\.net\.2", ".txt_mlp.2"),
        (r"\.attn\.to_out\.0", ".img_attn.proj"),
        (r"\.attn\.to_add_out", ".txt_attn.proj"),
        (r"^proj_out", "final_layer.linear"),
        (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
    ]
    return renamed(tensors, rules, NETWORK)


def parts(pipeline: str, networks: dict[str, Any]) -> dict[str, Tensors]:
    """Part -> its tensors, by the names of that pipeline's single files.

    Args:
        pipeline: class of diffusers.
        networks: part -> network.
    """
    text, more = "text_encoder", "text_encoders."
    made = {"vae": vae(networks["vae"])}
    if pipeline == "StableDiffusionPipeline":
        old = not networks["unet"].config.use_linear_projection  # 2.x took open_clip's encoder
        made["unet"] = unet(networks["unet"])
        made[text] = (
            clip(networks[text], "cond_stage_model.transformer.")
            if old
            else open_clip(networks[text], "cond_stage_model.model.")
        )
    elif pipeline == "StableDiffusionXLPipeline":
        made["unet"] = unet(networks["unet"])
        made[text] = clip(networks[text], "conditioner.embedders.0.transformer.")
        made[f"{text}_2"] = open_clip(networks[f"{text}_2"], "conditioner.embedders.1.model.")
    elif pipeline == "StableDiffusion3Pipeline":
        made["transformer"] = sd3(networks["transformer"])
        made[text] = clip(networks[text], f"{more}clip_l.transformer.")
        made[f"{text}_2"] = clip(networks[f"{text}_2"], f"{more}clip_g.transformer.")
        made[f"{text}_3"] = t5(networks[f"{text}_3"])
    elif pipeline == "FluxPipeline":
        made["transformer"] = flux(networks["transformer"])
        made[text] = clip(networks[text], f"{more}clip_l.transformer.")
        made[f"{text}_2"] = t5(networks[f"{text}_2"])
    else:
        raise ValueError(pipeline)
    return made


def write_list(folder: Path, tensors: dict[str, Tensors]) -> None:
    """tensors.json.gz of a folder of configurations: part -> name -> shape."""
    shapes = {part: {name: list(each.shape) for name, each in inside.items()} for part, inside in tensors.items()}
    text = json.dumps(shapes, separators=(",", ":"))
    (folder / "tensors.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def empty_networks(folder: Path) -> tuple[str, dict[str, Any]]:
    """The pipeline's class, and its networks without memory for their weights."""
    import diffusers
    import transformers

    index = json.loads((folder / "model_index.json").read_text())
    networks = {}
    for part, entry in index.items():
        if not (folder / part / "config.json").is_file():
            continue
        kind = getattr({"diffusers": diffusers, "transformers": transformers}[entry[0]], entry[1])
        with torch.device("meta"):
            if entry[0] == "diffusers":
                networks[part] = kind.from_config(kind.load_config(str(folder / part)))
            else:
                networks[part] = kind(kind.config_class.from_pretrained(str(folder / part)))
    return index["_class_name"], networks


if __name__ == "__main__":
    for folder in sorted(CONFIGS.iterdir()):
        if folder.is_dir():
            write_list(folder, parts(*empty_networks(folder)))
