# SPDX-License-Identifier: GPL-3.0-or-later
"""Image prompts beside diffusers' own pipelines, tiny and with random weights; jobs; files that cannot be used."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from msd_blender.protocol import FILES, JobRequest, ProtocolError
from server.guidance import create
from server.optimize import generate
from server.priors import PriorError, Selection, Views, load, load_cached
from server.priors.additions.ip_adapter_files import TakesImagePrompt, encoder_of, find
from server.priors.catalogue import catalogue
from tests.optimize.jobs import ball, short
from tests.priors.pipelines import answers_of_the_pipeline
from tests.priors.test_stable_diffusion_xl import folder as xl_folder  # noqa: F401

VIEWS, PROJECTION, HIDDEN = 2, 24, 32
ID = "a" * 64


def save_encoder(path, hidden=HIDDEN, projection=PROJECTION):
    """A CLIP image encoder of diffusers' layout, with 16 heads as all that IP-Adapters use."""
    torch.manual_seed(5)
    config = CLIPVisionConfig(
        hidden_size=hidden,
        projection_dim=projection,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=16,
        image_size=28,
        patch_size=7,
        hidden_act="gelu",
    )
    CLIPVisionModelWithProjection(config).save_pretrained(path)
    return path


def save_adapter(unet, path, plus=False):
    """A random IP-Adapter in the layout of h94/IP-Adapter: keys and values for each cross-attention, and a projection
    of the image encoder's answer; of the kind Plus a resampler of its tokens."""
    torch.manual_seed(7)
    width = unet.config.cross_attention_dim
    if plus:
        from diffusers.models.embeddings import IPAdapterPlusImageProjection

        network = IPAdapterPlusImageProjection(HIDDEN, width, width, depth=4, dim_head=64, heads=1, num_queries=3)
        tensors = {f"image_proj.{_published(name)}": w for name, w in _joined(network.state_dict()).items()}
    else:
        tensors = {
            "image_proj.proj.weight": torch.randn(4 * width, PROJECTION) / 5,
            "image_proj.proj.bias": torch.randn(4 * width) / 5,
            "image_proj.norm.weight": torch.rand(width) + 0.5,
            "image_proj.norm.bias": torch.randn(width) / 5,
        }
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            layer = unet.get_submodule(name.removesuffix(".processor")).to_k
            for each in ("k", "v"):
                tensors[f"ip_adapter.{number}.to_{each}_ip.weight"] = torch.randn_like(layer.weight) / 2
    save_file({name: weight.clone() for name, weight in tensors.items()}, path)
    return path


def _joined(state):
    """With keys and values in one matrix, as published."""
    values = {name: state.pop(name) for name in list(state) if ".to_v." in name}
    for name, value in values.items():
        state[name.replace("to_v", "to_kv")] = torch.cat([state.pop(name.replace("to_v", "to_k")), value])
    return state


def _published(name):
    """The name of a resampler's weight in h94/IP-Adapter."""
    for ours, theirs in (
        (".ln0.", ".0.norm1."),
        (".ln1.", ".0.norm2."),
        (".attn.to_out.0.", ".0.to_out."),
        (".attn.", ".0."),
        (".ff.0.", ".1.0."),
        (".ff.1.net.0.proj.", ".1.1."),
        (".ff.1.net.2.", ".1.3."),
    ):
        name = name.replace(ours, theirs)
    return name


@pytest.fixture(scope="module")
def models(folders, xl_folder):  # noqa: F811
    return {"sd": folders["v_prediction"], "xl": xl_folder}


@pytest.fixture(scope="module")
def adapters(models, tmp_path_factory):
    """ "sd", "xl", "sd plus" -> file; beside each is its encoder."""
    root = tmp_path_factory.mktemp("adapters") / "models"
    save_encoder(root / "image_encoder")
    unets = {family: load(model, "cpu").unet for family, model in models.items()}
    return {
        name: save_adapter(unets[name.split()[0]], root / f"{name}.safetensors", "plus" in name)
        for name in ("sd", "xl", "sd plus", "xl plus")
    }


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def adapted(models, adapters, name, picture, strength=0.6):
    prior = load(models[name.split()[0]], "cpu")
    assert isinstance(prior, TakesImagePrompt)
    prior.add_ip_adapter(find(str(adapters[name]), models[name.split()[0]]), strength)
    prior.follow(picture)
    return prior


