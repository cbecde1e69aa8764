# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is asked for, a whole mesh comes out: a few prompts here, 200 with `make long`."""

import random

import numpy as np
import pytest
import trimesh

from msd_blender.protocol import JobRequest
from server.bundled_prior import shapes
from server.optimize import generate

pytestmark = pytest.mark.long

WORDS = (
    "dragon",
    "Drache",
    "corgi",
    "made",
    "of",
    "brass",
    "a",
    "the",
    "赤い",
    "キノコ",
    "красный",
    "дом",
    "une",
    "pomme",
    "🦄",
    "🌈🔥",
    "...",
    "!?",
    "x",
    "<|endoftext|>",
    "%s",
    "\\",
    "'; --",
    "1e999",
    "NaN",
    "ﷺ",
    "é" * 9,
)


def prompt_of(seed: int) -> str:
    """A random prompt: known words, unknown ones, other scripts, marks, one letter or very long."""
    rng = random.Random(seed)
    known = [*shapes.NOUNS, *shapes.COLOURS]
    kind = seed % 4
    if kind == 0:
        return f"{rng.choice(list(shapes.COLOURS))} {rng.choice(list(shapes.NOUNS))}"
    count = 140 if kind == 1 else rng.randint(1, 9)
    return " ".join(rng.choice(known if kind == 3 and rng.random() < 0.5 else WORDS) for _ in range(count))[:900]


def pytest_generate_tests(metafunc):
    metafunc.parametrize("seed", range(200) if metafunc.config.getoption("--long") else (1, 2, 7))


@pytest.mark.slow
def test_the_mesh_is_whole(seed, tmp_path):
    request = JobRequest(prompt_of(seed), seed=seed, iterations=16)
    generate(request, tmp_path, lambda _: None, lambda: False)
    mesh = trimesh.load_mesh(tmp_path / "mesh.glb")
    assert len(mesh.faces) > 100 and np.isfinite(mesh.vertices).all()
    assert 0.05 < mesh.extents.max() < 4
