# SPDX-License-Identifier: GPL-3.0-or-later
"""Views one by one, and with gradient checkpointing: less memory, the same gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.guidance import GUIDANCES, create
from server.priors import load
from server.priors.one_by_one import one_by_one
from tests.priors.test_stable_diffusion_xl import folder as xl_folder

__all__ = ["xl_folder"]  # a fixture


@pytest.fixture(scope="module", params=["SD", "XL"])
def model(request, folders, xl_folder):
    return load(xl_folder if request.param == "XL" else folders["v_prediction"], "cpu")


def gradients(prior, name, views, seed, steps=2):
    """Of the pictures, after some steps of a guidance, which may have a state."""
    generator = torch.Generator().manual_seed(seed)
    guidance, found = create(name), []
    condition = prior.text_condition([f"a cat {'ab'[i % 2]}" for i in range(views)], "ugly", 4.0)
    for step in range(steps):
        pictures = torch.rand(views, 3, prior.resolution, prior.resolution, generator=generator, requires_grad=True)
        latents = prior.encode(pictures)
        latents.backward(guidance.step(prior, latents, condition, step / steps, generator).gradient)
        found.append(pictures.grad)
    return torch.stack(found)


@pytest.mark.parametrize("name", GUIDANCES)
@given(views=st.integers(1, 5), seed=st.integers(0, 2**32))
@settings(max_examples=5, deadline=None)
def test_gradients_are_those_of_all_views_at_once(model, name, views, seed):
    model.save_memory(False)
    expected = gradients(model, name, views, seed)
    model.save_memory(True)
    try:
        found = gradients(one_by_one(model), name, views, seed)
    finally:
        model.save_memory(False)
    # Adam's first steps are as long for gradients of rounding's size as for others, and VSD takes one.
    tolerance = 2e-3 if name == "vsd" else 1e-4
    assert expected.any() and (found - expected).norm() <= tolerance * expected.norm()
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def kept(prior, pictures):
    """Bytes that autograd keeps for the gradient of `encode`, and that gradient."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    pictures = pictures.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        latents = prior.encode(pictures)
    latents.square().sum().backward()
    weights = {each.untyped_storage().data_ptr() for each in prior.vae.parameters()}
    return sum(size for place, size in storages.items() if place not in weights), pictures.grad


def test_checkpointing_keeps_a_quarter_and_gives_the_same_bits(model):
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole, expected = kept(model, pictures)
    model.save_memory(True)
    thrifty, found = kept(model, pictures)
    model.save_memory(False)
    assert torch.equal(found, expected) and not model.vae.training
    assert thrifty < whole / 4, (thrifty, whole)
