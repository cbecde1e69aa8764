# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker process with a device that fails or is slow, as the file `MSD_FAULTS` says: a letter for each job."""

import os
import sys
import time
from pathlib import Path

from server.jobs import worker

SLOW = 2.5  # seconds of an iteration
MESSAGES = {
    "X": "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later",
    "O": "Cuda error: 2[cudaMalloc(&m_gpuPtr, bytes);]",
}


def main(pipe, device, folder):
    from server import optimize

    generate, faults = optimize.generate, Path(os.environ["MSD_FAULTS"])

    loop = sys.modules["server.optimize.loop"].Optimization
    iterate = loop._iterate

    def slow(self, *given):
        time.sleep(SLOW)
        return iterate(self, *given)

    def failing(*given):
        letter, left = (text := faults.read_text())[:1], text[1:]
        faults.write_text(left)
        loop._iterate = slow if letter == "S" else iterate
        if letter in MESSAGES:
            raise RuntimeError(MESSAGES[letter])
        generate(*given)

    optimize.generate = failing
    worker.main(pipe, device, folder)
