# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that was stopped anywhere and goes on from its checkpoint ends in the same bytes."""

import json
import sys

import pytest

from msd_blender.protocol import JobRequest, Log
from server.checkpoint import Checkpoints
from server.optimize import Paused, generate

FILES = ("mesh.glb", "texture.png", "turntable.png")


def run(folder, request, pause_at=None, checkpoints=None, said=None):
    folder.mkdir(exist_ok=True)
    asked = [0]

    def paused():
        asked[0] += 1
        return pause_at is not None and asked[0] > pause_at

    generate(
        request,
        folder,
        (said if said is not None else []).append,
        lambda: False,
        checkpoints=checkpoints,
        paused=paused,
    )


@pytest.mark.slow
# Before anything, in either phase, at the last iteration; VSD has a state of its own, that goes through the phases.
@pytest.mark.parametrize("guidance, stops", [("msd", (0, 3, 5, 8)), ("vsd", (3, 5, 7))])
def test_the_same_bytes_wherever_it_was_stopped(tiny, tmp_path, guidance, stops):
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


@pytest.mark.slow
def test_a_disk_that_is_full_is_said_once_and_survived(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["server.optimize.loop"], "CHECKPOINT_SECONDS", 0.0)
    (tmp_path / "file").touch()  # a folder cannot be made here
    said = []
    run(
        tmp_path / "out",
        JobRequest(**{"prompt": "a red mushroom", **tiny}),
        None,
        Checkpoints(tmp_path / "file" / "checkpoints"),
        said,
    )
    warnings = [message.message for message in said if isinstance(message, Log)]
    assert len(warnings) == 1 and "checkpoint could not be written" in warnings[0]
    assert (tmp_path / "out" / "mesh.glb").exists()
