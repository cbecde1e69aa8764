# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRAs through a real server and the command line: a job with one, and what is refused before it starts."""

import json
import shutil
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient

from msd_blender.client import ClientError
from msd_blender.protocol import FINISHED, Edit, JobRequest, Log
from server.api.app import create_app
from server.jobs.queue import Queue
from server.jobs.store import Store
from server.priors import load
from tests.priors.loras import make

SMALL = {"texture_size": 64, "target_faces": 100, "iterations": 4}


@pytest.fixture(scope="module")
def model(folders, tmp_path_factory):
    """A model with the LoRA "shiny" beside it."""
    place = tmp_path_factory.mktemp("disk") / "models"
    folder = shutil.copytree(folders["epsilon"], place / "checkpoints" / "sd")
    (place / "loras").mkdir()
    make(load(folder, "cpu"), place / "loras" / "shiny.safetensors", ranks=(4,), alphas=(8,))
    return folder


@pytest.fixture
def shiny(model):
    return model.parents[1] / "loras" / "shiny.safetensors"


def picture(client, request, tmp_path):
    job = client.submit(request)
    said = [message.message for message in client.events(job.id) if isinstance(message, Log)]
    assert client.job(job.id).state == FINISHED, client.job(job.id).error
    client.download(job.id, "texture.png", tmp_path / "texture.png")
    return (tmp_path / "texture.png").read_bytes(), said


def test_a_job_with_a_lora_differs_and_one_after_it_does_not(server, model, shiny, tmp_path):
    client = server.client()
    make_it = {"model": str(model), **SMALL}
    plain, said = picture(client, JobRequest("a red chair", **make_it), tmp_path)
    listed, _ = picture(client, JobRequest("a red chair", **make_it, loras=[f"{shiny}:0.7"]), tmp_path)
    tagged, said_of_tag = picture(client, JobRequest("a red chair <lora:shiny:0.7>", **make_it), tmp_path)
    again, _ = picture(client, JobRequest("a red chair", **make_it), tmp_path)
    assert plain == again != listed == tagged
    assert said == said_of_tag  # nothing is lost


def test_what_cannot_be_put_on_is_refused_at_submission(server, model, shiny, tmp_path):
    client = server.client()
    (tmp_path / "wrong.safetensors").write_bytes(shiny.read_bytes()[:-5])

    def refused(prompt="a red chair", **options):
        with pytest.raises(ClientError) as error:
            client.submit(JobRequest(prompt, **{"model": str(model), **options}))
        return str(error.value)

    before = len(client.jobs())
    assert "There is no LoRA /none.safetensors" in refused(loras=["/none.safetensors"])
    assert "is cut short" in refused(loras=[str(tmp_path / "wrong.safetensors")])
    assert "There is no LoRA 'dull': put dull.safetensors into" in refused("a red chair <lora:dull:0.8>")
    assert "weight 1000" in refused("<lora:shiny:1000>")
    assert len(client.jobs()) == before


def test_an_edits_tag_is_looked_for_too(server, model, tiny):
    client = server.client()
    job = client.submit(JobRequest("a red chair", model=str(model), **{**SMALL, "iterations": 2000}))
    with pytest.raises(ClientError, match="There is no LoRA 'dull'"):
        client.edit(job.id, Edit(prompt="a chair <lora:dull>"))
    assert client.edit(job.id, Edit(prompt="a chair <lora:shiny>")).request.prompt == "a chair <lora:shiny>"
    client.cancel(job.id)


def test_loras_lie_below_the_servers_folders(model, shiny, tmp_path):
    outside = shutil.copy(shiny, tmp_path / "outside.safetensors")
    (shiny.parent / "link.safetensors").unlink(missing_ok=True)
    (shiny.parent / "link.safetensors").symlink_to(outside)
    store = Store(tmp_path)
    with TestClient(create_app(Queue(store, []), models=[model.parents[1]]), base_url="http://127.0.0.1") as client:

        def status(prompt="a red chair", **options):
            body = {"prompt": prompt, "model": str(model), **options}
            return client.post("/v1/jobs", json=body).status_code

        assert status(loras=[str(shiny)]) == status("<lora:shiny:0.5>") == 201
        assert status(loras=[str(outside)]) == status(loras=["/none"]) == status("<lora:link>") == 403
    store.close()
    (shiny.parent / "link.safetensors").unlink()


@pytest.mark.process
def test_the_command_line_takes_loras(model, shiny, tmp_path):
    def run(*more):
        command = [sys.executable, "-m", "server", "generate", "a red chair", "--model", str(model)]
        options = [
            "--output",
            str(tmp_path / "out"),
            "--iterations",
            "2",
            "--texture-size",
            "64",
            "--target-faces",
            "100",
        ]
        return subprocess.run([*command, *options, *more], capture_output=True, text=True)

    refused = run("--lora", "none.safetensors")
    assert refused.returncode == 1 and "Error: There is no LoRA none.safetensors" in refused.stderr
    assert not (tmp_path / "out").exists()
    done = run("--lora", f"{shiny}:0.8", "--lora", f"{shiny}:-0.3")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "job.json").read_text())
    assert record["request"]["loras"] == [f"{shiny}:0.8", f"{shiny}:-0.3"]
