# SPDX-License-Identifier: GPL-3.0-or-later
"""The training of the bundled depth ControlNet, a few steps long."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from server.bundled_prior import objects
from server.bundled_prior.config import TrainConfig
from server.bundled_prior.corpus import load_corpus, load_depths
from server.bundled_prior.train_control import train_control
from server.evaluation.texture_parts import Thing
from server.priors import BUNDLED_MODEL, load
from server.priors.additions.control_files import find

TINY = TrainConfig(images=24, steps=3, batch=4, workers=1)


def _tiny(folder):
    return dataclasses.replace(TINY, work=folder, output=folder / "control")


def test_the_depth_maps_are_of_the_pictures(tmp_path):
    config = _tiny(tmp_path)
    pictures, _ = load_corpus(config)
    depths = load_depths(config)
    assert depths.shape == pictures.shape[:3]
    for picture, depth in zip(pictures, depths):
        background = np.abs(picture.astype(int) - picture[0, 0]).max(-1) <= 1
        assert (background[depth == 0]).mean() > 0.9 and not background[depth > 0].mean() > 0.1
        assert depth.max() == 255 and depth[depth > 0].min() >= 127


@pytest.mark.slow
def test_a_run_ends_as_an_interrupted_one_and_fits_the_bundled_model(tmp_path):
    whole, halted = _tiny(tmp_path / "whole"), _tiny(tmp_path / "halted")
    train_control(whole)
    train_control(halted, halt=1)
    assert not halted.output.exists()
    train_control(halted)
    one, two = (load_file(each.work / "control.safetensors") for each in (whole, halted))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        if not name.startswith("optimizer."):
            assert torch.allclose(tensor, two[name], rtol=0, atol=1e-4), name
    prior = load(BUNDLED_MODEL, "cpu")
    prior.add_control(find(["depth"], str(whole.output), BUNDLED_MODEL))
    assert prior.control.kinds == ["depth"]


def test_the_true_colours_are_all_right():
    thing = Thing.build("mushroom", "red", 0)
    corner = np.array([[0.1, 0.5], [0.2, 0.5], [0.15, 0.6]], np.float32)
    uvs = np.where(thing.truth[:, None, None] == 0, corner, corner + np.float32([0.5, 0]))
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, :8], picture[:, 8:] = (255 * thing.palette).round().astype(np.uint8)
    painted = dataclasses.replace(thing.mesh, uvs=uvs, textures={"texture.0": picture})
    assert thing.right(painted).all() and len(thing.palette) == 2
    wrong = dataclasses.replace(painted, textures={"texture.0": picture[:, ::-1].copy()})
    assert not thing.right(wrong).any()
    low = thing.mesh.positions[thing.mesh.faces].mean(1)[:, 2] < -0.6
    assert (thing.truth[low] == 1).all()  # the stem
    assert objects.COLOURS["red"] == pytest.approx(thing.palette[0], abs=1e-3)
