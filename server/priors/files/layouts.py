# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of a model folder's files, so that a bad one is refused before a network is built or a weight is read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NoReturn

from ..base import PriorError
from .kinds import CONTROLNET, FLUX, MODEL, SD1, SD2, SD3, SDXL, Contents, Shapes, identify

UNET, VAE = "UNet2DConditionModel", "AutoencoderKL"
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
TOKENIZER_FILES = {  # first letters of a tokenizer's class -> what it needs where there is no tokenizer.json
    "CLIP": ("vocab.json", "merges.txt"),
    "T5": ("spiece.model",),
    "Gemma": ("tokenizer.model",),
}


@dataclass(frozen=True)
class Layout:
    """The parts of a pipeline's folder.

    Args:
        pipeline: class of diffusers, and the key in `loading.PIPELINES`.
        versions: the models of this kind, for a sentence.
        classes: part -> classes of diffusers or transformers that it may be.
        text_encoders: the parts whose texts go side by side to the U-Net.
        addition: the U-Net's `addition_embed_type`.
        network: the part that denoises.
        optional: parts that a model may lack.
        class_embeddings: the U-Net's `class_embed_type` may be one of these.
        own_names: of entries in the U-Net's config.json, by diffusers' names, where it has others.
    """

    pipeline: str
    versions: str
    classes: dict[str, tuple[str, ...]]
    text_encoders: tuple[str, ...]
    addition: str | None = None
    network: str = "unet"
    optional: tuple[str, ...] = ()
    class_embeddings: tuple[str | None, ...] = (None,)
    own_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def networks(self) -> tuple[str, ...]:
        """The parts that have weights."""
        return self.network, "vae", *self.text_encoders

    def of(self, folder: Path, index: Mapping[str, object]) -> Layout:
        """The layout that a folder must have: without the optional parts, unless it has all of them."""
        if all(has(folder, index, part) for part in self.optional):
            return self
        return replace(
            self,
            classes={part: known for part, known in self.classes.items() if part not in self.optional},
            text_encoders=tuple(part for part in self.text_encoders if part not in self.optional),
        )


STABLE_DIFFUSION = Layout(
    "StableDiffusionPipeline",
    "1.x or 2.x",
    {"unet": (UNET,), "vae": (VAE,), "text_encoder": ("CLIPTextModel",), "tokenizer": TOKENIZERS},
    ("text_encoder",),
)
LATENT_CONSISTENCY = replace(STABLE_DIFFUSION, pipeline="LatentConsistencyModelPipeline")
STABLE_DIFFUSION_XL = Layout(
    "StableDiffusionXLPipeline",
    "XL",
    {
        "unet": (UNET,),
        "vae": (VAE,),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer": TOKENIZERS,
        "tokenizer_2": TOKENIZERS,
    },
    ("text_encoder", "text_encoder_2"),
    "text_time",
)
STEMS = {
    "unet": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "text_encoder_3": "model",
    "image_encoder": "model",  # of an IP-Adapter, beside models
}
MULTI_VIEW_FILE = "multiview.json"  # see `multi_view_layouts`
PREDICTIONS = ("epsilon", "v_prediction", "sample")  # outputs of networks that `noise_models.DiscreteNoise` takes
PICKLES = {".bin", ".ckpt", ".pt", ".pth"}
OTHERS = {".gguf": "GGUF", ".onnx": "ONNX", ".msgpack": "Flax", ".h5": "TensorFlow"}
_PIPELINE_FAMILIES = {"PixArtSigmaPipeline": "PixArt-Sigma", "SanaPipeline": "Sana"}
_SHARD = r"-\d{5}-of-\d{5}"
_LONGEST_HEADER = 100_000_000  # bytes, safetensors' own limit
AGAIN = "download the model again"


@dataclass(frozen=True)
class Words:
    """The words that a small model was trained on, from `words.json` in its folder.

    things: objects that it can make, for a sentence. words: all words of its captions. examples: of its prompts.
    """

    things: tuple[str, ...]
    words: frozenset[str]
    examples: tuple[str, ...] = ()


def pipeline_class(folder: Path) -> str:
    """The class of diffusers that a folder's model_index.json names. Raises PriorError where it has none.

    A folder that says how it sees views, in multiview.json, is another kind of model in the layout of that class.
    """
    _check_place(folder)
    name = str(read_json(folder / "model_index.json").get("_class_name"))
    return f"{name} with {MULTI_VIEW_FILE}" if (folder / MULTI_VIEW_FILE).exists() else name


