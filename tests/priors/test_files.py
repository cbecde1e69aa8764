# SPDX-License-Identifier: GPL-3.0-or-later
"""Model folders: the check, the loader and the doctor agree on each."""

import json
import re
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from server.doctor import BAD, GOOD, model
from server.priors import PriorError, check, load

INDEX, SCHEDULER, UNET = "model_index.json", "scheduler/scheduler_config.json", "unet/config.json"
WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
KINDS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}


@pytest.fixture
def folder(folders, tmp_path):
    return shutil.copytree(folders["epsilon"], tmp_path / "model")


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def shard(folder, part, variant=None):
    """Split the part's weights into shards, as save_pretrained does; returns the index."""
    kind = KINDS[part].from_pretrained(folder / part)
    remove(folder / part)
    kind.save_pretrained(folder / part, max_shard_size="4KB", variant=variant)
    (index,) = (folder / part).glob("*.index*.json")
    return index


def change(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def cut(path, count):
    path.write_bytes(path.read_bytes()[:count])


def unshard(folder):
    shard(folder, "vae").unlink()


def lose_a_shard(folder):
    shard(folder, "text_encoder")
    sorted((folder / "text_encoder").glob("*-of-*"))[1].unlink()


def name_a_shard_outside(folder):
    index = shard(folder, "unet")
    edit(index, weight_map=dict.fromkeys(json.loads(index.read_text())["weight_map"], "../x.safetensors"))


def swap_a_shard(folder):
    shard(folder, "vae")
    first, second = sorted((folder / "vae").glob("*-of-*"))[:2]
    shutil.copy(second, first)


def name_the_old_way(folder):
    index = shard(folder, "unet", "fp16")
    index.rename(index.with_name("diffusion_pytorch_model.safetensors.fp16.index.json"))


def pointer(folder):
    (folder / WEIGHTS["unet"]).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def dangle(folder):
    path = folder / WEIGHTS["vae"]
    path.unlink()
    path.symlink_to(folder / "blob")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove, "There is no folder and no file .*model_index.json"),
        (lambda f: remove(f / INDEX), "no model_index.json: name a folder that has one, or a .safetensors file"),
        (lambda f: (f / INDEX).write_text("{"), "model_index.json is not JSON: download"),
        (lambda f: (f / INDEX).write_text("[]"), "model_index.json is not JSON: download"),
        (lambda f: (f / INDEX).write_bytes(b"\xff\xfe{}"), "model_index.json is not JSON: download"),
        (lambda f: edit(f / INDEX, _class_name="KandinskyPipeline"), "holds a KandinskyPipeline: use"),
        (lambda f: edit(f / INDEX, _class_name="StableDiffusionXLImg2ImgPipeline"), "holds a StableDiffusionXLImg2Img"),
        (lambda f: edit(f / INDEX, _class_name="StableDiffusionInpaintPipeline"), "holds a StableDiffusionInpaint"),
        (
            lambda f: edit(f / INDEX, text_encoder=["transformers", "BertModel"]),
            "text_encoder of .* is a BertModel: use",
        ),
        (lambda f: edit(f / INDEX, vae=[None, None]), "vae of .* is a None: use"),
        (lambda f: remove(f / "vae"), "no vae folder"),
        (lambda f: remove(f / UNET), "unet/config.json is missing: download"),
        (lambda f: (f / UNET).write_text("{'a': 1}"), "unet/config.json is not JSON: download"),
        (lambda f: edit(f / UNET, in_channels=9), "takes 9 channels, but its latents have 3: use"),
        (lambda f: edit(f / UNET, cross_attention_dim=32), "text of width 32, but its text encoder gives 16"),
        (lambda f: edit(f / UNET, addition_embed_type="text_time"), "needs more than text .*text_time.*: use"),
        (lambda f: edit(f / UNET, sample_size=None), "no sample_size: set"),
        (lambda f: edit(f / SCHEDULER, prediction_type="flow"), "predicts 'flow': use"),
        (
            lambda f: (f / SCHEDULER).write_text('{"_class_name": "FlowMatchEulerDiscreteScheduler"}'),
            "FlowMatchEulerDiscreteScheduler, has no beta_schedule: use",
        ),
        (lambda f: remove(f / SCHEDULER), "scheduler_config.json is missing: download"),
        (
            lambda f: [
                remove(p) for p in (f / "tokenizer").glob("[vmt]*.*") if p.stem in ("vocab", "merges", "tokenizer")
            ],
            "tokenizer has no vocab.json: download",
        ),
        (lambda f: [p.write_text("{") for p in (f / "tokenizer").glob("*.json")], "tokenizer/.*json is not JSON"),
        (lambda f: (f / WEIGHTS["unet"]).rename(f / "unet" / "weights.bin"), "only pickled weights.*convert them"),
        (lambda f: (f / WEIGHTS["unet"]).rename(f / "unet" / "model.onnx"), "only ONNX weights.*get the model"),
        (
            lambda f: (f / WEIGHTS["unet"]).rename(f / "unet" / "unet.safetensors"),
            "has unet.safetensors, but .* diffusion_pytorch_model.safetensors: rename",
        ),
        (lambda f: remove(f / WEIGHTS["unet"]), "no safetensors weights: download"),
        (lambda f: (f / WEIGHTS["vae"]).write_bytes(b"x" * 64), "damaged, or no safetensors file: download"),
        (lambda f: (f / WEIGHTS["vae"]).write_bytes(b"\2" + bytes(7) + b"[]"), "damaged, or no safetensors file"),
        (lambda f: cut(f / WEIGHTS["vae"], 0), "damaged, or no safetensors file"),
        (lambda f: cut(f / WEIGHTS["vae"], 100), "cut short, within its header: download"),
        (
            lambda f: cut(f / WEIGHTS["text_encoder"], -1),
            "cut short, with [0-9,]+ of [0-9,]+ bytes of weights: download",
        ),
        (lambda f: open(f / WEIGHTS["unet"], "ab").write(b"more"), "damaged, with 4 bytes too many: download"),
        (pointer, "pointer of Git LFS.*git lfs pull"),
        (dangle, "link that leads nowhere: download"),
        (unshard, "vae has shards but no diffusion_pytorch_model.safetensors.index.json: download"),
        (lose_a_shard, r"text_encoder lacks 1 of its \d+ shards \(model-00002-of-.*: download"),
        (name_a_shard_outside, "index.json is damaged: download"),
        (swap_a_shard, "lacks .*, which .*index.json says it has: download"),
        (name_the_old_way, "old name: rename it to diffusion_pytorch_model.safetensors.index.fp16.json"),
    ],
)
def test_a_fault_is_the_same_sentence_everywhere(folder, damage, words):
    damage(folder)
    with pytest.raises(PriorError, match=words) as caught:
        check(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence and str(folder) in sentence
    with pytest.raises(PriorError, match=re.escape(sentence)):
        load(folder)
    assert model(folder).grade == BAD and model(folder).what == sentence


@pytest.mark.parametrize("variant", [None, "fp16", "ema-1"])
def test_sharded_weights_of_any_variant(folder, variant):
    whole = load(folder, "cpu")
    for part in KINDS:
        shard(folder, part, variant)
    prior = load(folder, "cpu")
    assert model(folder).grade == GOOD
    x, sigma = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(0)), torch.ones(2)
    for made, expected in (
        (
            prior.denoise(x, sigma, prior.text_condition(["a cat"])),
            whole.denoise(x, sigma, whole.text_condition(["a cat"])),
        ),
        (prior.decode(x), whole.decode(x)),
    ):
        assert torch.equal(made, expected)


