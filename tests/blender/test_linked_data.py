# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects and materials that are linked from a library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy
import pytest

from msd_blender.capture import capture, capture_problem
from msd_blender.errors import InvalidMeshError
from tests.blender.node_trees import cube, material, paint, picture, shown

pytestmark = pytest.mark.usefixtures("empty_scene")


def linked(folder: Path, object: Any, *kinds: str) -> Any:
    path = str(folder / "lib.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    name = object.name
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    with bpy.data.libraries.load(path, link=True) as (_, wanted):
        wanted.objects = [name]
    bpy.context.scene.collection.objects.link(wanted.objects[0])
    bpy.context.view_layer.objects.active = wanted.objects[0]
    return wanted.objects[0]


def test_what_a_library_has_is_refused_before_the_job(tmp_path: Path) -> None:
    object = linked(tmp_path, cube(material("Wood", picture("wood", 9))))
    for mode in ("texture", "refine"):
        with pytest.raises(InvalidMeshError, match="linked from lib.blend: make it local"):
            capture(object, mode)
    object.select_set(True)
    assert "make it local" in capture_problem(bpy.context)
    override = object.override_create()
    with pytest.raises(InvalidMeshError, match="make it local"):
        capture(override, "texture")


def test_a_librarys_material_is_painted_as_a_copy(tmp_path: Path) -> None:
    image = picture("wood", 9)
    image.pack()
    object = linked(tmp_path, cube(material("Wood", image)))
    wood, mesh = object.material_slots[0].material, object.data.copy()
    own = bpy.data.objects.new("own", mesh)
    bpy.context.scene.collection.objects.link(own)
    scene_object, sent = paint(own)
    assert wood.library and (sent["texture.0"][..., 0] == 9).all() and shown(wood) == 9
    assert not own.material_slots[0].material.library and shown(own.material_slots[0].material) == 100
    assert any("library" in note for note in scene_object.captured.notes) and not scene_object.has_edits()