def has(folder: Path, index: Mapping[str, object], part: str) -> bool:
    """Whether a folder has a part that a model may lack, by its model_index.json and on the disk."""
    entry = index.get(part)
    return isinstance(entry, list) and entry[-1:] not in ([], [None]) and (folder / part).is_dir()


def check_layout(
    folder: Path,
    layout: Layout,
    check_scheduler: Callable[[Path, dict[str, object]], None],
    check_fit: Callable[[Path, Layout], None],
) -> None:
    """Raise PriorError, with one sentence that says what to do, unless the folder has all parts of a layout.

    check_scheduler: of the folder and its scheduler's configuration. check_fit: that the parts go together.
    """
    if (kind := pipeline_class(folder)) != layout.pipeline:
        raise PriorError(
            f"{folder} holds a {kind}: use a {layout.pipeline} ({layout.versions}), whose only input is text."
        )
    index = read_json(folder / "model_index.json")
    layout = layout.of(folder, index)
    for part in (*layout.classes, "scheduler"):
        if not (folder / part).is_dir():
            raise PriorError(f"{folder} has no {part} folder: download the whole model again.")
    for part, known in layout.classes.items():
        entry = index.get(part)
        name = entry[-1] if isinstance(entry, list) and entry else None
        if name not in known:
            raise PriorError(f"The {part} of {folder} is a {name}: use a model whose {part} is a {known[0]}.")
    check_scheduler(folder, read_json(folder / "scheduler" / "scheduler_config.json"))
    for part, known in layout.classes.items():
        if part.startswith("tokenizer"):
            _check_tokenizer(folder / part, known[0])
    check_fit(folder, layout)
    for part in layout.networks:
        check_weights(folder / part)


def check_stable_diffusion(folder: Path) -> None:
    """As `check_layout`, for Stable Diffusion 1.x and 2.x."""
    check_layout(folder, STABLE_DIFFUSION, check_discrete_noise, check_fit)


def check_latent_consistency(folder: Path) -> None:
    """As `check_layout`, for latent consistency models with Stable Diffusion's parts."""
    check_layout(folder, LATENT_CONSISTENCY, check_discrete_noise, check_fit)


def check_stable_diffusion_xl(folder: Path) -> None:
    """As `check_layout`, for Stable Diffusion XL."""
    check_layout(folder, STABLE_DIFFUSION_XL, check_discrete_noise, check_fit)


def contents(place: Path) -> Contents:
    """What a file or folder holds, by its header or its configurations. Raises PriorError where it cannot be read."""
    if not place.is_dir():
        check_file(place)
        return read_header(place).contents
    if not (place / "model_index.json").exists():
        config = read_json(place / "config.json")
        return Contents(CONTROLNET, *_family(config))
    index = read_json(place / "model_index.json")
    part = "transformer" if "transformer" in index else "unet"
    family, variant, width = _family(read_json(place / part / "config.json"))
    return Contents(MODEL, _PIPELINE_FAMILIES.get(str(index.get("_class_name")), family), variant, width)


def _family(config: dict[str, object]) -> tuple[str, str, int | None]:
    """Family, variant and width of the texts, by the configuration of a denoising network or of its ControlNet."""
    name, width = str(config.get("_class_name")), config.get("cross_attention_dim")
    if name.startswith(("SD3", "Flux")):
        return (SD3 if name.startswith("SD3") else FLUX), "", None
    known = width if isinstance(width, int) else None
    if config.get("addition_embed_type") == "text_time":
        return SDXL, "", known
    return (SD2 if config.get("use_linear_projection") else SD1), "", known


def network_contents(model: Path) -> Contents:
    """Of a model's denoising network; of nothing where its place has none."""
    return identify(network_shapes(model))


def network_shapes(model: Path) -> Shapes:
    """Of a model's denoising network, or of its whole file; none where its place has none."""
    if os.path.isfile(model):
        return read_header(model).shapes
    shapes: dict[str, tuple[int, ...]] = {}
    for part in ("unet", "transformer"):
        for file in sorted((model / part).glob("*.safetensors")):
            shapes |= read_header(file).shapes
    return shapes


def words(folder: Path) -> Words | None:
    """The words that a model knows; None for one that says nothing of them. Raises PriorError for a damaged file."""
    path = folder / "words.json"
    if not path.is_file():
        return None
    lists = read_json(path)
    things, known, examples = lists.get("things"), lists.get("words"), lists.get("examples", [])
    if not isinstance(things, Iterable) or not isinstance(known, Iterable) or not isinstance(examples, Iterable):
        raise PriorError(f"{path} is damaged: {AGAIN}.")
    return Words(tuple(map(str, things)), frozenset(map(str, known)), tuple(map(str, examples)))


