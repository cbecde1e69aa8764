# SPDX-License-Identifier: GPL-3.0-or-later
"""Flux in one file: the bits of the folder that it was made of.

diffusers' conversion takes the published transformer's width only, so this one has a block of each kind at full width.
"""

import shutil

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from server.priors import check, load
from server.priors.files.layouts import read_json
from tests.priors.pipelines import T5_WIDTH, WIDTH, save_flux
from tests.priors.single_files import write

PREFIX = "model.diffusion_model."


def wide_transformer(dev):
    """Flux's width of 3,072, one block of each kind; weights in a cheap pattern that no permutation keeps."""
    with torch.device("meta"):
        network = FluxTransformer2DModel(
            in_channels=4 * 3,
            num_layers=1,
            num_single_layers=1,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=dev,
        ).to(torch.bfloat16)
    network = network.to_empty(device="cpu")
    pattern = torch.randn(999_983, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16) / 60
    for number, weight in enumerate(network.parameters()):
        flat = weight.data.view(-1)
        for start in range(0, len(flat), len(pattern)):
            part = flat[start : start + len(pattern)]
            part.copy_(pattern.roll(number)[: len(part)])
    return network


@pytest.fixture(scope="module", params=["dev", "schnell"])
def folder(request, folders, tmp_path_factory):
    path = save_flux(folders, tmp_path_factory.mktemp("flux") / request.param, request.param == "dev")
    pipeline = FluxPipeline.from_pretrained(path, local_files_only=True)
    pipeline.register_modules(transformer=wide_transformer(request.param == "dev"))
    pipeline.save_pretrained(path)
    return path


def answers(place):
    prior = load(place, "cpu", torch.bfloat16)
    x = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    condition = prior.text_condition(["a cat"], "", 1.0)
    with torch.no_grad():
        return prior.distillation, prior.denoise(x, torch.tensor([2.0]), condition)


def test_each_layout_answers_as_its_folder_to_the_bit(folder, tmp_path, request):
    if not request.config.getoption("--long"):
        pytest.skip("writes gigabytes")
    expected = answers(folder)
    assert expected[1].isfinite().all()
    whole = write(folder, tmp_path / "whole.safetensors")
    check(whole)
    found = answers(whole)
    assert found[0] == expected[0] and torch.equal(found[1], expected[1])
    whole.unlink()

    def only_the_transformer(parts):
        inside = parts["transformer"]
        parts.clear()
        parts["transformer"] = {name.removeprefix(PREFIX): tensor for name, tensor in inside.items()}

    alone = write(folder, tmp_path / "alone.safetensors", only_the_transformer)
    for part in ("vae", "text_encoder", "text_encoder_2"):
        shutil.copytree(folder / part, alone.with_suffix(".config") / part, dirs_exist_ok=True)
    check(alone)
    assert read_json(alone.with_suffix(".config") / "model_index.json")["_class_name"] == "FluxPipeline"
    assert torch.equal(answers(alone)[1], expected[1])
