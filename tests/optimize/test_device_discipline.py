# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop's parts on PyTorch's own fake CUDA device: shapes, types and devices of a card, without numbers.

A tensor that is made on the wrong device is an error here as on a card. Whole jobs run on tests/emulated.py, which has
numbers, but whose rules are our own.
"""

import pytest
import torch
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from server.assets import BuildContext, Volume
from server.assets.colour_grid import ColourGrid
from server.geometry import field
from server.guidance import GUIDANCES, create
from server.priors import load
from server.priors.additions.ip_adapter_files import AdapterFile
from server.priors.one_by_one import one_by_one
from server.rendering import cameras, volume
from server.rendering.rasterize.cpu import CpuRasterizer
from server.rendering.shading import Lights, backgrounds
from tests.emulated import DEVICE
from tests.priors.test_ip_adapter import save_adapter, save_encoder
from tests.priors.test_stable_diffusion_xl import folder as xl_folder

__all__ = ["xl_folder"]  # a fixture

# PyTorch without CUDA has no autograd for a device of that name, and with CUDA it asks the driver even about a fake
# tensor. The rules for devices are the same for any name.
CARD = torch.device("cuda", 0) if torch.cuda.is_available() else DEVICE


@pytest.fixture
def card(monkeypatch):
    """A block in which all new tensors are fake; `CARD` can be named."""
    monkeypatch.setattr(volume, "device_generator", lambda generator, device: generator)  # a fake card has none
    with FakeTensorMode() as mode:
        # `Module.to` would put the new values behind the old parameters, which fake ones refuse.
        monkeypatch.setattr(nn.Module, "to", lambda module, device: moved(module, mode, torch.device(device)))
        # Its cache must not keep a fake one; `torch.tensor` on the device of tests/emulated.py would make a real one.
        kernel = torch.tensor([0.25, 0.5, 0.25]).view(1, 1, 3, 1, 1)
        monkeypatch.setattr(field, "_binomial", lambda device: kernel.to(device))
        yield mode


def moved(value, mode, device=CARD):
    """The same, with every tensor in it on the fake card: a model or an asset that was made on the CPU."""
    if isinstance(value, torch.Tensor):
        fake = (value if isinstance(value, FakeTensor) else mode.from_tensor(value)).to(device)
        return nn.Parameter(fake, value.requires_grad) if isinstance(value, nn.Parameter) else fake
    if isinstance(value, dict):
        for key, each in value.items():
            value[key] = moved(each, mode, device)
    elif isinstance(value, (list, tuple)):
        return type(value)(moved(each, mode, device) for each in value)
    elif isinstance(value, torch.device):
        return device
    elif type(value).__module__.startswith(("server.", "torch.nn", "diffusers.", "transformers.")):
        if hasattr(value, "__dict__"):
            moved(vars(value), mode, device)
    return value


@pytest.fixture(scope="module")
def make(folders, xl_folder):
    """Loads a model with float16 networks on the CPU."""
    places = {"SD": folders["v_prediction"], "XL": xl_folder}
    return lambda name: load(places[name], "cpu", torch.float16)


@pytest.mark.parametrize("views", ["at once", "one by one"])
@pytest.mark.parametrize("name", sorted(set(GUIDANCES) - {"vsd"}))  # whose optimizer asks for numbers
@pytest.mark.parametrize("model", ["SD", "XL"])
def test_a_guidance_steps_through_a_prior(make, model, name, views, request):
    prior = make(model)
    mode = request.getfixturevalue("card")
    prior = moved(prior, mode)
    prior.save_memory(True)
    if views == "one by one":
        prior = one_by_one(prior)
    pixels = torch.rand(2, 3, prior.resolution, prior.resolution, device=CARD, requires_grad=True)
    condition = prior.text_condition(["a red chair", "a cat"], "ugly", 4.0)
    generator = torch.Generator().manual_seed(0)
    guidance = create(name)
    latents = prior.encode(pixels)
    step = guidance.step(prior, latents, condition, 0.5, generator)
    latents.backward(step.gradient)
    assert pixels.grad.device == CARD and pixels.grad.dtype == torch.float32
    assert {each.device for each in (step.target, step.gradient, step.sigma, latents)} == {CARD}


@pytest.mark.parametrize("model", ["SD", "XL"])
def test_a_student_learns(make, model, request):
    prior = make(model)
    mode = request.getfixturevalue("card")
    prior = moved(prior, mode)
    x, sigma = torch.zeros(2, *prior.latent_shape, device=CARD), torch.ones(2, device=CARD)
    student = one_by_one(prior).student()
    student.denoise(x, sigma, prior.text_condition(["a cat"], "ugly", 4.0)).sum().backward()
    assert {each.grad.device for each in student.parameters()} == {CARD}


@pytest.mark.parametrize("model", ["SD", "XL"])
def test_an_image_prompt_is_on_the_card(make, model, tmp_path, request):
    prior = make(model)
    save_encoder(tmp_path / "image_encoder")
    adapter = AdapterFile(save_adapter(prior.unet, tmp_path / "adapter.safetensors"), tmp_path / "image_encoder")
    prior.add_ip_adapter(adapter)
    prior.follow(Image.new("RGB", (8, 8)))
    mode = request.getfixturevalue("card")
    prior = moved(prior, mode)
    x, sigma = torch.zeros(2, *prior.latent_shape, device=CARD), torch.ones(2, device=CARD)
    for condition in (prior.text_condition(["a cat"], "ugly", 4.0), None):
        assert prior.denoise(x, sigma, condition).device == CARD
    prior.image_prompt._positive = prior.image_prompt._positive.cpu()
    with pytest.raises(RuntimeError, match="same device"):
        prior.denoise(x, sigma, prior.text_condition(["a cat"]))


def test_a_volume_renders(card):
    images, penalty, asset = rendered(backgrounds(2, torch.Generator(), CARD))
    (images.sum() + penalty).backward()
    assert images.device == CARD and {each.grad.device for each in asset.parameters()} == {CARD}


def rendered(behind):
    generator = torch.Generator().manual_seed(0)
    views = cameras.sample(2, generator).to(CARD)
    lights = Lights.sample(views, generator).under_sky(generator)
    asset = Volume.from_previous(None, BuildContext(CpuRasterizer(), CARD, (5, 9)))
    return *asset.render(views, lights, behind, 8, 0.5, generator), asset


def test_a_painted_surface_is_lit(card):
    generator = torch.Generator().manual_seed(0)
    views = cameras.sample(2, generator).to(CARD)
    lights = Lights.sample(views, generator).under_sky(generator)
    grid, points = ColourGrid((5, 9), 5, CARD), torch.zeros(2 * 8 * 8, 3, device=CARD)
    values = grid(points)
    penalty = grid.variation(points, values, generator)
    base, rest = values.sigmoid().view(2, 8, 8, 5).split([3, 2], dim=-1)
    normals = torch.ones(2, 8, 8, 3, device=CARD)
    lit = lights.shade(base, normals) + lights.shade_physically(base, normals, normals, *rest.split(1, dim=-1))
    (lit.sum() + penalty).backward()
    assert {each.grad.device for each in grid.parameters()} == {CARD}


def test_a_tensor_that_stayed_on_the_host_is_found(make, request):
    prior = make("SD")
    mode = request.getfixturevalue("card")
    prior = moved(prior, mode)
    x, sigma = torch.zeros(1, *prior.latent_shape, device=CARD), torch.ones(1, device=CARD)
    condition = prior.text_condition(["a cat"])
    prior.denoise(x, sigma, condition)
    with pytest.raises(RuntimeError, match="same device"):
        rendered(torch.zeros(2, 3))
    prior.noise.log_sigmas = prior.noise.log_sigmas.cpu()
    with pytest.raises(RuntimeError, match="same device"):
        prior.denoise(x, sigma, condition)
