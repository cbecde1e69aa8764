# SPDX-License-Identifier: GPL-3.0-or-later
"""Distilled models are told apart, and a job asks them as they were made."""

import json
import shutil

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from msd_blender.protocol import Log
from server.priors import BUNDLED_MODEL, load
from server.priors.distilled import find
from server.priors.files.parts import FolderParts
from tests.priors.pipelines import edit, run_job, save_flux, start

PROMPTS = ["a cat", "a red dog"]
SCHEDULER = "scheduler/scheduler_config.json"


def logs(messages):
    return [(message.level, message.message) for message in messages if isinstance(message, Log)]


def settings(output):
    return json.loads((output / "job.json").read_text())["settings"]


@pytest.fixture(scope="module")
def turbo(folders, tmp_path_factory):
    return shutil.copytree(folders["epsilon"], tmp_path_factory.mktemp("models") / "sd-turbo")


@pytest.fixture(scope="module")
def lcm(folders, tmp_path_factory):
    """A latent consistency model, whose U-Net takes the guidance scale."""
    torch.manual_seed(3)
    small = StableDiffusionPipeline.from_pretrained(folders["epsilon"], safety_checker=None)
    path = tmp_path_factory.mktemp("consistency") / "model"
    LatentConsistencyModelPipeline(
        vae=small.vae,
        text_encoder=small.text_encoder,
        tokenizer=small.tokenizer,
        unet=UNet2DConditionModel.from_config({**small.unet.config, "time_cond_proj_dim": 8}),
        scheduler=LCMScheduler.from_config(small.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(path)
    return path


def kind(folder):
    parts = FolderParts(folder)
    found = find(folder, parts.index, parts.config("unet"), parts.config("scheduler"))
    return found and found.kind


@pytest.mark.parametrize(
    "name",
    [
        "sdxl-turbo",
        "DreamShaperXL_Lightning",
        "v9Rdphoto2Turbo",
        "Hyper-SD15-8steps",
        "lcm_dreamshaper_v7",
        "sd3.5-turbo",
    ],
)
def test_the_name_tells(folders, tmp_path, name):
    assert "by its name" in kind(shutil.copytree(folders["epsilon"], tmp_path / name))
    assert "by its name" in kind(
        shutil.copytree(folders["epsilon"], tmp_path / f"models--x--{name}" / "snapshots" / "0123")
    )


@pytest.mark.parametrize("name", ["hyperrealism-v3", "TurbochargedArt", "stable-diffusion-v1-5", "HyperRealistic XL"])
def test_a_word_within_a_name_does_not(folders, tmp_path, name):
    assert kind(shutil.copytree(folders["epsilon"], tmp_path / "turbo" / name)) is None


@pytest.mark.parametrize(
    ("path", "changes", "told"),
    [
        (SCHEDULER, {"_class_name": "LCMScheduler"}, "LCM, by its scheduler"),
        (SCHEDULER, {"_class_name": "TCDScheduler"}, "trajectory consistency, by its scheduler"),
        (
            SCHEDULER,
            {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
            "Turbo, by its scheduler",
        ),
        ("model_index.json", {"_name_or_path": "stabilityai/sdxl-turbo"}, "turbo, by its name"),
        ("unet/config.json", {"_name_or_path": "latent-consistency/lcm-sdxl"}, "lcm, by its name"),
        (SCHEDULER, {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}, None),
        (SCHEDULER, {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, None),
        (
            SCHEDULER,
            {
                "_class_name": "EulerDiscreteScheduler",
                "timestep_spacing": "trailing",
                "prediction_type": "v_prediction",
                "rescale_betas_zero_snr": True,
            },
            None,
        ),
    ],
)
def test_a_fact_of_the_files_tells(folders, tmp_path, path, changes, told):
    folder = shutil.copytree(folders["epsilon"], tmp_path / "model")
    edit(folder / path, **changes)
    assert kind(folder) == told


def test_the_bundled_model_is_not_distilled():
    assert kind(BUNDLED_MODEL) is None


def test_a_distilled_model_runs_at_scale_1_without_emphasis(turbo, tmp_path):
    messages = run_job(turbo, tmp_path, "msd", negative_prompt="ugly")
    (info, said), (level, warning) = logs(messages)[:2]
    assert info == "info" and "turbo, by its name" in said and "guidance scale 1" in said
    assert level == "warning" and "negative prompt has no effect" in warning
    used = settings(tmp_path)
    assert used["guidance_scale"] == 1
    assert all(
        used[phase]["guidance_boost"] == 1 and not used[phase]["against_overhead"] for phase in ("volume", "texture")
    )
    record = json.loads((tmp_path / "job.json").read_text())
    guided = tmp_path / "guided"
    guided.mkdir()
    messages = run_job(turbo, guided, "msd", guidance_scale=4.0)
    assert ("warning" in {level for level, _ in logs(messages)}) and "at 4, as asked" in logs(messages)[0][1]
    assert settings(guided)["guidance_scale"] == 4
    assert json.loads((guided / "job.json").read_text())["denoiser_calls"] == 2 * record["denoiser_calls"]


def test_a_model_with_classifier_free_guidance_says_nothing(folders, tmp_path):
    assert not any("distilled" in line for _, line in logs(run_job(folders["epsilon"], tmp_path, "texture, locked")))
    assert settings(tmp_path)["guidance_scale"] == 5 and settings(tmp_path)["texture"]["guidance_boost"] > 1


def test_embedded_guidance_has_the_models_own_scale(folders, tmp_path):
    dev = save_flux(folders, tmp_path / "model")
    (tmp_path / "out").mkdir()
    messages = run_job(dev, tmp_path / "out", "texture, locked")
    assert (
        "follows the guidance scale, 3.5" in logs(messages)[0][1]
        and settings(tmp_path / "out")["guidance_scale"] == 3.5
    )
    messages = run_job(dev, tmp_path / "out", "texture, locked", guidance_scale=2.0, negative_prompt="ugly")
    assert [level for level, _ in logs(messages)[:2]] == ["info", "info"] and "asked twice" in logs(messages)[1][1]
    assert settings(tmp_path / "out")["guidance_scale"] == 2


@pytest.mark.parametrize("scale", [1.0, 8.5])
def test_lcms_network_is_told_the_scale_as_its_pipeline_does(lcm, scale):
    prior = load(lcm, "cpu")
    pipeline = LatentConsistencyModelPipeline.from_pretrained(lcm, local_files_only=True)
    condition = prior.text_condition(PROMPTS, guidance_scale=scale)
    x, timestep = start(prior), 417
    told = pipeline.get_guidance_scale_embedding(torch.full((2,), scale - 1), 8)
    with torch.no_grad():
        output = pipeline.unet(
            x, timestep, timestep_cond=told, encoder_hidden_states=pipeline.encode_prompt(PROMPTS, "cpu", 1, False)[0]
        ).sample
    abar = pipeline.scheduler.alphas_cumprod[timestep]
    expected = (x - (1 - abar).sqrt() * output) / abar.sqrt()
    got = prior.denoise(x / abar.sqrt(), ((1 - abar) / abar).sqrt().repeat(2), condition)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)
    assert condition.nfe == 1 and prior.text_condition(PROMPTS, "ugly", 8.5).nfe == 2


@pytest.mark.parametrize("job", ["msd", "texture, locked", "refine, locked"])
def test_a_job_runs_through_lcm(lcm, tmp_path, job):
    run_job(lcm, tmp_path, job)
    assert settings(tmp_path)["guidance_scale"] == 8.5
