# SPDX-License-Identifier: GPL-3.0-or-later
"""What a ControlNet sees of the mesh: pictures made of its depth and normals."""

from __future__ import annotations

import numpy as np
import torch
from skimage.feature import canny
from torch import Tensor

FARTHEST = 0.5  # brightness of an object's farthest point in a picture of its depth


def depth_picture(depth: Tensor) -> Tensor:
    """Depths (B, H, W), metres along the view and inf in the background -> (B, H, W) in [0, 1], near is white.

    ControlNets for depth learn from MiDaS' inverse depth (Ranftl et al. 2020), scaled to [0, 1] in each picture. The
    object takes [`FARTHEST`, 1] and the background is 0, as in TEXTure (Richardson et al. 2023, arXiv 2302.01721),
    because the farthest point of an object is nearer than anything behind it.
    """
    inverse, inside = 1 / depth, depth.isfinite()
    near = inverse.amax((1, 2), keepdim=True)
    far = torch.where(inside, inverse, torch.inf).amin((1, 2), keepdim=True)
    scaled = FARTHEST + (1 - FARTHEST) * (inverse - far) / (near - far).clamp(min=1e-6)
    return torch.where(inside, scaled, 0.0)


def normal_picture(normals: Tensor) -> Tensor:
    """Unit normals (B, H, W, 3) in the camera's axes, 0 in the background -> (B, 3, H, W) in [0, 1].

    The colours of ControlNet 1.1's normal model, by its README "blue is front, red is left, green is top"; the
    background is a wall that faces the camera.
    """
    x, y, z = normals.unbind(-1)
    facing = torch.where(normals.any(dim=-1), z, 1.0)
    return torch.stack([-x, y, facing], dim=1) / 2 + 0.5


def canny_picture(depth: Tensor, normals: Tensor) -> Tensor:
    """(B, H, W), 1 on the edges of outline, depth and creases, 0 elsewhere: Canny's (1986), by scikit-image.

    Its thresholds, 0.1 and 0.2, are those of ControlNet's annotator (OpenCV's 100 and 200 of 8 bits, a fourfold
    gradient). Normals count half, so that folds of some 45 degrees are creases and the facets of a round thing are not.
    """
    parts = [depth_picture(depth)[:, None], normal_picture(normals)[:, :2] / 2]
    pictures = torch.cat(parts, dim=1).cpu().numpy()
    edges = np.stack([np.any(list(map(canny, picture)), axis=0) for picture in pictures])
    return torch.from_numpy(edges.astype(np.float32)).to(depth.device)


def _rgb(grey: Tensor) -> Tensor:
    return grey[:, None].expand(-1, 3, -1, -1)


PICTURES = {  # kind in `protocol.CONTROLS` -> the picture (B, 3, H, W) of depth and normals
    "depth": lambda depth, normals: _rgb(depth_picture(depth)),
    "normal": lambda depth, normals: normal_picture(normals),
    "canny": lambda depth, normals: _rgb(canny_picture(depth, normals)),
}
