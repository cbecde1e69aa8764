# SPDX-License-Identifier: GPL-3.0-or-later
import math

import pytest
import torch

from server.guidance import Geometric, create
from server.guidance.msd import RENDERS
from server.priors.base import karras_sigmas


def points():
    return torch.rand(12, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4 - 2


def estimates(mixture, repeats=1500, **settings):
    """(repeats, N, 2) independent estimates at every point, and the truth D(x; lambda) (N, 2)."""
    x = points()
    step = create("msd", **settings).step(mixture, x.repeat(repeats, 1), generator=torch.Generator().manual_seed(2))
    truth = mixture.denoise(x, torch.full((len(x),), settings["bandwidth"]).to(x))
    return step.target.view(repeats, *x.shape), truth


@pytest.mark.parametrize("bandwidth", [0.1, 0.5, 3.0, 100.0])
@pytest.mark.parametrize("stop_at", [1, 3, 12, 40])
def test_unbiased_wherever_it_stops(mixture, bandwidth, stop_at):
    """The mean of many estimates is E[y]: within 1.5 standard errors of its norm, and 1 % for Euler's."""
    drawn, truth = estimates(mixture, bandwidth=bandwidth, steps=40, stop_at=stop_at)
    error = (drawn.mean(0) - truth).norm()
    standard_error = (drawn.var(0) / len(drawn)).sum().sqrt()
    assert error <= 1.5 * standard_error + 0.01 * (truth - points()).norm()


def test_a_full_process_samples_the_product_density(mixture):
    """Not only the mean: the spread is that of the product density, here summed on a fine grid."""
    bandwidth = 0.5
    drawn, _ = estimates(mixture, bandwidth=bandwidth, steps=60, stop_at=60)
    axis = torch.linspace(-2.5, 2.5, 401, dtype=torch.float64)
    y = torch.cartesian_prod(axis, axis)
    x = points()
    log = mixture.log_density(y) - ((x[:, None] - y) ** 2).sum(-1) / (2 * bandwidth**2)
    weights = log.softmax(-1)
    expected = (weights @ y**2 - (weights @ y) ** 2).sum(-1)
    torch.testing.assert_close(drawn.var(0).sum(-1), expected, rtol=0.15, atol=0.003)


def test_stopping_early_lowers_variance(mixture):
    spread = [
        float(estimates(mixture, 200, bandwidth=0.5, steps=18, stop_at=stop)[0].var(0).sum())
        for stop in (1, 3, 6, 9, 12, 18)
    ]
    assert spread[0] < 1e-20
    assert spread == sorted(spread)
    assert spread[2] < spread[-1] / 3


def test_tweedie_is_the_limit(mixture):
    one, truth = estimates(mixture, 1, bandwidth=0.4, stop_at=1)
    tweedie, _ = estimates(mixture, 1, bandwidth=0.4, estimator="tweedie")
    torch.testing.assert_close(one[0], truth)
    assert torch.equal(one, tweedie)


@pytest.mark.parametrize("estimator", ["paper", "added"])
def test_the_approximate_forms_are_right_in_the_limits_only(mixture, estimator):
    """A wide kernel leaves a sample of p, a narrow one x itself; between them both are biased, and exact is not."""
    x = points()
    drawn, truth = estimates(mixture, 300, bandwidth=1e3, sigma_max=50.0, steps=40, estimator=estimator)
    inside = mixture.log_density(drawn.reshape(-1, 2)) > mixture.log_density(mixture.means).min() - 8
    assert inside.double().mean() > 0.95 and (drawn.mean(0) - truth).norm(dim=1).max() < 0.25
    drawn, _ = estimates(mixture, 2, bandwidth=1e-3, steps=40, estimator=estimator)
    assert (drawn - x).abs().max() < 0.02

    def bias(**settings):
        drawn, truth = estimates(mixture, bandwidth=0.5, steps=40, **settings)
        return float((drawn.mean(0) - truth).norm() / (truth - x).norm())

    assert bias(estimator=estimator) > 0.1 > 5 * bias(estimator="exact", stop_at=12)


def test_who_gives_the_denoiser_points_with_the_noise_that_it_is_told():
    """Where the denoiser finds nothing to mend, the paper's form asks about x + sigma n, the exact one about less."""
    x = torch.zeros(2, 3, 16, 16)
    ratios = []

    class Content:
        def denoise(self, noisy, sigma, condition=None):
            ratios.append(float(noisy.std() / sigma[0]))
            return x

    generator = torch.Generator().manual_seed(0)
    create("msd", bandwidth=1.0, **RENDERS).step(Content(), x, generator=generator)
    assert ratios == pytest.approx([1.0] * RENDERS["steps"], abs=0.05)
    ratios.clear()
    create("msd", bandwidth=1.0).step(Content(), x, generator=generator)
    assert len(ratios) == 4 and max(ratios) < 0.7


@pytest.mark.parametrize("stop_at", [1, 2, 6, 18])
@pytest.mark.parametrize("bandwidth", [0.01, 0.3, 20.0])
def test_calls_and_levels(mixture, stop_at, bandwidth):
    """stop_at counts evaluations; levels fall, never above lambda; sigma_max is kept to."""
    guidance = create("msd", bandwidth=bandwidth, steps=18, stop_at=stop_at, sigma_max=5.0)
    step = guidance.step(mixture, torch.zeros(1, 2).double(), generator=torch.Generator().manual_seed(0))
    assert len(mixture.levels) == step.nfe == stop_at
    assert mixture.levels == sorted(mixture.levels, reverse=True)
    assert mixture.levels[0] == bandwidth == step.bandwidth
    assert max(mixture.levels[1:], default=0) < 5.0
    assert float(step.sigma) == mixture.levels[-1]
    if stop_at == 18:
        assert mixture.levels[-1] < 0.02


@pytest.mark.parametrize("bandwidth", [1e-3, 0.03, 0.1, 0.3, 1.0, 20.0])
@pytest.mark.parametrize("steps", [1, 2, 8, 18])
def test_default_stop(mixture, bandwidth, steps):
    """The last level is the first at or below 4 lambda and sigma_max / 4, if there is one."""
    x = torch.zeros(1, 2).double()

    def sigma(stop_at):
        """The noise level that the last call's level s was made of: s^-2 = lambda^-2 + sigma^-2."""
        step = create("msd", bandwidth=bandwidth, steps=steps, stop_at=stop_at).step(
            mixture, x, generator=torch.Generator().manual_seed(0)
        )
        ratio = (float(step.sigma) / bandwidth) ** 2
        return step.nfe, bandwidth * math.sqrt(ratio / (1 - ratio)) if ratio < 1 else math.inf

    calls, level = sigma(None)
    low_enough = min(4 * bandwidth, 5 / 4)
    assert calls == steps or level <= low_enough * (1 + 1e-6)
    assert calls == 1 or sigma(calls - 1)[1] > low_enough


@pytest.mark.parametrize("stop_at", [None, 1, 3, 8])
def test_ascends_to_the_modes(mixture, stop_at):
    """From a grid that is mostly outside, every point ends inside the density."""
    guidance = create("msd", bandwidth=Geometric(1.0, 0.05), steps=8, stop_at=stop_at)
    axis = torch.linspace(-2, 2, 12, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    generator = torch.Generator().manual_seed(0)
    inside = mixture.log_density(mixture.means).min() - 2  # within two standard deviations of a mode
    assert (mixture.log_density(x) > inside).double().mean() < 0.2
    for i in range(60):
        x = x - 0.5 * guidance.step(mixture, x, progress=i / 59, generator=generator).gradient
    assert (mixture.log_density(x) > inside).all()


def test_is_a_gradient_of_the_smoothed_log_density(mixture):
    """m(x) = lambda^2 grad log (p * G_lambda)(x), by autograd."""
    x, bandwidth = points().requires_grad_(), 0.6
    (slope,) = torch.autograd.grad(mixture.log_density(x, bandwidth).sum(), x)
    step = create("msd", bandwidth=bandwidth, stop_at=1).step(mixture, x)
    torch.testing.assert_close(-step.gradient, bandwidth**2 * slope)


def test_bad_settings():
    for settings, words in [
        ({"estimator": "exacter"}, "no estimator 'exacter': choose exact, tweedie, paper, added"),
        ({"steps": 4, "stop_at": 5}, "stops at 1 to 4"),
        ({"stop_at": 0}, "stop_at is 0"),
        ({"steps": 0}, "steps >= 1"),
        ({"sigma_min": 5.0}, "sigma_min < sigma_max"),
        ({"bandwidth": -1}, "finite positive"),
    ]:
        with pytest.raises(ValueError, match=words):
            create("msd", **settings)


def test_karras_grid():
    grid = karras_sigmas(18, 80.0, 0.002)
    assert grid[0] == 80.0 and grid[-1] == 0.002 and len(grid) == 18
    assert grid == sorted(grid, reverse=True)
    assert grid[1] == pytest.approx((80 ** (1 / 7) + (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 17) ** 7)
    assert karras_sigmas(1, 3.0, 0.1) == [3.0]
    with pytest.raises(ValueError, match="noise grid"):
        karras_sigmas(3, 0.1, 3.0)
