# SPDX-License-Identifier: GPL-3.0-or-later
"""Placed cameras in a job: where its cameras stand, which prompt each picture follows, what is said of the prompts."""

import json

import numpy as np
import pytest
import torch

from examples.prior_of_your_own import COLOURS, ColourPrior
from msd_blender.protocol import FILES, JobRequest, Log, PlacedCamera
from server.checkpoint import Checkpoints
from server.optimize import Optimization, Paused, Settings, generate
from server.priors import PIPELINES, load
from tests.optimize.jobs import ball, request_of, short

PIPELINES.pop("ColourPipeline", None)  # the example's registry line, which other tests expect to be absent

PLACED = ["0,10:a blue mushroom", "180,10"]


class Observed:
    """A prior that keeps what it was asked for."""

    def __init__(self, prior):
        self.prior, self.asked = prior, []

    def __getattr__(self, name):
        return getattr(self.prior, name)

    def condition(self, views, prompt, *others):
        self.asked.append((views, prompt))
        return self.prior.condition(views, prompt, *others)


def test_the_settings_have_the_cameras_and_the_view():
    def placed(**options):
        return Settings.of(JobRequest("a chair", **options)).placed

    assert placed() == ()
    assert placed(view=[30, 20]) == (PlacedCamera(30, 20),)
    assert placed(view=[30, 20], cameras=PLACED) == (
        PlacedCamera(0, 10, "a blue mushroom"),
        PlacedCamera(180, 10),
        PlacedCamera(30, 20),
    )


def prompts_of(model, **options):
    """The (azimuth, prompt) of all pictures of a short job, and what it has asked its prior for."""
    request, mesh = request_of("texture with maps", model, device="cpu", **options)
    prior = Observed(load(model, "cpu"))
    run = Optimization(request, lambda message: None, lambda: False, short(request), mesh=mesh, prior=prior)
    run.run()
    return run, prior.asked


@pytest.mark.parametrize("options", [{}, {"view": [30, 20]}, {"cameras": ["30,10", "90,10:"]}])
def test_without_prompts_of_cameras_the_prior_gets_one_prompt(tiny, options):
    _, asked = prompts_of(tiny["model"], **options)
    assert asked and {prompt for _, prompt in asked} == {"a red mushroom"}


def test_each_picture_follows_the_prompt_of_its_camera(tiny):
    _, asked = prompts_of(tiny["model"], cameras=PLACED)
    assert len(asked) == 2
    for views, prompts in asked:
        assert len(prompts) == len(views) == 4 and prompts[1] == prompts[3] == "a red mushroom"
        assert sorted(prompts[::2]) == ["a blue mushroom", "a red mushroom"]  # an empty prompt is the job's
        for azimuth, prompt in zip(views.azimuth[::2].tolist(), prompts[::2]):
            away = abs((azimuth - (0 if prompt == "a blue mushroom" else 180) + 180) % 360 - 180)
            assert away <= 15.01


def test_an_empty_prompt_of_a_camera_follows_an_edit_of_the_jobs(tiny, tmp_path):
    request, mesh = request_of("texture with maps", tiny["model"], device="cpu", cameras=PLACED)
    checkpoints, asked = Checkpoints(tmp_path / "kept"), []

    def run(request, paused):
        prior = Observed(load(tiny["model"], "cpu"))
        try:
            Optimization(
                request, lambda _: None, lambda: False, short(request), checkpoints, paused, mesh, prior=prior
            ).run()
        finally:
            asked.append([prompts for _, prompts in prior.asked])

    with pytest.raises(Paused):
        run(request, lambda calls=[]: calls.append(1) or len(calls) > 1)
    request.prompt = "a green mushroom"
    run(request, lambda: False)
    (before,), after = asked  # which begins anew
    assert set(before) == {"a red mushroom", "a blue mushroom"}
    assert all(set(each) == {"a green mushroom", "a blue mushroom"} for each in after) and len(after) == 2


def test_a_job_with_prompts_of_cameras_ends_and_resumes_to_the_same_bytes(tiny, tmp_path):
    request = JobRequest(
        "a red mushroom", **{**tiny, "iterations": 6, "texture_size": 64, "cameras": [*PLACED, "90,60:x"]}
    )
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    for folder in folders:
        folder.mkdir()
    generate(request, folders[0], lambda message: None, lambda: False)
    asked, checkpoints = [], Checkpoints(tmp_path / "kept")
    with pytest.raises(Paused):
        generate(
            request,
            folders[1],
            lambda message: None,
            lambda: False,
            checkpoints=checkpoints,
            paused=lambda: asked.append(1) or len(asked) > 3,
        )
    assert checkpoints.step == 3
    generate(request, folders[1], lambda message: None, lambda: False, checkpoints=checkpoints)
    for name in set(FILES) - {"job.json"}:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    record = json.loads((folders[1] / "job.json").read_text())
    assert record["settings"]["placed"][0] == {"azimuth": 0.0, "elevation": 10.0, "prompt": "a blue mushroom"}
    assert record["request"]["cameras"] == request.cameras


def test_each_side_gets_the_colour_that_its_camera_asks_for():
    request = JobRequest(
        "something red",
        mode="texture",
        mesh="x",
        device="cpu",
        iterations=60,
        texture_size=64,
        cameras=["0,0:something blue", "180,0:something green"],
    )
    prior = ColourPrior(None, torch.device("cpu"), torch.float32)
    run = Optimization(request, lambda message: None, lambda: False, mesh=ball(), prior=prior)
    mesh = run.run().mesh()
    size = len(mesh.textures["texture.0"])
    texel = np.clip((mesh.uvs.mean(axis=1) * size).astype(int), 0, size - 1)
    colours = mesh.textures["texture.0"][texel[:, 1], texel[:, 0]].astype(float)
    middle = mesh.positions[mesh.faces].mean(axis=1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    front, back, sides = (
        colours[chosen].mean(axis=0) for chosen in (middle[:, 1] < -0.9, middle[:, 1] > 0.9, abs(middle[:, 0]) > 0.9)
    )
    names = list(COLOURS)  # red, green, blue
    assert (names[(front - sides).argmax()], names[(back - sides).argmax()]) == ("blue", "green")
    assert names[(sides - (front + back) / 2).argmax()] == "red"


def test_the_words_of_cameras_prompts_are_warned_of_each_once():
    messages = []
    request = JobRequest(
        "a red dragon",
        device="cpu",
        cameras=["0,0:a blue unicorn", "90,0:a blue unicorn", "180,0:a red dragon", "45,0:a red cube <lora:shiny:0.8>"],
    )
    run = Optimization(request, messages.append, lambda: False)
    run.report_prompt_warnings()
    said = [message.message for message in messages if isinstance(message, Log)]
    assert len(said) == len(set(said)) == 3
    dragon, unicorn, tag = said
    assert "does not know dragon;" in dragon and "does not know unicorn;" in unicorn
    assert tag == "<lora:shiny:0.8> in a camera's prompt loads nothing: write it in the job's prompt."
