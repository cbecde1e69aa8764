# SPDX-License-Identifier: GPL-3.0-or-later
"""PixArt-Sigma beside diffusers' own pipeline, on a tiny one with random weights."""

import shutil

import pytest
import sentencepiece
import torch
from diffusers import PixArtSigmaPipeline

from server.guidance import create
from server.priors import load
from tests.priors.pipelines import assert_refused, edit, run_job, save_pixart_sigma, start

PROMPTS = ["a cat", "a red dog with a hat"]  # of two lengths, so that the mask matters


@pytest.fixture(scope="module")
def folder(folders, tmp_path_factory):
    return save_pixart_sigma(folders, tmp_path_factory.mktemp("pixart") / "model")


@pytest.fixture(scope="module")
def prior(folder):
    return load(folder, "cpu")


@pytest.fixture(scope="module")
def pipeline(folder):
    return PixArtSigmaPipeline.from_pretrained(folder, local_files_only=True)


def test_prompts_are_encoded_as_the_pipeline_does(prior, pipeline):
    embeddings, mask, negative, negative_mask = pipeline.encode_prompt(PROMPTS, negative_prompt="ugly", device="cpu")
    condition = prior.text_condition(PROMPTS, "ugly", 5.0)
    torch.testing.assert_close(condition.embeddings, embeddings, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(condition.negative, negative, atol=1e-5, rtol=1e-5)
    assert torch.equal(condition.mask, mask) and torch.equal(condition.negative_mask, negative_mask)


def test_a_tokenizer_in_sentencepieces_own_file(folder, tmp_path):
    """As the published folders have it, without a tokenizer.json."""
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / "tokenizer" / "tokenizer.json").unlink()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROMPTS * 9),
        model_prefix=str(copy / "tokenizer" / "spiece"),
        vocab_size=24,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    prior, pipeline = load(copy, "cpu"), PixArtSigmaPipeline.from_pretrained(copy, local_files_only=True)
    embeddings, mask, _, _ = pipeline.encode_prompt(PROMPTS, False, device="cpu")
    condition = prior.text_condition(PROMPTS, guidance_scale=1)
    torch.testing.assert_close(condition.embeddings, embeddings, atol=1e-5, rtol=1e-5)
    assert torch.equal(condition.mask, mask) and 2 < condition.mask.sum() < mask.numel()


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_ddim_steps_with_the_denoiser_are_the_pipelines(prior, pipeline, scale):
    x, steps = start(prior), 10
    expected = pipeline(
        PROMPTS,
        negative_prompt="ugly",
        guidance_scale=scale,
        num_inference_steps=steps,
        height=prior.resolution,
        width=prior.resolution,
        latents=x,
        output_type="latent",
        use_resolution_binning=False,
        clean_caption=False,
    ).images
    abar = pipeline.scheduler.alphas_cumprod
    times = pipeline.scheduler.timesteps
    levels = [*((1 - abar[t]).div(abar[t]).sqrt() for t in times), ((1 - abar[0]) / abar[0]).sqrt()]
    z, condition = x / abar[times[0]].sqrt(), prior.text_condition(PROMPTS, "ugly", scale)
    for sigma, lower in zip(levels, levels[1:]):
        clean = prior.denoise(z, sigma.repeat(2), condition)
        z = clean + (lower / sigma) * (z - clean)
    got = z * abar[0].sqrt()
    assert (got - expected).norm() < 1e-4 * expected.norm()
    assert (expected - x).norm() > 0.1 * x.norm()


@pytest.mark.parametrize("name", ["msd", "sds", "sdi", "vsd"])
def test_every_kind_of_guidance_runs_on_it(prior, name):
    step = create(name).step(
        prior, start(prior), prior.text_condition(PROMPTS, "ugly", 4.0), 0.5, torch.Generator().manual_seed(4)
    )
    assert step.target.isfinite().all() and step.nfe > 1


@pytest.mark.parametrize("job", ["msd", "texture, locked", "refine, locked"])
def test_a_job_runs_through_it(folder, tmp_path, job):
    run_job(folder, tmp_path, job)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: shutil.rmtree(f / "tokenizer"), "has no tokenizer folder"),
        (lambda f: (f / "tokenizer" / "tokenizer.json").unlink(), "tokenizer has no spiece.model"),
        (lambda f: next((f / "transformer").glob("*.safetensors")).write_bytes(b"x"), "is damaged"),
        (lambda f: edit(f / "text_encoder" / "config.json", d_model=99), "width 48, but its text encoders give 99"),
        (lambda f: edit(f / "transformer" / "config.json", in_channels=4), "takes 4 channels, .* have 3"),
        (lambda f: edit(f / "transformer" / "config.json", use_additional_conditions=True), "as PixArt-Alpha's does"),
        (
            lambda f: edit(f / "scheduler" / "scheduler_config.json", beta_schedule=None, prediction_type="flow"),
            "predicts 'flow'",
        ),
    ],
)
def test_an_incomplete_folder_gets_a_sentence(folder, tmp_path, change, words):
    assert_refused(folder, tmp_path / "model", change, words)
