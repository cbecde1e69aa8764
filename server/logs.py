# SPDX-License-Identifier: GPL-3.0-or-later
"""Log lines that people and programs can read: ``time=… level=… logger=… job=… msg="…"``, on stderr."""

from __future__ import annotations

import json
import logging
import time
from contextvars import ContextVar

# The job that the current thread or task works on.
JOB: ContextVar[str] = ContextVar("job", default="")


class Formatter(logging.Formatter):
    """logfmt: one line for each record, with line breaks escaped."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        parts = [f"time={stamp}.{int(record.msecs):03}Z", f"level={record.levelname.lower()}", f"logger={record.name}"]
        if job := JOB.get():
            parts.append(f"job={job}")
        parts.append(f"msg={json.dumps(record.getMessage(), ensure_ascii=False)}")
        if record.exc_info:
            parts.append(f"error={json.dumps(self.formatException(record.exc_info), ensure_ascii=False)}")
        return " ".join(parts)


def set_up() -> None:
    """Send all logs of this process to stderr in this format."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
