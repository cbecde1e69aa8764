# SPDX-License-Identifier: GPL-3.0-or-later
"""Sana beside diffusers' own pipeline, on a tiny one with random weights."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import SanaPipeline

from server.guidance import create
from server.priors import Views, load
from server.priors.catalogue import catalogue
from tests.priors.pipelines import assert_refused, edit, euler, run_job, save_sana, start

PROMPTS = ["a cat", "a red dog with a hat"]  # of two lengths, so that the mask matters


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_sana(tmp_path_factory.mktemp("sana") / "model")


@pytest.fixture(scope="module")
def prior(folder):
    return load(folder, "cpu")


@pytest.fixture(scope="module")
def pipeline(folder):
    return SanaPipeline.from_pretrained(folder, local_files_only=True)


def instruction(prior):
    assert len(prior._instruction) > 5
    return prior._instruction


def test_prompts_are_encoded_as_the_pipeline_does(prior, pipeline):
    embeddings, mask, negative, negative_mask = pipeline.encode_prompt(
        PROMPTS, negative_prompt="ugly", device="cpu", complex_human_instruction=instruction(prior)
    )
    views = Views(torch.tensor([0.0, 90.0]), torch.zeros(2))
    for condition in (prior.text_condition(PROMPTS, "ugly", 5.0), prior.text_condition(PROMPTS, ["ugly", "ugly"], 5.0)):
        torch.testing.assert_close(condition.embeddings, embeddings, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(condition.negative, negative, atol=1e-5, rtol=1e-5)
        assert torch.equal(condition.mask, mask) and torch.equal(condition.negative_mask, negative_mask)
    seen, told = prior.condition(views, "a cat", "ugly"), ["a cat, front view", "a cat, right side view"]
    again = prior.text_condition(told, "ugly")
    assert torch.equal(seen.embeddings, again.embeddings) and torch.equal(seen.negative, again.negative)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_euler_steps_with_the_denoiser_are_the_pipelines(prior, pipeline, scale):
    x = start(prior)
    expected = pipeline(
        PROMPTS,
        negative_prompt="ugly",
        guidance_scale=scale,
        sigmas=np.linspace(0.98, 0.1, 8),
        height=prior.resolution,
        width=prior.resolution,
        latents=x,
        output_type="latent",
        use_resolution_binning=False,
        clean_caption=False,
    ).images
    got = euler(prior, x, pipeline.scheduler.sigmas, prior.text_condition(PROMPTS, "ugly", scale))
    assert (got - expected).norm() < 1e-4 * expected.norm()
    assert (expected - x).norm() > 0.1 * x.norm()


def test_pictures_are_encoded_and_decoded_as_the_pipeline_does(prior, pipeline):
    images = torch.rand(2, 3, prior.resolution, prior.resolution, requires_grad=True)
    latents = prior.encode(images)
    with torch.no_grad():
        expected = pipeline.vae.encode(2 * images - 1).latent * pipeline.vae.config.scaling_factor
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    torch.testing.assert_close(latents.detach(), expected)
    assert tuple(latents.shape[1:]) == prior.latent_shape
    with torch.no_grad():
        torch.testing.assert_close(prior.decode(latents), (decoded / 2 + 0.5).clamp(0, 1))
    latents.sum().backward()
    assert images.grad.any()


@pytest.mark.parametrize("name", ["msd", "sds", "sdi", "vsd"])
def test_every_kind_of_guidance_runs_on_it(prior, name):
    step = create(name).step(
        prior, start(prior), prior.text_condition(PROMPTS, "ugly", 4.0), 0.5, torch.Generator().manual_seed(4)
    )
    assert step.target.isfinite().all() and step.nfe > 1


@pytest.mark.parametrize("job", ["msd", "texture, locked", "refine, locked"])
def test_a_job_runs_through_it(folder, tmp_path, job):
    run_job(folder, tmp_path, job)


def test_it_is_listed(folder):
    found = catalogue([folder.parent])[1]
    assert (found.name, found.family, found.resolution, found.problem) == ("model", "Sana", 32, "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: shutil.rmtree(f / "tokenizer"), "has no tokenizer folder"),
        (lambda f: next((f / "vae").glob("*.safetensors")).write_bytes(b"x"), "is damaged"),
        (lambda f: edit(f / "text_encoder" / "config.json", hidden_size=99), "width 16, but its text encoders give 99"),
        (lambda f: edit(f / "transformer" / "config.json", in_channels=3), "takes 3 channels, .* have 4"),
        (lambda f: edit(f / "transformer" / "config.json", guidance_embeds=True), "Sana-Sprint's"),
        (lambda f: edit(f / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler"), "rectified flow"),
    ],
)
def test_an_incomplete_folder_gets_a_sentence(folder, tmp_path, change, words):
    assert_refused(folder, tmp_path / "model", change, words)
