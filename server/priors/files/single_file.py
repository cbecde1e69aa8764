# SPDX-License-Identifier: GPL-3.0-or-later
"""Models in one .safetensors file, in the layout of Stability AI and Black Forest Labs: what is in it, without torch.

A file has no configurations. They are in `configs`, a folder for each kind of model, or in a folder of the user's
beside the file: NAME.config for NAME.safetensors, in the layout of a diffusers folder. That one comes first, also for
parts that the file lacks, and for tokenizers.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from ..base import PriorError
from . import places
from .kinds import FLUX, IMAGEDREAM, MODEL, MVDREAM, NETWORK, SD1, SD2, SD3, SDXL, Contents
from .layouts import AGAIN, Header, check_file, check_weights, has_weights, read_header, read_json

CONFIGS = Path(__file__).parent / "configs"
SHIPPED = {  # family -> folders of configurations; the one whose tensors fit is taken
    SD1: ("stable-diffusion-1",),
    SD2: ("stable-diffusion-2",),
    SDXL: ("stable-diffusion-xl",),
    SD3: ("stable-diffusion-3-medium", "stable-diffusion-3.5-medium", "stable-diffusion-3.5-large"),
    FLUX: ("flux-dev", "flux-schnell"),
}
SIDECAR = ".config"
TENSORS = "tensors.json.gz"  # part -> name -> shape, written by scripts/original_layout.py
TYPES = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
V_PREDICTION = "v_prediction"
_NETWORK = "model.diffusion_model."
_REFUSED = {
    "inpainting": "is an inpainting model, which needs a picture and a mask: use the model that it was made from",
    "depth": "is a depth model, which needs a depth picture: use the plain model of its kind",
    "instruction": "edits pictures (InstructPix2Pix) and needs one: use a text-to-image model",
    "refiner": "is SDXL's refiner, which only finishes pictures: use an SDXL base model",
    "EDM": "was trained on noise levels of its own (EDM): use a model on Stable Diffusion's",
    "fill": "fills parts of pictures and needs one (Flux Fill): use Flux dev or schnell",
    "control": "needs a second picture (Flux Depth or Canny): use Flux dev or schnell",
    IMAGEDREAM: "needs a picture beside the prompt (ImageDream): use MVDream",
    "quantized": "has quantized weights: use one in float16, bfloat16 or float8",
}
_ALIASES = (  # names of other programs -> those of the lists
    (re.compile(r"^vae\.", re.MULTILINE), "first_stage_model."),
    (
        re.compile(
            r"^((?:cond_stage_model|conditioner\.embedders\.0)\.transformer\.)(?=embeddings|encoder|final)",
            re.MULTILINE,
        ),
        r"\1text_model.",
    ),
)
_OPTIONAL = re.compile(r"^text_encoders\.clip_l\.transformer\.text_projection\.weight$")  # else the identity


@dataclass(frozen=True)
class Checkpoint:
    """A single file that can be loaded.

    Args:
        shipped: folder of configurations in `configs`.
        index: model_index.json, without the parts that the model goes without.
        names: part -> name of a tensor in the original layout -> name in the file. A part that is not here has its
            weights in the folder beside the file.
        changes: part -> what the file says otherwise than the shipped configurations.
        t5_tokenizer: folder of T5's tokenizer, where the model has T5 and none beside it.
    """

    file: Path
    contents: Contents
    shipped: Path
    index: dict[str, object]
    names: dict[str, dict[str, str]]
    changes: dict[str, dict[str, object]]
    t5_tokenizer: Path | None = None

    @property
    def pipeline(self) -> str:
        """Class of diffusers."""
        return str(self.index["_class_name"])

    def folder(self, part: str) -> Path:
        """The folder that has a part's own folder, or at least its configuration."""
        return _folder(self.file, self.shipped, part)

    def configuration(self, part: str) -> dict[str, object]:
        """The configuration of a part."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return read_json(self.folder(part) / part / name) | self.changes.get(part, {})

    @property
    def resolution(self) -> int | None:
        """Edge in pixels of the square pictures that the model makes."""
        network = "unet" if "unet" in self.index else "transformer"
        blocks = self.configuration("vae").get("block_out_channels")
        size = self.configuration(network).get("sample_size") or 128
        return size << len(blocks) - 1 if isinstance(size, int) and isinstance(blocks, list) else None


def examine(file: Path) -> Checkpoint:
    """What a single file has. Raises PriorError, with one sentence that says what to do, for one that is no model."""
    check_file(file)
    header = read_header(file)
    contents = header.contents
    if contents.kind not in (MODEL, NETWORK):
        raise PriorError(f"{file} {_no_model(contents)}.")
    if contents.variant in _REFUSED:
        raise PriorError(f"{file} {_REFUSED[contents.variant]}.")
    if not contents.family:
        raise PriorError(f"{file} is a model of another kind: use one of {', '.join(SHIPPED)}.")
    names = _original_names(header)
    shipped = min(
        (CONFIGS / name for name in SHIPPED[contents.family]), key=lambda folder: _unlike(header, names, folder)
    )
    index = read_json(_folder(file, shipped, "model_index.json") / "model_index.json")
    if contents.variant == MVDREAM:
        index["_class_name"] = "MVDreamPipeline"
    held = _held(file, header, names, shipped, index)
    tokenizer = None
    for part, entry in index.items():
        needed = part.startswith("tokenizer") and isinstance(entry, list) and str(entry[-1]).startswith("T5")
        if needed and not places.is_t5_tokenizer(_folder(file, shipped, part) / part):
            if (tokenizer := places.t5_tokenizer()) is None:
                raise PriorError(
                    f"{file} needs T5's tokenizer, which is neither in the Hugging Face cache nor in ComfyUI: put the "
                    f"folder {part} of the model's repository into {file.with_suffix(SIDECAR)}."
                )
    changes = _changes(file, header, names, contents)
    own = {part: values for part, values in changes.items() if _folder(file, shipped, part) == shipped}
    return Checkpoint(file, contents, shipped, index, held, own, tokenizer)


def _folder(file: Path, shipped: Path, name: str) -> Path:
    sidecar = file.with_suffix(SIDECAR)
    return sidecar if (sidecar / name).exists() else shipped


def _no_model(contents: Contents) -> str:
    of = f" for {contents.family}" if contents.family else ""
    if contents.kind in ("LoRA", "ControlNet", "IP-Adapter"):
        article = "an" if contents.kind[0] == "I" else "a"
        return f"is {article} {contents.kind}{of}, not a model: name a model, and this as its {contents.kind}"
    if contents.kind == "unknown":
        return f"holds no model that is known: use one of {', '.join(SHIPPED)}"
    article = "an" if contents.kind[0] in "aeu" else "a"
    return f"is {article} {contents.kind}{of}, not a model: name a checkpoint that has all parts of a model"


def _original_names(header: Header) -> dict[str, str]:
    """Name in the original layout -> name in the file."""
    text = "\n".join(header.shapes)
    found = {name: name for name in header.shapes}
    for old, new in _ALIASES:
        if old.search(text):
            found = {old.sub(new, original): name for original, name in found.items()}
    if _NETWORK in text:
        return found
    parts = re.compile(r"(first_stage_model|cond_stage_model|conditioner|text_encoders)\.")
    return {original if parts.match(original) else _NETWORK + original: name for original, name in found.items()}


@lru_cache(maxsize=32)
def _read_tensors(path: Path, changed: int) -> dict[str, dict[str, tuple[int, ...]]]:
    parts = json.loads(gzip.decompress(path.read_bytes()))
    return {part: {name: tuple(shape) for name, shape in inside.items()} for part, inside in parts.items()}


def _tensors(config: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Part -> name -> shape of all tensors that a model of these configurations has in a single file."""
    path = config / TENSORS
    try:
        return _read_tensors(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, AttributeError, EOFError) as error:
        raise PriorError(
            f"{path} cannot be read ({error}): make it with scripts/original_layout.py, or remove {config}."
        ) from None


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without ones at its end: a 1 × 1 convolution is a linear layer."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _unlike(header: Header, names: Mapping[str, str], config: Path) -> int:
    """The number of tensors of the denoising network that are missing, of another shape or too many."""
    tensors = _tensors(config)
    expected = tensors.get("unet") or tensors.get("transformer") or {}
    wrong = sum(
        name not in names or _shape(header.shapes[names[name]]) != _shape(shape) for name, shape in expected.items()
    )
    return wrong + sum(name.startswith(_NETWORK) and name not in expected for name in names)


