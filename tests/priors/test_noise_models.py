# SPDX-License-Identifier: GPL-3.0-or-later
"""Noise models against closed forms of Gaussians, and against diffusers' own schedulers."""

import math

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from server.priors.noise_models import PREDICTIONS, DiscreteNoise, FlowNoise

MEAN, STD = 0.7, 0.4  # of the Gaussian density


def posterior_mean(x, sigma):
    """E[clean | x = clean + sigma * noise] of the Gaussian."""
    return MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)


def discrete(prediction):
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    return DiscreteNoise(scheduler.alphas_cumprod, prediction)


def ideal_output(prediction, x, sigma):
    """The output that a perfect network has at x, in its own prediction."""
    clean = posterior_mean(x, sigma)
    noise = (x - clean) / sigma
    scale = (1 + sigma**2) ** -0.5  # sqrt(abar)
    return {
        "epsilon": noise,
        "v_prediction": scale * noise - sigma * scale * clean,
        "sample": clean,
        "flow": noise - clean,
    }[prediction]


@pytest.mark.parametrize("prediction", [*PREDICTIONS, "flow"])
@given(x=st.floats(-20, 20), position=st.floats(0, 1))
def test_a_perfect_network_gives_the_perfect_denoiser(prediction, x, position):
    noise = FlowNoise() if prediction == "flow" else discrete(prediction)
    low, high = noise.sigma_range
    sigma = low * (high / low) ** position
    output = torch.tensor([[ideal_output(prediction, x, sigma)]], dtype=torch.float64)
    got = noise.denoised(output, torch.tensor([[x]], dtype=torch.float64), torch.tensor([sigma], dtype=torch.float64))
    assert float(got) == pytest.approx(posterior_mean(x, sigma), rel=1e-9, abs=1e-9)


@given(t=st.floats(0.001, 0.999))
def test_a_flows_input_and_time_are_its_own(t):
    """x_t = (1 - t) clean + t noise is the scaled x_sigma, asked at 1000 t."""
    noise, sigma = FlowNoise(1000.0), torch.tensor([t / (1 - t)], dtype=torch.float64)
    clean, eps = 0.3, -1.2
    x = clean + float(sigma) * eps
    assert float(noise.input_scale(sigma)) * x == pytest.approx((1 - t) * clean + t * eps, abs=1e-9)
    assert float(noise.timestep(sigma)) == pytest.approx(1000 * t, rel=1e-9)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_steps_are_those_of_diffusers_flow_scheduler(shift):
    """The probability-flow ODE in variance-exploding form, step by step beside diffusers' sampler."""
    scheduler, noise = FlowMatchEulerDiscreteScheduler(shift=shift), FlowNoise(1000.0)
    scheduler.set_timesteps(12)
    times = [float(t) for t in scheduler.sigmas]  # t of the flow, falling to 0
    weight = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))

    def network(x, timestep):
        return torch.tanh(x @ weight) + timestep[:, None] / 1000

    start = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    theirs, t = start, times[1]
    for timestep in scheduler.timesteps:
        theirs = scheduler.step(network(theirs, timestep.repeat(3)), timestep, theirs).prev_sample
    # At t = 1 the form is infinite, so that the first step is taken in the flow's own.
    ours = start + (times[1] - 1) * network(start, scheduler.timesteps[0].repeat(3))
    z = ours / (1 - t)
    for t, lower in zip(times[1:-1], times[2:]):
        sigma, end = t / (1 - t), lower / (1 - lower)
        level = torch.full((3,), sigma)
        output = network(noise.input_scale(level)[:, None] * z, noise.timestep(level))
        clean = noise.denoised(output, z, level)
        z = clean + (z - clean) * (end / sigma)
    torch.testing.assert_close(z, theirs, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("noise", [discrete("epsilon"), FlowNoise()], ids=["discrete", "flow"])
def test_time_rises_with_the_noise_and_stays_in_the_trained_range(noise):
    low, high = noise.sigma_range
    sigma = torch.tensor(
        [0.0, low / 2, low, *(low * (high / low) ** (i / 20) for i in range(1, 20)), high, 1e6, math.inf]
    )
    time = noise.timestep(sigma)
    assert time[:-1].isfinite().all() and (time[1:-1] >= time[:-2]).all()
    assert time[0] == time[2] and time[-2] == time[-3]


def test_bad_settings_say_what_there_is():
    with pytest.raises(ValueError, match="choose epsilon, v_prediction, sample"):
        DiscreteNoise(torch.tensor([0.9, 0.5]), "score")
    with pytest.raises(ValueError, match="0 < lowest < highest < 1"):
        FlowNoise(t_range=(0.5, 1.0))
