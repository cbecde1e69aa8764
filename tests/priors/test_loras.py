# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRAs made of known matrices, on tiny pipelines."""

import json
import shutil
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from msd_blender.protocol import JobRequest, ProtocolError, join_lora, split_lora
from server.guidance import create
from server.priors import PriorError, Selection, clear_cache, load, load_cached
from server.priors.additions.lora_files import LoRA, check_loras, find_lora, named_loras
from tests.priors.loras import make, networks
from tests.priors.test_stable_diffusion_xl import folder as xl  # noqa: F401  a fixture

LAYOUTS = ("kohya", "peft", "peft's own", "diffusers", "old diffusers")


@pytest.fixture(params=["sd", "xl"])
def folder(request):
    return request.getfixturevalue("xl") if request.param == "xl" else request.getfixturevalue("folders")["epsilon"]


def check_weights(prior, plain, expected):
    """Each weight is the plain one plus what is expected of its layer, and all layers are plain ones."""
    for part, network in networks(prior).items():
        assert not any(type(module).__module__.startswith("peft") for module in network.modules())
        assert not any(weight.requires_grad for weight in network.parameters()) and not network.training
        weights, before = network.state_dict(), networks(plain)[part].state_dict()
        assert weights.keys() == before.keys()
        for name, weight in weights.items():
            update = expected.get((part, name.removesuffix(".weight")), torch.zeros(()))
            torch.testing.assert_close(
                weight, before[name] + update, atol=1e-6, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )
            if not update.any():
                assert torch.equal(weight, before[name])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fused_weights_are_those_of_the_formula(folder, tmp_path, layout):
    plain = load(folder, "cpu")
    updates = make(plain, tmp_path / "a.safetensors", layout)
    assert len(updates) > 10
    prior = load(folder, "cpu", loras=[LoRA(str(tmp_path / "a.safetensors"), 0.7)])
    check_weights(prior, plain, {key: 0.7 * update for key, update in updates.items()})
    assert not prior.prompt_warnings("abc")


def test_every_layers_own_alpha_is_heeded(folder, tmp_path):
    plain = load(folder, "cpu")
    updates = make(plain, tmp_path / "a.safetensors", ranks=(2, 4), alphas=(1, 2, 3))
    check_weights(load(folder, "cpu", loras=[LoRA(str(tmp_path / "a.safetensors"))]), plain, updates)


