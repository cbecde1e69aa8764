# SPDX-License-Identifier: GPL-3.0-or-later
"""Share of a texture job's time that is spent outside its iterations, for mesh files.

``python -m benchmarks.job_time FILE…`` runs ``python -m server texture`` with default options on each; without files on
ten of the packages of ``make meshes``. A server's worker has loaded the model before its jobs: the last column leaves
that out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ITERATION = ("render forward", "encode", "denoiser", "render backward", "optimizer")
SHOWN = ("load", "unwrap", "texture", "files")


def samples() -> list[Path]:
    """Ten files of other people, of all formats, among them the ones with the most faces."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from mesh_packages import chosen

    by_suffix: dict[str, list[Path]] = {}
    for _, _, path in chosen(ROOT / "out" / "meshes"):
        by_suffix.setdefault(path.suffix.lower(), []).append(path)
    ranked = [sorted(files, key=lambda path: -path.stat().st_size) for files in by_suffix.values()]
    return [files[rank] for rank in range(4) for files in ranked if rank < len(files)]


def measure(path: Path, iterations: int | None) -> dict[str, float] | None:
    """Seconds of the whole process and of a job's parts; None where the file is refused."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "server", "texture", "a red robot", "--input", str(path), "--output", folder]
        command += ["--overwrite"] + (["--iterations", str(iterations)] if iterations else [])
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        seconds = time.perf_counter() - start
        if done.returncode:
            print(f"{path.name}: {done.stderr.decode(errors='replace').strip().splitlines()[-1]}", file=sys.stderr)
            return None
        record = json.loads((Path(folder) / "job.json").read_text())
    parts = dict.fromkeys((*SHOWN, *ITERATION), 0.0) | record["seconds"]
    return {**parts, "process": seconds, "job": record["seconds_total"], "faces": record["mesh"]["faces"]}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--iterations", type=int, help="default: the mode's own")
    options = parser.parse_args(arguments)
    print(f"| file | faces | process, s | job, s | {' | '.join(SHOWN)} | outside the iterations | on a warm worker |")
    print("|---" * (6 + len(SHOWN)) + "|")
    count = 0
    for path in options.files or samples():
        found = measure(path, options.iterations)
        if found is None:
            continue
        outside = found["job"] - sum(found[name] for name in ITERATION)
        shown = " | ".join(f"{found[name]:.1f}" for name in SHOWN)
        warm = (outside - found["load"]) / (found["job"] - found["load"])
        print(
            f"| {path.name} | {found['faces']:,.0f} | {found['process']:.1f} | {found['job']:.1f} | {shown} | "
            f"{outside / found['job']:.1%} | {warm:.1%} |",
            flush=True,
        )
        count += 1
        if not options.files and count == 10:
            break


if __name__ == "__main__":
    main()