def test_plain_weights_come_before_variants_and_fp16_before_other_variants(folder):
    path = folder / WEIGHTS["unet"]
    for variant in ("bf16", "fp16"):
        shutil.copy(path, path.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    cut(path.with_name("diffusion_pytorch_model.bf16.safetensors"), 50)
    check(folder)
    path.unlink()
    check(folder)
    load(folder, "cpu")


@pytest.mark.parametrize("part", KINDS)
def test_a_missing_weight_is_an_error(folder, part):
    change(folder / WEIGHTS[part], lambda tensors: tensors.pop(sorted(tensors)[0]))
    with pytest.raises(PriorError, match=f"{part} lacks 1 of .* weights.*: download") as caught:
        load(folder, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", KINDS)
def test_weights_of_a_wrong_shape_are_refused(folder, part):
    change(folder / WEIGHTS[part], lambda tensors: tensors.update({sorted(tensors)[0]: torch.zeros(3, 5)}))
    with pytest.raises(PriorError, match=f"{part} could not be loaded as .*shape|{part} .*shape") as caught:
        load(folder, "cpu")
    assert "\n" not in str(caught.value) and "ignore_mismatched_sizes" not in str(caught.value)


@pytest.mark.parametrize("part", KINDS)
@pytest.mark.parametrize(
    ("value", "dtype"), [(float("nan"), torch.float32), (float("inf"), torch.float32), (1e5, torch.float16)]
)
def test_weights_with_nan_or_infinity_are_refused(folder, part, value, dtype):
    if part == "vae" and dtype == torch.float16:  # the VAE works in bfloat16 then, which has as much range as float32
        load(folder, "cpu", dtype)
        value = float("inf")
    change(folder / WEIGHTS[part], lambda tensors: tensors[sorted(tensors)[-1]].fill_(value))
    words = f"{part} .*NaN or infinite on the cpu in {str(dtype).removeprefix('torch.')}.*(float32|download)"
    with pytest.raises(PriorError, match=words):
        load(folder, "cpu", dtype)
