# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
import torch

from server.priors.sampling import sample


class Gaussian:
    """N(mean, std^2) in every coordinate."""

    mean, std = 0.7, 0.4

    def denoise(self, x, sigma, condition=None):
        ratio = self.std**2 / (self.std**2 + sigma[:, None] ** 2)
        return self.mean + ratio * (x - self.mean)


def test_samples_have_the_densitys_moments():
    x = sample(Gaussian(), (4000, 2), steps=60, generator=torch.Generator().manual_seed(0))
    assert float(x.mean()) == pytest.approx(0.7, abs=0.03)
    assert float(x.std()) == pytest.approx(0.4, rel=0.08)


def test_same_seed_same_bytes(prior):
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return sample(prior, (2, *prior.latent_shape), prior.text_condition(["a cat"]), 4, generator, prior.sigma_range)

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert draw(1).isfinite().all()
