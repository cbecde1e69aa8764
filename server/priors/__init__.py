# SPDX-License-Identifier: GPL-3.0-or-later
"""Priors: text-to-image models seen as one denoiser, and what turns prompts into their conditions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .base import Prior, PriorError

if TYPE_CHECKING:
    import torch

    from .latent_diffusion import LatentDiffusion

__all__ = ["BUNDLED_MODEL", "Prior", "PriorError", "load"]

BUNDLED_MODEL = Path(__file__).parents[1] / "bundled_prior" / "model"


def load(
    folder: str | Path | None = None, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> LatentDiffusion:
    """Load a diffusers Stable Diffusion folder, offline; None is the model that comes with the server.

    device: default the GPU where there is one; dtype: default float16 on a GPU, float32 on the CPU.
    Raises PriorError, with what to do, for a folder that does not hold such a model.
    """
    import torch  # both take seconds to import: only when needed

    from .latent_diffusion import LatentDiffusion

    if folder is None:
        if not (BUNDLED_MODEL / "model_index.json").is_file():
            raise PriorError(
                f"The bundled model is not in {BUNDLED_MODEL}: "
                "train it with python -m server.bundled_prior.train, or name a diffusers Stable Diffusion folder."
            )
        folder = BUNDLED_MODEL
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else torch.float16
    return LatentDiffusion(Path(folder).expanduser(), device, dtype)
