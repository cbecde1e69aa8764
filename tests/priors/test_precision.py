# SPDX-License-Identifier: GPL-3.0-or-later
"""Gradients through the VAE in 16 bits: every layer's answer and gradient rounded, on the CPU in float32 between."""

import copy
import math

import pytest
import torch
from diffusers import AutoencoderKL

from benchmarks.random_models import RandomParts
from server.guidance import create
from server.guidance.msd import RENDERS
from server.priors import load
from tests.priors.test_stable_diffusion_xl import folder as xl_folder

__all__ = ["xl_folder"]  # a fixture


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, dtype):
        ctx.dtype = dtype
        return values.to(dtype).float()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.to(ctx.dtype).float(), None


def in_16_bits(vae, dtype):
    """The same VAE with rounded weights, whose layers' and blocks' answers and gradients are rounded."""
    vae = copy.deepcopy(vae)
    for module in vae.encoder.modules():
        for weight in module.parameters(recurse=False):
            weight.data = weight.data.to(dtype).float()
        module.register_forward_hook(lambda module, inputs, output: Rounded.apply(output, dtype))
    return vae


def gradient(vae, pictures, on_latents):
    pictures = pictures.clone().requires_grad_()
    latents = vae.encode(2 * pictures - 1).latent_dist.mode() * vae.config.scaling_factor
    latents.backward(on_latents)
    return pictures.grad


def largest_activation(vae, pictures):
    found = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: found.append(output.abs().max()))
        for module in vae.encoder.modules()
    ]
    with torch.no_grad():
        vae.encode(2 * pictures - 1)
    for hook in hooks:
        hook.remove()
    return float(torch.stack(found).max())


@pytest.fixture(scope="module", params=["bundled", "the size of Stable Diffusion 1.5"])
def case(request):
    """A VAE, a picture, and the gradient of a guidance at its latents, in its real size."""
    generator = torch.Generator().manual_seed(0)
    if request.param == "bundled":
        prior = load(None, "cpu")
        pictures = torch.rand(1, 3, prior.resolution, prior.resolution, generator=generator)
        latents = prior.encode(pictures).detach()
        guidance = create("msd", bandwidth=1.0, **RENDERS)
        step = guidance.step(prior, latents, prior.text_condition(["a red chair"]), 0.5, generator)
        return prior.vae, pictures, step.gradient
    vae = RandomParts("sd15").network("vae", AutoencoderKL, torch_dtype=torch.float32)
    pictures = torch.rand(1, 3, 64, 64, generator=generator)
    return vae, pictures, 0.3 * torch.randn(1, 4, 8, 8, generator=generator)


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_keep_their_direction(case, dtype):
    vae, pictures, on_latents = case
    exact, rounded = gradient(vae, pictures, on_latents), gradient(in_16_bits(vae, dtype), pictures, on_latents)
    assert cosine(exact, rounded) >= 0.999
    assert float(rounded.norm() / exact.norm()) == pytest.approx(1, abs=0.02)


def test_large_activations_keep_the_gradient(case, folders, xl_folder):
    """Up to a million, which float16 cannot hold."""
    vae, pictures, on_latents = case
    (chosen,) = {load(place, "cpu", torch.float16).vae.dtype for place in (folders["epsilon"], xl_folder)}
    vae = copy.deepcopy(vae)

    def grown(size):
        for _ in range(6):  # the first convolution's answers go on beside all blocks
            factor = size / largest_activation(vae, pictures)
            with torch.no_grad():
                vae.encoder.conv_in.weight *= factor
                vae.encoder.conv_in.bias *= factor
        assert largest_activation(vae, pictures) == pytest.approx(size, rel=0.1)
        exact = gradient(vae, pictures, on_latents)
        return [
            cosine(exact, gradient(in_16_bits(vae, dtype), pictures, on_latents)) for dtype in (chosen, torch.float16)
        ]

    large, _ = grown(6e4)
    huge, in_float16 = grown(1e6)
    assert large >= 0.999 and huge >= 0.999 and not math.isfinite(in_float16)
