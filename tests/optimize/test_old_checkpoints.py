# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs resume from checkpoints of earlier versions; tests/data/old_files lists these."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from msd_blender.protocol import JobRequest, Progress
from server.checkpoint import Checkpoints
from server.optimize import Settings, generate
from tests.optimize.jobs import ball, half_locked

OLD = Path(__file__).parents[1] / "data" / "old_files"
STEPS = {"volume": 1, "surface": 3, "finish": 5, "vsd": 3, "texture": 1, "refine": 1, "edited-volume": 1}


def small(request):
    """The settings of the old runs: two iterations per phase, on coarse grids."""
    settings = replace(Settings.of(request), snapshots=1, colour_levels=(3, 5))
    levels = (3, 5, 9)
    return settings.with_phases(
        {
            name: replace(phase, iterations=2, levels=levels if phase.levels else ())
            for name, phase in settings.phases(request.mode).items()
        }
    )


@pytest.mark.parametrize("name", STEPS)
def test_a_job_resumes_from_it(name, folders, tmp_path):
    with tarfile.open(OLD / "checkpoints.tar.xz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
        archive.extractall(tmp_path)
    folder = tmp_path / "checkpoints" / name
    request = JobRequest(**json.loads((folder / "request.json").read_text()) | {"model": str(folders["epsilon"])})
    mesh = None if request.mode == "generate" else half_locked() if name == "texture" else ball()
    edit = ("1", ball()) if name == "edited-volume" else None
    progress = []

    def report(message):
        if isinstance(message, Progress) and message.iteration:
            progress.append(message.iteration)

    checkpoints = Checkpoints(folder)
    assert checkpoints.step == STEPS[name]
    settings = small(request)
    generate(request, tmp_path, report, lambda: False, settings, checkpoints, mesh=mesh, edit=edit)
    assert progress[0] == STEPS[name] + 1 or progress[:2] == [STEPS[name], STEPS[name] + 1]  # a new stage reports first
    assert json.loads((tmp_path / "job.json").read_text())["iterations"] == settings.iterations(request.mode)
