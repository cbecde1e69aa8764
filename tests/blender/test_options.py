# SPDX-License-Identifier: GPL-3.0-or-later
"""Every option of a job comes through each door: panel, both command lines, Python, HTTP."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import bpy
import pytest

import msd_blender
from msd_blender import api, commands, panels
from msd_blender.client import ClientError
from msd_blender.protocol import OPTIONS, JobRequest, Option, from_dict, split_lora
from server import cli
from server.api.schema import request_schema

PROMPT = "a chair"
INTERNAL = {"client_key", "mesh", "image_prompt"}
CHOSEN_BY_PEOPLE = [option for option in OPTIONS.values() if option.name not in INTERNAL]

options = pytest.mark.parametrize("option", CHOSEN_BY_PEOPLE, ids=lambda option: option.name)


def value_of(option: Option) -> Any:
    """A value that is not the default."""
    if option.choices:
        return [option.choices[-1]] if option.many else option.choices[-1]
    if option.name == "cameras":
        return ["-30,10:a smiling face", "90,-20.5"]
    if option.texts:
        return ["/a/shiny.safetensors:0.8", "/a/flat.safetensors"]
    if option.many:
        return [0, 30]
    if option.type is str:
        return "/a/folder" if option.folder else "a table"
    if option.type is bool:
        return True
    number = max(1, math.ceil(option.low))
    return option.high if number == option.default else number


def mode_of(option: Option) -> str:
    """A mode in which the option has an effect."""
    return value_of(option) if option.name == "mode" else option.modes[0]


@pytest.fixture(autouse=True)
def cube() -> Iterator[Any]:
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    msd_blender.register()
    bpy.ops.mesh.primitive_cube_add()
    yield bpy.context.object
    msd_blender.unregister()


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[JobRequest]:
    """The requests that reach the connection to a server, of which there is none."""
    requests: list[JobRequest] = []

    def refuse(request: JobRequest, *_: Any, **__: Any) -> None:
        requests.append(request)
        raise ClientError("There is no server.")

    monkeypatch.setattr(api, "connected_client", lambda *_: nullcontext())
    monkeypatch.setattr(api, "LiveJob", refuse)
    return requests


def flags(option: Option) -> list[str]:
    if option.name == "mode":
        return [PROMPT]
    value = value_of(option)
    if option.required:
        return [value]
    if option.texts:
        return [PROMPT, *(text for each in value for text in (option.flag, each))]
    values = value if option.many else [] if option.type is bool else [value]
    return [PROMPT, option.flag, *map(str, values)]


def test_no_other_option_is_internal() -> None:
    assert {option.name for option in OPTIONS.values() if option.internal} == INTERNAL


@options
def test_panel(option: Option) -> None:
    settings = bpy.context.scene.msd
    settings.prompt, settings.mode = PROMPT, mode_of(option)
    value = value_of(option)
    if option.name == "elevation":
        names = ["elevation_min", "elevation_max"]
        settings.elevation_min, settings.elevation_max = value
    elif option.name == "view":
        names = ["view"]
        settings.sets_view, settings.view = True, value
    elif option.name == "loras":
        names = ["file", "weight"]
        settings.set_loras(map(split_lora, value))
        settings.loras[0].expanded = True
    elif option.name == "cameras":
        names = ["prompt"]
        settings.set_cameras(value)
    else:
        names = [option.name]
        setattr(settings, option.name, set(value) if option.many else value)
    assert getattr(settings.request(), option.name) == value
    assert set(names) <= drawn()


@options
def test_panel_shows_a_request(option: Option) -> None:
    value = value_of(option)
    request = JobRequest(**{"prompt": PROMPT, "mode": mode_of(option), option.name: value})
    settings = bpy.context.scene.msd
    settings.set_from(request)
    assert settings.request() == request


def drawn() -> set[str]:
    """Names of the properties that have a row in the panel and its sub-panels."""
    layout = MagicMock()
    layout.row.return_value = layout.column.return_value = layout
    for panel in (panels.MSD_PT_generate, *panels._Settings.__subclasses__()):
        panel.draw(SimpleNamespace(layout=layout, names=getattr(panel, "names", ())), bpy.context)
    return {call.args[1] for call in layout.prop.call_args_list}


@pytest.mark.parametrize("mode", OPTIONS["mode"].choices)
@pytest.mark.parametrize("guidance", OPTIONS["guidance"].choices)
def test_panel_shows_no_number_that_is_not_used(mode: str, guidance: str) -> None:
    settings = bpy.context.scene.msd
    settings.mode, settings.guidance, settings.prompt = mode, guidance, PROMPT
    for on in (False, True, False):
        for switch in [name for name in settings.bl_rna.properties.keys() if name.startswith("sets_")]:
            setattr(settings, switch, on)
        request = settings.request()
        shown = drawn()
        for option in CHOSEN_BY_PEOPLE:
            if option.default is None and option.type is not str:
                names = {"elevation_min", "elevation_max"} if option.name == "elevation" else {option.name}
                used = getattr(request, option.name) is not None
                assert bool(names & shown) == (used and on and settings.sees(option.name)), option.name
                assert (f"sets_{option.name}" in shown) == settings.sees(option.name)
    assert ("sets_diversity" in shown) == (guidance == "msd")


@options
def test_panel_hides_an_option_where_it_has_no_effect(option: Option) -> None:
    for mode in set(OPTIONS["mode"].choices) - set(option.modes):
        bpy.context.scene.msd.mode = mode
        assert option.name not in drawn()


@options
def test_blenders_command_line(
    option: Option, submitted: list[JobRequest], tmp_path: Path, cube: bpy.types.Object
) -> None:
    bpy.ops.wm.obj_export(filepath=str(tmp_path / "cube.obj"))
    mode = mode_of(option)
    given = [] if mode == "generate" else ["--input", str(tmp_path / "cube.obj")]
    commands.main([mode, *flags(option), *given, "--output", str(tmp_path / "x.blend")])
    (request,) = submitted
    assert (request.mode, getattr(request, option.name)) == (mode, value_of(option))


@options
def test_python(option: Option, submitted: list[JobRequest], cube: bpy.types.Object) -> None:
    settings = {"prompt": PROMPT} | ({} if option.name == "mode" else {option.name: value_of(option)})
    objects = {} if mode_of(option) == "generate" else {"object": cube}
    with pytest.raises(api.GenerationError, match="no server"):
        {"generate": api.generate, "texture": api.texture, "refine": api.refine}[mode_of(option)](**objects, **settings)
    assert getattr(submitted[0], option.name) == value_of(option)


@options
def test_the_servers_command_line(option: Option) -> None:
    if option.name in cli.WITHOUT:
        return
    mode = mode_of(option)
    given = [] if mode == "generate" else ["--input", "cube.obj"]
    parsed = vars(cli.parser().parse_args([mode, *flags(option), *given, "--output", "out"]))
    values = {name: value for name, value in parsed.items() if name in OPTIONS}
    request = JobRequest(**values, mode=parsed["command"]).validate(uploaded=False)
    assert getattr(request, option.name) == value_of(option)


@pytest.mark.parametrize("parser", [commands.parser, cli.parser])
@options
def test_a_command_offers_no_option_without_effect(option: Option, parser: Any, capsys: Any) -> None:
    for mode in set(OPTIONS["mode"].choices) - set(option.modes):
        with pytest.raises(SystemExit):
            parser().parse_args([mode, *flags(option), "--input", "cube.obj", "--output", "out"])
        assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_http(option: Option) -> None:
    schema = request_schema()["properties"][option.name]
    assert schema["description"].startswith(option.description)
    assert option.required or schema["default"] == option.default
    value = value_of(option)
    given = {"prompt": PROMPT, "mode": option.modes[0], "ip_adapter": "/a/file", option.name: value}
    assert getattr(from_dict(JobRequest, given).validate(uploaded=False), option.name) == value
