# SPDX-License-Identifier: GPL-3.0-or-later
"""The classifier recognizes what it was trained on, and the Fréchet distance is the closed form of Gaussians."""

import numpy as np
import pytest
import torch

from server.bundled_prior import objects
from server.bundled_prior.config import TrainConfig
from server.evaluation.classifier import accuracies, frechet_distance, load_classifier


@pytest.mark.slow
def test_it_classifies_renders_that_it_has_not_seen(tmp_path):
    shares = accuracies(load_classifier(), TrainConfig(work=tmp_path, images=600, seed=77))
    assert shares["noun"] > 0.97 and shares["colour"] > 0.97, shares
    assert shares["view or one beside it"] > 0.85 and shares["view"] > 0.75 and shares["finish"] > 0.9, shares


def test_it_classifies_larger_pictures():
    rng = np.random.default_rng(3)
    picture = objects.render([objects.scene("green", "tree", rng, (0.0, 20.0))], size=128)
    predicted = load_classifier().predict(torch.from_numpy(picture).movedim(-1, 1) / 255)
    assert predicted[0]["noun"] == "tree" and predicted[0]["colour"] == "green"


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="server.evaluation.classifier"):
        load_classifier(tmp_path / "none.safetensors")


def test_the_frechet_distance_of_two_gaussians():
    # Axis-aligned Gaussians: |m1 - m2|^2 + sum (s1 - s2)^2.
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    noise = (noise - noise.mean(dim=0)) / noise.std(dim=0)
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(noise.T)).T)  # exactly white
    one, two = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.5])
    shift = torch.tensor([1.0, -2.0, 0.0])
    measured = frechet_distance(one * noise, two * noise + shift)
    assert measured == pytest.approx(float(shift.square().sum() + (one - two).square().sum()), rel=1e-6)
    assert frechet_distance(noise, noise) == pytest.approx(0, abs=1e-6)
