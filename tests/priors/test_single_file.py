# SPDX-License-Identifier: GPL-3.0-or-later
"""Models in one file: the same bits as from the folder that they were made of, and a sentence for each wrong one."""

import gzip
import json
import re
import shutil
import socket

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from scripts import original_layout
from server.doctor import BAD, GOOD, model
from server.optimize import generate
from server.priors import PriorError, check, load
from server.priors.catalogue import catalogue
from server.priors.files.clip_tokenizer import clip_tokenizer
from server.priors.files.single_file import CONFIGS, SHIPPED, examine
from server.priors.files.single_file_parts import SingleFileParts
from tests.optimize.jobs import request_of, short
from tests.priors.single_files import networks, shipped_shapes, sparse, write

WIDTH = 16


@pytest.fixture(scope="module")
def made(folders, tmp_path_factory):
    """Family -> a tiny diffusers folder."""
    root = tmp_path_factory.mktemp("folders")
    torch.manual_seed(5)
    small = StableDiffusionPipeline.from_pretrained(folders["epsilon"], safety_checker=None)
    small.save_pretrained(root / "sd1")
    linear = {**small.unet.config, "use_linear_projection": True}
    small.register_modules(unet=UNet2DConditionModel.from_config(linear))
    small.save_pretrained(root / "sd2")
    config = {**small.text_encoder.config.to_dict(), "hidden_size": 2 * WIDTH, "projection_dim": 8}
    StableDiffusionXLPipeline(
        vae=small.vae,
        text_encoder=small.text_encoder,
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**config)),
        tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer,
        scheduler=small.scheduler,
        unet=UNet2DConditionModel.from_config(
            {
                **linear,
                "cross_attention_dim": 3 * WIDTH,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 4,
                "projection_class_embeddings_input_dim": 8 + 6 * 4,
                "transformer_layers_per_block": [1, 2],
            }
        ),
    ).save_pretrained(root / "sdxl")
    projected = [CLIPTextModelWithProjection(CLIPTextConfig(**{**config, "hidden_size": n * WIDTH})) for n in (1, 2)]
    StableDiffusion3Pipeline(
        vae=small.vae,
        text_encoder=projected[0],
        text_encoder_2=projected[1],
        text_encoder_3=T5EncoderModel(T5Config(vocab_size=9, d_model=48, d_kv=8, d_ff=8, num_layers=1, num_heads=2)),
        tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer,
        tokenizer_3=T5TokenizerFast(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)], extra_ids=0),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=SD3Transformer2DModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=48,
            caption_projection_dim=16,
            pooled_projection_dim=16,
            pos_embed_max_size=8,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
    ).save_pretrained(root / "sd3")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    """Family -> the folder of its single file, model.safetensors."""
    root = tmp_path_factory.mktemp("files")
    for family, folder in made.items():
        (root / family).mkdir()
        write(folder, root / family / "model.safetensors")
    return {family: root / family for family in made}


@pytest.fixture
def file(written, tmp_path):
    """A single file of Stable Diffusion 1, to be damaged."""
    return shutil.copytree(written["sd1"], tmp_path / "models") / "model.safetensors"


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def pair(request, made, written):
    """A folder and its single file."""
    return made[request.param], written[request.param] / "model.safetensors"


def answers(prior):
    x = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.5, 2.0])
    condition = prior.text_condition(["a cat", "a red dog"], "no", 3.0)
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return prior.denoise(x, sigma, condition), prior.encode(images), prior.decode(x)


def test_a_single_file_answers_as_its_folder_to_the_bit(pair):
    folder, file = pair
    check(file)
    assert model(file).grade == GOOD
    for mine, whole in zip(answers(load(file, "cpu")), answers(load(folder, "cpu"))):
        assert torch.equal(mine, whole)


def test_a_folder_with_one_file_is_that_file(file):
    check(file.parent)
    assert load(file.parent, "cpu").parts.place == file
    shutil.copy(file, file.with_stem("second"))
    with pytest.raises(PriorError, match="2 files of weights: name one of them, such as model.safetensors"):
        check(file.parent)


def test_a_job_runs_on_a_single_file(pair, tmp_path):
    request, mesh = request_of("texture, locked", str(pair[1]), device="cpu")
    generate(request, tmp_path, lambda message: None, lambda: False, short(request), mesh=mesh)
    assert json.loads((tmp_path / "job.json").read_text())["state"] == "finished"


