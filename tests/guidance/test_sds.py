# SPDX-License-Identifier: GPL-3.0-or-later
import math

import pytest
import torch

from server.guidance import create


def test_expectation_on_a_gaussian(mixture):
    """For p = N(m, std^2), D is linear and E[target] = m + std^2 / (std^2 + sigma^2) (x - m)."""
    mixture.means, mixture.std = torch.tensor([[0.5, -1.0]]).double(), 0.7
    x = torch.tensor([[2.0, 1.0]]).double()
    step = create("sds", sigma_min=0.4, sigma_max=0.4).step(
        mixture, x.repeat(20_000, 1), generator=torch.Generator().manual_seed(0)
    )
    expected = mixture.means + 0.49 / (0.49 + 0.16) * (x - mixture.means)
    standard_error = step.target.std(0) / math.sqrt(20_000)
    assert ((step.target.mean(0) - expected[0]).abs() < 3 * standard_error).all()
    assert (standard_error > 1e-4).all()


def test_sigma_is_log_uniform(mixture):
    step = create("sds", sigma_min=0.1, sigma_max=10.0).step(
        mixture, torch.zeros(20_000, 2), generator=torch.Generator().manual_seed(0)
    )
    share = (step.sigma.log10() + 1) / 2
    assert share.min() >= 0 and share.max() <= 1
    for quantile in (0.25, 0.5, 0.75):
        assert float(share.quantile(quantile)) == pytest.approx(quantile, abs=0.02)


def test_annealed(mixture):
    guidance = create("sds", sigma_min=0.1, sigma_max=10.0, anneal=True)
    levels = [guidance.step(mixture, torch.zeros(2, 2), progress=p).sigma for p in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(torch.stack(levels), torch.tensor([[10.0] * 2, [1.0] * 2, [0.1] * 2]))


def test_bad_settings():
    with pytest.raises(ValueError, match="sigma_min <= sigma_max"):
        create("sds", sigma_min=2.0, sigma_max=1.0)