@pytest.mark.parametrize("name", ["sd", "xl", "sd plus", "xl plus"])
def test_denoise_is_what_the_pipeline_computes(models, adapters, picture, name):
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    kind = StableDiffusionPipeline if name.startswith("sd") else StableDiffusionXLPipeline
    more = {"safety_checker": None} if name.startswith("sd") else {}
    pipeline = kind.from_pretrained(models[name.split()[0]], local_files_only=True, **more)
    pipeline.load_ip_adapter(str(adapters[name].parent), subfolder="", weight_name=adapters[name].name)
    pipeline.set_ip_adapter_scale(0.6)
    prior = adapted(models, adapters, name, picture)
    condition = prior.text_condition(["a cat"] * VIEWS, "ugly", 4.0)
    plain = load(models[name.split()[0]], "cpu")
    for output, timestep, noisy in answers_of_the_pipeline(pipeline, ip_adapter_image=picture):
        expected = pipeline.scheduler.step(output, timestep, noisy).pred_original_sample
        abar = pipeline.scheduler.alphas_cumprod[timestep]
        sigma = ((1 - abar) / abar).sqrt().repeat(VIEWS)
        got = prior.denoise(noisy / abar.sqrt(), sigma, condition)
        assert (got - expected).norm() <= 1e-4 * expected.norm()
        without = plain.denoise(noisy / abar.sqrt(), sigma, plain.text_condition(["a cat"] * VIEWS, "ugly", 4.0))
        assert (without - expected).norm() > 1e-3 * expected.norm()


def latents(prior):
    return torch.randn(VIEWS, *prior.latent_shape, generator=torch.Generator().manual_seed(0))


def front():
    return Views(torch.zeros(VIEWS), torch.zeros(VIEWS))


@pytest.mark.parametrize("name", ["sd", "xl plus"])
def test_strength_0_is_no_adapter(models, adapters, picture, name):
    prior, plain = adapted(models, adapters, name, picture, 0.0), load(models[name.split()[0]], "cpu")
    x, sigma = latents(prior), torch.full((VIEWS,), 2.0)
    got, expected = (each.denoise(x, sigma, each.condition(front(), "a cat")) for each in (prior, plain))
    assert torch.equal(got, expected)
    request = JobRequest("a cat", image_prompt=ID, ip_adapter=str(adapters["sd"]), image_prompt_strength=0)
    assert Selection.of(request) == Selection()


def test_without_a_prompt_there_is_no_picture_either(models, adapters, picture):
    """The unconditional density is that of an adapter's training, where text and picture were left out together."""
    prior = adapted(models, adapters, "sd", picture)
    x, sigma = latents(prior), torch.full((VIEWS,), 2.0)
    none = prior.denoise(x, sigma)
    guided = prior.text_condition(["a cat"], "", 4.0)
    left_out = replace(guided.without_cfg(), embeddings=guided.negative, image=guided.negative_image)
    assert torch.equal(none, prior.denoise(x, sigma, left_out))
    assert not torch.equal(none, prior.denoise(x, sigma, replace(left_out, image=guided.image)))


@pytest.mark.parametrize("guidance", ["msd", "sds", "sdi", "vsd"])
def test_every_guidance_hands_the_picture_on(models, adapters, picture, guidance):
    prior = adapted(models, adapters, "sd", picture)
    x = latents(prior)

    def target(shown):
        prior.follow(shown)
        condition = prior.condition(front(), "a cat", "", 4.0)
        return create(guidance).step(prior, x, condition, 0.5, torch.Generator().manual_seed(4)).target

    assert not torch.allclose(target(picture), target(Image.new("RGB", (30, 30), "red")), rtol=1e-3)