def test_the_network_is_never_asked(written, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    answers(load(written["sdxl"] / "model.safetensors", "cpu"))


# Damage


def rewrite(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def without(prefix):
    def change(tensors):
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]

    return change


def replace(name, tensor):
    return lambda tensors: tensors.update({name: tensor})


NET = "model.diffusion_model."
FIRST = f"{NET}input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-1]), "cut short, with [0-9,]+ of [0-9,]+ bytes of weights: download"),
        (lambda f: f.write_bytes(f.read_bytes()[:100]), "cut short, within its header: download"),
        (lambda f: f.write_bytes(b"x" * 64), "damaged, or no safetensors file: download"),
        (lambda f: f.unlink(), "no folder and no file .*model_index.json"),
        (
            lambda f: rewrite(f, without(f"{NET}time_embed.0.bias")),
            "lacks 1 of the .* weights of its unet .*time_embed.0",
        ),
        (lambda f: rewrite(f, without("first_stage_model.")), r"has no vae: use a checkpoint .*model\.config"),
        (lambda f: rewrite(f, without("cond_stage_model.")), "has no text_encoder: use a checkpoint"),
        (
            lambda f: rewrite(f, replace(FIRST, torch.zeros(8, 9, 3, 3))),
            "is an inpainting model, .* use the model that",
        ),
        (lambda f: rewrite(f, replace(FIRST, torch.zeros(8, 5, 3, 3))), "is a depth model, .* use the plain model"),
        (lambda f: rewrite(f, replace(FIRST, torch.zeros(8, 8, 3, 3))), "edits pictures .* use a text-to-image"),
        (
            lambda f: rewrite(f, replace(FIRST, torch.zeros(6, 3, 3, 3))),
            r"shape \[6, 3, 3, 3\], not \[8, 3, 3, 3\]: put",
        ),
        (lambda f: rewrite(f, replace("edm_mean", torch.zeros(4))), "noise levels of its own .*: use"),
        (lambda f: rewrite(f, replace(FIRST, torch.zeros(8, 3, 3, 3, dtype=torch.int8))), "has quantized weights: use"),
        (
            lambda f: save_file({"lora_te2_a.lora_down.weight": torch.zeros(2, 2)}, f),
            "is a LoRA for SDXL, not a model: name a model, and this as its LoRA",
        ),
        (
            lambda f: save_file({"input_hint_block.0.weight": torch.zeros(2, 3, 3, 3)}, f),
            "is a ControlNet, not a model: name a model, and this as its ControlNet",
        ),
        (
            lambda f: save_file(
                {"encoder.conv_in.weight": torch.zeros(2), "decoder.conv_in.weight": torch.zeros(2)}, f
            ),
            "is a VAE, not a model: name a checkpoint",
        ),
        (lambda f: save_file({"emb_params": torch.zeros(2, 768)}, f), "is an embedding for SD 1.x, not a model: name"),
        (
            lambda f: save_file({"weight": torch.zeros(2, 2)}, f),
            "no model that is known: use one of SD 1.x, SD 2.x, SDXL",
        ),
        (
            lambda f: save_file(
                {"double_blocks.0.img_attn.qkv.weight": torch.zeros(2), "distilled_guidance_layer.a": torch.zeros(2)}, f
            ),
            "is a model of another kind: use",
        ),
    ],
)
def test_a_fault_is_the_same_sentence_everywhere(file, damage, words):
    damage(file)
    with pytest.raises(PriorError, match=words) as caught:
        check(file)
    sentence = str(caught.value)
    assert "\n" not in sentence and str(file) in sentence
    with pytest.raises(PriorError, match=re.escape(sentence)):
        load(file, "cpu")
    assert (model(file).grade, model(file).what) == (BAD, sentence)
    listed = [each for each in catalogue([file.parent]) if each.kind == "model" and each.place]
    assert [each.problem for each in listed] in ([sentence], [])  # [] for what is no model, or is not there


def test_the_refiner_is_refused(made, tmp_path):
    def only_the_second_encoder(parts):
        del parts["text_encoder"]
        inside = parts.pop("text_encoder_2")
        parts["text"] = {name.replace("embedders.1.", "embedders.0."): tensor for name, tensor in inside.items()}

    file = write(made["sdxl"], tmp_path / "refiner.safetensors", only_the_second_encoder)
    with pytest.raises(PriorError, match="is SDXL's refiner, .*: use an SDXL base model"):
        check(file)


