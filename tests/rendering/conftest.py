# SPDX-License-Identifier: GPL-3.0-or-later
"""The rasterizers that draw on the CPU: every test that asks for one runs on each."""

import pytest

from server.rendering import rasterize


@pytest.fixture(scope="session", params=["cpu", "warp"])
def rasterizer(request):
    return rasterize.create(request.param, "cpu")