def variant(folder: Path) -> str | None:
    """The variant of a part's weights to load, as "fp16" in `model.fp16.safetensors`; None for the plain ones."""
    return min(entries(folder), key=lambda name: (name != "", name != "fp16", name)) or None


def _check_place(folder: Path) -> None:
    if not folder.is_dir():
        check_file(folder)
    if not (folder / "model_index.json").exists():
        several = sorted(path.name for path in folder.glob("*.safetensors"))
        if len(several) > 1:
            raise PriorError(f"{folder} has {len(several)} files of weights: name one of them, such as {several[0]}.")
        raise PriorError(
            f"{folder} is not a diffusers model, as it has no model_index.json: name a folder that has one, or a "
            ".safetensors file."
        )


def check_file(path: Path) -> None:
    """Raise PriorError unless a file's name says that it is a safetensors file, and it is there."""
    if not path.exists():
        raise PriorError(
            f"There is no folder and no file {path}: name a diffusers folder, with a model_index.json, a .safetensors "
            "file, or the id of a model that is in the Hugging Face cache."
        )
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise PriorError(
            f"{path} is a pickled checkpoint, which can run code and is never read: get the model as .safetensors."
        )
    if suffix != ".safetensors":
        kind = OTHERS.get(suffix, "")
        what = f"a{'n' if kind.startswith('O') else ''} {kind} file" if kind else "a file"
        raise PriorError(f"{path} is {what}, which is not read: name a .safetensors file or a diffusers folder.")


def check_discrete_noise(folder: Path, config: dict[str, object]) -> None:
    """Raise PriorError unless a scheduler has the noise levels and the prediction of `noise_models.DiscreteNoise`."""
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise PriorError(
            f"The model in {folder} predicts {prediction!r}: use one that predicts {', '.join(PREDICTIONS)}."
        )
    if "beta_schedule" not in config and not config.get("trained_betas"):
        raise PriorError(
            f"The scheduler of {folder}, {config.get('_class_name')}, has no beta_schedule: use a model "
            "that was trained on Stable Diffusion's noise levels."
        )


