# SPDX-License-Identifier: GPL-3.0-or-later
"""The short forms of benchmarks that need a card, or an hour, for their figures."""

import sys

import pytest
import trimesh

from benchmarks import iterations, job_time, true_size


def test_iterations_stand_beside_a_plain_loop(capsys):
    iterations.main(["--device", "cpu", "--model", "tiny", "--iterations", "1", "--warm", "1"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| tiny")]
    assert [row[0] for row in rows] == ["tiny, plain loop", "tiny, volume, auto", "tiny, texture, auto"]
    assert all(len(row) == len(iterations.COLUMNS) for row in rows)
    for row in rows[1:]:
        assert 0 < float(row[-4].strip("%")) < 100 and float(row[-1]) > 0.1
        assert float(row[-2]) == pytest.approx(16 * float(row[-3]), rel=0.1, abs=0.2)  # 4 views, 2 levels, guided


def test_an_iteration_of_a_model_of_any_size(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["true_size", "--family", "tiny", "--device", "cpu", "--views", "2"])
    true_size.main()
    assert "tiny, 64 px, 2 views one by one, float32" in capsys.readouterr().out


def test_a_job_s_time_outside_its_iterations(capsys, tmp_path):
    trimesh.creation.icosphere(2).export(tmp_path / "ball.obj")
    job_time.main([str(tmp_path / "ball.obj"), "--iterations", "2"])
    name, faces, process, job, *parts, outside, warm = [
        each.strip() for each in capsys.readouterr().out.splitlines()[-1].strip("| ").split("|")
    ]
    assert (name, faces) == ("ball.obj", "320") and 0 < float(job) < float(process)
    assert 0 < sum(map(float, parts)) < float(job)
    assert 0 < float(warm.strip("%")) <= float(outside.strip("%")) < 100
