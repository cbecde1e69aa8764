# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable Diffusion XL beside diffusers' own pipeline, on a tiny one with random weights."""

import json
import shutil

import pytest
import torch

from msd_blender.protocol import FILES, JobRequest
from server.guidance import create
from server.optimize import Settings, generate
from server.priors import PriorError, check, load
from tests.optimize.jobs import short

WIDTH = 16


@pytest.fixture(scope="module")
def folder(folders, tmp_path_factory):
    """A tiny pipeline of XL's kind; its first text encoder, VAE and scheduler are those of the other tests."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(3)
    small = StableDiffusionPipeline.from_pretrained(folders["epsilon"], safety_checker=None)
    config = {
        **small.text_encoder.config.to_dict(),
        "hidden_size": 2 * WIDTH,
        "projection_dim": 8,
        "num_hidden_layers": 2,
    }
    path = tmp_path_factory.mktemp("xl") / "model"
    StableDiffusionXLPipeline(
        vae=small.vae,
        text_encoder=small.text_encoder,
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**config)),
        tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer,
        scheduler=small.scheduler,
        unet=UNet2DConditionModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=3 * WIDTH,
            attention_head_dim=8,
            layers_per_block=1,
            norm_num_groups=4,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=8 + 6 * 4,
        ),
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def prior(folder):
    return load(folder, "cpu")


@pytest.fixture(scope="module")
def pipeline(folder):
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)


def test_prompts_are_encoded_as_the_pipeline_does(prior, pipeline):
    prompts = ["a cat", "a red dog"]
    expected, _, pooled, _ = pipeline.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=True)
    condition = prior.text_condition(prompts, guidance_scale=1)
    torch.testing.assert_close(condition.embeddings, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(condition.pooled, pooled, atol=1e-5, rtol=1e-5)
    guided = prior.text_condition(prompts, "ugly", 5.0)
    _, negative, _, negative_pooled = pipeline.encode_prompt(prompts, negative_prompt=["ugly"] * 2, device="cpu")
    torch.testing.assert_close(guided.negative, negative, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(guided.negative_pooled, negative_pooled, atol=1e-5, rtol=1e-5)
    assert not prior.text_condition(prompts, "", 5.0).negative.any()  # force_zeros_for_empty_prompt


@pytest.mark.parametrize("timestep", [1, 417, 999])
def test_denoise_is_the_schedulers_pred_original_sample(prior, pipeline, timestep):
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, *prior.latent_shape, generator=generator) for _ in range(2))
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(1000)
    noisy = scheduler.add_noise(clean, noise, torch.tensor([timestep] * 2))
    condition = prior.text_condition(["a cat", "a red dog"], "ugly", 4.0)
    size = (prior.resolution, prior.resolution)
    ids = pipeline._get_add_time_ids(size, (0, 0), size, torch.float32, 8).repeat(4, 1)
    with torch.no_grad():
        output = pipeline.unet(
            torch.cat([noisy, noisy]),
            timestep,
            encoder_hidden_states=torch.cat([condition.negative.repeat(1, 1, 1), condition.embeddings]),
            added_cond_kwargs={
                "text_embeds": torch.cat([condition.negative_pooled, condition.pooled]),
                "time_ids": ids,
            },
        ).sample
    negative, positive = output.chunk(2)
    expected = scheduler.step(negative + 4.0 * (positive - negative), timestep, noisy).pred_original_sample
    abar = scheduler.alphas_cumprod[timestep]
    sigma = ((1 - abar) / abar).sqrt().repeat(2)
    got = prior.denoise(clean + sigma[0] * noise, sigma, condition)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)
    assert prior.denoise(clean, sigma).isfinite().all()


@pytest.mark.parametrize("name", ["msd", "sdi", "vsd"])
def test_every_kind_of_guidance_runs_on_it(prior, name):
    x = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    condition = prior.text_condition(["a cat"], "ugly", 4.0)
    step = create(name).step(prior, x, condition, 0.5, torch.Generator().manual_seed(4))
    assert step.target.isfinite().all() and step.nfe > 1


def test_the_vae_has_the_range_that_float16_lacks(folder):
    prior = load(folder, "cpu", torch.float16)
    assert (prior.unet.dtype, prior.vae.dtype) == (torch.float16, torch.bfloat16)
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    prior.encode(images).sum().backward()
    assert images.grad.isfinite().all() and images.grad.any()


def test_a_job_runs_through_it(folder, tmp_path):
    request = JobRequest("a red chair", model=str(folder), texture_size=64, target_faces=200, device="cpu")
    assert Settings.of(request).views == 4
    generate(request, tmp_path, lambda message: None, lambda: False, short(request))
    assert set(FILES) <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: shutil.rmtree(f / "text_encoder_2"), "has no text_encoder_2 folder"),
        (lambda f: edit(f / "unet" / "config.json", addition_embed_type=None), "addition_embed_type is None"),
        (
            lambda f: edit(f / "text_encoder_2" / "config.json", hidden_size=99),
            "width 48, but its text encoder gives 115",
        ),
        (lambda f: (f / "tokenizer_2" / "tokenizer.json").write_text("{"), "not JSON"),
        (lambda f: next((f / "text_encoder_2").glob("*.safetensors")).write_bytes(b"x"), "is damaged|cut short"),
        (lambda f: edit(f / "model_index.json", _class_name="StableDiffusionXLImg2ImgPipeline"), "holds a .*Img2Img"),
    ],
)
def test_an_incomplete_folder_gets_a_sentence(folder, tmp_path, change, words):
    copy = shutil.copytree(folder, tmp_path / "model")
    check(copy)
    change(copy)
    for refuse in (check, lambda path: load(path, "cpu")):
        with pytest.raises(PriorError, match=words) as error:
            refuse(copy)
        assert "\n" not in str(error.value)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