@pytest.mark.parametrize("name", ["sd.ckpt", "sd.PT", "sd.bin", "sd.gguf", "sd.onnx", "sd.txt"])
def test_other_files_are_refused(tmp_path, name):
    (tmp_path / name).touch()
    kinds = {
        ".gguf": "a GGUF file, which is not read: name",
        ".onnx": "an ONNX file",
        ".txt": "a file, which is not read",
    }
    words = kinds.get((tmp_path / name).suffix, "a pickled checkpoint, which can run code and is never read: get")
    with pytest.raises(PriorError, match=words):
        load(tmp_path / name)
    with pytest.raises(PriorError, match=words):
        check(tmp_path / name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(made, tmp_path, value):
    name = "cond_stage_model.transformer.text_model.final_layer_norm.bias"
    file = write(made["sd1"], tmp_path / "model.safetensors", lambda parts: parts["text_encoder"][name].fill_(value))
    with pytest.raises(PriorError, match="text_encoder.* NaN or infinite on the cpu in float32: download"):
        load(file, "cpu")


def test_without_a_list_of_tensors_the_loader_finds_what_is_missing(made, tmp_path):
    name = "cond_stage_model.transformer.text_model.final_layer_norm.bias"
    for part, gone in (("unet", f"{NET}time_embed.0.bias"), ("text_encoder", name)):
        file = write(made["sd1"], tmp_path / f"{part}.safetensors", lambda parts: parts[part].pop(gone))
        (file.with_suffix(".config") / "tensors.json.gz").unlink()
        check(file)
        with pytest.raises(PriorError, match=f"lacks weights of its {part}, a .*: download"):
            load(file, "cpu")


def test_parts_that_the_file_lacks_come_from_the_folder_beside_it(made, tmp_path):
    file = write(made["sd1"], tmp_path / "model.safetensors", lambda parts: parts.pop("vae"))
    shutil.copytree(made["sd1"] / "vae", file.with_suffix(".config") / "vae", dirs_exist_ok=True)
    for mine, whole in zip(answers(load(file, "cpu")), answers(load(made["sd1"], "cpu"))):
        assert torch.equal(mine, whole)
    weights = file.with_suffix(".config") / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(PriorError, match="cut short"):
        check(file)


def test_names_of_older_and_other_programs(made, tmp_path):
    def rename(parts):
        inside = parts["text_encoder"]
        parts["text_encoder"] = {name.replace("text_model.", ""): tensor for name, tensor in inside.items()}
        parts["vae"] = {name.replace("first_stage_model.", "vae."): each for name, each in parts["vae"].items()}
        parts["more"] = {"cond_stage_model.logit_scale": torch.ones(()), "model_ema.decay": torch.ones(())}

    file = write(made["sd1"], tmp_path / "model.safetensors", rename)
    for mine, whole in zip(answers(load(file, "cpu")), answers(load(made["sd1"], "cpu"))):
        assert torch.equal(mine, whole)


def test_float8_is_read(made, tmp_path):
    def eighth(parts):
        parts["unet"] = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in parts["unet"].items()}

    prior = load(write(made["sd1"], tmp_path / "model.safetensors", eighth), "cpu")
    assert prior.unet.dtype == torch.float32 and answers(prior)[0].isfinite().all()


# Files of their true size, whose weights take no room


PUBLISHED = [
    ("stable-diffusion-1", (), 512),
    ("stable-diffusion-2", (), 512),
    ("stable-diffusion-xl", (), 1024),
    ("stable-diffusion-3-medium", ("text_encoder_3",), 1024),
    ("stable-diffusion-3.5-medium", ("text_encoder_3",), 1024),
    ("stable-diffusion-3.5-large", ("text_encoder_3",), 1024),
]
BIAS = f"{NET}output_blocks.11.1.transformer_blocks.0.norm1.bias"


@pytest.mark.parametrize(("name", "without", "resolution"), PUBLISHED)
def test_published_files_are_told_apart(tmp_path, name, without, resolution):
    checkpoint = examine(sparse(tmp_path / "model.safetensors", shipped_shapes(name, without)))
    assert (checkpoint.shipped.name, checkpoint.resolution) == (name, resolution)
    assert checkpoint.names.keys() == {"vae", *checkpoint.names} - set(without)
    assert checkpoint.configuration("scheduler").get("prediction_type", "epsilon") == "epsilon"


