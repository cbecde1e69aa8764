# SPDX-License-Identifier: GPL-3.0-or-later
"""From a model's folder to a prior: the class by the folder's pipeline, and the last one stays loaded."""

from __future__ import annotations

import gc
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from msd_blender.protocol import JobRequest

from . import distilled
from .additions import control_files, ip_adapter_files
from .additions.control_files import ControlFile, TakesControl
from .additions.ip_adapter_files import AdapterFile, TakesImagePrompt
from .additions.lora_files import HasLoRAs, LoRA, check_loras, named_loras
from .base import PriorError, TextToImagePrior
from .files import layouts, multi_view_layouts, places, single_file, transformer_layouts, weight_counts
from .files.clip_tokenizer import clip_tokenizer
from .prompts import Reading

if TYPE_CHECKING:
    import torch

    from .files.parts import Parts

NO_IMAGE_PROMPT = "This model takes no image prompt: leave it out, or use a model of Stable Diffusion 1.x, 2.x or XL."
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


_SD, _XL = layouts.STABLE_DIFFUSION.pipeline, layouts.STABLE_DIFFUSION_XL.pipeline
_LCM = layouts.LATENT_CONSISTENCY.pipeline
_SD3, _FLUX = transformer_layouts.STABLE_DIFFUSION_3.pipeline, transformer_layouts.FLUX.pipeline
_PIXART, _SANA = transformer_layouts.PIXART_SIGMA.pipeline, transformer_layouts.SANA.pipeline
PIPELINES: dict[str, Pipeline] = {  # `_class_name` of model_index.json -> its prior
    _SD: Pipeline(layouts.check_stable_diffusion, f"{__package__}.families.stable_diffusion:StableDiffusion"),
    _LCM: Pipeline(layouts.check_latent_consistency, f"{__package__}.families.stable_diffusion:StableDiffusion"),
    _XL: Pipeline(layouts.check_stable_diffusion_xl, f"{__package__}.families.stable_diffusion_xl:StableDiffusionXL"),
    _SD3: Pipeline(
        transformer_layouts.check_stable_diffusion_3, f"{__package__}.families.stable_diffusion_3:StableDiffusion3"
    ),
    _FLUX: Pipeline(transformer_layouts.check_flux, f"{__package__}.families.flux:Flux"),
    _PIXART: Pipeline(transformer_layouts.check_pixart_sigma, f"{__package__}.families.pixart_sigma:PixArtSigma"),
    _SANA: Pipeline(transformer_layouts.check_sana, f"{__package__}.families.sana:Sana"),
    multi_view_layouts.MULTI_VIEW.pipeline: Pipeline(
        multi_view_layouts.check_multi_view, f"{__package__}.families.multi_view:MultiView"
    ),
    multi_view_layouts.MVDREAM.pipeline: Pipeline(
        multi_view_layouts.check_mvdream, f"{__package__}.families.mvdream:MVDream"
    ),
}


def check(model: str | Path) -> None:
    """Raise PriorError, with one sentence that says what to do, unless `load` can load this model."""
    place = places.resolve(model)
    pipeline = _pipeline(place)
    if place.is_dir():
        pipeline.check(place)


def least_memory(selection: Selection, on_card: bool) -> int:
    """Bytes that the weights of a model and its IP-Adapter need at least, by the headers of their files.

    On a card these are its denoising network's, of 16 bits; on a CPU those of all networks, of 32.

    Raises PriorError as `check`.
    """
    if selection.model:
        check(selection.model)
    network, every = weight_counts.count_weights(_place(selection.model))
    adapter = selection.adapter_file()
    beside = sum(map(weight_counts.part_weights, (adapter.file, adapter.encoder))) if adapter else 0
    return 2 * (network + beside) if on_card else 4 * (every + beside)


