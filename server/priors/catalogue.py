# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies on this machine's disks: models, and LoRAs, ControlNets and IP-Adapters for them. Nothing is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import yaml

from msd_blender.protocol import Model

from . import loading
from .additions.ip_adapter_files import encoder_of
from .additions.lora_files import contents_of
from .base import PriorError
from .files import kinds, layouts, places, single_file
from .files.kinds import CONTROLNET, IP_ADAPTER, LORA, MODEL, NETWORK, Contents

LISTED = MODEL, LORA, CONTROLNET, IP_ADAPTER
DEPTH = 6  # folders below a given one that are looked into
# Folders of ComfyUI and of AUTOMATIC1111's web UI and its forks, relative to the program's own -> what lies in them.
SHELVES = {
    "models/checkpoints": MODEL,
    "models/diffusion_models": MODEL,
    "models/unet": MODEL,
    "models/Stable-diffusion": MODEL,
    "models/diffusers": MODEL,
    "models/loras": LORA,
    "models/Lora": LORA,
    "models/controlnet": CONTROLNET,
    "models/ControlNet": CONTROLNET,
    "extensions/sd-webui-controlnet/models": CONTROLNET,
    "models/ipadapter": IP_ADAPTER,
}
_COMFYUI_KEYS = {Path(shelf).name: kind for shelf, kind in SHELVES.items() if shelf.startswith("models/")}


def default_roots() -> list[Path]:
    """Where programs keep models: ComfyUI and AUTOMATIC1111 in the home folder, and the Hugging Face cache."""
    return [place for place in (*places.program_folders(), places.cache_folder()) if place.is_dir()]


def catalogue(roots: Iterable[Path] | None = None) -> list[Model]:
    """Everything below the roots that a job can use, and what looks like it but cannot be used, with the reason.

    Args:
        roots: folders of models, of ComfyUI or of AUTOMATIC1111, or a Hugging Face cache; None: `default_roots`.

    Returns:
        The bundled model, then models, LoRAs, ControlNets and IP-Adapters, each kind by name. Files are read again
        only where their size or time of change is another.
    """
    found: dict[str, _Entry] = {}
    for entry in _entries(default_roots() if roots is None else roots):
        found.setdefault(os.path.realpath(entry.path), entry)
    described = [_describe(_Entry(loading.BUNDLED_MODEL, "bundled model", MODEL, ""))]
    described += [each for entry in found.values() if (each := _describe(entry)).model.kind in LISTED]
    described[1:] = sorted(described[1:], key=lambda each: (LISTED.index(each.model.kind), each.model.name.lower()))
    return [_with_additions(each, described) for each in described]


@dataclass(frozen=True)
class _Entry:
    """A file or folder that was found. kind: by its place, for files that do not tell; place: as a request names it."""

    path: Path
    name: str
    kind: str
    place: str


@dataclass(frozen=True)
class _Described:
    model: Model
    contents: Contents


def _entries(roots: Iterable[Path]) -> Iterator[_Entry]:
    for root in roots:
        shelves = list(_shelves(root))
        for folder, kind in shelves or [(root, "")]:
            yield from _walk(folder, folder, kind)


def _shelves(root: Path) -> Iterator[tuple[Path, str]]:
    """The folders of models of a program that keeps its kinds apart; none for a plain folder."""
    for shelf, kind in SHELVES.items():
        if (root / shelf).is_dir():
            yield root / shelf, kind
    if (extra := root / "extra_model_paths.yaml").is_file():
        yield from _extra_shelves(extra)


def _extra_shelves(file: Path) -> Iterator[tuple[Path, str]]:
    """The folders of ComfyUI's extra_model_paths.yaml: sections of a base_path and of paths, one a line, by kind."""
    try:
        sections = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return
    for section in sections.values() if isinstance(sections, dict) else ():
        if not isinstance(section, dict):
            continue
        base = file.parent / os.path.expanduser(str(section.get("base_path", "")))
        for key, kind in _COMFYUI_KEYS.items():
            for line in str(section.get(key) or "").splitlines():
                if line.strip() and (folder := base / os.path.expanduser(line.strip())).is_dir():
                    yield folder, kind