@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell"])
def test_flux_needs_the_tokenizer_of_t5(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    file = sparse(tmp_path / "model.safetensors", shipped_shapes(name))
    with pytest.raises(
        PriorError, match=r"needs T5's tokenizer, .*: put the folder tokenizer_2 .* into .*model\.config"
    ):
        examine(file)
    places = (
        tmp_path / "hf/hub/models--a--flux/snapshots/x/tokenizer_2",
        tmp_path / "ComfyUI/comfy/text_encoders/t5_tokenizer",
        file.with_suffix(".config") / "tokenizer_2",
    )
    for place in places:
        place.mkdir(parents=True)
        (place / "tokenizer_config.json").write_text('{"tokenizer_class": "T5TokenizerFast"}')
        (place / "tokenizer.json").write_text("{}")
        checkpoint = examine(file)
        assert checkpoint.shipped.name == name and checkpoint.resolution == 1024
        assert checkpoint.t5_tokenizer == (None if place.parent == file.with_suffix(".config") else place)
        shutil.rmtree(place)


def test_a_network_alone_is_refused_with_what_it_lacks(tmp_path):
    parts = ("vae", "text_encoder", "text_encoder_2")
    shapes = {name.removeprefix(NET): shape for name, shape in shipped_shapes("flux-dev", parts).items()}
    with pytest.raises(PriorError, match="has no vae and no text_encoder and no text_encoder_2: use a checkpoint that"):
        examine(sparse(tmp_path / "flux1-dev.safetensors", shapes))
    shapes |= {"double_blocks.0.img_attn.qkv.scale_weight": (1,)}
    with pytest.raises(PriorError, match="quantized weights: use one in float16"):
        examine(sparse(tmp_path / "flux1-dev-fp8.safetensors", shapes))


@pytest.mark.parametrize(
    "model, expected",
    [("model:\n  params:\n    parameterization: v\n", "v_prediction"), ("model: [", "epsilon"), ("", "epsilon")],
)
def test_v_prediction_is_said_by_a_yaml_file_beside_it(tmp_path, model, expected):
    file = sparse(tmp_path / "model.safetensors", shipped_shapes("stable-diffusion-1"))
    file.with_suffix(".yaml").write_text(model)
    assert examine(file).configuration("scheduler")["prediction_type"] == expected


def test_v_prediction_is_said_by_the_file(tmp_path):
    shapes = shipped_shapes("stable-diffusion-xl") | {"v_pred": (0,), "ztsnr": (0,)}
    scheduler = examine(sparse(tmp_path / "model.safetensors", shapes)).configuration("scheduler")
    assert scheduler["prediction_type"] == "v_prediction" and scheduler["rescale_betas_zero_snr"] is True
    file = sparse(
        tmp_path / "said.safetensors",
        shipped_shapes("stable-diffusion-xl"),
        metadata={"modelspec.prediction_type": "v"},
    )
    assert examine(file).configuration("scheduler")["prediction_type"] == "v_prediction"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("spread", "prediction", "resolution"), [(0.02, "epsilon", 512), (0.3, "v_prediction", 768)])
def test_stable_diffusion_2_is_told_by_the_spread_of_a_bias(tmp_path, dtype, spread, prediction, resolution):
    bias = torch.randn(320, generator=torch.Generator().manual_seed(0)) * spread
    data = bias.to(dtype).view(torch.int16).numpy().tobytes()
    kind = "F16" if dtype == torch.float16 else "BF16"
    file = sparse(tmp_path / "model.safetensors", shipped_shapes("stable-diffusion-2"), {BIAS: data}, kind)
    checkpoint = examine(file)
    assert checkpoint.configuration("scheduler")["prediction_type"] == prediction
    assert checkpoint.resolution == resolution
    settings = file.with_suffix(".config") / "scheduler" / "scheduler_config.json"  # a person's word comes first
    settings.parent.mkdir(parents=True)
    settings.write_text('{"prediction_type": "sample"}')
    assert examine(file).configuration("scheduler")["prediction_type"] == "sample"


# The shipped configurations


@pytest.mark.parametrize("name", [name for names in SHIPPED.values() for name in names])
def test_the_lists_are_what_diffusers_converts_to_its_networks(name):
    lists = json.loads(gzip.decompress((CONFIGS / name / "tensors.json.gz").read_bytes()))
    pipeline, empty = original_layout.empty_networks(CONFIGS / name)
    for part, network in empty.items():
        if type(network).__name__ not in SINGLE_FILE_LOADABLE_CLASSES:
            continue
        tensors = {each: torch.empty(shape, device="meta") for each, shape in lists[part].items()}
        convert = SINGLE_FILE_LOADABLE_CLASSES[type(network).__name__]["checkpoint_mapping_fn"]
        converted = convert(checkpoint=tensors, config=network.config)
        assert {each: tensor.shape for each, tensor in converted.items()} == {
            each: tensor.shape for each, tensor in network.state_dict().items()
        }


def test_clips_tokenizer_is_openais():
    tokenizer = clip_tokenizer(CLIPTokenizer, model_max_length=77, pad_token="!")
    assert len(tokenizer) == 49408 and tokenizer.pad_token_id == 0 and tokenizer.model_max_length == 77
    # By clip.tokenize of openai's package.
    assert tokenizer("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    text = "Ünïcödé 日本 🎸 it's 1024px"
    assert tokenizer(text)["input_ids"][1:-1] == [
        *(6522, 77, 35689, 66, 7255, 67, 4166, 39121, 19277, 361, 22122, 585, 568, 272, 271, 273, 275, 10262)
    ]


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_every_network_has_the_weights_of_the_folder(made, written, family):
    parts = SingleFileParts(written[family] / "model.safetensors")
    assert parts.has("text_encoder_2") and parts.has("text_encoder_3") == (family == "sd3")
    whole = networks(made[family])
    for part, network in whole.items():
        mine = parts.network(part, type(network)).state_dict()
        assert mine.keys() == network.state_dict().keys()
        assert all(torch.equal(mine[name], tensor) for name, tensor in network.state_dict().items())
