# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/http.md says what the server's OpenAPI document says."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_the_documents():
    spec = importlib.util.spec_from_file_location("http_reference", ROOT / "scripts" / "http_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
    assert page == module.reference(), "run scripts/http_reference.py"
