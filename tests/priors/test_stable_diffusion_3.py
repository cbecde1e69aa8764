# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable Diffusion 3 beside diffusers' own pipeline, on tiny ones with random weights, with T5 and without."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from server.guidance import create
from server.priors import Views, load
from tests.emulated import DEVICE, Emulation, counted_waits
from tests.priors.pipelines import WIDTH, assert_refused, edit, euler, run_job, save_stable_diffusion_3, start

PROMPTS = ["a cat", "a red dog"]


@pytest.fixture(scope="module")
def folder(folders, tmp_path_factory):
    return save_stable_diffusion_3(folders, tmp_path_factory.mktemp("sd3") / "model")


@pytest.fixture(scope="module")
def without_t5(folders, tmp_path_factory):
    return save_stable_diffusion_3(folders, tmp_path_factory.mktemp("sd3 without") / "model", with_t5=False)


@pytest.fixture(scope="module", params=["with T5", "without T5"])
def case(request, folder, without_t5):
    """A prior and its pipeline."""
    path, absent = folder, {}
    if request.param == "without T5":
        path, absent = without_t5, {"text_encoder_3": None, "tokenizer_3": None}
    return load(path, "cpu"), StableDiffusion3Pipeline.from_pretrained(path, local_files_only=True, **absent)


def test_prompts_are_encoded_as_the_pipeline_does(case):
    prior, pipeline = case
    expected, negative, pooled, negative_pooled = pipeline.encode_prompt(
        PROMPTS, None, None, "cpu", negative_prompt=["ugly"] * 2
    )
    condition = prior.text_condition(PROMPTS, "ugly", 5.0)
    for made, right in (
        (condition.embeddings, expected),
        (condition.pooled, pooled),
        (condition.negative, negative),
        (condition.negative_pooled, negative_pooled),
    ):
        torch.testing.assert_close(made, right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_euler_steps_with_the_denoiser_are_the_pipelines(case, shift, scale):
    prior, pipeline = case
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    x = start(prior)
    expected = pipeline(
        PROMPTS,
        negative_prompt=["ugly"] * 2,
        guidance_scale=scale,
        height=prior.resolution,
        width=prior.resolution,
        sigmas=np.linspace(0.98, 0.1, 8),
        latents=x,
        output_type="latent",
    ).images
    got = euler(prior, x, pipeline.scheduler.sigmas, prior.text_condition(PROMPTS, "ugly", scale))
    assert (got - expected).norm() < 1e-4 * expected.norm()
    assert (expected - x).norm() > 0.1 * x.norm()


def test_the_vae_is_shifted_as_the_pipeline_does(case):
    prior, pipeline = case
    x = start(prior, 1)
    pictures = pipeline(
        "", guidance_scale=1, height=16, width=16, sigmas=[1e-6], latents=x, output_type="pt"
    ).images  # a step from so low a level leaves the latents as they are
    torch.testing.assert_close(prior.decode(x), pictures, atol=1e-4, rtol=1e-4)


def test_text_encoders_are_on_the_device_only_while_they_are_asked(folder):
    expected = load(folder, "cpu").text_condition(PROMPTS).embeddings
    with Emulation():
        prior, seen = load(folder, DEVICE, torch.float32), []

        def places():
            return {weight.device.type for each in prior.encoders for weight in each.parameters()}

        prior.encoders[0].register_forward_hook(lambda *_: seen.append(places()))
        assert places() == {"cpu"}
        condition = prior.text_condition(PROMPTS)
        assert seen == [{"emulated"}] * 3 and places() == {"cpu"}
        torch.testing.assert_close(condition.embeddings.cpu(), expected, atol=1e-5, rtol=1e-5)
        clean = prior.denoise(start(prior).to(DEVICE), torch.ones(2, device=DEVICE), condition)
        assert clean.cpu().isfinite().all()
        with counted_waits() as waits:
            prior.text_condition(PROMPTS)
        assert waits.count == 0, waits.places


def test_the_encoders_are_asked_once_for_all_views_of_a_job(folder):
    prior, visits = load(folder, "cpu"), []
    prior.encoders[0].register_forward_hook(lambda *_: visits.append(len(prior._embeddings)))
    for azimuth in range(0, 360, 30):
        views = Views(torch.tensor([float(azimuth)]), torch.tensor([80.0 if azimuth == 90 else 10.0]))
        condition = prior.condition(views, "a red chair", "ugly")
        assert len(visits) == 10  # nine views and a negative
    assert torch.equal(
        condition.embeddings,
        load(folder, "cpu").text_condition(["a red chair, front left view"], guidance_scale=1).embeddings,
    )


def test_a_long_prompt_keeps_its_view_in_every_encoder(case):
    prior, _ = case
    front, back = (prior.text_condition([f"{'a red fox ' * 40}, {side} view"]) for side in ("front", "back"))
    clip = (front.embeddings - back.embeddings)[:, :77]
    assert clip[..., :WIDTH].abs().max() > 1e-4 and clip[..., WIDTH : 3 * WIDTH].abs().max() > 1e-4
    assert "shorten the prompt" in prior.prompt_warnings("a red fox " * 60)[0]
    assert not prior.prompt_warnings("a red fox") and "does not know 狐" in prior.prompt_warnings("a red 狐")[0]


@pytest.mark.parametrize("name", ["msd", "sds", "sdi", "vsd"])
def test_every_kind_of_guidance_runs_on_it(case, name):
    prior, _ = case
    step = create(name).step(
        prior, start(prior), prior.text_condition(PROMPTS, "ugly", 4.0), 0.5, torch.Generator().manual_seed(4)
    )
    assert step.target.isfinite().all() and step.nfe > 1


def test_half_precision_is_bfloat16(folder):
    prior = load(folder, "cpu", torch.float16)
    assert {prior.transformer.dtype, prior.vae.dtype, *(each.dtype for each in prior.encoders)} == {torch.bfloat16}
    assert prior.denoise(start(prior), torch.tensor([0.5, 900.0]), prior.text_condition(PROMPTS)).isfinite().all()


@pytest.mark.parametrize("job", ["msd", "texture, locked", "refine, locked"])
def test_a_job_runs_through_it(folder, tmp_path, job):
    run_job(folder, tmp_path, job)


@pytest.mark.parametrize("job", ["msd", "texture, locked", "refine, locked"])
def test_a_job_runs_without_t5(without_t5, tmp_path, job):
    run_job(without_t5, tmp_path, job)


def remove_t5(folder):
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / part)