def test_an_encoder_may_be_a_single_file(models, adapters, picture, tmp_path):
    """As ComfyUI keeps it: models/ipadapter beside models/clip_vision, without a configuration."""
    (tmp_path / "models" / "ipadapter").mkdir(parents=True)
    (tmp_path / "models" / "clip_vision").mkdir()
    file = shutil.copy(adapters["sd"], tmp_path / "models" / "ipadapter")
    other = save_encoder(tmp_path / "other", hidden=64, projection=PROJECTION + 1)
    shutil.copy(other / "model.safetensors", tmp_path / "models" / "clip_vision" / "a.safetensors")
    shutil.copy(
        adapters["sd"].parent / "image_encoder" / "model.safetensors",
        tmp_path / "models" / "clip_vision" / "b.safetensors",
    )
    prior = load(models["sd"], "cpu")
    adapter = find(file, models["sd"])
    assert adapter.encoder.name == "b.safetensors"
    prior.add_ip_adapter(adapter, 0.6)
    prior.follow(picture)
    expected = adapted(models, adapters, "sd", picture).text_condition(["a cat"])
    torch.testing.assert_close(prior.text_condition(["a cat"]).image, expected.image)


def test_the_encoder_is_counted_and_let_go(models, adapters, picture):
    prior, plain = adapted(models, adapters, "sd", picture), load(models["sd"], "cpu")
    encoder = load_file(adapters["sd"].parent / "image_encoder" / "model.safetensors")
    adapter = load_file(adapters["sd"])
    assert prior.cost().visitor == 4 * sum(each.numel() for each in encoder.values())
    assert prior.cost().weights - plain.cost().weights == 4 * sum(each.numel() for each in adapter.values())
    assert plain.cost().visitor == 0


@pytest.mark.parametrize(("mode", "family"), [("texture", "xl"), ("refine", "sd")])
def test_a_job_follows_the_picture(models, adapters, picture, mode, family, tmp_path):
    options = {"model": str(models[family]), "texture_size": 64, "device": "cpu", "mesh": "x"}
    made = []
    for number, shown in enumerate((picture, Image.new("RGB", (30, 30), "red"), None)):
        more = {"image_prompt": ID, "ip_adapter": str(adapters[family])} if shown else {}
        request = JobRequest("a red chair", mode=mode, **options, **more)
        (tmp_path / str(number)).mkdir()
        generate(
            request,
            tmp_path / str(number),
            lambda message: None,
            lambda: False,
            short(request),
            mesh=ball(),
            picture=shown,
        )
        assert set(FILES) - {"texture.png"} <= {path.name for path in (tmp_path / str(number)).iterdir()}
        made.append((tmp_path / str(number) / "mesh.glb").read_bytes())
    assert len(set(made)) == 3
    assert json.loads((tmp_path / "0" / "job.json").read_text())["request"]["image_prompt"] == ID


def test_the_loaded_model_is_the_selections(models, adapters):
    def loaded(prompt="a cat", **more):
        request = JobRequest(prompt, model=str(models["sd"]), ip_adapter=str(adapters["sd"]), **more)
        return load_cached(Selection.of(request), torch.device("cpu"))

    assert loaded().image_prompt is None
    followed = loaded(image_prompt=ID)
    assert followed.image_prompt is not None
    assert loaded("a dog", image_prompt="b" * 64) is followed
    assert loaded(image_prompt=ID, image_prompt_strength=0.5) is not followed


def test_an_image_prompt_needs_an_adapter():
    with pytest.raises(ProtocolError, match="needs an IP-Adapter"):
        JobRequest("a cat", image_prompt=ID).validate()


def break_weights(change):
    def edit(file):
        save_file(change(load_file(file)), file)

    return edit


def truncate(file):
    file.write_bytes(file.read_bytes()[:-10])


