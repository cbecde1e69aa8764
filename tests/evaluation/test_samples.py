# SPDX-License-Identifier: GPL-3.0-or-later
import json

import numpy as np
import pytest
from PIL import Image

from server.bundled_prior import objects
from server.evaluation import samples
from server.evaluation.classifier import NOUNS_WITH_FRONT


@pytest.mark.slow
def test_a_short_run_writes_its_table_and_sheets(tmp_path):
    text = samples.run(tmp_path, nouns=("sphere", "mushroom"), colours=("red", "blue"), steps=12)
    rows = json.loads((tmp_path / "table.json").read_text())
    plain, finished = rows[: 2 * 2 * 4], rows[2 * 2 * 4 :]
    assert len(finished) == 2 * 4 * 2 and "| sphere |" in text and "| wooden |" in text
    assert {name for row in finished for name in row["right"]} == {"noun", "colour", "finish"}
    rows = plain
    assert np.mean([row["right"]["noun"] and row["right"]["colour"] for row in rows]) > 0.8
    assert {row["view"] for row in rows if "view" in row["right"]} == {"overhead"}  # no fronts on these
    for name, columns in (("sheet", 2), ("finishes", 4)):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == (72 + columns * 64, 18 + 2 * 64)


def test_true_renders_are_counted_as_right():
    labels, scenes = [], []
    for noun in NOUNS_WITH_FRONT:
        for view, angles in (("front", (0, 15)), ("side", (90, 15)), ("back", (180, 15)), ("overhead", (0, 70))):
            labels.append({"noun": noun, "colour": "red", "view": view})
            scenes.append(objects.scene("red", noun, np.random.default_rng(1), np.array(angles), vary=False))
    rows = samples.classify(labels, objects.render(scenes) / 255)
    for name in ("noun", "colour", "view"):
        assert np.mean([row["right"][name] for row in rows]) > 0.9, name
    turned = [{**each, "view": {"front": "back", "back": "front"}.get(each["view"], each["view"])} for each in labels]
    swapped = samples.classify(turned, objects.render(scenes) / 255)
    assert np.mean([row["right"]["view"] for row in swapped]) < 0.6
