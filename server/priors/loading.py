# SPDX-License-Identifier: GPL-3.0-or-later
"""From a model's folder to a prior: the class by the folder's pipeline, and the last one stays loaded."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msd_blender.protocol import JobRequest

from . import control_files, files, transformer_files
from .base import PriorError, TakesControl, TextToImagePrior

if TYPE_CHECKING:
    import torch

    from .parts import Parts

BUNDLED_MODEL = Path(__file__).parents[1] / "bundled_prior" / "model"


@dataclass(frozen=True)
class Pipeline:
    """How a pipeline of diffusers becomes a prior.

    check: raises `PriorError` for a folder that cannot be loaded, without torch; the doctor calls it, and a job before
        it loads the model.
    prior: "module:Class" of a `TextToImagePrior`, imported when a model is loaded and called as
        Class(parts, device, dtype), with `parts.Parts`.
    """

    check: Callable[[Path], None]
    prior: str


_SD, _XL = files.STABLE_DIFFUSION.pipeline, files.STABLE_DIFFUSION_XL.pipeline
_LCM = files.LATENT_CONSISTENCY.pipeline
_SD3, _FLUX = transformer_files.STABLE_DIFFUSION_3.pipeline, transformer_files.FLUX.pipeline
PIPELINES: dict[str, Pipeline] = {  # `_class_name` of model_index.json -> its prior
    _SD: Pipeline(files.check_stable_diffusion, f"{__package__}.stable_diffusion:StableDiffusion"),
    _LCM: Pipeline(files.check_latent_consistency, f"{__package__}.stable_diffusion:StableDiffusion"),
    _XL: Pipeline(files.check_stable_diffusion_xl, f"{__package__}.stable_diffusion_xl:StableDiffusionXL"),
    _SD3: Pipeline(transformer_files.check_stable_diffusion_3, f"{__package__}.stable_diffusion_3:StableDiffusion3"),
    _FLUX: Pipeline(transformer_files.check_flux, f"{__package__}.flux:Flux"),
}


def check(folder: Path) -> None:
    """Raise PriorError, with one sentence that says what to do, unless `load` can load this folder."""
    _pipeline(folder).check(folder)


def _pipeline(folder: Path) -> Pipeline:
    if (kind := files.pipeline_class(folder)) not in PIPELINES:
        raise PriorError(
            f"{folder} holds a {kind}: use a pipeline whose only input is text ({' or '.join(PIPELINES)})."
        )
    return PIPELINES[kind]


def load(
    folder: str | Path | None = None, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> TextToImagePrior:
    """Load a diffusers folder, offline.

    Args:
        folder: None or "" is the model that comes with the server.
        device: default the GPU where there is one.
        dtype: of the networks; default float16 on a GPU, float32 on the CPU.

    Raises PriorError, with what to do, for a folder that does not hold a model of `PIPELINES`.
    """
    import torch  # takes seconds: only when needed

    from .parts import FolderParts

    if not folder:
        if not (BUNDLED_MODEL / "model_index.json").is_file():
            raise PriorError(
                f"The bundled model is not in {BUNDLED_MODEL}: "
                "train it with python -m server.bundled_prior.train, or name a diffusers Stable Diffusion folder."
            )
        folder = BUNDLED_MODEL
    folder = Path(folder).expanduser()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else torch.float16
    pipeline = _pipeline(folder)
    pipeline.check(folder)
    make: Callable[[Parts, torch.device, torch.dtype], TextToImagePrior] = pkgutil.resolve_name(pipeline.prior)
    return make(FolderParts(folder), device, dtype)


@dataclass(frozen=True)
class Selection:
    """The model that a job names, with everything that is put on it.

    control, control_model, control_strength: as `protocol.JobRequest`.
    """

    model: str = ""
    control: tuple[str, ...] = ()
    control_model: str = ""
    control_strength: float = 1.0

    @classmethod
    def of(cls, request: JobRequest) -> Selection:
        if not request.control:
            return cls(request.model)
        return cls(request.model, tuple(request.control), request.control_model, float(request.control_strength))


_cache: dict[tuple[Selection, str], TextToImagePrior] = {}


def load_cached(selection: Selection, device: torch.device) -> TextToImagePrior:
    """As `load`; the last model stays in memory, so that the next job on it starts at once."""
    key = selection, str(device)
    if key not in _cache:
        clear_cache()
        _cache[key] = _load_selection(selection, device)
    return _cache[key]


def _load_selection(selection: Selection, device: torch.device) -> TextToImagePrior:
    """As `load`. ControlNets that are not there are refused first, before the model takes its time."""
    if not selection.control:
        return load(selection.model, device)
    networks = control_files.find(selection.control, selection.control_model, selection.model)
    prior = load(selection.model, device)
    if not isinstance(prior, TakesControl):
        raise PriorError("This model takes no ControlNet: use one of Stable Diffusion 1.x, 2.x or XL.")
    prior.add_control(networks, selection.control_strength)
    return prior


def clear_cache() -> None:
    """Give back the memory of the model that `load_cached` keeps."""
    _cache.clear()
