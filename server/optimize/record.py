# SPDX-License-Identifier: GPL-3.0-or-later
"""job.json: the record of how an asset was made."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch

from msd_blender import __version__
from msd_blender.protocol import JobRequest

from ..geometry.mesh import Mesh
from ..geometry.mesh_quality import quality_report
from ..rendering.rasterize import Rasterizer, name_of
from .clock import Clock
from .memory import PeakMemory
from .settings import Settings


class Run(Protocol):
    """The facts of a run that its record holds; `loop.Optimization` is one."""

    request: JobRequest
    settings: Settings
    edit: str
    finish_at: int | None
    device: torch.device
    rasterizer: Rasterizer
    iteration: int
    denoiser_calls: int
    clock: Clock
    memory: PeakMemory
    predicted_memory: int
    uploaded: Mesh | None


def write_record(run: Run, mesh: Mesh, whole: bool, folder: Path) -> None:
    """Write job.json: settings, seed, versions, seconds of each part, and the state of the mesh.

    whole: the job went to its end.
    """
    run.clock.synchronize()
    record = {
        "request": asdict(run.request),
        "settings": asdict(run.settings),
        "state": "finished" if whole else "cancelled",
        "edit": run.edit,
        "finish_at": run.finish_at,
        "versions": {"msd_blender": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "device": str(run.device),
        "threads": torch.get_num_threads(),
        "rasterizer": name_of(run.rasterizer),
        "iterations": run.iteration,
        "denoiser_calls": run.denoiser_calls,
        "seconds": {name: round(value, 3) for name, value in run.clock.seconds.items()},
        "seconds_total": round(run.clock.elapsed, 3),
        "memory": {"peak": run.memory.bytes, "predicted": run.predicted_memory},
        "mesh": quality_report(mesh, run.uploaded),
    }
    text = json.dumps(record, indent=2, default=lambda asset: asset.name)  # a phase names its asset by its class
    (folder / "job.json").write_text(text + "\n", encoding="utf-8")
