# SPDX-License-Identifier: GPL-3.0-or-later
"""The training of a multi-view model, tiny and short."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from server.bundled_prior import captions, multi_view, objects, shapes, train
from server.bundled_prior.descriptions import Description, Thing, decode, encode
from server.priors import Views, load
from server.priors.base import MultiViewPrior
from server.priors.prompts import VIEWS, view_word
from server.rendering.cameras import OBJECT_RADIUS
from tests.bundled_prior.test_train import TINY

VIEWED = dataclasses.replace(TINY, images=32, batch=8, views=4)


def at(config, folder, **changes):
    return dataclasses.replace(config, work=folder, output=folder / "model", **changes)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A model of single pictures."""
    config = at(TINY, tmp_path_factory.mktemp("single"))
    train.train(config)
    return config.output


@pytest.fixture(scope="module")
def finished(single, tmp_path_factory):
    config = at(VIEWED, tmp_path_factory.mktemp("views"), start=single, single=0.12)  # the first step's, of three
    train.train(config)
    return config


def test_the_corpus_sees_an_object_at_right_angles_with_one_elevation(tmp_path):
    config = at(VIEWED, tmp_path)
    pictures, labels, angles = (each.reshape(8, 4, *each.shape[1:]) for each in multi_view.load_views(config))
    azimuth, elevation = np.moveaxis(angles, -1, 0)
    turns = (azimuth - azimuth[:, :1]) % 360
    np.testing.assert_allclose(turns, np.broadcast_to([0, 90, 180, 270], turns.shape), atol=1e-3)
    np.testing.assert_allclose(elevation, np.broadcast_to(elevation[:, :1], elevation.shape), atol=1e-3)
    assert (labels[..., :-1] == labels[:, :1, :-1]).all() and len(np.unique(labels[:, 0, 0])) > 3
    assert (pictures[:, :, 0, 0] == pictures[:, :1, 0, 0]).all()  # the background
    assert (pictures[:, 0] != pictures[:, 1]).any()
    for row, a, e in zip(labels.reshape(32, -1), azimuth.ravel(), elevation.ravel()):
        assert VIEWS[row[-1]] == view_word(float(a), float(e))
    (tmp_path / "again").mkdir()
    again = multi_view.load_views(at(VIEWED, tmp_path / "again"))[0]
    assert (again.reshape(pictures.shape) == pictures).all()
    description, scenes, _ = multi_view.scenes_of(config, 5)  # from the label's row alone
    assert decode(labels[5, 0, :-1]) == description
    assert (objects.render(scenes) == pictures[5]).all()


def test_pictures_may_be_larger(tmp_path):
    config = at(VIEWED, tmp_path, images=4, pixels=96)
    pictures = multi_view.load_views(config)[0]
    assert pictures.shape == (4, 96, 96, 3)
    small = objects.render(multi_view.scenes_of(config, 0)[1], 32).astype(float)
    assert np.abs(pictures.reshape(4, 32, 3, 32, 3, 3).mean((2, 4)) - small).mean() < 4


@pytest.mark.parametrize("i", range(6))
def test_the_silhouettes_of_four_views_belong_to_one_object(i):
    """Their visual hull covers each of them."""
    scenes = multi_view.scenes_of(VIEWED, i)[1]
    seen = np.isfinite(objects.render_depth(scenes))
    axis = np.linspace(-0.85, 0.85, 96)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    points = points[np.linalg.norm(points, axis=1) < OBJECT_RADIUS]
    pixels = []
    for scene in scenes:
        forward = -scene.eye / np.linalg.norm(scene.eye)
        right = np.cross(forward, (0, 0, 1))
        right /= np.linalg.norm(right)
        up, away = np.cross(right, forward), points - scene.eye
        scale = 32 / (away @ forward * np.tan(np.radians(objects.FIELD_OF_VIEW / 2)))
        pixels.append((np.floor(32 - away @ up * scale).astype(int), np.floor(32 + away @ right * scale).astype(int)))
    hull = np.all([silhouette[place] for silhouette, place in zip(seen, pixels)], axis=0)
    for silhouette, (row, column) in zip(seen, pixels):
        covered = np.zeros_like(silhouette)
        covered[row[hull], column[hull]] = True
        assert (covered & silhouette).sum() / (covered | silhouette).sum() > 0.93


