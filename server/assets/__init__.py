# SPDX-License-Identifier: GPL-3.0-or-later
"""Assets, the representations that are optimized: a field as a fog, its surface, or a mesh of its own topology."""

from .base import Asset, AssetState, BuildContext, MeshOptions, ParamGroup
from .mesh_asset import MeshAsset, RefineAsset, TextureAsset
from .surface import Surface
from .volume import Volume

__all__ = [
    "ASSETS",
    "Asset",
    "AssetState",
    "BuildContext",
    "MeshAsset",
    "MeshOptions",
    "ParamGroup",
    "RefineAsset",
    "Surface",
    "TextureAsset",
    "Volume",
]

ASSETS: dict[str, type[Asset]] = {asset.name: asset for asset in (Volume, Surface, TextureAsset, RefineAsset)}
