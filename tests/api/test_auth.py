# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom the server answers. Without a worker: nothing here runs a job."""

import pytest
from fastapi.testclient import TestClient

from server.api.app import create_app
from server.api.auth import MAX_BODY, is_loopback
from server.jobs.queue import Queue
from server.jobs.store import Store


@pytest.fixture
def ask(tmp_path):
    """(host that is bound, token) -> a client of the application."""
    store = Store(tmp_path)

    def make(host="127.0.0.1", token=""):
        return TestClient(create_app(Queue(store, []), host, token), "http://127.0.0.1", raise_server_exceptions=False)

    yield make
    store.close()


@pytest.mark.parametrize(
    "host, ours",
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("[::1]", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.168.0.9", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_loopback(host, ours):
    assert is_loopback(host) == ours


@pytest.mark.parametrize(
    "bound, named, status",
    [
        ("127.0.0.1", "127.0.0.1:8732", 200),
        ("127.0.0.1", "localhost:8732", 200),
        ("127.0.0.1", "[::1]:8732", 200),
        ("127.0.0.1", "evil.example", 403),
        ("127.0.0.1", "127.0.0.1.evil.example:8732", 403),
        ("127.0.0.1", "[::", 403),
        ("127.0.0.1", "", 403),
        ("127.0.0.1", "user@127.0.0.1@evil.example", 403),
        ("gpu-box", "GPU-Box:8732", 200),
        ("gpu-box", "evil.example", 403),
        ("0.0.0.0", "gpu-box:8732", 200),
    ],
)
def test_only_the_servers_own_name_is_answered(ask, bound, named, status):
    headers = {"Host": named, "Authorization": "Bearer secret"}
    answer = ask(bound, "" if is_loopback(bound) else "secret").get("/v1/health", headers=headers)
    assert answer.status_code == status
    assert status == 200 or isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize("given", [None, "", "secret", "Bearer ", "Bearer wrong", "bearer secret", "Bearer sécret"])
def test_every_path_needs_the_token(ask, given):
    client = ask("0.0.0.0", "secret")
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    for path in ("/v1/health", "/v1/jobs", "/openapi.json", "/docs"):
        assert client.get(path, headers=headers).status_code == 401
    assert client.get("/v1/health", headers={"Authorization": "Bearer secret"}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"3",
        b"\xff\xfe",
        b"{}",
        b'{"prompt": 3}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "model": "a\\u0000b"}',
        b'{"prompt": "x", "seed": 1.5}',
        b'{"prompt": "x", "guidance": []}',
        b'{"prompt": "x", "guidance_scale": NaN}',
    ],
)
def test_what_is_no_request_is_refused_in_a_sentence(ask, body):
    answer = ask().post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422 and isinstance(answer.json()["detail"], str)
    assert ask().get("/v1/jobs").json() == []


def test_a_large_body_is_refused_with_and_without_its_length(ask):
    assert ask().post("/v1/jobs", content=b" " * (MAX_BODY + 1)).status_code == 413
    assert ask().post("/v1/jobs", content=iter([b" " * 10])).status_code == 413


@pytest.mark.parametrize("number", ["x", "-1", "9" * 30])
def test_an_event_number_that_is_none_is_refused(ask, number):
    client = ask()
    job = client.post("/v1/jobs", json={"prompt": "a red mushroom"}).json()["id"]
    answer = client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": number})
    assert answer.status_code == 422 and isinstance(answer.json()["detail"], str)
