# SPDX-License-Identifier: GPL-3.0-or-later
"""The judge reads what it was trained to read, and the Fréchet distance is the closed form of Gaussians."""

import numpy as np
import pytest
import torch

from server.bundled import judge, objects
from server.bundled.train import Recipe


@pytest.mark.slow
def test_it_reads_renders_that_it_has_not_seen(tmp_path):
    shares = judge.measure(judge.load(), Recipe(work=tmp_path, images=600, seed=77))
    assert shares["noun"] > 0.97 and shares["colour"] > 0.97, shares
    assert shares["near"] > 0.85 and shares["view"] > 0.75 and shares["finish"] > 0.9, shares


def test_it_reads_larger_pictures():
    rng = np.random.default_rng(3)
    picture = objects.render([objects.scene("green", "tree", rng, (0.0, 20.0))], size=128)
    said = judge.load().read(torch.from_numpy(picture).movedim(-1, 1) / 255)
    assert said[0]["noun"] == "tree" and said[0]["colour"] == "green"


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="server.bundled.judge"):
        judge.load(tmp_path / "none.safetensors")


def test_the_frechet_distance_of_two_gaussians():
    # Axis-aligned Gaussians: |m1 - m2|^2 + sum (s1 - s2)^2.
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    noise = (noise - noise.mean(dim=0)) / noise.std(dim=0)
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(noise.T)).T)  # exactly white
    one, two = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.5])
    shift = torch.tensor([1.0, -2.0, 0.0])
    measured = judge.frechet_distance(one * noise, two * noise + shift)
    assert measured == pytest.approx(float(shift.square().sum() + (one - two).square().sum()), rel=1e-6)
    assert judge.frechet_distance(noise, noise) == pytest.approx(0, abs=1e-6)