def _held(
    file: Path, header: Header, names: Mapping[str, str], shipped: Path, index: dict[str, object]
) -> dict[str, dict[str, str]]:
    """The tensors of each part that the file has; parts that the model goes without leave the index."""
    held, lacking = {}, []
    for part, tensors in _tensors(shipped).items():
        prefix = os.path.commonprefix(list(tensors))
        folder = _folder(file, shipped, part)
        listed = folder == shipped or (folder / TENSORS).is_file()
        known = _tensors(folder).get(part, {}) if listed else {}
        found = {name: own for name, own in names.items() if (name in known if known else name.startswith(prefix))}
        if found:
            held[part] = found
            _check_part(file, header, part, known, found)
        elif has_weights(folder / part):
            check_weights(folder / part)
        elif part == "text_encoder_3":  # Stable Diffusion 3 works without T5
            index[part] = index["tokenizer_3"] = [None, None]
        else:
            lacking.append(part)
    if lacking:
        raise PriorError(
            f"{file} has no {' and no '.join(lacking)}: use a checkpoint that has all parts, or put the folders of "
            f"the others, as diffusers has them, into {file.with_suffix(SIDECAR)}."
        )
    return held


def _check_part(
    file: Path, header: Header, part: str, tensors: Mapping[str, tuple[int, ...]], found: Mapping[str, str]
) -> None:
    missing = [name for name in tensors if name not in found and not _OPTIONAL.match(name)]
    if missing:
        raise PriorError(
            f"{file} lacks {len(missing)} of the {len(tensors)} weights of its {part} ({missing[0]}): {AGAIN}."
        )
    for name, own in found.items():
        shape = header.shapes[own]
        if tensors and _shape(shape) != _shape(tensors[name]):
            raise PriorError(
                f"{file} is no model of a known size, as {own} has the shape {list(shape)}, not {list(tensors[name])}: "
                f"put the configurations of its diffusers folder into {file.with_suffix(SIDECAR)}."
            )
        if header.tensors[own]["dtype"] not in TYPES:
            raise PriorError(f"{file} {_REFUSED['quantized']}.")