def test_captions_of_an_object_differ_in_the_view_only(tmp_path):
    label = encode(Description(Thing("chair", "red", part="seat", part_colour="blue")))
    labels = np.array([[*label, view] for _ in range(50) for view in (0, 2, 4, 6)], np.uint8)
    texts = multi_view.captions(labels, 4, VIEWED, 3)
    heads = [{text.split(",")[0] for text in texts[i : i + 4]} for i in range(0, len(texts), 4)]
    assert all(len(each) == 1 for each in heads) and {""} in heads and len(set(map(frozenset, heads))) > 4
    assert any("right side view" in text for text in texts)
    assert set(" ".join(texts).replace(",", " ,").split()) <= set(captions.full_vocabulary())


def test_it_begins_as_the_model_of_single_pictures(single, tmp_path):
    config = at(VIEWED, tmp_path, start=single, steps=1, rate=0.0)
    train.train(config)
    views, plain = load(config.output), load(single)
    x = torch.randn(4, *plain.latent_shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.ones(4)
    assert torch.equal(views.denoise(x, sigma), plain.denoise(x, sigma))
    cameras = Views(90.0 * torch.arange(4), torch.full((4,), 20.0))
    assert not torch.equal(views.denoise(x, sigma, views.condition(cameras, "a red chair")), plain.denoise(x, sigma))


def test_a_run_exports_a_model_of_both_kinds(finished):
    from diffusers import StableDiffusionPipeline

    words = json.loads((finished.output / "words.json").read_text(encoding="utf-8"))
    assert (words["things"], words["words"]) == (list(shapes.ALL_NOUNS), captions.full_vocabulary())
    assert [text.split()[-1] for text in words["examples"]] == sorted(shapes.ALL_NOUNS)
    prior = load(finished.output)
    assert isinstance(prior, MultiViewPrior) and prior.views_at_once == 4 and prior.elevation is None
    assert prior._view_texts(Views(torch.zeros(1), torch.zeros(1)), "a cat", "", None)[0] == ["a cat, front view"]
    weights = load_file(finished.output / "camera_embedding.safetensors")
    assert weights["linear_2.weight"].any() and weights["linear_2.weight"].dtype == torch.float16
    pipe = StableDiffusionPipeline.from_pretrained(finished.output, local_files_only=True, dtype=torch.float32)
    picture = pipe(["a red mushroom"], num_inference_steps=2, output_type="np").images
    assert picture.shape == (1, 64, 64, 3) and np.isfinite(picture).all()


def test_an_interrupted_run_ends_in_the_same_state_and_goes_on_from_weights(finished, single, tmp_path):
    config = at(VIEWED, tmp_path, start=single, single=0.12)
    train.train(config, halt=2)
    assert not config.output.exists()
    train.train(config)
    one, two = (load_file(each.work / "denoiser.safetensors") for each in (finished, config))
    assert one.keys() == two.keys()
    for name in one:
        if not name.startswith("optimizer."):
            assert torch.allclose(one[name], two[name], atol=1e-4), name
    (tmp_path / "more").mkdir()
    further = at(VIEWED, tmp_path / "more", start=finished.output, steps=1, rate=0.0)
    train.train(further)
    before, after = (load_file(each.output / "camera_embedding.safetensors") for each in (finished, further))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_lamps_are_as_random_as_in_jobs():
    rng = np.random.default_rng(0)
    first = objects.scene("red", "chair", rng)
    seen = [multi_view.turned(first, 90.0 * k, rng)[0] for k in range(4)]
    for each in seen:
        assert each.light @ each.eye / np.linalg.norm(each.eye) > np.cos(np.radians(51))
        assert (each.ambient, each.diffuse) == (first.ambient, first.diffuse)
    np.testing.assert_allclose(seen[0].eye, first.eye, atol=1e-9)
