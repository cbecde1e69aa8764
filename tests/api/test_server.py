# SPDX-License-Identifier: GPL-3.0-or-later
"""The server as its clients meet it: a real process, a real socket, real jobs."""

import http.client
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from safetensors.numpy import load_file, save_file

from msd_blender.client import Client, ClientError
from msd_blender.local_server import find, start
from msd_blender.protocol import FAILED, FILES, FINISHED, PAUSED, QUEUED, RUNNING, Job, JobRequest, Progress
from server.api.auth import Guard

ROOT = Path(__file__).parents[2]


def follow(client, job):
    return list(client.events(job.id))


def until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def raw(server, method="GET", path="/v1/health", headers=None, body=None):
    """(status, body) of a request whose headers are given to the letter."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    connection.putrequest(method, path, skip_host="Host" in (headers or {}))
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_same_key_is_the_same_job(server, tiny):
    client = server.client()
    request = JobRequest("a blue chair", client_key="once", **tiny)
    first = client.submit(request)
    assert client.submit(request).id == first.id
    follow(client, first)
    assert client.submit(request).state == FINISHED
    assert [job.id for job in client.jobs()].count(first.id) == 1


@pytest.mark.parametrize(
    "changes, words",
    [({"prompt": ""}, "empty"), ({"prompt": "x" * 10_000}, "shorten"), ({"guidance": "dream"}, "msd, sds")],
)
def test_bad_requests_are_refused_in_a_sentence(server, changes, words):
    with pytest.raises(ClientError, match=words):
        server.client().submit(JobRequest(**{"prompt": "x", **changes}))


def test_a_model_that_cannot_be_loaded_fails_the_job_in_a_sentence(server, save_pipeline, tmp_path):
    weights = save_pipeline(tmp_path / "model") / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors.popitem()
    save_file(tensors, weights, {"format": "pt"})
    client = server.client()
    last = follow(client, client.submit(JobRequest("a red mushroom", model=str(tmp_path / "model"))))[-1]
    assert last.state == FAILED
    assert re.search("lacks 1 of the .* weights", last.error) and "Traceback" not in last.error


def test_unknown_things_are_not_found(server):
    client = server.client()
    for ask in (
        lambda: client.job("x"),
        lambda: client.cancel("x"),
        lambda: list(client.events("x")),
        lambda: list(client.snapshots("x")),
    ):
        with pytest.raises(ClientError, match="no job"):
            ask()
    job = client.jobs()[0]
    assert raw(server, path=f"/v1/jobs/{job.id}/files/..%2f..%2fjobs.sqlite")[0] == 404


def test_other_sites_and_large_bodies_are_refused(server):
    assert raw(server)[0] == 200
    assert raw(server, headers={"Host": "evil.example"})[0] == 403
    assert raw(server, headers={"Origin": "http://evil.example"})[0] == 403
    assert raw(server, "POST", "/v1/jobs", {"Content-Length": "10000000000"})[0] == 413
    assert (
        raw(server, "POST", "/v1/jobs", {"Content-Length": "3", "Content-Type": "application/json"}, b"[1]")[0] == 422
    )


@pytest.mark.parametrize("given, status", [("", 401), ("Bearer wrong", 401), ("Bearer secret", 0)])
def test_the_token_is_asked_for_where_others_can_reach_the_server(given, status):
    assert Guard(None, "0.0.0.0", "secret")._refusal({"authorization": given})[0] == status


@pytest.mark.parametrize("paused_first", [False, True])
def test_a_job_that_is_asked_to_finish_grows_no_more_and_is_finished(server, tiny, paused_first):
    client = server.client()
    job = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 3000}))
    events = client.events(job.id)
    next(message for message in events if isinstance(message, Progress) and message.iteration > 2)
    other = client.submit(JobRequest("a blue chair", **{**tiny, "iterations": 3000}))
    seen = client.job(other.id)
    assert (seen.place, seen.waits_for) == (1, "Another job runs.")
    assert {each.id for each in client.jobs(active=True)} >= {job.id, other.id}
    with pytest.raises(ClientError, match="not begun"):
        client.finish(other.id)
    if paused_first:
        client.pause(job.id)
        next(message for message in events if isinstance(message, Job) and message.state == PAUSED)
        client.cancel(other.id)  # which has taken its place
    assert client.finish(job.id).finishing
    rest = list(events)
    last = [message for message in rest if isinstance(message, Progress)][-1]
    assert rest[-1].state == FINISHED and rest[-1].files == list(FILES) and rest[-1].finishing
    assert 0 < last.iteration == last.iterations < 3000
    assert job.id not in {each.id for each in client.jobs(active=True)}
    client.cancel(other.id)
    with pytest.raises(ClientError, match="finished"):
        client.finish(job.id)


def test_what_is_known_of_a_job_before_it_is_submitted(server, tiny):
    client = server.client()
    told = client.forecast(JobRequest("a red dragon", mode="texture"))
    assert (told.unknown, told.warnings, told.seconds) == (["dragon"], [], None)
    request = JobRequest("a red 椅子 on a hill (very [green:blue])", **{**tiny, "iterations": 5})
    told = client.forecast(request)
    assert told.unknown == ["椅", "子"] and len(told.warnings) == 1 and "[green:blue]" in told.warnings[0]
    assert told.seconds is None
    job = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 5}))
    last = [message for message in client.events(job.id) if isinstance(message, Progress)][-1]
    assert client.forecast(request).seconds == last.elapsed
    told = client.forecast(
        JobRequest("a red dragon", mode="texture", cameras=["0,0:a blue unicorn", "9,9:a dragon <lora:x>"])
    )
    assert told.unknown == ["dragon", "unicorn"] and told.warnings == [
        "<lora:x> in a camera's prompt loads nothing: write it in the job's prompt."
    ]
    with pytest.raises(ClientError, match="no-model"):
        client.forecast(JobRequest("a chair", model="/no-model"))


def test_a_server_that_is_killed_takes_its_worker_along_and_the_next_one_finishes_its_job(start_server, tiny, tmp_path):
    server = start_server(tmp_path)
    client = server.client()
    job = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 30}))
    events = client.events(job.id)
    next(message for message in events if isinstance(message, Progress))
    worker = psutil.Process(server.worker())
    server.process.kill()
    with pytest.raises(ClientError, match="lost"):
        list(events)
    worker.wait(60)
    server.process.wait()
    (tmp_path / "server.json").unlink()
    again = list(start_server(tmp_path).client().events(job.id))
    assert [message.state for message in again if isinstance(message, Job)] == [
        QUEUED,
        RUNNING,
        QUEUED,
        RUNNING,
        FINISHED,
    ]


def test_the_server_ends_within_two_seconds_also_with_a_job_and_readers(start_server, tiny, tmp_path, two_seconds):
    server = start_server(tmp_path)
    client = server.client()
    job = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 100_000}))
    until(lambda: client.job(job.id).state == RUNNING)
    events = client.events(job.id)
    next(events)
    worker = psutil.Process(server.worker())
    asked = time.monotonic()
    server.stop()
    assert time.monotonic() - asked < two_seconds
    worker.wait(two_seconds)
    assert not (tmp_path / "server.json").exists()
    client.close()


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "server", *map(str, arguments)], cwd=ROOT, text=True, capture_output=True
    )


def test_what_cannot_be_served_ends_in_a_sentence(server, tmp_path):
    port = urlsplit(server.url).port
    (tmp_path / "file").write_text("")
    for arguments, words in [
        (["--port", port, "--data", tmp_path], "choose another --port"),
        (["--port", 0, "--data", server.data], "Another server"),
        (["--port", 99999, "--data", tmp_path], "0 to 65535"),
        (["--port", 0, "--data", tmp_path / "file"], "cannot be written"),
    ]:
        ended = run("serve", *arguments)
        assert ended.returncode == 1 and words in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.slow
def test_generate_without_blender(tiny, tmp_path):
    arguments = ["--output", tmp_path / "out", "--model", tiny["model"], "--iterations", 2]
    ended = run("generate", "a red mushroom", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    for prompt, more, words in [("", [], "empty"), ("x", ["--output", tiny["model"] + "/model_index.json"], "written")]:
        ended = run("generate", prompt, *arguments, *more)
        assert ended.returncode == 1 and words in ended.stderr and "Traceback" not in ended.stderr


def test_a_local_server_is_started_found_and_stopped(tmp_path):
    server = start(tmp_path)
    try:
        found = find(tmp_path)
        assert found is not None and found.url == server.url
        assert (tmp_path / "server.json").stat().st_mode & 0o777 == 0o600
    finally:
        server.stop()
    assert find(tmp_path) is None


def test_starting_in_vain_repeats_the_servers_own_words(tmp_path):
    with pytest.raises(ClientError, match="There is no server"):
        start(tmp_path / "data", folder=tmp_path)
    with pytest.raises(ClientError, match="cannot be started"):
        start(tmp_path / "data", python=str(tmp_path / "python"))


def test_nobody_there():
    with pytest.raises(ClientError, match="No server answers"):
        Client("http://127.0.0.1:9", timeout=2).health()
    with pytest.raises(ClientError, match="address"):
        Client("ftp://x")
