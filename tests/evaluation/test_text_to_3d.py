# SPDX-License-Identifier: GPL-3.0-or-later
import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

from server.bundled_prior import captions, shapes
from server.evaluation import text_to_3d
from server.evaluation.classifier import load_classifier


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "server.evaluation.text_to_3d", *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.slow
def test_a_table_and_sheets_from_a_short_run_that_goes_on(tmp_path, capsys):
    def main(*arguments):
        text_to_3d.main([*map(str, arguments)])

    prompts, output = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("red mushroom\n\na blue sphere\n")
    first = ("--prompts", prompts, "--output", output, "--iterations", 6)
    main(*first, "--work", tmp_path / "jobs", "--workers", 2)
    text = (output / "text-to-3d.md").read_text()
    assert "| msd | 2 |" in text and "| red mushroom |" in text and "| blue sphere |" in text
    rows = json.loads((output / "text-to-3d.json").read_text())["msd"]
    assert [row["iterations"] for row in rows] == [6, 6]
    assert all(0 <= row[share] <= 1 for row in rows for share in ("f_score", "colour_error", "clipped"))
    for picture in ("msd.png", "failures.png"):
        with Image.open(output / picture) as image:
            assert image.width > 700
    kept = {path.name: path.read_bytes() for path in output.iterdir()}

    main(*first, "--work", tmp_path / "other")
    assert not (tmp_path / "other").exists()  # what the table has is not made again
    assert {path.name: path.read_bytes() for path in output.iterdir()} == kept
    with pytest.raises(SystemExit, match="2"):
        main(*first[:4], "--iterations", 7)
    assert "made with 6 iterations" in capsys.readouterr().err

    prompts.write_text("blue sphere\n")
    main(*first, "--work", tmp_path / "jobs", "--guidance", "msd", "sds")
    table = json.loads((output / "text-to-3d.json").read_text())
    assert table["msd"] == rows and [row["prompt"] for row in table["sds"]] == ["blue sphere"]
    assert table["sds"][0]["iterations"] >= 4  # what fits into the same time, by the machine's own measure
    assert (output / "msd.png").read_bytes() == kept["msd.png"]


def test_nouns_and_colours_are_balanced():
    prompts = captions.balanced_prompts()
    assert len(set(prompts)) == 48 and {noun for _, noun in prompts} == set(shapes.NOUNS)
    assert {colour for colour, _ in prompts} == set(shapes.COLOURS)
    for part in zip(*prompts):
        counts = [part.count(word) for word in set(part)]
        assert max(counts) - min(counts) <= 2


def test_the_classifier_knows_the_true_turntables_and_none_is_clipped():
    right = []
    for colour, noun in captions.balanced_prompts(24):
        pictures = torch.from_numpy(text_to_3d.true_views(colour, noun)).movedim(-1, 1) / 255
        right += [each["noun"] == noun and each["colour"] == colour for each in load_classifier().predict(pictures)]
        assert text_to_3d.object_colours(pictures)[1] == 0
    assert sum(right) > 0.97 * len(right)


def test_the_background_does_not_count_as_colour():
    real = torch.from_numpy(text_to_3d.true_views("red", "mushroom")).movedim(-1, 1) / 255
    median, clipped = text_to_3d.object_colours(real)
    assert clipped == 0 and median[0] > median[1:].max() + 0.2
    for much in (2.0, 0.01):  # burnt out, black
        ground = (real - text_to_3d.TURNTABLE_BACKGROUND).abs().amax(dim=1, keepdim=True) <= 0.01
        _, clipped = text_to_3d.object_colours(torch.where(ground, real, (much * real).clamp(0, 1)))
        assert clipped > 0.5


@pytest.mark.slow
def test_prompts_that_have_no_truth_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one colour"):
        text_to_3d.parse_prompt("a mushroom")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a purple dragon\n")
    done = run("--prompts", prompts, "--output", tmp_path / "out")
    assert done.returncode == 2 and "one thing of" in done.stderr and "Traceback" not in done.stderr
    assert run("--prompts", tmp_path / "none", "--output", tmp_path / "out").returncode == 2
