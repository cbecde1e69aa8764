# SPDX-License-Identifier: GPL-3.0-or-later
"""Mesh assets keep an artist's protection from one phase to the next, and their names in checkpoints."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from server.assets import ASSETS, BuildContext, MeshOptions, RefineAsset, TextureAsset
from server.geometry.mesh import Mesh
from server.rendering import rasterize
from tests.optimize.jobs import half_locked
from tests.optimize.meshes import seam_and_interior


@pytest.fixture
def context():
    device = torch.device("cpu")
    options = MeshOptions(colour_levels=(3, 5), texture_size=64)
    return BuildContext(rasterize.create("cpu", device), device, options=options)


@pytest.fixture
def edited():
    """A mesh with UVs, a texture, locked vertices, and a quarter of its texels painted by an artist."""
    mesh, mask = half_locked(), np.zeros((64, 64), np.uint8)
    mask[:32, :32] = 1
    return replace(mesh, textures={**mesh.textures, "frozen.0": mask})


def test_painted_texels_stay_protected_in_the_texture_phase(context, edited):
    before = RefineAsset.from_edit(edited, context)
    after = TextureAsset.from_previous(before, context)
    assert torch.equal(after.appearance.protected, before.appearance.protected)
    with torch.no_grad():
        for grid in after.colour_grid.grids:
            grid += torch.randn(grid.shape, generator=torch.Generator().manual_seed(0))
    baked, given = after.mesh().textures, edited.textures
    assert set(baked) == {"texture.0"}
    painted = given["frozen.0"] > 0
    np.testing.assert_array_equal(baked["texture.0"][painted], given["texture.0"][painted])
    assert (baked["texture.0"][~painted] != given["texture.0"][~painted]).any()


def test_a_checkpoint_keeps_its_names_and_makes_the_same_asset(context, edited):
    asset = RefineAsset.from_edit(edited, context)
    with torch.no_grad():
        asset.moved += 0.01
    state = asset.checkpoint_state()
    assert {"paint.grids.0", "paint.grids.1", "moved", "place", "source.positions"} <= state.tensors.keys()
    again = ASSETS[state.name].from_checkpoint(state, context).mesh()
    for name, array in asset.mesh().arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)


def test_fine_colours_resume_and_are_left_out_where_a_checkpoint_has_none(context, edited):
    """A checkpoint of a version that knew no sparse grids goes on with the levels that it has."""
    before = TextureAsset.from_edit(edited, context)
    fine = replace(context, options=replace(context.options, colour_levels=(5, 65, 129, 257), texture_size=256))
    mesh = replace(edited, textures={}, locked=None)
    asset = TextureAsset.from_edit(mesh, fine)
    assert asset.colour_grid.levels == (5, 65, 129, 257)
    with torch.no_grad():
        for each in asset.colour_grid.parameters():
            each += torch.randn(each.shape, generator=torch.Generator().manual_seed(0))
    state = asset.checkpoint_state()
    assert {"paint.grids.0", "paint.fine.0.values", "paint.fine.1.values"} <= state.tensors.keys()
    again = ASSETS[state.name].from_checkpoint(state, fine)
    np.testing.assert_array_equal(again.mesh().textures["texture.0"], asset.mesh().textures["texture.0"])
    assert [group["lr_scale"] for group in again.param_groups()] == [g["lr_scale"] for g in asset.param_groups()]
    old = ASSETS["texture"].from_checkpoint(
        before.checkpoint_state(), replace(fine, options=replace(fine.options, colour_levels=(3, 5, 129)))
    )
    assert old.colour_grid.levels == (3, 5)


def test_painted_texels_stay_protected_under_fine_colours(context, edited):
    fine = replace(context, options=replace(context.options, colour_levels=(5, 65, 129)))
    larger = {name: each.repeat(8, axis=0).repeat(8, axis=1) for name, each in edited.textures.items()}
    edited = replace(edited, textures=larger)
    asset = TextureAsset.from_edit(edited, fine)
    with torch.no_grad():
        asset.colour_grid.fine[0].values += 1
    baked, given = asset.mesh().textures["texture.0"], edited.textures["texture.0"]
    painted = edited.textures["frozen.0"] > 0
    np.testing.assert_array_equal(baked[painted], given[painted])
    assert (baked[~painted] != given[~painted]).any()


def test_fine_colours_show_no_seam(context):
    shape = trimesh.creation.icosphere(2)
    ball = Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32))
    fine = replace(context, options=replace(context.options, colour_levels=(5, 65, 129), texture_size=512), mesh=ball)
    asset = TextureAsset.from_previous(None, fine)
    with torch.no_grad():
        values = asset.colour_grid.fine[0].values
        values += torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    seam, interior = seam_and_interior(asset.mesh())
    assert seam <= interior + 2 and interior > 0.05