def _changes(file: Path, header: Header, names: Mapping[str, str], contents: Contents) -> dict[str, dict[str, object]]:
    """What the file itself says otherwise than the shipped configurations."""
    if contents.variant == MVDREAM:  # trained to predict noise at 256 pixels
        return {"unet": {"sample_size": 32}}
    scheduler: dict[str, object] = {}
    if "ztsnr" in names or _NETWORK + "ztsnr" in names:
        scheduler["rescale_betas_zero_snr"] = True
    if contents.family not in (SD1, SD2, SDXL) or not _predicts_velocity(file, header, names, contents.family):
        return {"scheduler": scheduler}
    scheduler["prediction_type"] = V_PREDICTION
    # Stable Diffusion 2's models of 768 pixels predict the velocity, those of 512 the noise.
    return {"scheduler": scheduler} | ({"unet": {"sample_size": 96}} if contents.family == SD2 else {})


def _predicts_velocity(file: Path, header: Header, names: Mapping[str, str], family: str) -> bool:
    """Whether a model predicts v (Salimans & Ho 2022) instead of the noise.

    Said by AUTOMATIC1111's NAME.yaml beside the file, by the file's own metadata (modelspec.prediction_type), or by
    a tensor named v_pred. Stable Diffusion 2's files do not say it: as in ComfyUI, the spread of a bias that training
    on v has moved tells.
    """
    try:
        said = yaml.safe_load(file.with_suffix(".yaml").read_text(encoding="utf-8"))
        return bool(said["model"]["params"].get("parameterization") == "v")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        pass
    if kind := header.metadata.get("modelspec.prediction_type"):
        return str(kind).startswith("v")
    if "v_pred" in names or _NETWORK + "v_pred" in names:
        return True
    own = names.get(f"{_NETWORK}output_blocks.11.1.transformer_blocks.0.norm1.bias")
    return family == SD2 and own is not None and float(np.std(_values(file, header, own))) > 0.09


def _values(file: Path, header: Header, name: str) -> NDArray[np.float32]:
    """A tensor's values, in one row."""
    start, end = header.tensors[name]["data_offsets"]
    kind = header.tensors[name]["dtype"]
    with open(file, "rb") as opened:
        opened.seek(header.start + start)
        data = opened.read(end - start)
    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
    if kind in kinds:
        return np.frombuffer(data, kinds[kind]).astype(np.float32)
    if kind != "BF16":
        return np.zeros(1, np.float32)
    return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