def in_encoder(change):
    def edit(file):
        change(file.parent / "image_encoder")

    return edit


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncate, "cut short"),
        (lambda f: f.unlink(), "There is no IP-Adapter"),
        (break_weights(lambda w: {"other": torch.ones(1)}), "holds something else, not an IP-Adapter"),
        (break_weights(lambda w: {"lora_unet_x.lora_down.weight": torch.ones(2, 2)}), "holds a LoRA, not"),
        (break_weights(lambda w: {k: v for k, v in w.items() if ".1.to_k" not in k}), "does not fit this model: it"),
        (break_weights(lambda w: {k: v for k, v in w.items() if "proj.weight" not in k}), "no image encoder that is"),
        (
            break_weights(
                lambda w: {k: v for k, v in w.items() if "image_proj" not in k} | {"image_proj.proj.0.weight": w[P]}
            ),
            "needs its CLIP image encoder",
        ),
        (in_encoder(shutil.rmtree), "needs its CLIP image encoder"),
        (in_encoder(pickle_only), "only pickled weights"),
        (in_encoder(lambda folder: truncate(folder / "model.safetensors")), "cut short"),
        (in_encoder(lambda folder: (folder / "config.json").write_text("{")), "not JSON"),
    ],
)
def test_a_bad_file_gets_a_sentence_before_the_job(models, adapters, tmp_path, change, words):
    file = shutil.copytree(adapters["sd"].parent, tmp_path / "models") / "sd.safetensors"
    change(file)
    with pytest.raises(PriorError, match=words) as caught:
        Selection(str(models["sd"]), ip_adapter=str(file)).check()
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


P = "image_proj.proj.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (break_weights(lambda w: {k: v / 0 for k, v in w.items()}), "NaN or infinite"),
        (break_weights(lambda w: {k: v for k, v in w.items() if k != "image_proj.norm.weight"}), "does not fit this"),
        (break_weights(lambda w: {**w, P: w[P][:-4].contiguous()}), "does not fit this model"),
    ],
)
def test_what_only_shows_when_it_is_loaded_gets_one_too(models, adapters, tmp_path, change, words):
    file = shutil.copytree(adapters["sd"].parent, tmp_path / "models") / "sd.safetensors"
    change(file)
    with pytest.raises(PriorError, match=words) as caught:
        load_cached(Selection(str(models["sd"]), ip_adapter=str(file)), torch.device("cpu"))
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_what_does_not_fit_gets_a_sentence_before_the_job(models, adapters, folders, tmp_path):
    from tests.priors.pipelines import save_flux

    def refused(model, file):
        with pytest.raises(PriorError) as caught:
            Selection(str(model), ip_adapter=str(file)).check()
        return str(caught.value)

    assert "is for texts of width 48, but the model's have 16" in refused(models["sd"], adapters["xl"])
    (tmp_path / "a.bin").write_bytes(b"x")
    assert "pickled" in refused(models["sd"], tmp_path / "a.bin")
    assert "is a folder" in refused(models["sd"], tmp_path)
    flux = save_flux(folders, tmp_path / "flux")
    assert "takes no image prompt" in refused(flux, adapters["sd"])
    faces = {"image_proj.proj.0.weight": torch.ones(8, 8), "image_proj.norm.weight": torch.ones(16)}
    faces |= {"ip_adapter.1.to_k_ip.weight": torch.ones(8, 16), "ip_adapter.1.to_q_lora.down.weight": torch.ones(2, 8)}
    save_file(faces, tmp_path / "faces.safetensors")
    assert "holds FaceID weights" in refused(models["sd"], tmp_path / "faces.safetensors")


def test_the_list_has_adapters_and_what_they_lack(models, adapters, tmp_path):
    root = shutil.copytree(adapters["sd"].parent, tmp_path / "disk" / "models")
    shutil.copytree(models["sd"], tmp_path / "disk" / "sd")
    shutil.copytree(models["xl"], tmp_path / "disk" / "xl")
    found = {each.name: each for each in catalogue([tmp_path / "disk"])}
    assert found["models/sd"].kind == "IP-Adapter" and not found["models/sd"].problem
    assert found["sd"].ip_adapters == [str(root / "sd.safetensors"), str(root / "sd plus.safetensors")]
    assert found["xl"].ip_adapters == [str(root / "xl.safetensors"), str(root / "xl plus.safetensors")]
    shutil.rmtree(root / "image_encoder")
    found = {each.name: each for each in catalogue([tmp_path / "disk"])}
    assert "needs its CLIP image encoder" in found["models/sd"].problem and not found["sd"].ip_adapters
    assert encoder_of(adapters["sd plus"]).name == "image_encoder"
