# SPDX-License-Identifier: GPL-3.0-or-later
"""Image prompts in Blender: any image as a PNG file, from the panel and from scripts, kept with the job's record."""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bpy
import numpy as np
import pytest
from PIL import Image

from msd_blender import api
from msd_blender.local_server import LocalServer
from msd_blender.materials import LARGEST_PICTURE, encode_image
from msd_blender.properties import RequestProperties
from msd_blender.protocol import JobRequest, ProtocolError, picture_id
from tests.priors.test_ip_adapter import save_adapter, save_encoder

TOP, BOTTOM = (0, 255, 0, 255), (188, 0, 0, 255)  # sRGB


def painted(name: str = "style", size: tuple[int, int] = (20, 10), is_float: bool = False) -> Any:
    """An image that is green above and red below."""
    image = bpy.data.images.new(name, *size, alpha=True, float_buffer=is_float)
    pixels = np.zeros((size[1], size[0], 4), np.float32)
    pixels[..., 3] = 1
    pixels[: size[1] // 2, :, 0] = 0.5 if is_float else 188 / 255  # linear in a float image
    pixels[size[1] // 2 :, :, 1] = 1
    image.pixels.foreach_set(pixels.ravel())
    image.update()
    return image


def opened(data: bytes) -> Any:
    return Image.open(io.BytesIO(data), formats=["PNG"])


@pytest.mark.parametrize("is_float", [False, True])
def test_an_image_is_sent_as_it_looks(empty_scene: None, is_float: bool) -> None:
    png = opened(encode_image(painted(is_float=is_float)))
    assert (png.size, png.getpixel((3, 1)), png.getpixel((3, 8))) == ((20, 10), TOP, BOTTOM)


def test_a_large_image_is_scaled_down(empty_scene: None) -> None:
    png = opened(encode_image(painted(size=(2 * LARGEST_PICTURE + 1, 30))))
    assert png.size == (683, 10) and (png.getpixel((3, 1)), png.getpixel((682, 8))) == (TOP, BOTTOM)


def test_packed_and_generated_images_are_sent(empty_scene: None) -> None:
    image = painted()
    image.pack()
    assert opened(encode_image(image)).getpixel((3, 1)) == TOP
    made = bpy.data.images.new("made", 16, 16)
    made.generated_type, made.generated_color = "BLANK", (0, 0, 1, 1)
    assert opened(encode_image(made)).getpixel((3, 3)) == (0, 0, 255, 255)


def test_an_image_without_pixels_gets_a_sentence(empty_scene: None) -> None:
    gone = bpy.data.images.new("gone", 8, 8)
    gone.source, gone.filepath = "FILE", "/nowhere/gone.png"
    with pytest.raises(ValueError, match="'gone' has no pixels: choose another"):
        encode_image(gone)


def test_a_job_of_the_panel_follows_an_image(remote: LocalServer, folders: dict[str, Path], tmp_path: Path) -> None:
    """To the job's end, with the record's image brought back by Generate Again."""
    from server.priors import load

    save_encoder(tmp_path / "image_encoder")
    save_adapter(load(folders["epsilon"], "cpu").unet, tmp_path / "follow.safetensors")
    settings, options = bpy.context.scene.msd, {"iterations": 4, "texture_size": 64, "target_faces": 100}
    settings.image_prompt = painted()
    pressed = SimpleNamespace()  # the button's operator, which in the background is never invoked
    RequestProperties.take_from(pressed, settings, "image_prompt")  # type: ignore[arg-type]
    assert pressed.image_prompt == "style"
    options |= {"prompt": "a chair", "model": str(folders["epsilon"])}
    with pytest.raises(RuntimeError, match="needs an IP-Adapter"):
        bpy.ops.msd.generate(**options, image_prompt="style")
    options["ip_adapter"] = str(tmp_path / "follow.safetensors")
    with pytest.raises(RuntimeError, match="There is no image 'x'"):
        bpy.ops.msd.generate(**options, image_prompt="x")
    assert bpy.ops.msd.generate(**options, image_prompt="style") == {"FINISHED"}
    (record,) = bpy.context.scene.msd_jobs
    assert record.request.image_prompt == picture_id(encode_image(bpy.data.images["style"]))
    settings.image_prompt = None
    bpy.ops.msd.again(start=False)
    assert settings.image_prompt == bpy.data.images["style"] and settings.ip_adapter == options["ip_adapter"]


def test_python_takes_an_image_or_a_file(addon: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: list[tuple[JobRequest, bytes]] = []

    class Sent(Exception):
        pass

    def keep(request: JobRequest, *_: Any, picture: bytes, **__: Any) -> None:
        sent.append((request, picture))
        raise Sent

    monkeypatch.setattr(api, "LiveJob", keep)
    monkeypatch.setattr(api, "connected_client", lambda *_: nullcontext())
    (tmp_path / "a.png").write_bytes(encode_image(painted()))
    for given in (bpy.data.images["style"], tmp_path / "a.png"):
        with pytest.raises(Sent):
            api.generate("a chair", image_prompt=given, ip_adapter="/a.safetensors")
    assert sent[0][1] == sent[1][1] == (tmp_path / "a.png").read_bytes()
    assert {request.image_prompt for request, _ in sent} == {picture_id(sent[0][1])}
    with pytest.raises(ProtocolError, match="none.png cannot be read"):
        api.generate("a chair", image_prompt=tmp_path / "none.png", ip_adapter="/a.safetensors")
