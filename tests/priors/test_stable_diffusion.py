# SPDX-License-Identifier: GPL-3.0-or-later
import math
import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from server import priors
from server.guidance import create
from server.priors import PriorError, Views, load
from server.priors.families.diffusers_prior import MAX_EMBEDDINGS, _Visit

PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def latents(prior, batch=2, seed=0):
    return torch.randn(batch, *prior.latent_shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("timestep", [0, 1, 417, 999])
def test_denoise_is_the_schedulers_pred_original_sample(folders, kind, timestep):
    """At integer timesteps, against add_noise and step of diffusers."""
    prior = load(folders[kind])
    scheduler = DDIMScheduler.from_pretrained(folders[kind], subfolder="scheduler")
    scheduler.set_timesteps(1000)
    clean, noise = latents(prior), latents(prior, seed=1)
    noisy = scheduler.add_noise(clean, noise, torch.tensor([timestep] * 2))  # variance preserving
    condition = prior.text_condition(["a cat", "a red dog"], guidance_scale=1)
    with torch.no_grad():
        output = prior.unet(noisy, timestep, encoder_hidden_states=condition.embeddings).sample
    expected = scheduler.step(output, timestep, noisy).pred_original_sample

    abar = scheduler.alphas_cumprod[timestep]
    sigma = ((1 - abar) / abar).sqrt().repeat(2)
    x = clean + sigma[0] * noise
    torch.testing.assert_close(x * abar.sqrt(), noisy)
    torch.testing.assert_close(prior.noise.timestep(sigma), torch.full((2,), float(timestep)), atol=2e-3, rtol=1e-5)
    torch.testing.assert_close(prior.denoise(x, sigma, condition), expected, atol=1e-4, rtol=1e-3)


def test_fractional_and_clamped_timesteps(prior):
    low, high = prior.sigma_range
    assert low == pytest.approx(0.0292, abs=1e-4) and high == pytest.approx(14.61, abs=0.01)
    table = prior.noise.log_sigmas
    between = ((table[10] + table[11]) / 2).exp()
    sigmas = torch.tensor([0.0, low / 2, low, float(between), high, 1e6, math.inf])
    steps = prior.noise.timestep(sigmas)
    torch.testing.assert_close(steps, torch.tensor([0, 0, 0, 10.5, 999, 999, 999]), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_noise_levels(folders, kind, dtype):
    prior = load(folders[kind], dtype=dtype)
    sigma = torch.tensor([0.0, 1e-30, 1e-6, 1e4, 1e30, math.inf])
    x = latents(prior, len(sigma))
    clean = prior.denoise(x, sigma)
    assert clean.isfinite().all() and clean.dtype == torch.float32
    if kind != "sample":
        torch.testing.assert_close(clean[:3], x[:3], atol=1e-4, rtol=1e-4)
    far = prior.denoise(x[:1] * 1e4, torch.tensor([1e4]))
    near = prior.denoise(x[:1] * prior.sigma_range[1], torch.tensor([prior.sigma_range[1]]))
    torch.testing.assert_close(far, near, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_result_has_the_latents_dtype(prior, dtype):
    x, sigma = latents(prior), torch.tensor([0.5, 2.0])
    clean = prior.denoise(x.to(dtype), sigma)
    assert clean.dtype == dtype
    torch.testing.assert_close(clean.float(), prior.denoise(x, sigma), atol=0.05, rtol=0.05)


def test_classifier_free_guidance_formula(prior):
    """One batched call equals D_negative + w (D_prompt - D_negative)."""
    x, sigma, prompts = latents(prior), torch.tensor([0.3, 4.0]), ["a red cat", "a blue dog"]
    positive = prior.denoise(x, sigma, prior.text_condition(prompts, guidance_scale=1))
    negative = prior.denoise(x, sigma, prior.text_condition(["ugly"], guidance_scale=1))
    condition = prior.text_condition(prompts, negative="ugly", guidance_scale=7.5)
    expected = negative + 7.5 * (positive - negative)
    torch.testing.assert_close(prior.denoise(x, sigma, condition), expected, atol=1e-4, rtol=1e-4)
    assert (positive - negative).abs().max() > 1e-3
    assert condition.nfe == 2 and prior.text_condition(prompts, guidance_scale=1).nfe == 1
    unconditional = prior.denoise(x, sigma, prior.text_condition([""], guidance_scale=1))
    assert torch.equal(prior.denoise(x, sigma), unconditional)


def test_prompts_are_encoded_as_by_the_pipeline(folders, prior):
    pipeline = StableDiffusionPipeline.from_pretrained(folders["v_prediction"], safety_checker=None)
    prompts = ["a cat", "the quick brown fox jumps over it"]
    expected, negative = pipeline.encode_prompt(prompts, "cpu", 1, True, negative_prompt=["bad"] * 2)
    condition = prior.text_condition(prompts, negative="bad")
    torch.testing.assert_close(condition.embeddings, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(condition.negative, negative, atol=1e-5, rtol=1e-5)
    alone = prior.text_condition([prompts[0]])
    assert torch.equal(alone.embeddings[0], condition.embeddings[0])


def test_encode_and_decode_match_the_vae(prior):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    encoded = prior.encode(images)
    assert encoded.shape == (2, *prior.latent_shape) == (2, 3, 8, 8) and prior.resolution == 16
    with torch.no_grad():
        mean = prior.vae.encode(images * 2 - 1).latent_dist.mean
        torch.testing.assert_close(encoded.detach(), (mean - 0.2) * 0.7)
        pixels = prior.vae.decode(mean).sample / 2 + 0.5
    torch.testing.assert_close(prior.decode(encoded).detach(), pixels.clamp(0, 1), atol=1e-5, rtol=1e-5)

    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(encoded.shape, generator=torch.Generator().manual_seed(2))
    (slope,) = torch.autograd.grad((encoded * weights).sum(), images)
    with torch.no_grad():
        h = 2e-3
        ends = [(prior.encode(images + s * h * direction) * weights).sum() for s in (1, -1)]
    assert float((slope * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=2e-2)
    for part in (prior.vae, prior.unet, prior.text_encoder):
        assert not part.training and not any(p.requires_grad for p in part.parameters())


@pytest.mark.parametrize("name", ["msd", "sds"])
def test_guidance_runs_on_it(prior, name):
    def target():
        step = create(name).step(
            prior, latents(prior), prior.text_condition(["a cat"]), 0.5, torch.Generator().manual_seed(4)
        )
        assert step.nfe % 2 == 0
        return step.target

    assert target().isfinite().all()
    assert torch.equal(target(), target())


def test_a_student_starts_as_the_prior_and_learns(prior):
    """The low-rank updates start at zero, lower the loss, and leave the prior unchanged."""
    x, sigma = latents(prior), torch.tensor([0.5, 2.0])
    guided = prior.text_condition(["a cat", "a red dog"], guidance_scale=7)
    student, before = prior.student(), prior.denoise(x, sigma, guided.without_cfg())
    assert torch.equal(student.denoise(x, sigma, guided), before)
    optimizer, losses = torch.optim.Adam(student.parameters(), lr=1e-2), []
    for _ in range(20):
        loss = (student.denoise(x, sigma, guided) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert torch.equal(prior.denoise(x, sigma, guided.without_cfg()), before)


def test_zero_terminal_snr_stays_finite(save_pipeline, tmp_path):
    prior = load(save_pipeline(tmp_path / "model", "v_prediction", rescale_betas_zero_snr=True))
    assert prior.sigma_range[1] <= 1000.1
    assert prior.denoise(latents(prior, 1), torch.tensor([math.inf])).isfinite().all()


def test_half_precision_variant_files_are_found(folders, tmp_path):
    folder = shutil.copytree(folders["epsilon"], tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    prior = load(folder)
    x, sigma = latents(prior), torch.ones(2)
    assert torch.equal(prior.denoise(x, sigma), load(folders["epsilon"]).denoise(x, sigma))


def test_errors_of_wrong_arguments(prior):
    x, sigma = latents(prior), torch.ones(2)
    for call, words in [
        (lambda: prior.text_condition([]), "at least one prompt"),
        (lambda: prior.text_condition("a cat"), "list"),
        (lambda: prior.text_condition(["a", "b"], negative=["c", "d", "e"]), "one for each of the 2"),
        (lambda: prior.denoise(x, sigma, prior.text_condition(["a"] * 3)), "3 prompts for 2 latents"),
        (lambda: prior.denoise(x, torch.tensor(1.0)), "one sigma for each"),
        (lambda: prior.denoise(x[0], sigma), "latents"),
        (lambda: prior.encode(torch.zeros(1, 16, 16, 3)), r"images \(B, 3, H, W\)"),
        (lambda: prior.encode(torch.zeros(1, 3, 16, 15)), "multiples of 2"),
    ]:
        with pytest.raises(PriorError, match=words):
            call()


def test_a_missing_bundled_model(monkeypatch, tmp_path):
    monkeypatch.setattr(priors.loading, "BUNDLED_MODEL", tmp_path / "model")
    with pytest.raises(PriorError, match="bundled model is not in"):
        load()


@pytest.mark.skipif(
    not (priors.BUNDLED_MODEL / "model_index.json").is_file(), reason="the bundled model is not trained yet"
)
def test_the_bundled_model():
    prior = load(device="cpu")
    images = torch.rand(1, 3, prior.resolution, prior.resolution)
    assert prior.encode(images).shape == (1, *prior.latent_shape)
    clean = prior.denoise(latents(prior, 1), torch.ones(1), prior.text_condition(["a red mushroom"]))
    assert clean.isfinite().all()


@pytest.mark.slow
def test_guidance_does_not_import_diffusers():
    code = "import sys, server.guidance.msd; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_each_view_may_have_a_prompt_of_its_own(folders):
    """Encoded as alone, bit for bit; one prompt for each that is the same is as one for all."""
    prior, views = load(folders["epsilon"], "cpu"), Views(torch.tensor([0.0, 90.0, 180.0]), torch.zeros(3))
    own, against = ["a cat", "a dog with a hat", "a cat"], torch.tensor([True, True, False])
    condition = prior.condition(views, own, "ugly", 4.0, against)
    for i, prompt in enumerate(own):
        view = Views(views.azimuth[i : i + 1], views.elevation[i : i + 1])
        alone = load(folders["epsilon"], "cpu").condition(view, prompt, "ugly", 4.0, against[i : i + 1])
        assert torch.equal(condition.embeddings[i : i + 1], alone.embeddings)
        assert torch.equal(condition.negative[i : i + 1], alone.negative)
    assert not torch.equal(condition.embeddings[0], condition.embeddings[1])
    one, same = (prior.condition(views, prompt, "ugly", 4.0, against) for prompt in ("a cat", ["a cat"] * 3))
    assert torch.equal(one.embeddings, same.embeddings) and torch.equal(one.negative, same.negative)
    with pytest.raises(ValueError, match="shorter|longer"):
        prior.condition(views, own[:2])


def test_the_encoders_are_visited_once_for_the_views_of_all_prompts(folders, monkeypatch):
    visits, encode = [], _Visit.encode
    monkeypatch.setattr(_Visit, "encode", lambda self, *given: visits.append(given[0]) or encode(self, *given))
    prior = load(folders["epsilon"], "cpu")
    for azimuth in range(0, 360, 20):
        views = Views(torch.tensor([azimuth, azimuth + 180.0]), torch.tensor([10.0, 80.0 * (azimuth % 40 == 0)]))
        prior.condition(views, ["a cat", "a dog"] if azimuth % 60 else ["a dog", "a cat"], "ugly")
    assert len(visits) == 1 and len(visits[0]) == len(set(visits[0])) == 2 * 9 + 1


def test_the_embedding_cache_is_bounded_and_does_not_change_results(folders):
    prior = load(folders["epsilon"], "cpu")
    first = prior.text_condition(["a chair"], "blurry").embeddings
    for i in range(3 * MAX_EMBEDDINGS):
        prior.text_condition([f"a chair number {i}", "a lamp"])
    assert (
        len(prior._embeddings) == MAX_EMBEDDINGS
        and "a lamp" in prior._embeddings
        and "a chair" not in prior._embeddings
    )
    assert torch.equal(prior.text_condition(["a chair"], "blurry").embeddings, first)
