# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that is paused anywhere and resumed from its checkpoint ends in the same bytes."""

import json
import sys
from dataclasses import replace

import pytest

from msd_blender.protocol import JobRequest, Log, Progress
from server.checkpoint import Checkpoints
from server.optimize import Paused, generate
from tests.optimize.jobs import ball

FILES = ("mesh.glb", "texture.png", "turntable.png")


def run(folder, request, pause_at=None, checkpoints=None, messages=None, **more):
    folder.mkdir(exist_ok=True)
    asked = [0]

    def paused():
        asked[0] += 1
        return pause_at is not None and asked[0] > pause_at

    generate(
        request,
        folder,
        (messages if messages is not None else []).append,
        lambda: False,
        checkpoints=checkpoints,
        paused=paused,
        **more,
    )


# Stops at the start, in each phase, and at the last iteration; VSD carries its own state across the phases.
@pytest.mark.slow
@pytest.mark.parametrize("guidance, stops", [("msd", (0, 3, 5, 8)), ("vsd", (3, 5, 7))])
def test_the_same_bytes_after_any_stop(tiny, tmp_path, guidance, stops):
    request = JobRequest(**{"prompt": "a red mushroom", **tiny, "guidance": guidance, "iterations": 9, "seed": 5})
    run(tmp_path / "whole", request)
    for stop in stops:
        folder, checkpoints = tmp_path / f"stopped-{stop}", Checkpoints(tmp_path / f"checkpoints-{stop}")
        with pytest.raises(Paused):
            run(folder, request, stop, checkpoints)
        assert checkpoints.step == stop and not list(folder.iterdir())
        run(folder, request, checkpoints=checkpoints)
        for name in FILES:
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (stop, name)
        record = json.loads((folder / "job.json").read_text())
        assert record["iterations"] == 9
        assert record["denoiser_calls"] == json.loads((tmp_path / "whole/job.json").read_text())["denoiser_calls"]


# Of nine iterations of mode generate the last phase has one, of 24 it has two.
@pytest.mark.parametrize(
    "mode, stop, left", [("generate", 3, 1), ("generate", 6, 1), ("texture", 4, 0), ("refine", 4, 0)]
)
def test_a_run_that_is_asked_to_finish_ends_with_what_is_there(tiny, tmp_path, mode, stop, left):
    options = {"mode": mode} if mode == "generate" else {"mode": mode, "mesh": "x"}
    request = JobRequest(**{"prompt": "a red mushroom", **tiny, **options, "iterations": 9, "texture_size": 64})
    mesh, checkpoints, messages = None if mode == "generate" else ball(), Checkpoints(tmp_path / "kept"), []
    with pytest.raises(Paused):
        run(tmp_path / "out", request, stop, checkpoints, mesh=mesh)
    run(tmp_path / "out", request, None, checkpoints, messages, mesh=mesh, finish=True)
    record = json.loads((tmp_path / "out" / "job.json").read_text())
    assert (record["state"], record["finish_at"], record["iterations"]) == ("finished", stop, stop + left)
    progress = [message for message in messages if isinstance(message, Progress)]
    assert {message.iterations for message in progress} == {stop + left}
    assert (tmp_path / "out" / "texture.png").exists() == (mode != "refine")


@pytest.mark.slow
def test_a_run_that_finishes_is_resumed_to_the_same_bytes(tiny, tmp_path):
    request = JobRequest(**{"prompt": "a red mushroom", **tiny, "iterations": 24, "seed": 5})
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    for folder in folders:
        checkpoints = Checkpoints(tmp_path / f"kept-{folder.name}")
        with pytest.raises(Paused):
            run(folder, request, 7, checkpoints)
        if folder.name == "stopped":
            with pytest.raises(Paused):
                run(folder, request, 1, checkpoints, finish=True)
            assert checkpoints.step == 8
        run(folder, request, checkpoints=checkpoints, finish=True)
    for name in FILES:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    assert json.loads((folders[1] / "job.json").read_text())["iterations"] == 9


# Of nine iterations of mode generate the phases have 5, 3 and 1.
@pytest.mark.parametrize("mode, stop, more", [("generate", 3, 3), ("generate", 6, 1), ("texture", 4, 4)])
def test_another_prompt_begins_the_phase_anew(tiny, tmp_path, mode, stop, more):
    options = {"mode": mode} if mode == "generate" else {"mode": mode, "mesh": "x"}
    request = JobRequest(**{"prompt": "a red mushroom", **tiny, **options, "iterations": 9, "texture_size": 64})
    edited = replace(request, prompt="a blue mushroom")
    mesh, whole = None if mode == "generate" else ball(), []
    run(tmp_path / "whole", request, messages=whole, mesh=mesh)
    bandwidths = [message.bandwidth for message in whole if isinstance(message, Progress) and message.bandwidth]
    for folder in (tmp_path / "once", tmp_path / "stopped"):
        checkpoints, messages = Checkpoints(tmp_path / f"kept-{folder.name}"), []
        with pytest.raises(Paused):
            run(folder, request, stop, checkpoints, mesh=mesh)
        if folder.name == "stopped":
            with pytest.raises(Paused):
                run(folder, edited, 1, checkpoints, messages, mesh=mesh)
        run(folder, edited, None, checkpoints, messages, mesh=mesh)
        progress = [message for message in messages if isinstance(message, Progress)]
        assert {message.iterations for message in progress} == {9 + more} and progress[-1].iteration == 9 + more
        assert [each.bandwidth for each in progress if each.bandwidth] == bandwidths[stop - more :]
        assert sum("begins anew" in message.message for message in messages if isinstance(message, Log)) == 1
        assert json.loads((folder / "job.json").read_text())["iterations"] == 9 + more
    for name in FILES:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name


@pytest.mark.slow
def test_a_full_disk_is_warned_of_once_and_survived(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["server.optimize.loop"], "CHECKPOINT_SECONDS", 0.0)
    (tmp_path / "file").touch()  # a folder cannot be created here
    messages = []
    run(
        tmp_path / "out",
        JobRequest(**{"prompt": "a red mushroom", **tiny}),
        None,
        Checkpoints(tmp_path / "file" / "checkpoints"),
        messages,
    )
    warnings = [message.message for message in messages if isinstance(message, Log)]
    assert len(warnings) == 1 and "checkpoint could not be written" in warnings[0]
    assert (tmp_path / "out" / "mesh.glb").exists()