def test_alphas_of_pefts_configuration_are_heeded(folders, tmp_path):
    plain, file = load(folders["epsilon"], "cpu"), tmp_path / "a.safetensors"
    updates = make(plain, file, "peft's own", ranks=(4,))
    config = {"r": 4, "lora_alpha": 2, "alpha_pattern": {"conv_out": 12}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    expected = {key: (3 if key[1] == "conv_out" else 0.5) * update for key, update in updates.items()}
    check_weights(load(folders["epsilon"], "cpu", loras=[LoRA(str(file))]), plain, expected)
    updates = make(plain, file, "peft", ranks=(4,))
    metadata = {"unet.r": 4, "unet.lora_alpha": 2, "text_encoder.lora_alpha": 8, "text_encoder.use_rslora": True}
    save_file(load_file(file), file, {"lora_adapter_metadata": json.dumps(metadata)})
    expected = {key: (0.5 if key[0] == "unet" else 4) * update for key, update in updates.items()}
    check_weights(load(folders["epsilon"], "cpu", loras=[LoRA(str(file))]), plain, expected)


def test_the_block_names_of_xls_own_code_are_known(xl, tmp_path):  # noqa: F811
    plain, file = load(xl, "cpu"), tmp_path / "a.safetensors"
    a, b = torch.randn(2, 16), torch.randn(16, 2)
    key = "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q"
    save_file({f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b, f"{key}.alpha": torch.tensor(1.0)}, file)
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    check_weights(load(xl, "cpu", loras=[LoRA(str(file))]), plain, {("unet", layer): 0.5 * b @ a})


def test_two_loras_add(folder, tmp_path):
    plain, files = load(folder, "cpu"), [tmp_path / f"{n}.safetensors" for n in range(2)]
    first = make(plain, files[0], seed=1)
    second = make(plain, files[1], "peft", parts=("unet",), seed=2)
    prior = load(folder, "cpu", loras=[LoRA(str(files[0]), 0.8), LoRA(str(files[1]), -0.5)])
    check_weights(prior, plain, {key: 0.8 * first[key] - 0.5 * second.get(key, torch.zeros(())) for key in first})


@pytest.mark.parametrize("layout", ["kohya", "peft"])
def test_denoise_is_that_of_the_pipeline_with_the_lora_beside_its_weights(folder, tmp_path, layout):
    from diffusers import DiffusionPipeline

    file = tmp_path / "a.safetensors"
    make(load(folder, "cpu"), file, layout, ranks=(4,), alphas=(2,) if layout == "kohya" else None)
    prior = load(folder, "cpu", loras=[LoRA(str(file), 0.8)])
    pipeline = DiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipeline.load_lora_weights(str(file), adapter_name="a", local_files_only=True)
    pipeline.set_adapters(["a"], [0.8])
    embeddings, _, *pooled = pipeline.encode_prompt(
        prompt="a cat", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    condition = prior.text_condition(["a cat"], guidance_scale=1)
    torch.testing.assert_close(condition.embeddings, embeddings, atol=1e-5, rtol=1e-5)
    added = None
    if pooled:
        size = (prior.resolution, prior.resolution)
        ids = pipeline._get_add_time_ids(size, (0, 0), size, torch.float32, 8)
        added = {"text_embeds": pooled[0], "time_ids": ids}
    x, timestep = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(0)), 500
    abar = pipeline.scheduler.alphas_cumprod[timestep]
    with torch.no_grad():
        noisy = abar.sqrt() * x
        output = pipeline.unet(noisy, timestep, encoder_hidden_states=embeddings, added_cond_kwargs=added).sample
    expected = (noisy - (1 - abar).sqrt() * output) / abar.sqrt()
    got = prior.denoise(x, ((1 - abar) / abar).sqrt().reshape(1), condition)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    without = load(folder, "cpu")
    other = without.denoise(x, torch.ones(1), without.text_condition(["a cat"], guidance_scale=1))
    assert not torch.allclose(prior.denoise(x, torch.ones(1), condition), other, atol=1e-2)


def test_a_job_without_a_lora_after_one_with_it_has_the_same_bits(folders, tmp_path):
    file, model = tmp_path / "a.safetensors", str(folders["epsilon"])
    cpu, x, sigma = torch.device("cpu"), torch.ones(1, 3, 8, 8), torch.ones(1)

    def answer(request):
        prior = load_cached(Selection.of(request), cpu)
        return prior.denoise(x, sigma, prior.text_condition([request.prompt], "", 5.0))

    make(load(model, "cpu"), file)
    clear_cache()
    with_it, without = JobRequest("a cat", model=model, loras=[f"{file}:0.5"]), JobRequest("a cat", model=model)
    first, second, third, fourth = map(answer, (without, with_it, without, with_it))
    assert torch.equal(first, third) and torch.equal(second, fourth) and not torch.equal(first, second)
    clear_cache()


def test_vsds_student_finds_the_layers_of_a_model_with_a_lora(folders, tmp_path):
    plain = load(folders["epsilon"], "cpu")
    make(plain, tmp_path / "a.safetensors")
    prior = load(folders["epsilon"], "cpu", loras=[LoRA(str(tmp_path / "a.safetensors"))])
    condition = prior.text_condition(["a cat"], "ugly", 4.0)
    student, x = prior.student(), torch.ones(2, *prior.latent_shape)
    assert len(student.updates) == len(plain.student().updates)
    torch.testing.assert_close(
        student.denoise(x, torch.ones(2), condition), prior.denoise(x, torch.ones(2), condition.without_cfg())
    )
    step = create("vsd").step(prior, x, condition, 0.5, torch.Generator().manual_seed(4))
    assert step.target.isfinite().all()


def edited(change):
    """Write the good LoRA's tensors, changed."""

    def write(good, file, prior):
        tensors = load_file(good)
        save_file(change(tensors) or tensors, file)

    return write


def nan(tensors):
    next(iter(tensors.values()))[0, 0] = float("nan")


def wide(tensors):
    return {k: torch.zeros(t.shape[0], 768) if "attn2_to_k.lora_down" in k else t for k, t in tensors.items()}


def misshapen(tensors):
    return {k: torch.zeros(t.shape[0], 99) if "ff_net_0_proj.lora_down" in k else t for k, t in tensors.items()}


def another(tensors):
    return {k.replace("blocks_", "blocks_7"): t for k, t in tensors.items() if k.startswith("lora_unet_down")}


WRONG = {
    "missing": (lambda good, file, prior: None, "There is no LoRA .*name its .safetensors file", True),
    "folder": (lambda good, file, prior: file.mkdir(), "is a folder: name the LoRA's", True),
    "empty": (lambda good, file, prior: file.write_bytes(b""), "damaged, or no safetensors", True),
    "cut": (lambda good, file, prior: file.write_bytes(good.read_bytes()[:-9]), "is cut short", True),
    "another kind": (
        lambda good, file, prior: shutil.copy(next((prior.parts.place / "vae").glob("*.safetensors")), file),
        "holds a VAE, not a LoRA",
        True,
    ),
    "a network": (
        lambda g, file, prior: save_file({k: w.contiguous() for k, w in prior.unet.state_dict().items()}, file),
        "holds a model's network",
        True,
    ),
    "another family": (edited(wide), "texts of width 768, but the model's have 16|is for SD 1.x, but", True),
    "LoHa": (edited(lambda t: t | {"lora_unet_x.hada_w1_a": torch.ones(2, 2)}), "LyCORIS weights", True),
    "DoRA": (edited(lambda t: t | {"lora_unet_x.dora_scale": torch.ones(2, 2)}), "DoRA weights", True),
    "NaN": (edited(nan), "NaN or infinite, in lora", False),
    "shape": (edited(misshapen), "does not fit this model: use one that was made for it", False),
    "no such layer": (edited(another), "names no layer of this model", False),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_gets_a_sentence(folders, tmp_path, name):
    write, words, known = WRONG[name]
    good, file, prior = tmp_path / "good.safetensors", tmp_path / "wrong.safetensors", load(folders["epsilon"], "cpu")
    make(prior, good)
    check_loras([LoRA(str(good))], folders["epsilon"])
    write(good, file, prior)
    selection = Selection(str(folders["epsilon"]), (LoRA(str(file)),))
    for refuse in (selection.check,) * known + (lambda: load_cached(selection, torch.device("cpu")),):
        with pytest.raises(PriorError, match=words) as error:
            refuse()
        assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_a_pickle_is_not_read(folders, tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    file.write_bytes(b"anything")
    with pytest.raises(PriorError, match="pickled.*never read"):
        Selection(str(folders["epsilon"]), (LoRA(str(file)),)).check()


def test_a_lora_for_xl_is_refused_by_stable_diffusion(folders, xl, tmp_path):  # noqa: F811
    make(load(xl, "cpu"), tmp_path / "a.safetensors")
    with pytest.raises(PriorError, match="is for SDXL, but the model is SD 1.x"):
        Selection(str(folders["epsilon"]), (LoRA(str(tmp_path / "a.safetensors")),)).check()


def test_layers_that_a_model_does_not_have_are_said(folders, tmp_path):
    file, plain = tmp_path / "a.safetensors", load(folders["epsilon"], "cpu")
    updates = make(plain, file)
    save_file(
        load_file(file) | {f"lora_unet_down_blocks_7_conv.lora_{k}.weight": torch.ones(2, 2) for k in ("up", "down")},
        file,
    )
    prior = load(folders["epsilon"], "cpu", loras=[LoRA(str(file))])
    check_weights(prior, plain, updates)
    (note,) = prior.prompt_warnings("abc")
    assert f"1 of {len(updates) + 1} layers" in note


@pytest.mark.parametrize(
    ("text", "file", "weight"),
    [
        ("a.safetensors", "a.safetensors", 1),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("/m/a.safetensors:-1", "/m/a.safetensors", -1),
        ("a:.5", "a", 0.5),
        (r"C:\LoRAs\a.safetensors", r"C:\LoRAs\a.safetensors", 1),
        (r"C:\LoRAs\a.safetensors:0.8", r"C:\LoRAs\a.safetensors", 0.8),
        ("a:b", "a:b", 1),
        ("a:0.8:1", "a:0.8", 1),
    ],
)
def test_a_lora_is_a_file_and_a_weight(text, file, weight):
    assert split_lora(text) == (file, weight)
    assert split_lora(join_lora(file, weight)) == (file, weight)


@given(st.text(min_size=1).filter(str.strip), st.integers(-(10**8), 10**8).map(lambda n: n / 10**6))
def test_files_and_weights_come_back(file, weight):
    assert split_lora(join_lora(file, weight)) == (file, weight)


@pytest.mark.parametrize(
    ("loras", "words"), [([""], "not empty"), ([" "], "not empty"), ("a", "a list"), ([1], "plain Unicode text")]
)
def test_a_request_refuses_other_texts(loras, words):
    with pytest.raises(ProtocolError, match=words):
        JobRequest("a cat", loras=loras).validate()


def test_a_prompts_tags_are_looked_for_by_name(tmp_path, monkeypatch):
    model = tmp_path / "models" / "Stable-diffusion" / "x"
    beside, within = tmp_path / "models" / "Lora" / "styles", model / "loras"
    for place in (beside, within, tmp_path / "elsewhere" / "models" / "loras"):
        place.mkdir(parents=True)
    shiny, matt, far = beside / "shiny [v1].safetensors", within / "matt.safetensors", None
    far = tmp_path / "elsewhere" / "models" / "loras" / "far.safetensors"
    for file in (shiny, matt, far):
        file.write_bytes(b"")
    assert find_lora("shiny [v1]", model) == shiny and find_lora("matt.safetensors", model) == matt
    prompt = "a <lora:shiny [v1]:0.8> chair <lyco:matt>, <hypernet:other:1>"
    assert named_loras(["/a:0.5"], prompt, model) == (LoRA("/a", 0.5), LoRA(str(shiny), 0.8), LoRA(str(matt), 1))
    for name in ("far", "../Lora/styles/shiny [v1]", "*", ""):
        with pytest.raises(PriorError, match="There is no LoRA"):
            named_loras([], f"<lora:{name}>", model)
    monkeypatch.setenv("MSD_MODELS", str(tmp_path / "elsewhere"))
    assert find_lora("far", model) == far
    with pytest.raises(PriorError, match="has the weight 1000: give one from -100 to 100"):
        named_loras(["/a:1000"], "", model)
    with pytest.raises(PriorError, match="cannot be read: write <lora:NAME:WEIGHT>"):
        named_loras([], "<lora:matt:0.5:much>", model)


def test_torch_is_not_needed_to_check():
    import subprocess

    code = "import sys, server.priors.additions.lora_files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