def reading(model: str = "") -> tuple[Reading, bool] | None:
    """How a model of Stable Diffusion's kind reads prompts, and whether it is distilled, by its configurations and its
    tokenizer alone; None for one of another kind. Raises PriorError as `check`."""
    place = _place(model)
    if _pipeline(place) not in map(PIPELINES.get, (_SD, _LCM, _XL)):
        return None
    return _reading(place, place.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _reading(place: Path, changed: int) -> tuple[Reading, bool]:
    from transformers import CLIPTokenizer

    if place.is_dir():
        index = layouts.read_json(place / "model_index.json")
        unet, encoder = (layouts.read_json(place / part / "config.json") for part in ("unet", "text_encoder"))
        scheduler, folder = layouts.read_json(place / "scheduler" / "scheduler_config.json"), place / "tokenizer"
    else:
        file = single_file.examine(place)
        index = file.index
        unet, encoder, scheduler = map(file.configuration, ("unet", "text_encoder", "scheduler"))
        folder = file.folder("tokenizer") / "tokenizer"
    if any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    else:
        settings = layouts.read_json(folder / "tokenizer_config.json")
        settings.pop("tokenizer_class", None)
        tokenizer = clip_tokenizer(CLIPTokenizer, **settings)
    positions = encoder["max_position_embeddings"]
    assert isinstance(positions, int)
    words = layouts.words(place) if place.is_dir() else None
    return Reading.of_clip(tokenizer, positions, words), distilled.find(place, index, unet, scheduler) is not None


def resolution(folder: Path) -> int | None:
    """Edge in pixels of the square pictures that a model makes, by its configurations; None where they do not say."""
    if folder.is_file():
        return single_file.examine(folder).resolution
    for part in ("unet", "transformer"):
        if (folder / part / "config.json").is_file():
            config = layouts.read_json(folder / part / "config.json")
            size = config.get("sample_size") or config.get("image_size")
            vae = layouts.read_json(folder / "vae" / "config.json")
            blocks = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
            size = size[0] if isinstance(size, list) and size else size
            return size << len(blocks) - 1 if isinstance(size, int) and isinstance(blocks, list) else None
    return None


def _pipeline(place: Path) -> Pipeline:
    kind = layouts.pipeline_class(place) if place.is_dir() else single_file.examine(place).pipeline
    if kind not in PIPELINES:
        raise PriorError(f"{place} holds a {kind}: use a pipeline whose only input is text ({' or '.join(PIPELINES)}).")
    return PIPELINES[kind]


def _place(model: str | Path | None) -> Path:
    return places.resolve(model) if model else BUNDLED_MODEL


def load(
    model: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    loras: Sequence[LoRA] = (),
) -> TextToImagePrior:
    """Load a model, offline.

    Args:
        model: a diffusers folder, a single .safetensors file, or the id of a model in the Hugging Face cache; None or
            "" is the model that comes with the server.
        device: default the GPU where there is one.
        dtype: of the networks; default float16 on a GPU, float32 on the CPU.
        loras: put on the model.

    Raises PriorError, with what to do, for what does not hold a model of `PIPELINES`, and for a LoRA that does not
    fit it.
    """
    import torch  # takes seconds: only when needed

    from .files.parts import FolderParts
    from .files.single_file_parts import SingleFileParts

    if not model:
        if not (BUNDLED_MODEL / "model_index.json").is_file():
            raise PriorError(
                f"The bundled model is not in {BUNDLED_MODEL}: "
                "train it with python -m server.bundled_prior.train, or name a diffusers Stable Diffusion folder."
            )
        model = BUNDLED_MODEL
    place = places.resolve(model)
    here = ((torch.cuda, "cuda"), (torch.backends.mps, "mps"), (torch.xpu, "xpu"))
    device = torch.device(device or next((name for module, name in here if module.is_available()), "cpu"))
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else torch.float16
    check(place)
    check_loras(loras, place)
    make: Callable[[Parts, torch.device, torch.dtype], TextToImagePrior] = pkgutil.resolve_name(_pipeline(place).prior)
    prior = make(FolderParts(place) if place.is_dir() else SingleFileParts(place), device, dtype)
    if loras:
        if not isinstance(prior, HasLoRAs):
            raise PriorError(f"LoRAs cannot be put on {place}: leave them out.")
        prior.add_loras(loras)
    return prior


@dataclass(frozen=True)
class Selection:
    """The model that a job names, with everything that is put on it.

    control, control_model, control_strength: as `protocol.JobRequest`.
    ip_adapter, image_prompt_strength: likewise, but "" without an image prompt and at strength 0.
    """

    model: str = ""
    loras: tuple[LoRA, ...] = ()
    control: tuple[str, ...] = ()
    control_model: str = ""
    control_strength: float = 1.0
    ip_adapter: str = ""
    image_prompt_strength: float = 1.0

    @classmethod
    def of(cls, request: JobRequest) -> Selection:
        """The selection of a request. Raises PriorError for a LoRA that its prompt names and that is not found."""
        loras = named_loras(request.loras, request.prompt, _place(request.model))
        selection = cls(request.model, loras)
        if request.control:
            strength = float(request.control_strength)
            selection = replace(
                selection,
                control=tuple(request.control),
                control_model=request.control_model,
                control_strength=strength,
            )
        if request.image_prompt and request.image_prompt_strength:
            strength = float(request.image_prompt_strength)
            selection = replace(selection, ip_adapter=request.ip_adapter, image_prompt_strength=strength)
        return selection

    def check(self) -> None:
        """Raise PriorError, with one sentence that says what to do, for what cannot be put on the model."""
        check_loras(self.loras, _place(self.model))
        self.control_files()
        self.adapter_file()

    def adapter_file(self) -> AdapterFile | None:
        """The IP-Adapter, None without one. Raises PriorError unless it is there and fits the model."""
        if not self.ip_adapter:
            return None
        place = _place(self.model)
        if _pipeline(place) not in map(PIPELINES.get, (_SD, _LCM, _XL)):
            raise PriorError(NO_IMAGE_PROMPT)
        return ip_adapter_files.find(self.ip_adapter, place)

    def control_files(self) -> dict[str, ControlFile]:
        """The ControlNet for each kind of picture. Raises PriorError unless there is one for each that fits."""
        return control_files.find(self.control, self.control_model, _place(self.model)) if self.control else {}


_cache: dict[tuple[Selection, str], TextToImagePrior] = {}


def load_cached(selection: Selection, device: torch.device) -> TextToImagePrior:
    """As `load`; the last model stays in memory, so that the next job on it starts at once."""
    key = selection, str(device)
    if key not in _cache:
        clear_cache()
        with _without_collection():
            _cache[key] = _load_selection(selection, device)
    return _cache[key]


def _load_selection(selection: Selection, device: torch.device) -> TextToImagePrior:
    """As `load`. ControlNets and IP-Adapters that are not there are refused first, before the model takes its time."""
    networks, adapter = selection.control_files(), selection.adapter_file()
    prior = load(selection.model, device, loras=selection.loras)
    if networks:
        if not isinstance(prior, TakesControl):
            raise PriorError("This model takes no ControlNet: use one of Stable Diffusion 1.x, 2.x or XL.")
        prior.add_control(networks, selection.control_strength)
    if adapter:
        if not isinstance(prior, TakesImagePrompt):
            raise PriorError(NO_IMAGE_PROMPT)
        prior.add_ip_adapter(adapter, selection.image_prompt_strength)
    return prior


@contextmanager
def _without_collection() -> Iterator[None]:
    """Spare the garbage collector's passes through all that libraries make while they are imported: a quarter of the
    time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def clear_cache() -> None:
    """Give back the memory of the model that `load_cached` keeps."""
    _cache.clear()
