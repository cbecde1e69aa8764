# SPDX-License-Identifier: GPL-3.0-or-later
"""Mesh assets keep an artist's protection from one phase to the next, and their names in checkpoints."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from server.assets import ASSETS, BuildContext, MeshOptions, RefineAsset, TextureAsset
from server.rendering import rasterize
from tests.optimize.jobs import half_locked


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
