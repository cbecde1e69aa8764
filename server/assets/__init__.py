# SPDX-License-Identifier: GPL-3.0-or-later
"""Assets: what is optimized. A field as a fog, the field's surface, or a mesh with a topology of its own."""

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
