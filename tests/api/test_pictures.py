# SPDX-License-Identifier: GPL-3.0-or-later
"""Image prompts through a real server and the command line: uploads, a job with one, and what is refused before."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from msd_blender.client import ClientError
from msd_blender.protocol import FINISHED, MAX_PICTURE, JobRequest, Log, ProtocolError, picture_id
from server.__main__ import FAILURE, main
from server.jobs.uploads import Pictures
from server.pictures import EDGE, decode
from server.priors import load
from tests.priors.test_ip_adapter import save_adapter, save_encoder

SMALL = {"texture_size": 64, "target_faces": 100, "iterations": 4}


def encoded(image, kind="PNG", **more):
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def noise(width=40, height=30):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def disk(folders, tmp_path_factory):
    """A model and an IP-Adapter with its encoder."""
    place = tmp_path_factory.mktemp("disk") / "models"
    folder = shutil.copytree(folders["epsilon"], place / "sd")
    save_encoder(place / "image_encoder")
    save_adapter(load(folder, "cpu").unet, place / "adapter.safetensors")
    return {"model": str(folder), "ip_adapter": str(place / "adapter.safetensors")}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_kept_under_its_hash(server, kind):
    data = encoded(noise(), kind)
    kept = server.client().upload_picture(data)
    assert (kept.id, kept.width, kept.height) == (picture_id(data), 40, 30)
    assert (server.data / "pictures" / f"{kept.id}.picture").read_bytes() == data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cannot be read"),
        (b"\x80\x04pickle", "cannot be read"),
        (encoded(noise(), "GIF"), "give a PNG, JPEG or WebP"),
        (encoded(noise())[:-200], "that is whole"),
        (encoded(noise(), "JPEG")[:-200], "that is whole"),
        (encoded(Image.new("1", (8192, 4097))), "more than 32 million pixels"),
        (encoded(Image.new("1", (20_000, 20_000))), "more than 32 million pixels"),
    ],
    ids=["empty", "pickle", "GIF", "cut PNG", "cut JPEG", "large", "bomb"],
)
def test_what_is_no_picture_is_refused_and_leaves_nothing(server, data, says):
    before = sorted((server.data / "pictures").glob("*"))
    with pytest.raises(ClientError, match=says):
        server.client().upload_picture(data)
    assert sorted((server.data / "pictures").glob("*")) == before


def test_a_file_that_is_too_large_is_refused():
    with pytest.raises(ProtocolError, match="at most 32 MB"):
        picture_id(bytes(MAX_PICTURE + 1))


def test_pictures_of_every_kind_are_decoded():
    grey = np.full((4, 6), 30_000, np.uint16)  # of 65,535
    assert decode(encoded(Image.fromarray(grey))).getpixel((0, 0)) == pytest.approx((117, 117, 117), abs=1)
    clear = Image.new("RGBA", (4, 6), (255, 0, 0, 0))
    assert decode(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)
    assert (
        decode(encoded(Image.new("P", (4, 6)))).mode == decode(encoded(Image.new("CMYK", (4, 6)), "JPEG")).mode == "RGB"
    )
    assert decode(encoded(Image.new("RGB", (2 * EDGE, EDGE)))).size == (EDGE, EDGE // 2)
    turned = Image.Exif()
    turned[0x0112] = 6  # held upright
    assert decode(encoded(noise(), "JPEG", exif=turned)).size == (30, 40)


def test_a_job_with_a_picture_differs(server, disk, tmp_path):
    client = server.client()

    def made(**options):
        job = client.submit(JobRequest("a red chair", **SMALL, **options))
        said = [message.message for message in client.events(job.id) if isinstance(message, Log)]
        assert client.job(job.id).state == FINISHED, client.job(job.id).error
        client.download(job.id, "texture.png", tmp_path / "texture.png")
        return (tmp_path / "texture.png").read_bytes(), said

    unused, said = made(**disk)
    shown, _ = made(**disk, image_prompt=client.upload_picture(encoded(noise())).id)
    assert unused != shown
    assert "The IP-Adapter gets no picture: choose an image prompt." in said


def test_what_cannot_be_used_is_refused_at_submission(server, disk):
    client = server.client()
    id = client.upload_picture(encoded(noise())).id

    def refused(**options):
        with pytest.raises(ClientError) as error:
            client.submit(JobRequest("a red chair", **options))
        return str(error.value)

    before = len(client.jobs())
    assert "needs an IP-Adapter" in refused(model=disk["model"], image_prompt=id)
    assert "There is no IP-Adapter /none" in refused(**{**disk, "ip_adapter": "/none"}, image_prompt=id)
    assert "this picture (any more): upload it first" in refused(**disk, image_prompt="a" * 64)
    assert "this picture (any more): upload it first" in refused(**disk, image_prompt="../../etc/passwd")
    assert len(client.jobs()) == before


def test_an_encoder_outside_of_the_servers_models_is_not_opened(tmp_path, disk):
    from fastapi.testclient import TestClient

    from server.api.app import create_app
    from server.jobs.queue import Queue
    from server.jobs.store import Store

    inside = tmp_path / "models" / "adapters"
    inside.mkdir(parents=True)
    shutil.copytree(disk["model"], inside / "sd")
    file = shutil.copy(disk["ip_adapter"], inside)
    store = Store(tmp_path)
    with TestClient(create_app(Queue(store, []), models=[inside]), base_url="http://127.0.0.1") as client:
        id = client.post("/v1/pictures", content=encoded(noise())).json()["id"]
        wanted = {"prompt": "a chair", "model": str(inside / "sd"), "ip_adapter": file, "image_prompt": id}
        save_encoder(inside.parent / "image_encoder")
        assert client.post("/v1/jobs", json=wanted).status_code == 403
        shutil.move(inside.parent / "image_encoder", inside / "image_encoder")
        assert client.post("/v1/jobs", json=wanted).status_code == 201
    assert store.uploads_in_use() == {id}
    assert Pictures(tmp_path / "pictures").find(id).is_file()
    store.close()


def test_the_command_line_takes_a_file(disk, tmp_path, capsys):
    (tmp_path / "a.webp").write_bytes(encoded(noise(), "WEBP"))
    command = ["generate", "a red chair", "--output", str(tmp_path / "out"), "--iterations", "2"]
    command += ["--model", disk["model"], "--image-prompt"]
    adapter = ["--ip-adapter", disk["ip_adapter"]]
    whole = [sys.executable, "-m", "server", *command, str(tmp_path / "a.webp"), *adapter]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    request = json.loads((tmp_path / "out" / "job.json").read_text())["request"]
    assert request["image_prompt"] == picture_id((tmp_path / "a.webp").read_bytes())

    def refused(*arguments):
        assert main([*command, *arguments]) == FAILURE
        return capsys.readouterr().err

    (tmp_path / "b.png").write_bytes(b"x")
    assert "needs an IP-Adapter" in refused(str(tmp_path / "a.webp"))
    assert "Error: The picture cannot be read" in refused(str(tmp_path / "b.png"), *adapter)
    assert "none.png cannot be read (No such file" in refused(str(tmp_path / "none.png"), *adapter)
