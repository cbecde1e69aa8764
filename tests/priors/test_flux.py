# SPDX-License-Identifier: GPL-3.0-or-later
"""Flux beside diffusers' own pipeline, on tiny ones with random weights: dev and schnell."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from server.guidance import create
from server.priors import load
from tests.priors.pipelines import assert_refused, edit, euler, run_job, save_flux, start

PROMPTS = ["a cat", "a red dog"]


@pytest.fixture(scope="module")
def kinds(folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("flux")
    return {name: save_flux(folders, root / name, name == "dev") for name in ("dev", "schnell")}


@pytest.fixture(scope="module", params=["dev", "schnell"])
def case(request, kinds):
    """A prior and its pipeline."""
    path = kinds[request.param]
    return load(path, "cpu"), FluxPipeline.from_pretrained(path, local_files_only=True)


@pytest.fixture(scope="module")
def dev(kinds):
    return load(kinds["dev"], "cpu")


def test_prompts_are_encoded_as_the_pipeline_does(case):
    prior, pipeline = case
    expected, pooled, _ = pipeline.encode_prompt(PROMPTS, device="cpu", max_sequence_length=prior.tokens)
    condition = prior.text_condition(PROMPTS, guidance_scale=1)
    # One prompt among others is rounded otherwise than alone, on some processors by 2e-5.
    torch.testing.assert_close(condition.embeddings, expected, atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(condition.pooled, pooled, atol=5e-5, rtol=1e-5)
    assert condition.embeddings.shape[1] == prior.tokens == (512 if prior.embedded_guidance else 256)


@pytest.mark.parametrize(
    ("negative", "scale", "told"),
    [
        ("", 1.0, {"guidance_scale": 1.0}),
        ("", 3.5, {"guidance_scale": 3.5}),
        ("ugly", 4.0, {"guidance_scale": 1.0, "true_cfg_scale": 4.0, "negative_prompt": ["ugly"] * 2}),
    ],
)
def test_euler_steps_with_the_denoiser_are_the_pipelines(case, negative, scale, told):
    prior, pipeline = case
    if not (prior.embedded_guidance or negative):
        scale = 1.0
    x = start(prior)
    batch, channels, height, width = x.shape
    expected = pipeline(
        PROMPTS,
        height=prior.resolution,
        width=prior.resolution,
        sigmas=np.linspace(0.9, 0.1, 8),
        latents=pipeline._pack_latents(x, batch, channels, height, width),
        output_type="latent",
        max_sequence_length=prior.tokens,
        **told,
    ).images
    expected = pipeline._unpack_latents(expected, prior.resolution, prior.resolution, pipeline.vae_scale_factor)
    condition = prior.text_condition(PROMPTS, negative, scale)
    assert condition.nfe == (2 if negative else 1)
    got = euler(prior, x, pipeline.scheduler.sigmas, condition)
    assert (got - expected).norm() < 1e-4 * expected.norm()
    assert (expected - x).norm() > 0.1 * x.norm()


def test_places_matter_on_latents_that_are_not_square(dev):
    x = torch.randn(1, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    clean = dev.denoise(x, torch.ones(1))
    assert clean.shape == x.shape
    assert (dev.denoise(x.mT, torch.ones(1)).mT - clean).abs().max() > 1e-4


def test_the_guidance_scale_is_an_input_of_devs_network(dev):
    x, sigma = start(dev), torch.ones(2)
    one, two = (dev.denoise(x, sigma, dev.text_condition(PROMPTS, guidance_scale=scale)) for scale in (1, 5))
    assert (one - two).abs().max() > 1e-4
    without = dev.text_condition(PROMPTS, guidance_scale=5).without_cfg()
    assert torch.equal(dev.denoise(x, sigma, without), one)


@pytest.mark.parametrize("name", ["msd", "sds", "sdi", "vsd"])
def test_every_kind_of_guidance_runs_on_it(case, name):
    prior, _ = case
    step = create(name).step(
        prior, start(prior), prior.text_condition(PROMPTS, guidance_scale=3.5), 0.5, torch.Generator().manual_seed(4)
    )
    assert step.target.isfinite().all()


@pytest.mark.parametrize("job", ["msd", "texture, locked", "refine, locked"])
@pytest.mark.parametrize("kind", ["dev", "schnell"])
def test_a_job_runs_through_it(kinds, tmp_path, kind, job):
    run_job(kinds[kind], tmp_path, job)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: shutil.rmtree(f / "text_encoder_2"), "has no text_encoder_2 folder"),
        (lambda f: next((f / "transformer").glob("*.safetensors")).unlink(), "transformer has no safetensors"),
        (lambda f: edit(f / "text_encoder_2" / "config.json", d_model=99), "width 48, but its text encoders give 99"),
        (lambda f: edit(f / "text_encoder" / "config.json", hidden_size=9), "pooled text of width 16, .* give 9"),
        (lambda f: edit(f / "transformer" / "config.json", in_channels=96), "takes 96 channels, .* have 12"),
        (lambda f: edit(f / "vae" / "config.json", sample_size=None), "vae.config.json has no sample_size"),
        (
            lambda f: edit(f / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler"),
            "DDIMScheduler, is not one of rectified flow",
        ),
        (lambda f: edit(f / "model_index.json", _class_name="FluxFillPipeline"), "holds a FluxFillPipeline"),
    ],
)
def test_an_incomplete_folder_gets_a_sentence(kinds, tmp_path, change, words):
    assert_refused(kinds["dev"], tmp_path / "model", change, words)
