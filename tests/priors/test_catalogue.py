# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of what a machine has: models of other programs, of the Hugging Face cache and of any folder."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from server.priors import BUNDLED_MODEL, reading
from server.priors.catalogue import catalogue, default_roots
from server.priors.files.places import resolve

WIDTH = 16  # of the texts of the tiny pipelines


def lora(path, width=WIDTH, prefix="lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"{prefix}.lora_down.weight": np.zeros((2, width), np.float32)}, path)
    return path


def controlnet(path, width):
    path.parent.mkdir(parents=True, exist_ok=True)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    hint = "controlnet_cond_embedding.conv_in.weight"
    save_file({name: np.zeros((4, width), np.float32), hint: np.zeros((4, 3, 3, 3), np.float32)}, path)
    return path


def cached(root, id, folder, main=True):
    """A repository of the Hugging Face cache."""
    repository = root / f"models--{id.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / "abc")
    if main:
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("abc")
    return repository


def listed(roots):
    return {each.name: each for each in catalogue(roots)}


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_bundled_model_is_always_there(tmp_path):
    (model,) = catalogue([tmp_path])
    assert (model.place, model.kind, model.resolution, model.problem) == ("", "model", 64, "")
    assert model.size == sum(path.stat().st_size for path in BUNDLED_MODEL.rglob("*.safetensors"))
    known, _ = reading()
    assert len(model.examples) == 24 and not any(map(known.unknown, model.examples))


@pytest.mark.parametrize("program", ["ComfyUI", "stable-diffusion-webui"])
def test_folders_of_other_programs_are_found(home, folders, program):
    models, loras, controlnets = (
        ("checkpoints", "loras", "controlnet") if program == "ComfyUI" else ("Stable-diffusion", "Lora", "ControlNet")
    )
    root = home / program / "models"
    shutil.copytree(folders["epsilon"], root / models / "sub" / "tiny")
    (root / models / "old.ckpt").touch()
    fitting, wide = lora(root / loras / "fits.safetensors", 768), lora(root / loras / "xl.safetensors", 2048)
    depth = controlnet(root / controlnets / "depth.safetensors", 768)
    (root / "vae").mkdir()
    lora(root / "vae" / "elsewhere.safetensors")
    found = listed(None)
    assert found.keys() == {"bundled model", "sub/tiny", "old", "fits", "xl", "depth"}
    assert (found["sub/tiny"].kind, found["sub/tiny"].family, found["sub/tiny"].resolution) == ("model", "SD 1.x", 16)
    assert "pickled" in found["old"].problem and found["old"].kind == "model"
    assert (found["fits"].family, found["xl"].family, found["depth"].family) == ("SD 1.x", "SDXL", "SD 1.x")
    assert found["fits"].place == str(fitting) and found["xl"].place == str(wide) and found["depth"].place == str(depth)


def test_a_model_names_the_loras_and_controlnets_that_fit_it(tmp_path, folders):
    shutil.copytree(folders["epsilon"], tmp_path / "tiny")
    fitting = lora(tmp_path / "fits.safetensors")
    lora(tmp_path / "other.safetensors", 768)
    lora(tmp_path / "xl.safetensors", WIDTH, "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k")
    save_file({"lora_te1.lora_down.weight": np.zeros((2, 2), np.float32)}, tmp_path / "unknown.safetensors")
    depth = controlnet(tmp_path / "depth.safetensors", WIDTH)
    controlnet(tmp_path / "normal.safetensors", 768)
    model = listed([tmp_path])["tiny"]
    assert (model.loras, model.controlnets) == ([str(fitting)], [str(depth)])
    bundled = listed([tmp_path])["bundled model"]
    assert (bundled.loras, bundled.controlnets) == ([], [])


def test_extra_paths_of_comfyui(home, folders):
    elsewhere = home / "disk" / "sd"
    shutil.copytree(folders["epsilon"], elsewhere / "ckpt" / "tiny")
    lora(elsewhere / "a" / "one.safetensors")
    lora(elsewhere / "b" / "two.safetensors")
    (home / "ComfyUI").mkdir()
    (home / "ComfyUI" / "extra_model_paths.yaml").write_text(
        f"a111:\n    base_path: {elsewhere}\n    checkpoints: ckpt\n    loras: |\n        a\n        b\n    vae: v\n"
    )
    assert listed(None).keys() == {"bundled model", "tiny", "one", "two"}
    (home / "ComfyUI" / "extra_model_paths.yaml").write_text("a: [\n")
    assert listed(None).keys() == {"bundled model"}


def test_the_hugging_face_cache(home, folders, monkeypatch):
    hub = home / ".cache" / "huggingface" / "hub"
    cached(hub, "some/model", folders["epsilon"])
    (hub / "models--google--bert" / "snapshots" / "x").mkdir(parents=True)
    (hub / "models--google--bert" / "snapshots" / "x" / "config.json").write_text("{}")
    assert default_roots() == [hub]
    found = listed(None)
    assert found.keys() == {"bundled model", "some/model"} and found["some/model"].place == "some/model"
    snapshot = hub / "models--some--model" / "snapshots" / "abc"
    assert resolve("some/model") == resolve(hub / "models--some--model") == resolve(snapshot) == snapshot
    moved = home / "elsewhere"
    for name, value, inside in (
        ("HF_HOME", moved, "hub"),
        ("HF_HUB_CACHE", moved / "hub", "."),
        ("HUGGINGFACE_HUB_CACHE", moved / "hub", "."),
    ):
        with monkeypatch.context() as environment:
            environment.setenv(name, str(value))
            cached(value / inside, "other/model", folders["sample"], main=name == "HF_HOME")
            assert listed(None).keys() == {"bundled model", "other/model"}
        shutil.rmtree(moved)


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path):
    path = lora(tmp_path / "a.safetensors", 768)
    assert listed([tmp_path])["a"].family == "SD 1.x"
    content = path.read_bytes()
    lora(path, 2048)
    assert listed([tmp_path])["a"].family == "SDXL"
    path.write_bytes(content[:-1])
    assert "cut short" in listed([tmp_path])["a"].problem


def test_nothing_is_loaded():
    code = (
        "import sys\nsys.modules['torch'] = sys.modules['diffusers'] = None\n"
        "from server.priors.catalogue import catalogue\nassert catalogue()[0].name == 'bundled model'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
