# SPDX-License-Identifier: GPL-3.0-or-later
"""Queues whose executors a test scripts."""

import pytest

from tests.jobs.scripted import Bench


@pytest.fixture
def bench(tmp_path):
    """Make a `Bench` with a script; it is closed at the end."""
    made = []

    def make(*script, **settings):
        made.append(Bench(tmp_path, *script, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
