# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker process whose device fails on a job, as often as a file says: in `MSD_FAULTS`, a letter each time."""

import os
from pathlib import Path

from server.jobs import worker

run_worker = worker._main                   # before a test puts `main` in its place
MESSAGES = {
    "X": "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later",
    "O": "Cuda error: 2[cudaMalloc(&m_gpuPtr, bytes);]",
}


def main(pipe, device):
    from server import optimize

    generate, faults = optimize.generate, Path(os.environ["MSD_FAULTS"])

    def failing(*given):
        left = faults.read_text()
        if left:
            faults.write_text(left[1:])
            raise RuntimeError(MESSAGES[left[0]])
        generate(*given)

    optimize.generate = failing
    run_worker(pipe, device)