def test_a_folder_whose_t5_was_left_out_is_one_without(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model")
    remove_t5(copy)
    assert len(load(copy, "cpu").encoders) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: shutil.rmtree(f / "transformer"), "has no transformer folder"),
        (lambda f: shutil.rmtree(f / "text_encoder_2"), "has no text_encoder_2 folder"),
        (lambda f: next((f / "text_encoder_3").glob("*.safetensors")).unlink(), "text_encoder_3 has no safetensors"),
        (lambda f: next((f / "transformer").glob("*.safetensors")).write_bytes(b"x"), "is damaged"),
        (lambda f: (f / "tokenizer_3" / "tokenizer.json").unlink(), "tokenizer_3 has no spiece.model"),
        (lambda f: edit(f / "text_encoder_3" / "config.json", d_model=99), "width 48, but its text encoders give 99"),
        (lambda f: edit(f / "text_encoder" / "config.json", projection_dim=9), "pooled text of width 16, .* give 17"),
        (lambda f: edit(f / "transformer" / "config.json", in_channels=16), "takes 16 channels, .* have 3"),
        (lambda f: edit(f / "transformer" / "config.json", sample_size=None), "has no sample_size"),
        (
            lambda f: edit(f / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler"),
            "DDIMScheduler, is not one of rectified flow",
        ),
        (lambda f: edit(f / "model_index.json", _class_name="StableDiffusion3InpaintPipeline"), "holds a .*Inpaint"),
    ],
)
def test_an_incomplete_folder_gets_a_sentence(folder, tmp_path, change, words):
    assert_refused(folder, tmp_path / "model", change, words)