def _check_tokenizer(folder: Path, kind: str) -> None:
    if not (folder / "tokenizer.json").is_file():
        for name in next(names for start, names in TOKENIZER_FILES.items() if kind.startswith(start)):
            if not (folder / name).is_file():
                raise PriorError(f"{folder} has no {name}: download the whole model again.")
    for name in ("tokenizer.json", "vocab.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            read_json(folder / name)


def check_fit(folder: Path, layout: Layout) -> None:
    """Raise PriorError where the parts do not go together."""
    configs = {part: read_json(folder / part / "config.json") for part in layout.networks}
    unet = configs["unet"]
    unet |= {name: unet.get(own) for name, own in layout.own_names.items()}
    channels, latents = unet.get("in_channels", 4), configs["vae"].get("latent_channels", 4)
    if channels != latents:
        raise PriorError(
            f"The U-Net in {folder} takes {channels} channels, but its latents have {latents}: use a "
            "plain text-to-image model, not an inpainting or depth one."
        )
    width, widths = unet.get("cross_attention_dim"), [configs[part].get("hidden_size") for part in layout.text_encoders]
    given = sum(each for each in widths if isinstance(each, int))
    if width is not None and None not in widths and width != given:
        raise PriorError(
            f"The U-Net in {folder} takes text of width {width}, but its text encoder gives {given}: "
            "they are of two models. Download one whole model."
        )
    for name, expected in {
        "addition_embed_type": (layout.addition,),
        "class_embed_type": layout.class_embeddings,
        "encoder_hid_dim_type": (None,),
    }.items():
        if (unet.get(name) or None) not in expected:
            raise PriorError(
                f"The U-Net in {folder} needs more than text ({name} is {unet.get(name)}): use a plain "
                f"text-to-image model of Stable Diffusion {layout.versions}."
            )
    if not unet.get("sample_size"):
        raise PriorError(
            f"{folder / 'unet' / 'config.json'} has no sample_size: set it to the edge of the latents, "
            "64 for 512 pixels."
        )


def entries(folder: Path) -> dict[str, list[Path]]:
    """The weights that can be loaded by name: variant, "" for none -> its single file, its index or both."""
    stem = re.escape(STEMS[folder.name])
    single = re.compile(rf"{stem}(?:\.((?:(?!{_SHARD}\.)[^.])+))?\.safetensors")
    index = re.compile(rf"{stem}\.safetensors\.index(?:\.([^.]+))?\.json")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := single.fullmatch(path.name) or index.fullmatch(path.name):
            found.setdefault(match[1] or "", []).append(path)
    return found


def has_weights(folder: Path) -> bool:
    """Whether a part's folder has weights that can be loaded by name."""
    return folder.is_dir() and bool(entries(folder))


def check_weights(folder: Path) -> None:
    """Raise PriorError unless all weights of a part are there and whole."""
    found = entries(folder)
    if not found:
        _explain_no_weights(folder)
    for path in found[variant(folder) or ""]:
        if path.suffix == ".safetensors":
            read_header(path)
            continue
        shards = read_json(path).get("weight_map")
        if (
            not isinstance(shards, dict)
            or not shards
            or any(not isinstance(name, str) or Path(name).name != name for name in shards.values())
        ):
            raise PriorError(f"{path} is damaged: {AGAIN}.")
        names = sorted(set(shards.values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise PriorError(f"{folder} lacks {len(missing)} of its {len(names)} shards ({missing[0]}): {AGAIN}.")
        held = {name: read_header(folder / name).shapes for name in names}
        for key, name in shards.items():
            if key not in held[name]:
                raise PriorError(f"{folder / name} lacks {key}, which {path.name} says it has: {AGAIN}.")


def _explain_no_weights(folder: Path) -> NoReturn:
    """Raise PriorError with the reason why a folder has no weights that can be read."""
    stem, names = STEMS[folder.name], sorted(path.name for path in folder.iterdir())
    for name in names:
        if match := re.fullmatch(re.escape(stem) + r"\.safetensors\.([^.]+)\.index\.json", name):
            raise PriorError(f"{folder / name} has an old name: rename it to {stem}.safetensors.index.{match[1]}.json.")
    safe = [name for name in names if name.endswith(".safetensors")]
    if any(re.search(_SHARD, name) for name in safe):
        raise PriorError(f"{folder} has shards but no {stem}.safetensors.index.json: {AGAIN}.")
    if safe:
        raise PriorError(
            f"{folder} has {safe[0]}, but weights are looked for in {stem}.safetensors: rename it if it "
            "holds this part."
        )
    suffixes = {Path(name).suffix for name in names}
    if suffixes & PICKLES:
        raise PriorError(
            f"{folder} has only pickled weights, which can run code and are never read: convert them with "
            "save_pretrained(folder, safe_serialization=True)."
        )
    for suffix in sorted(suffixes & OTHERS.keys()):
        raise PriorError(
            f"{folder} has only {OTHERS[suffix]} weights, which are not read: get the model in safetensors."
        )
    raise PriorError(f"{folder} has no safetensors weights: download the whole model again.")


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    Args:
        tensors: name -> its entry, as safetensors writes it.
        start: of the tensors' bytes in the file.
        metadata: that the file's maker left.
    """

    tensors: dict[str, dict[str, Any]]
    start: int
    metadata: dict[str, str]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(entry["shape"]) for name, entry in self.tensors.items()}

    @cached_property
    def contents(self) -> Contents:
        """What the file holds."""
        return identify(self.shapes)


def read_header(path: Path) -> Header:
    """The header of a safetensors file. Raises PriorError unless the file is as long as its tensors need."""
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return _read_header(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)  # a check, the load and the list of models ask after each other
def _read_header(path: Path, size: int, changed: int) -> Header:
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            if start == b"version ":
                raise PriorError(f"{path} is a pointer of Git LFS, not the weights: fetch them with git lfs pull.")
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > _LONGEST_HEADER:
                raise ValueError(length)
            text = file.read(length)
        if len(text) < length:
            raise PriorError(f"{path} is cut short, within its header: {AGAIN}.")
        header = json.loads(text)
        metadata = dict(header.pop("__metadata__", None) or {})
        read = Header(header, 8 + length, metadata)
        assert all(isinstance(edge, int) for shape in read.shapes.values() for edge in shape)
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except PriorError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, RecursionError):
        raise PriorError(f"{path} is damaged, or no safetensors file: {AGAIN}.") from None
    held = size - 8 - length
    if held < end:
        raise PriorError(f"{path} is cut short, with {held:,} of {end:,} bytes of weights: {AGAIN}.")
    if held > end:
        raise PriorError(f"{path} is damaged, with {held - end:,} bytes too many: {AGAIN}.")
    return read


def read_json(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(path, error) from None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise PriorError(f"{path} is not JSON: {AGAIN}.")
    return values


def _unreadable(path: Path, error: OSError) -> PriorError:
    if not isinstance(error, FileNotFoundError):
        return PriorError(f"{path} cannot be read ({error.strerror}): see to its permissions, or {AGAIN}.")
    missing = "is a link that leads nowhere" if path.is_symlink() else "is missing"
    return PriorError(f"{path} {missing}: download the whole model again.")
