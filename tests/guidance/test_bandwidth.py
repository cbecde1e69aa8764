# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.guidance import create
from server.guidance.bandwidth import Adaptive, Constant, Geometric, Linear, as_schedule

positive = st.floats(1e-6, 1e6)


@pytest.mark.parametrize("kind", [Geometric, Linear])
@given(start=positive, end=positive, a=st.floats(0, 1), b=st.floats(0, 1))
def test_endpoints_and_monotone(kind, start, end, a, b):
    schedule = kind(start, end)
    assert schedule(0.0) == start and schedule(1.0) == end
    assert schedule(-1.0) == start and schedule(2.0) == end
    early, late = schedule(min(a, b)), schedule(max(a, b))
    assert (late - early) * (end - start) >= -1e-9 * max(start, end) ** 2


def test_midpoints():
    assert Geometric(4.0, 0.25)(0.5) == pytest.approx(1.0)
    assert Linear(4.0, 0.0625)(0.5) == pytest.approx(2.03125)
    assert as_schedule(0.3)(0.7) == 0.3 == Constant(0.3)(0.0)
    schedule = Linear(1.0, 2.0)
    assert as_schedule(schedule) is schedule


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), True, "3"])
def test_invalid_bandwidths(value):
    with pytest.raises(ValueError, match="finite positive numbers"):
        as_schedule(value)


def follow(schedule, shifts):
    """The bandwidths under a run of shift lengths."""
    widths = []
    for length in shifts:
        widths.append(schedule(0.0))
        schedule.observe(length)
    return widths


def test_adaptive_waits_until_the_shift_vanishes():
    schedule = Adaptive(1.0, 0.25, ratio=0.5, tolerance=0.1, patience=100)
    widths = follow(schedule, [1.0, 0.5, 0.2, 0.09, 0.3, 0.04, 0.3, 0.2])
    assert widths == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25] and not schedule.converged
    schedule.observe(0.01)
    assert schedule.converged and schedule(1.0) == 0.25


def test_adaptive_detects_that_the_shift_stalls():
    schedule = Adaptive(1.0, 0.1, ratio=0.5, tolerance=1e-9, patience=3)
    falling = [0.8**i for i in range(12)]
    assert follow(schedule, falling)[-1] == 1.0
    assert follow(schedule, [falling[-1]] * 6)[:3] == [1.0, 1.0, 1.0] and schedule(0.0) == 0.5


def test_adaptive_converges(mixture):
    """With MSD it falls to its end and converges, with every point at a mode."""
    schedule = Adaptive(1.0, 0.05)
    guidance = create("msd", bandwidth=schedule, stop_at=1)
    x = torch.cartesian_prod(*[torch.linspace(-2, 2, 6, dtype=torch.float64)] * 2)
    for _ in range(300):
        step = guidance.step(mixture, x)
        x = x - 0.5 * step.gradient
        if step.converged:
            break
    assert step.converged and step.bandwidth == 0.05
    assert (mixture.log_density(x) > mixture.log_density(mixture.means).min() - 0.1).all()


def test_adaptive_settings():
    for settings in ((0.1, 1.0), (1.0, 0.1, 1.5), (1.0, 0.1, 0.5, 0.1, 0)):
        with pytest.raises(ValueError, match="adaptive bandwidth falls"):
            Adaptive(*settings)
