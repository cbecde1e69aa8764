# SPDX-License-Identifier: GPL-3.0-or-later
"""What the experiments claim, in their short forms."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from server.bundled_prior import captions
from server.experiments import convergence, estimators, landscapes, text_to_2d
from server.experiments.densities import fractal, pinwheel
from server.guidance import create
from server.priors.base import PriorError


@pytest.mark.parametrize("bandwidth, least", [(1.0, 2), (0.3, 2), (0.1, 10), (0.03, 10)])
def test_the_default_stop_is_more_efficient_than_the_papers_estimator(bandwidth, least):
    density = fractal()
    x = estimators.near_data(density, 64, bandwidth)
    ours = estimators.measure(density, density, x, 64, bandwidth)
    paper = estimators.measure(density, density, x, 64, bandwidth, estimator="paper", steps=8)
    assert ours["efficiency"] > least * paper["efficiency"]


@pytest.mark.slow
def test_exact_is_unbiased_where_the_others_are_not():
    density = fractal()
    x = estimators.near_data(density, 64, 1.0)

    def bias(**settings):
        return estimators.measure(density, density, x, 256, 1.0, **settings)

    exact = bias(steps=16, stop_at=16)
    assert exact["mean"] < 0.02 + 2 * exact["error"] < 0.12
    assert bias(estimator="paper", steps=8)["bias"] > 0.15 < bias(estimator="added", steps=8)["bias"]


def test_an_early_stop_lowers_the_variance():
    density = fractal()
    x = estimators.near_data(density, 64, 0.1)
    early, late = (estimators.measure(density, density, x, 64, 0.1, steps=18, stop_at=stop) for stop in (6, 18))
    assert early["calls"] == 6 and late["calls"] == 18
    assert 5 * early["nmse"] < late["nmse"]


def test_msd_ends_inside_where_sds_does_not():
    density = pinwheel()
    x = {
        name: convergence.descend(density, convergence.METHODS[name], convergence.grid(10), 0.3, calls=200)
        for name in ("MSD", "SDS")
    }
    inside = {name: (density.log_density(end) > density.quantile(0.05)).float().mean() for name, (end, _) in x.items()}
    assert inside["MSD"] == 1 and inside["SDS"] < 0.8
    assert {calls for _, calls in x.values()} == {200}


def test_the_landscape_of_sds_is_what_it_descends():
    """Its slope is the mean of SDS's gradients."""
    density = pinwheel()
    x = torch.tensor([[0.8, -0.4], [-1.5, 1.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(landscapes.sds_loss(density, x, 4000).sum(), x)
    step = create("sds", **convergence.LEVELS).step(
        density, x.detach().repeat(20_000, 1), generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(slope, step.gradient.view(-1, 2, 2).mean(dim=0), atol=0.04, rtol=0.05)
    (slope,) = torch.autograd.grad(landscapes.msd_loss(density, x, 0.3).sum(), x)
    step = create("msd", bandwidth=0.3, estimator="tweedie").step(density, x.detach())
    torch.testing.assert_close(slope, step.gradient, atol=1e-4, rtol=1e-4)


def test_clip_features_come_from_a_folder_on_the_disk(tmp_path):
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
            projection_dim=8,
        )
    ).save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    labels, pictures = (
        captions.balanced_prompts(12),
        torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    )
    clip = text_to_2d.clip_features(tmp_path)
    assert clip(pictures).shape == (12, 8)
    assert abs(text_to_2d.score(pictures, labels, pictures, clip)["frechet, CLIP"]) < 1e-2
    assert text_to_2d.score(pictures**2, labels, pictures, clip)["frechet, CLIP"] > 1e-2
    with pytest.raises(PriorError, match="no CLIP model"):
        text_to_2d.clip_features(tmp_path / "none")


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "server.experiments", *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, pictures",
    [
        ("estimators", ["bias.png", "stops.png"]),
        ("convergence", ["ends-ideal.png", "ends-learned.png"]),
        ("diversity", ["coverage.png", "pictures.png"]),
        ("landscapes", ["landscapes.png", "bandwidths.png"]),
        ("text-to-2d", ["curves.png", "sheet.png"]),
    ],
)
def test_writes_tables_and_pictures(tmp_path, name, pictures):
    done = run(name, "--output", tmp_path / "a" / "b", "--quick")
    assert done.returncode == 0, done.stderr
    assert "table.md" in done.stdout
    folder = tmp_path / "a" / "b"
    tables = json.loads((folder / "table.json").read_text())
    assert tables and all(rows and all(row.keys() == rows[0].keys() for row in rows) for rows in tables.values())
    text = (folder / "table.md").read_text()
    assert all(f"## {heading}\n" in text for heading in tables)
    for picture in pictures:
        with Image.open(folder / picture) as image:
            assert min(image.size) >= 60 and image.convert("L").getextrema()[0] < 100


@pytest.mark.slow
def test_says_what_there_is(tmp_path):
    done = run("convergance", "--output", tmp_path)
    assert done.returncode == 2 and "estimators, convergence" in done.stderr.replace("'", "")
    assert run("convergence", "--output", tmp_path, "--model", tmp_path).returncode == 2
    assert run("landscapes", "--output", tmp_path, "--clip", tmp_path).returncode == 2
    (tmp_path / "file").touch()
    done = run("landscapes", "--output", tmp_path / "file")
    assert done.returncode == 2 and "cannot write" in done.stderr and "Traceback" not in done.stderr
    done = run("text-to-2d", "--output", tmp_path / "x", "--model", tmp_path / "none", "--quick")
    assert done.returncode != 0 and "Traceback" not in done.stderr and "none" in done.stderr
