# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's lists of what the server has, and its sentences on what a job could not use."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bpy
import pytest

from msd_blender import model_list
from msd_blender.local_server import LocalServer
from msd_blender.model_list import CONTROLNET, IP_ADAPTER, LORA, MODEL
from server.priors.catalogue import catalogue
from tests.priors.test_catalogue import controlnet, lora
from tests.priors.test_ip_adapter import save_adapter, save_encoder


@pytest.fixture
def listed(addon: Any, tmp_path: Path, folders: dict[str, Path]) -> Iterator[Path]:
    """A folder of several kinds, which the lists show."""
    shutil.copytree(folders["epsilon"], tmp_path / "tiny")
    shutil.copytree(folders["sample"], tmp_path / "broken")
    (tmp_path / "broken" / "unet" / "config.json").unlink()
    lora(tmp_path / "fits.safetensors")
    lora(tmp_path / "xl.safetensors", 2048)
    controlnet(tmp_path / "depth.safetensors", 16)
    controlnet(tmp_path / "wide.safetensors", 2048)
    from server.priors import load

    save_adapter(load(tmp_path / "tiny", "cpu").unet, tmp_path / "follow.safetensors")
    save_encoder(tmp_path / "image_encoder")
    model_list.show(catalogue([tmp_path]))
    yield tmp_path
    model_list.show([])


def settings() -> Any:
    return bpy.context.scene.msd


def index(name: str) -> int:
    return list(bpy.context.window_manager.msd_models.keys()).index(name)


def choose(kind: str, name: str) -> None:
    """Click an entry."""
    setattr(bpy.context.window_manager, f"msd_{kind}", index(name))


def shown(kind: str, words: str = "") -> list[str]:
    """The names in a list, from top to bottom."""
    stub: Any = SimpleNamespace(list_id=kind, filter_name=words, bitflag_filter_item=1)
    flags, order = model_list.MSD_UL_models.filter_items(stub, bpy.context, None, "")
    names = bpy.context.window_manager.msd_models.keys()
    return [names[i] for i in sorted(range(len(names)), key=lambda i: order[i]) if flags[i]]


def test_each_list_shows_its_kind_and_what_fits_first(listed: Path) -> None:
    assert shown(MODEL) == ["bundled model", "tiny", "broken"]
    settings().model = str(listed / "tiny")
    assert shown(LORA) == ["fits", "xl"] and shown(CONTROLNET) == ["depth", "wide"]
    assert shown(MODEL, "TIN") == ["tiny"] and shown(LORA, "sdxl") == ["xl"] and not shown(LORA, "tiny")


def test_a_click_sets_the_property(listed: Path) -> None:
    manager = bpy.context.window_manager
    choose(MODEL, "tiny")
    assert settings().model == str(listed / "tiny") and manager.msd_model == index("tiny")
    choose(MODEL, "bundled model")
    assert settings().model == "" and manager.msd_model == index("bundled model")
    choose(CONTROLNET, "depth")
    assert settings().control_model == str(listed / "depth.safetensors")
    choose(LORA, "fits")
    choose(LORA, "xl")
    settings().loras[1].weight = 0.5
    choose(LORA, "fits")
    assert [(Path(each.file).name, each.weight) for each in settings().loras] == [("xl.safetensors", 0.5)]


def test_the_lists_stay_when_a_file_is_opened(listed: Path) -> None:
    bpy.ops.wm.save_as_mainfile(filepath=str(listed / "a.blend"), compress=False)
    assert b"fits" not in (listed / "a.blend").read_bytes()  # a .blend says nothing of what else a server has
    bpy.ops.wm.open_mainfile(filepath=str(listed / "a.blend"))
    assert shown(MODEL) == ["bundled model", "tiny", "broken"]


def test_facts(listed: Path) -> None:
    tiny = model_list.find(MODEL, str(listed / "tiny"))
    assert tiny is not None and model_list.facts(tiny) == f"SD 1.x, 16 px, {tiny.size / 1e6:.1f} MB"


def test_names(listed: Path) -> None:
    settings().model = str(listed / "tiny")
    assert model_list.name_of(MODEL, settings().model) == "tiny"
    for path in ("/a/b/shiny.safetensors", "C:\\a\\shiny.safetensors", "//shiny.safetensors"):
        assert model_list.name_of(LORA, path) == "shiny"


def test_what_fits_is_no_problem(listed: Path) -> None:
    choose(MODEL, "tiny")
    choose(LORA, "fits")
    settings().mode, settings().control = "texture", {"depth"}
    choose(CONTROLNET, "depth")
    assert model_list.problems(settings()) == []


def test_what_does_not_fit_is_said(listed: Path) -> None:
    settings().mode, settings().control = "texture", {"depth"}
    choose(MODEL, "tiny")
    choose(LORA, "xl")
    assert model_list.problems(settings()) == [
        "xl is for SDXL, but tiny is SD 1.x.",
        "This model brings no ControlNet: choose one.",
    ]
    choose(CONTROLNET, "wide")
    assert model_list.problems(settings())[1:] == ["wide is for SDXL, but tiny is SD 1.x."]
    settings().mode = "generate"
    assert len(model_list.problems(settings())) == 1


def test_what_is_missing_or_broken_is_said(listed: Path) -> None:
    choose(MODEL, "broken")
    (sentence,) = model_list.problems(settings())
    assert "config.json" in sentence
    settings().model = str(listed / "gone")
    settings().loras.add().file = str(listed / "gone.safetensors")
    settings().loras.add().file = str(listed / "depth.safetensors")
    model, lora, wrong = model_list.problems(settings())
    assert "There is no model" in model and "There is no LoRA" in lora and "is no LoRA" in wrong


def test_an_image_prompt_needs_an_adapter_that_fits(listed: Path) -> None:
    choose(MODEL, "tiny")
    settings().image_prompt = bpy.data.images.new("style", 8, 8)
    assert model_list.problems(settings()) == ["An image prompt needs an IP-Adapter: choose one."]
    choose(IP_ADAPTER, "follow")
    assert settings().ip_adapter == str(listed / "follow.safetensors") and model_list.problems(settings()) == []
    shutil.rmtree(listed / "image_encoder")
    model_list.show(catalogue([listed]))
    assert "needs its CLIP image encoder" in model_list.problems(settings())[0]
    settings().image_prompt = None
    assert model_list.problems(settings()) == []


def test_a_remote_servers_paths_are_not_looked_for_here(listed: Path, addon: Any) -> None:
    addon.place, addon.url = "URL", "http://example.org:8732"
    settings().model = "/models/sdxl"
    assert model_list.problems(settings()) == []


def test_nothing_is_said_before_the_server_answers(addon: Any) -> None:
    settings().model = "/models/sdxl"
    settings().loras.add().file = "/models/shiny.safetensors"
    assert model_list.problems(settings()) == []


def test_the_servers_list_arrives(remote: LocalServer) -> None:
    model_list.monitor.expire()
    model_list.refresh()
    deadline = time.monotonic() + 60
    while model_list._take_answer() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "bundled model" in shown(MODEL)


def test_a_limit_of_memory_has_a_switch(addon: Any) -> None:
    settings().prompt = "a chair"
    assert not settings().sets_memory_limit and settings().request().memory_limit is None
    settings().sets_memory_limit = True
    assert settings().request().memory_limit == settings().memory_limit > 0
    settings().sets_memory_limit = False
    assert settings().request().memory_limit is None