def _walk(folder: Path, shelf: Path, kind: str, depth: int = DEPTH) -> Iterator[_Entry]:
    if id := places.repository_id(folder):
        yield from _repository(folder, id)
        return
    if (folder / "model_index.json").is_file():
        yield _Entry(folder, _name(folder, shelf), MODEL, str(folder))
        return
    if _is_controlnet(folder):
        yield _Entry(folder, _name(folder, shelf), CONTROLNET, str(folder))
        return
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    for path in inside:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if depth and path.suffix != single_file.SIDECAR:
                yield from _walk(path, shelf, kind, depth - 1)
        elif path.suffix.lower() == ".safetensors" or (kind and _is_foreign(path)):
            yield _Entry(path, _name(path, shelf), kind, str(path))


def _is_foreign(path: Path) -> bool:
    return path.suffix.lower() in layouts.PICKLES | {".gguf"}


def _repository(folder: Path, id: str) -> Iterator[_Entry]:
    """What a repository in the Hugging Face cache holds. Those of other libraries hold nothing of ours."""
    try:
        snapshot = places.snapshot(folder)
    except (PriorError, OSError):
        return
    if (snapshot / "model_index.json").exists():
        yield _Entry(snapshot, id, MODEL, id)
    elif _is_controlnet(snapshot):
        yield _Entry(snapshot, id, CONTROLNET, id)
    else:
        for path in sorted([*snapshot.glob("*.safetensors"), *snapshot.glob("*models/*.safetensors")]):
            name = path.relative_to(snapshot).with_suffix("").as_posix()  # h94/IP-Adapter has folders of them
            yield _Entry(path, f"{id}/{name}", "", str(path))


def _is_controlnet(folder: Path) -> bool:
    try:
        return "ControlNet" in str(layouts.read_json(folder / "config.json").get("_class_name"))
    except PriorError:
        return False


def _name(path: Path, shelf: Path) -> str:
    relative = path.relative_to(shelf)
    return (relative.with_suffix("") if path.is_file() else relative).as_posix() if path != shelf else path.name


def _describe(entry: _Entry) -> _Described:
    described = _read(entry, _state(entry.path))
    if described.model.kind == IP_ADAPTER and not described.model.problem:
        try:
            encoder_of(entry.path)
        except PriorError as error:  # not of the cached part: what lies beside the file may change
            return replace(described, model=replace(described.model, problem=str(error)))
    return described


def _state(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of a file, or of each file in a folder: equal as long as nothing has changed."""
    inside = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = []
    for each in inside:
        try:
            status = each.stat()
        except OSError:  # a link that leads nowhere
            continue
        if not each.is_dir():
            found.append((str(each), status.st_size, status.st_mtime_ns))
    return tuple(found)


@lru_cache(maxsize=4096)
def _read(entry: _Entry, state: tuple[tuple[str, int, int], ...]) -> _Described:
    model = Model(entry.place, entry.name, entry.kind or MODEL, size=_size(entry.path, state))
    try:
        contents = layouts.contents(entry.path)
        kind = MODEL if contents.kind == NETWORK else contents.kind
        model = replace(model, kind=kind, family=contents.family)
        if kind == MODEL:
            model = replace(model, resolution=loading.resolution(entry.path), examples=_examples(entry.path))
            loading.check(entry.path)
        elif kind == IP_ADAPTER:
            contents_of(entry.path, IP_ADAPTER)
    except PriorError as error:
        model, contents = replace(model, problem=str(error)), Contents(model.kind, model.family)
    return _Described(model, contents)


def _examples(path: Path) -> list[str]:
    """A prompt for each thing that a small model knows; none for another model."""
    words = layouts.words(path) if path.is_dir() else None
    return list(words.examples) if words else []


def _size(path: Path, state: tuple[tuple[str, int, int], ...]) -> int:
    """Bytes of weights: of a folder only of its safetensors."""
    return sum(size for name, size, _ in state if name.lower().endswith(".safetensors") or path.is_file())


def _with_additions(described: _Described, every: list[_Described]) -> Model:
    """The model with the places of what fits it."""
    model, contents = described.model, described.contents
    if model.kind != MODEL or model.problem:
        return model

    def fitting(kind: str) -> list[str]:
        return [
            other.model.place
            for other in every
            if other.model.kind == kind
            and not other.model.problem
            and (other.contents.family or other.contents.text_width)  # else nothing says that it fits
            and not kinds.misfit(other.contents, contents.family, contents.text_width)
        ]

    return replace(model, loras=fitting(LORA), controlnets=fitting(CONTROLNET), ip_adapters=fitting(IP_ADAPTER))
