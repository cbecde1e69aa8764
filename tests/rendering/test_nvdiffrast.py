# SPDX-License-Identifier: GPL-3.0-or-later
"""Our rasterizers on the CPU against nvdiffrast: live where a GPU is at hand, else against arrays that it left."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.reference import record
from server.rendering import rasterize

STORED = Path(__file__).parent / "nvdiffrast.npz"


@pytest.fixture(scope="module")
def theirs():
    if torch.cuda.is_available():
        pytest.importorskip("nvdiffrast.torch", reason="nvdiffrast is not installed")
        return record(rasterize.create("nvdiffrast", "cuda"), "cuda")
    if not STORED.is_file():
        pytest.skip("needs a CUDA GPU with nvdiffrast, or what `python -m benchmarks.reference` stores on one")
    return dict(np.load(STORED))


@pytest.fixture(scope="module")
def ours(rasterizer):
    return record(rasterizer, "cpu")


def test_what_is_recorded_is_whole_and_the_same_again(rasterizer, ours):
    assert all(np.isfinite(each).all() and each.any() for each in ours.values())
    again = record(rasterizer, "cpu")
    assert all(np.array_equal(ours[name], again[name]) for name in ours)


def test_the_same_pixels(ours, theirs):
    """Where both see the same triangle: coverage right on an edge is each one's own."""
    same = ours["rast"][..., 3] == theirs["rast"][..., 3]
    assert same.mean() > 0.99
    for name in ("rast", "footprint", "uv", "wrapped", "clamped", "mipmapped"):
        np.testing.assert_allclose(ours[name][same], theirs[name][same], atol=2e-3, rtol=2e-3, err_msg=name)
    assert np.abs(ours["antialiased"] - theirs["antialiased"])[same].mean() < 2e-3


@pytest.mark.parametrize("picture", ["uv", "wrapped", "clamped", "mipmapped", "antialiased"])
def test_the_same_gradients(ours, theirs, picture):
    for name in (name for name in ours if name.startswith(f"{picture} to ")):
        limit = 0.1 if picture == "antialiased" else 0.03
        assert np.linalg.norm(ours[name] - theirs[name]) < limit * np.linalg.norm(theirs[name]), name
