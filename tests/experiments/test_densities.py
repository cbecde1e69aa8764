# SPDX-License-Identifier: GPL-3.0-or-later
"""The densities that the experiments measure against are themselves right."""

import pytest
import torch
from safetensors.torch import load_file

from server.experiments.densities import DENSITIES, Labels, gaussians, scattered
from server.experiments.learned import learn
from server.experiments.metrics import measure, mmd


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
def test_the_ideal_denoiser_is_tweedies(name, sigma):
    """D(x; sigma) = x + sigma^2 grad log (p * G_sigma)(x), by autograd; of a class too."""
    density = DENSITIES[name]()
    x = (1.5 * torch.randn(20, 2, generator=generator(), dtype=torch.float64)).requires_grad_()
    wanted = torch.arange(20) % 2 if density.classes.max() else None
    for classes in (None, wanted):
        (slope,) = torch.autograd.grad(density.log_density(x, sigma, classes).sum(), x)
        found = density.denoise(
            x.detach(), torch.full((20,), sigma).double(), None if classes is None else Labels(classes)
        )
        torch.testing.assert_close(found, (x + sigma**2 * slope).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "density", [*[make() for make in DENSITIES.values()], scattered(8, 64)], ids=[*DENSITIES, "scattered"]
)
def test_samples_and_modes(density):
    """Zero mean and unit deviation; the samples' mean log density is stable; no step up from a mode."""
    x, classes = density.sample(20_000, generator())
    assert x.mean().abs() < 0.03 and abs(x.std() - 1) < 0.03
    assert abs(float((density.log_density(x) > density.quantile(0.05)).float().mean()) - 0.95) < 0.01
    assert (density.class_of(x) == classes).float().mean() > 0.9
    modes = density.modes.double()
    length, generator_ = 0.2 * float(density.stds.min()), generator(1)
    for _ in range(8):
        way = torch.nn.functional.normalize(torch.randn(modes.shape, generator=generator_), dim=1)
        assert (density.log_density(modes + length * way) < density.log_density(modes)).all()


@pytest.mark.slow
def test_normalized():
    """A density integrates to one."""
    axis = torch.linspace(-4, 4, 801)
    x = torch.cartesian_prod(axis, axis)
    for density in (gaussians(), DENSITIES["spiral"]()):
        assert abs(float(density.log_density(x, 0.05).exp().sum()) * 0.01**2 - 1) < 1e-3


def test_guidance_scale():
    density, x = gaussians(), torch.randn(6, 2, generator=generator())
    sigma, classes = torch.full((6,), 0.4), torch.arange(6) % 2
    none, one = density.denoise(x, sigma), density.denoise(x, sigma, Labels(classes))
    torch.testing.assert_close(density.denoise(x, sigma, Labels(classes, 3.0)), none + 3 * (one - none))
    assert Labels(classes).nfe == 1 and Labels(classes, 3.0).nfe == 2
    assert torch.equal(density.denoise(x, sigma, Labels(classes, 3.0).without_cfg()), one)


def test_metrics_tell_samples_from_others():
    density = DENSITIES["pinwheel"]()
    x, _ = density.sample(1000, generator(5))
    own = measure(x, density, generator())
    assert abs(own["inside"] - 0.95) < 0.03 and own["precision"] > 0.9 and own["recall"] > 0.9
    assert abs(own["mmd"]) < 5e-3 and own["modes"] == 5 and 4.9 < own["modes_evenly"] <= 5
    one = measure(density.modes[:1].repeat(100, 1), density, generator())
    assert one["inside"] == one["precision"] == 1 and one["recall"] < 0.05 < one["mmd"]
    assert one["mode_distance"] < 1e-6 and one["modes"] == one["modes_evenly"] == 1
    away = measure(x + 5, density, generator())
    assert away["inside"] == away["precision"] == away["modes"] == away["modes_evenly"] == 0
    assert away["nll"] > own["nll"] + 10


def test_mmd_is_unbiased():
    """Its mean over pairs of samples of one density is zero, where the biased form's is positive."""
    draws = [mmd(*torch.randn(2, 40, 2, generator=generator(seed))) for seed in range(200)]
    mean = torch.tensor(draws)
    assert mean.mean().abs() < 3 * mean.std() / 200**0.5 < 0.01


def test_the_learned_denoiser_comes_near_the_ideal_and_is_kept(tmp_path):
    density, path = gaussians(), tmp_path / "made" / "one.safetensors"
    prior = learn(density, path, steps=300, batch=256)
    x, classes = density.sample(2000, generator(1))
    sigma = torch.full((2000,), 0.3)
    noisy = x + 0.3 * torch.randn(x.shape, generator=generator(2))
    ideal = (density.denoise(noisy, sigma, Labels(classes)) - x).square().mean()
    assert (prior.denoise(noisy, sigma, Labels(classes)) - x).square().mean() < 1.3 * ideal
    before = path.read_bytes()
    again = learn(density, path, steps=300, batch=256)
    assert path.read_bytes() == before and load_file(path)
    torch.testing.assert_close(again.denoise(noisy, sigma), prior.denoise(noisy, sigma))
