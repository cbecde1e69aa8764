# SPDX-License-Identifier: GPL-3.0-or-later
"""Image prompts by IP-Adapter (Ye et al. 2023, arXiv 2308.06721): a U-Net attends to a picture beside the text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from PIL.Image import Image
from torch import Tensor

from ..base import PriorError
from ..conditions import TextCondition
from ..files.parts import check_weights, folder_network, read_weights, reason, require_finite
from ..files.weight_counts import part_weights
from .ip_adapter_files import AdapterFile
from .lora import loader_of, quiet

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig

_HEADS = 16  # of all of CLIP's image encoders that IP-Adapters use


class ImagePrompt:
    """An IP-Adapter on a U-Net, put there by diffusers, and the picture that it follows.

    Args:
        pipeline: class of diffusers whose network it is.
        strength: factor of what the picture adds to attention.

    Raises PriorError, with what to do, for files that do not fit the U-Net; that is of no use then.
    """

    def __init__(
        self, pipeline: str, unet: Any, adapter: AdapterFile, strength: float, device: torch.device, dtype: torch.dtype
    ):
        self.adapter, self.device, self.dtype = adapter, device, dtype
        self._positive: Tensor | None = None
        self._negative: Tensor | None = None
        parts = {prefix: read_weights(adapter.file, f"{prefix}.") for prefix in ("image_proj", "ip_adapter")}
        with quiet():
            self._loader = loader_of(pipeline, {"unet": unet})
            try:
                self._loader.load_ip_adapter(parts, subfolder="", weight_name="", image_encoder_folder=None)
            except Exception as error:  # of many kinds, by the file
                raise PriorError(
                    f"The IP-Adapter {adapter.file} does not fit this model: use one that was made for it "
                    f"({reason(error)})."
                ) from error
        self._loader.set_ip_adapter_scale(strength)
        unet.requires_grad_(False).eval()
        require_finite(unet, adapter.file, device, dtype)

    def encoder_bytes(self) -> int:
        """Of the image encoder on the device, while a picture is encoded."""
        return part_weights(self.adapter.encoder) * self.dtype.itemsize

    @torch.no_grad()
    def follow(self, picture: Image) -> None:
        """As `TakesImagePrompt.follow`."""
        with quiet():  # transformers would have torchvision instead of Pillow
            from transformers import CLIPImageProcessor
        encoder = _load_encoder(self.adapter, self.device, self.dtype)
        edge = encoder.config.image_size
        self._loader.image_encoder = encoder
        self._loader.feature_extractor = CLIPImageProcessor(size=edge, crop_size=edge)
        try:
            (both,) = self._loader.prepare_ip_adapter_image_embeds(picture, None, self.device, 1, True)
        finally:
            self._loader.image_encoder = None
        self._negative, self._positive = both.chunk(2)

    def beside(self, text: TextCondition) -> TextCondition:
        """The condition with the picture; a negative text goes with the picture that is none."""
        return replace(text, image=self._positive, negative_image=None if text.negative is None else self._negative)

    def embeddings(self, text: TextCondition, count: int) -> list[Tensor]:
        """The U-Net's `image_embeds` for `count` latents. A condition without a picture gets the one that is none."""
        image = self._negative if text.image is None else text.image
        if image is None:
            raise PriorError("An IP-Adapter follows a picture: give the job an image prompt, or no adapter.")
        return [image.expand(count, *image.shape[1:])]


def _load_encoder(adapter: AdapterFile, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import CLIPVisionModelWithProjection

    place = adapter.encoder
    if place.is_dir():
        network = folder_network(place, CLIPVisionModelWithProjection, dtype=dtype)
    else:
        weights = read_weights(place)
        with torch.device("meta"):
            network = CLIPVisionModelWithProjection(_config_of(weights))
        check_weights(place, weights, dict(network.named_parameters()))
        network = CLIPVisionModelWithProjection(network.config)
        network.load_state_dict(weights, strict=False)
    network = network.requires_grad_(False).eval().to(device, dtype)
    require_finite(network, place, device, dtype)
    return network


def _config_of(weights: dict[str, Tensor]) -> CLIPVisionConfig:
    """The configuration of CLIP's image encoder, by the shapes of its weights."""
    from transformers import CLIPVisionConfig

    embeddings, layers = "vision_model.embeddings.", "vision_model.encoder.layers."
    width, _, patch, _ = weights[f"{embeddings}patch_embedding.weight"].shape
    patches = len(weights[f"{embeddings}position_embedding.weight"]) - 1
    return CLIPVisionConfig(
        hidden_size=width,
        patch_size=patch,
        image_size=patch * round(patches**0.5),
        num_hidden_layers=sum(name.startswith(layers) and name.endswith("mlp.fc1.weight") for name in weights),
        intermediate_size=len(weights[f"{layers}0.mlp.fc1.weight"]),
        projection_dim=len(weights["visual_projection.weight"]),
        num_attention_heads=_HEADS,
        hidden_act="gelu",  # of OpenCLIP's, which IP-Adapters use
    )
