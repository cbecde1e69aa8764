# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/http.md, the reference of the server's HTTP interface, from its OpenAPI document.

.venv/bin/python scripts/http_reference.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from server.api.app import create_app  # noqa: E402
from server.jobs.queue import Queue  # noqa: E402
from server.jobs.store import Store  # noqa: E402

HIDDEN = ("HTTPValidationError", "JobRequest", "Refusal", "ValidationError")  # or shown at POST /v1/jobs
HEAD = """# HTTP reference

Made by `scripts/http_reference.py` from the OpenAPI document that a server answers at `/openapi.json`; edit the
docstrings of `server/api/app.py` and the fields of `msd_blender/protocol` instead of this page.

A server that listens beyond its own machine wants `Authorization: Bearer TOKEN`, with the token of `server.json` in its
data folder. Every error is `{"detail": "one sentence that says what to do"}`. The frames of snapshots and uploads are
described in `msd_blender/protocol/frames.py`.

| status | |
|---|---|
| 401, 403 | the token is missing or wrong; another host, or a model outside of `--models` |
| 404 | no such job, upload or file |
| 408, 413 | an upload took more than 120 s; a body is over 64 KiB, a picture over 32 MiB, or a mesh over 256 MiB |
| 409 | the job's state or the model does not allow it |
| 422 | a value is out of its range |
| 429 | more than 600 jobs a minute from one address, 1,000 jobs that wait, 200 open streams, or 4 uploads at once |
| 507 | the disk is full |
"""


def reference() -> str:
    """The text of the page."""
    with tempfile.TemporaryDirectory() as data:
        store = Store(Path(data))
        document = create_app(Queue(store, []), version="").openapi()
        store.close()
    parts = [HEAD]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method, operation))
    parts.append("# Messages\n")
    schemas = document["components"]["schemas"]
    parts += [_schema(name, schema) for name, schema in sorted(schemas.items()) if name not in HIDDEN]
    return "\n".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    lines = [f"## {method.upper()} {path}\n", operation.get("description", operation.get("summary", "")) + "\n"]
    body = operation.get("requestBody", {}).get("content", {})
    for kind, content in body.items():
        schema = content["schema"]
        if schema.get("title") == "JobRequest" and path != "/v1/jobs":
            lines.append("Body: that of `POST /v1/jobs`\n")
            continue
        lines.append(f"Body: `{kind}`" + (":\n" if "properties" in schema else "\n"))
        if "properties" in schema:
            lines.append(_table(schema))
    for parameter in operation.get("parameters", []):
        if parameter["in"] != "path":
            place = "Query" if parameter["in"] == "query" else "Header"
            lines.append(f"{place} `{parameter['name']}`: {_type(parameter['schema'])}\n")
    answers = []
    for status, answer in sorted(operation["responses"].items()):
        kinds = [_name(each["schema"]) or kind for kind, each in answer.get("content", {}).items() if "schema" in each]
        if int(status) < 400:
            answers.append(f"{status}: {', '.join(kinds)}")
    refused = [status for status in sorted(operation["responses"]) if int(status) >= 400]
    lines.append(f"Answers {'; '.join(answers)}; refuses with {', '.join(refused)}.\n")
    return "\n".join(lines)


def _name(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if schema.get("type") == "array" and "$ref" in schema.get("items", {}):
        return f"a list of {_name(schema['items'])}"
    return ""


def _schema(name: str, schema: dict[str, Any]) -> str:
    description = schema.get("description", "").split("\n\n")[0].replace("\n", " ")
    return f"## {name}\n\n{description}\n\n{_table(schema)}"


def _table(schema: dict[str, Any]) -> str:
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        default = "required" if name in required and "default" not in field else f"`{json.dumps(field.get('default'))}`"
        rows.append(f"| `{name}` | {_type(field)} | {default} | {field.get('description', '').replace(chr(10), ' ')} |")
    return "\n".join(rows) + "\n"


def _type(field: dict[str, Any]) -> str:
    """A field's type and range, in words."""
    if name := _name(field):
        return "the body of `POST /v1/jobs`" if name == "`JobRequest`" else name
    if "anyOf" in field:
        return " or ".join(_type(each) for each in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    words = str(field.get("type", "any"))
    if words == "array":
        most = field.get("maxItems") if "minItems" not in field else None
        return f"list of {_type(field.get('items', {}))}" + (f", at most {most}" if most else "")
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None or high is not None:
        words += f", {_number(low)} to {_number(high)}"
    if "maxLength" in field:
        words += f", at most {field['maxLength']} characters"
    return words


def _number(value: float | None) -> str:
    return "" if value is None else f"{int(value):,}" if value == int(value) else f"{value:g}"


if __name__ == "__main__":
    (ROOT / "docs" / "http.md").write_text(reference(), encoding="utf-8")
