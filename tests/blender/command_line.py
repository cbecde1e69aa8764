# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m msd_blender`` as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Run:
    """A generate command under way, whose processes can be found by a mark in their environment."""

    def __init__(self, prompt: str, output: Path, *more: str, command: str = "generate") -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", "msd_blender", command, prompt, "--output", str(output), *more],
            cwd=ROOT,
            env={**os.environ, "MSD_TEST": self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_progress(self, lines: int = 2) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            lines -= "%" in line
            if not lines:
                return
        raise AssertionError("the command ended before it made progress")

    def end(self) -> tuple[int, str]:
        """(exit code, stderr); nothing that was started is left."""
        _, stderr = self.process.communicate()
        deadline = time.monotonic() + 30
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left
        assert "Traceback" not in stderr
        return self.process.returncode, stderr

    def processes(self) -> dict[int, str]:
        """Command lines by process id."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except (OSError, ValueError):
                continue
        return found
