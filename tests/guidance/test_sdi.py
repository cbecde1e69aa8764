# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
import torch

from server.experiments.densities import Labels, gaussians
from server.guidance import create
from server.guidance.sdi import SDI


def test_inversion_on_a_gaussian(mixture):
    """For N(m, s^2) the flow is linear: z - m grows as sqrt(s^2 + sigma^2)."""
    mixture.means, mixture.std = torch.tensor([[0.5, -1.0]]).double(), 0.7
    x, sigma = torch.tensor([[2.0, 1.0], [0.0, 0.0]]).double(), torch.tensor([3.0, 0.8]).double()
    found = SDI(sigma_min=0.01, steps=400).invert(mixture, x, sigma)
    growth = ((0.49 + sigma**2) / (0.49 + 0.01**2)).sqrt()[:, None]
    torch.testing.assert_close(found, mixture.means + growth * (x - mixture.means), rtol=0.02, atol=0.0)


def test_inversion_and_back(mixture):
    """DDIM down again from the inverted latents ends where they began."""
    x = torch.tensor([[0.9, 0.3], [-1.2, 0.4]]).double()
    levels = torch.logspace(-2, 1, 601, dtype=torch.float64)
    z = SDI(sigma_min=0.01, sigma_max=10, steps=600).invert(mixture, x, torch.full((2,), 10.0).double())
    assert (z - x).norm(dim=1).min() > 3  # it has gone somewhere
    for sigma, lower in zip(levels.flip(0), levels.flip(0)[1:]):
        clean = mixture.denoise(z, sigma.expand(2))
        z = clean + (z - clean) * (lower / sigma)
    torch.testing.assert_close(z, x, atol=0.05, rtol=0.0)


def test_it_needs_no_randomness_when_annealed(mixture):
    x = torch.tensor([[0.9, 0.3]])
    one, two = (
        create("sdi").step(mixture, x, progress=0.5, generator=torch.Generator().manual_seed(s)).target for s in (1, 2)
    )
    assert torch.equal(one, two)


def test_only_the_denoising_is_guided():
    density, classes = gaussians(), torch.tensor([0, 1])
    x, guided = torch.tensor([[0.9, 0.3], [-1.2, 0.4]]), Labels(classes, 5.0)
    sdi = SDI()
    step = sdi.step(density, x, guided, progress=0.5)
    z = sdi.invert(density, x, step.sigma, Labels(classes))
    torch.testing.assert_close(step.target, density.denoise(z, step.sigma, guided))
    assert (z - sdi.invert(density, x, step.sigma, guided)).norm(dim=1).min() > 0.1
    assert step.nfe == sdi.steps + 2


def test_bad_settings():
    with pytest.raises(ValueError, match="1 step or more"):
        create("sdi", steps=0)
    with pytest.raises(ValueError, match="SDI needs 0 < sigma_min"):
        create("sdi", sigma_min=0.0)
