# SPDX-License-Identifier: GPL-3.0-or-later
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.guidance.product import diffused_kernel, kernel_step, product_posterior

levels = st.floats(0, allow_nan=False)  # 0 and infinity included


def test_against_numerical_integration(mixture):
    """The denoiser at (mu, s) equals E[y] under p(y) G(x - y) G(z - y), summed on a fine grid."""
    mixture.means = mixture.means[:, :1]
    y = np.linspace(-4, 4, 200_001)
    p = sum(np.exp(-((y - float(m)) ** 2) / (2 * mixture.std**2)) for m in mixture.means)
    for x, z, bandwidth, sigma in [(0.3, -0.8, 0.4, 0.9), (1.0, 1.4, 1.0, 0.2), (-2.0, 0.5, 0.3, 0.3)]:
        joint = p * np.exp(-((x - y) ** 2) / (2 * bandwidth**2) - (z - y) ** 2 / (2 * sigma**2))
        expected = (joint * y).sum() / joint.sum()
        both = torch.tensor([[[x]], [[z]]], dtype=torch.float64)
        mu, s = product_posterior(*both, bandwidth, sigma)
        assert float(mixture.denoise(mu, both.new_tensor([s]))) == pytest.approx(expected, abs=1e-9)


@given(x=st.floats(-10, 10), z=st.floats(-10, 10), a=st.floats(1e-3, 1e3), b=st.floats(1e-3, 1e3))
def test_closed_form(x, z, a, b):
    mu, s = product_posterior(*torch.tensor([[x], [z]], dtype=torch.float64), a, b)
    variance = 1 / (a**-2 + b**-2)
    assert s == pytest.approx(math.sqrt(variance), rel=1e-12)
    assert float(mu) == pytest.approx(variance * (x / a**2 + z / b**2), rel=1e-9, abs=1e-9)


@given(x=st.floats(-1e30, 1e30), z=st.floats(-1e30, 1e30), bandwidth=levels, sigma=levels)
def test_mu_lies_between_the_observations(x, z, bandwidth, sigma):
    mu, s = product_posterior(torch.tensor([x]), torch.tensor([z]), bandwidth, sigma)
    x, z, slack = np.float32(x), np.float32(z), 1e-6 * max(abs(x), abs(z)) + 1e-30
    assert min(x, z) - slack <= float(mu) <= max(x, z) + slack
    assert 0 <= s <= min(bandwidth, sigma)


def test_an_observation_without_noise_wins():
    x, z = torch.tensor([1.0]), torch.tensor([2.0])
    assert product_posterior(x, z, 0.0, 3.0) == (x, 0.0)
    assert product_posterior(x, z, 3.0, math.inf) == (x, 3.0)
    assert product_posterior(x, z, math.inf, 0.5) == (z, 0.5)


@pytest.mark.parametrize("bandwidth, sigma", [(-1.0, 1.0), (1.0, math.nan)])
def test_invalid_levels(bandwidth, sigma):
    with pytest.raises(ValueError, match="zero or positive"):
        product_posterior(torch.zeros(1), torch.zeros(1), bandwidth, sigma)


def test_kernel_step_is_the_flow_of_the_kernel_alone():
    """It equals many explicit steps of dz/dsigma = sigma (z - x) / bandwidth^2."""
    bandwidth, sigma, lower, left = 0.7, 1.1, 0.4, 1.0
    grid = np.linspace(sigma, lower, 100_001)
    for high, low in zip(grid, grid[1:]):
        left += (low - high) * high / bandwidth**2 * left
    assert kernel_step(bandwidth, sigma, lower) == pytest.approx(left, rel=1e-4)
    assert kernel_step(1e-300, 1.0, 0.5) == 0 and kernel_step(1e300, 1.0, 0.5) == 1


def test_diffused_kernel_is_the_score_of_a_wider_gaussian():
    x, z = torch.tensor([0.4]).double(), torch.tensor([1.5], requires_grad=True, dtype=torch.float64)
    bandwidth, sigma = 0.7, 1.1
    (score,) = torch.autograd.grad(-((z - x) ** 2) / (2 * (bandwidth**2 + sigma**2)), z)
    torch.testing.assert_close(diffused_kernel(x - z.detach(), bandwidth, sigma), sigma**2 * score)
