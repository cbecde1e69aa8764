# SPDX-License-Identifier: GPL-3.0-or-later
"""How the threads of the numerical work share the processor's cores with other programs."""

from __future__ import annotations

import os


def share(cores: int | None) -> None:
    """Set what OpenMP and Numba read when they are loaded: call it before torch is imported. Workers inherit it.

    Threads that wait for each other sleep instead of spinning: where another program has one of their cores, as Blender
    has while it draws, all would spin until that thread gets its turn. What the environment says already stays.

    cores: number of threads; None: OMP_NUM_THREADS, else one for each core. On a CPU the same seed gives the same bytes
        with the same number of threads.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # GNU's OpenMP, on Linux
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # LLVM's and Intel's
    if cores is not None:
        os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(cores)
