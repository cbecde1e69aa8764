# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a finished asset, and its pictures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from msd_blender.protocol import BASE_COLOUR

from ..assets.mesh_asset import Placement
from ..geometry import files
from ..geometry.mesh import Mesh
from ..rendering import render
from ..rendering.cameras import DISTANCE, FIELD_OF_VIEW, ORBIT_ELEVATION, Cameras
from ..rendering.rasterize import Rasterizer
from ..rendering.shading import Lights
from ..rendering.textures import MaterialMaps, UVCharts, UVTextures

PREVIEW = 128  # pixels


def appearance(mesh: Mesh, device: torch.device | str) -> Tensor | UVTextures:
    """The mesh's textures, or its vertex colours in [0, 1], as `render.render` takes them."""
    if mesh.uvs is None or not any(name.startswith("texture.") for name in mesh.textures):
        return torch.from_numpy(mesh.shown_colours).to(device) / 255

    def picture(kind: str, slot: int) -> Tensor | None:
        array = mesh.textures.get(f"{kind}.{slot}")
        if array is None:
            return None
        values = torch.from_numpy(np.ascontiguousarray(array)).to(device).float() / 255
        return values if values.ndim == 3 else values[..., None]

    slots = 1 if mesh.slots is None else int(mesh.slots.max()) + 1
    gray = torch.full((1, 1, 3), BASE_COLOUR, device=device)
    materials = []
    for slot in range(slots):
        base, roughness, metallic, normal = (
            picture(kind, slot) for kind in ("texture", "roughness", "metallic", "normal")
        )
        materials.append(MaterialMaps(gray if base is None else base, roughness, metallic, normal))
    faces, uvs = torch.from_numpy(mesh.faces).to(device), torch.from_numpy(mesh.uvs).to(device)
    chart = None if mesh.slots is None else torch.from_numpy(mesh.slots).to(device)
    return UVTextures(UVCharts.from_faces(faces, uvs, chart), materials)


@torch.no_grad()
def preview(rasterizer: Rasterizer, mesh: Mesh, device: torch.device | str, flat: bool = False) -> NDArray[np.generic]:
    """(PREVIEW, PREVIEW, 3) uint8 from ahead, to the right and above, bottom row first."""
    full = torch.ones(1, device=device)
    camera = Cameras(
        math.radians(35) * full,
        math.radians(ORBIT_ELEVATION) * full,
        DISTANCE * full,
        math.radians(FIELD_OF_VIEW) * full,
    )
    place = torch.from_numpy(_placed(mesh)).to(device)
    picture = render.render(
        rasterizer,
        place,
        torch.from_numpy(mesh.faces).to(device),
        appearance(mesh, device),
        camera,
        Lights.headlight(camera),
        torch.full((1, 3), render.TURNTABLE_BACKGROUND, device=device),
        PREVIEW,
        flat,
    )
    return (255 * picture[0]).round().byte().cpu().numpy()


def turntable(
    rasterizer: Rasterizer, mesh: Mesh, device: torch.device | str, flat: bool = False, scaled: bool = False
) -> NDArray[np.generic]:
    """As `render.turntable`. scaled: brought to the size that fills the picture, whatever size it has."""
    if scaled:
        mesh = replace(mesh, positions=_placed(mesh))
    colours = appearance(mesh, device)
    return render.turntable(
        rasterizer,
        mesh.positions,
        mesh.faces,
        colours if isinstance(colours, UVTextures) else mesh.shown_colours,
        device,
        flat=flat,
    )


def write_files(
    mesh: Mesh, folder: Path, rasterizer: Rasterizer, device: torch.device, flat: bool, scaled: bool
) -> None:
    """Write mesh.glb, its pictures and turntable.png into an existing folder.

    flat: faces have their own normals. scaled: see `turntable`.
    """
    files.save_result(mesh, folder, flat)
    Image.fromarray(turntable(rasterizer, mesh, device, flat, scaled)).save(folder / "turntable.png")


def _placed(mesh: Mesh) -> NDArray[np.generic]:
    return Placement.of(mesh).apply(mesh.positions)
