# SPDX-License-Identifier: GPL-3.0-or-later
"""Tiny models in one file: a diffusers folder's weights in the original layout, its configurations beside them."""

import gzip
import json
import shutil
import struct

import diffusers
import torch
from safetensors.torch import save_file

from scripts import original_layout
from server.priors.files.layouts import read_json
from server.priors.files.single_file import CONFIGS, TENSORS


def networks(folder):
    """Part -> network of a diffusers folder."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def write(folder, file, change=lambda parts: None, metadata=None):
    """The single file of a folder, in diffusers' layout with all parts; `change` gets part -> tensors."""
    pipeline = str(read_json(folder / "model_index.json")["_class_name"])
    parts = original_layout.parts(pipeline, networks(folder))
    sidecar = file.with_suffix(".config")
    shutil.copytree(folder, sidecar, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    original_layout.write_list(sidecar, parts)
    change(parts)
    tensors = {name: tensor.contiguous() for inside in parts.values() for name, tensor in inside.items()}
    save_file(tensors, file, {"format": "pt", **(metadata or {})})
    return file


def sparse(file, shapes, values=None, dtype="F16", metadata=None):
    """A safetensors file of any size that takes no room on the disk: zeros, but for a few tensors' bytes."""
    header, at = {"__metadata__": metadata or {}}, 0
    for name, shape in shapes.items():
        size = 2
        for edge in shape:
            size *= edge
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(file, "wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        opened.truncate(8 + len(text) + at)
        for name, data in (values or {}).items():
            opened.seek(8 + len(text) + header[name]["data_offsets"][0])
            opened.write(data)
    return file


def shipped_shapes(name, without=()):
    """Name -> shape of all tensors of a published model's single file."""
    lists = json.loads(gzip.decompress((CONFIGS / name / TENSORS).read_bytes()))
    return {each: shape for part, inside in lists.items() if part not in without for each, shape in inside.items()}
