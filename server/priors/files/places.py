# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a person names, a path or an id in the Hugging Face cache, to the folder or file of a model."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from ..base import PriorError

PROGRAMS = ("ComfyUI", "Documents/ComfyUI", "stable-diffusion-webui", "stable-diffusion-webui-forge")
_ID = re.compile(r"[\w.-]+/[\w.-]+")
_REPOSITORY = "models--"


def cache_folder() -> Path:
    """The Hugging Face cache, by the environment variables that huggingface_hub reads."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(name):
            return Path(folder).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{cache}/huggingface").expanduser() / "hub"


def repository_id(folder: Path) -> str:
    """The id of a repository's folder in the cache: org/name of models--org--name; "" for any other folder."""
    if not folder.name.startswith(_REPOSITORY) or not (folder / "snapshots").is_dir():
        return ""
    return folder.name.removeprefix(_REPOSITORY).replace("--", "/")


def snapshot(repository: Path) -> Path:
    """The snapshot of a repository's folder in the cache: the main one, else the newest. Raises PriorError."""
    snapshots = repository / "snapshots"
    try:
        main = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
        if main and (snapshots / main).is_dir():
            return snapshots / main
    except (OSError, ValueError):
        pass
    if not (found := [each for each in snapshots.iterdir() if each.is_dir()]):
        raise PriorError(f"{repository} has no snapshot: download the model again.")
    return max(found, key=lambda each: each.stat().st_mtime)


def program_folders() -> list[Path]:
    """The folders of ComfyUI and of AUTOMATIC1111's web UI in the home folder."""
    return [place for name in PROGRAMS if (place := Path.home() / name).is_dir()]


def is_t5_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of T5's tokenizer."""
    if (folder / "spiece.model").is_file():
        return True
    try:
        kind = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("tokenizer_class")
    except (OSError, ValueError, AttributeError):
        return False
    return str(kind).startswith("T5") and (folder / "tokenizer.json").is_file()


def t5_tokenizer() -> Path | None:
    """T5's tokenizer from ComfyUI or from a model in the Hugging Face cache; None where there is none."""
    found = [program / "comfy" / "text_encoders" / "t5_tokenizer" for program in program_folders()]
    cache = cache_folder()
    for repository in sorted(cache.glob(f"{_REPOSITORY}*")) if cache.is_dir() else ():
        for inside in repository.glob("snapshots/*"):
            found += [inside, *(inside / f"tokenizer{end}" for end in ("", "_2", "_3"))]
    return next(filter(is_t5_tokenizer, found), None)


def locate(model: str | Path) -> Path:
    """The path that a name stands for: a repository's folder for an id that is in the cache, else the path itself."""
    path = Path(model).expanduser()
    try:
        there = path.exists()
    except (OSError, ValueError):  # too long, or with a character that no path has
        raise PriorError(f"{str(model)[:60]!r} cannot be the path of a model: name a folder or a file.") from None
    if not there and _ID.fullmatch(str(model)):
        repository = cache_folder() / (_REPOSITORY + str(model).replace("/", "--"))
        if repository.is_dir():
            return repository
    return path


def is_model(place: Path) -> bool:
    """Whether a path leads to one model, and not to a folder of several or of none."""
    path = resolve(place)
    return path.is_file() or (path / "model_index.json").exists()


def resolve(model: str | Path) -> Path:
    """The diffusers folder or the file that a name leads to.

    A repository's folder in the Hugging Face cache is its snapshot, and a folder whose only model is one .safetensors
    file is that file. What cannot be resolved is given back as it is: its check says what is wrong with it.
    """
    path = locate(model)
    if repository_id(path):
        path = snapshot(path)
    if path.is_dir() and not (path / "model_index.json").exists():
        files = [each for each in path.glob("*.safetensors") if not each.name.startswith(".")]
        if len(files) == 1 and not (path / "config.json").exists():
            return files[0]
    return path
