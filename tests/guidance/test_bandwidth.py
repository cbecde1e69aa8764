# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.guidance.bandwidth import Constant, Geometric, Linear, as_schedule

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
def test_no_bandwidth(value):
    with pytest.raises(ValueError, match="finite positive numbers"):
        as_schedule(value)
