# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of models over HTTP, and models that are refused before their job is queued."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from msd_blender.client import ClientError
from msd_blender.protocol import JobRequest
from server.doctor import model
from server.priors import PriorError, check
from server.priors.catalogue import catalogue


def test_the_list_is_the_catalogue(server):
    assert server.client().models() == catalogue()
    assert server.client().models()[0].name == "bundled model"


def lora(root, folders):
    path = root / "lora.safetensors"
    save_file({"lora_unet_x.lora_down.weight": np.zeros((2, 2), np.float32)}, path)
    return path


def pickled(root, folders):
    (root / "model.ckpt").touch()
    return root / "model.ckpt"


def cut_short(root, folders):
    folder = shutil.copytree(folders["epsilon"], root / "folder")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    return folder


@pytest.mark.parametrize(
    "make", [lora, pickled, cut_short, lambda root, _: root / "nothing", lambda root, _: "nobody/has-this"]
)
def test_a_bad_model_is_refused_with_the_checks_sentence(server, tmp_path, folders, make):
    place = make(tmp_path, folders)
    with pytest.raises(PriorError) as caught:
        check(place)
    sentence = str(caught.value)
    assert (model(place).what, "\n" in sentence) == (sentence, False)
    before = server.client().jobs()
    with pytest.raises(ClientError) as refused:
        server.client().submit(JobRequest("a cat", model=str(place)))
    assert str(refused.value) == sentence and server.client().jobs() == before
