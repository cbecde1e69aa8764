# SPDX-License-Identifier: GPL-3.0-or-later
"""The client against servers that misbehave, on real sockets."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from msd_blender import client as module
from msd_blender.client import Client, ClientError
from msd_blender.local_server import find, find_or_start, start
from msd_blender.protocol import PROTOCOL_VERSION, JobRequest

ROOT = Path(__file__).parents[1]


@contextmanager
def answering(*answers):
    """The URL of a server that gives these raw answers, one a connection, the last again and again."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as sent:
                head = b"".join(iter(sent.readline, b"\r\n")).decode()
                length = re.search(r"Content-Length: (\d+)", head)
                sent.read(int(length[1]) if length else 0)  # what stays unread would reset the connection
                asked.append(head)
                connection.sendall(answers[min(len(asked), len(answers)) - 1])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def http(body, more="", status="200 OK"):
    return f"HTTP/1.1 {status}\r\n{more}\r\n".encode() + body


def test_a_file_that_arrives_in_part_is_not_taken_for_whole(tmp_path):
    path = tmp_path / "mesh.glb"
    path.write_text("earlier work")
    with answering(http(b"only this", "Content-Length: 1000\r\n")) as (url, _):
        with pytest.raises(ClientError, match="991 bytes are missing"):
            Client(url).download("x", "mesh.glb", path)
    assert path.read_text() == "earlier work" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_one_sentence(tmp_path):
    with answering(http(b"whole", "Content-Length: 5\r\n")) as (url, _):
        with pytest.raises(ClientError, match="could not be fetched"):
            Client(url).download("x", "mesh.glb", tmp_path / "missing" / "mesh.glb")


@pytest.mark.parametrize("protocol, side", [(PROTOCOL_VERSION - 1, "server"), (PROTOCOL_VERSION + 1, "extension")])
def test_the_older_side_is_named(protocol, side):
    with answering(http(json.dumps({"protocol": protocol}).encode())) as (url, _):
        with pytest.raises(ClientError, match=f"update the {side}"):
            Client(url).health()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"3", b"null", b"\xff", b'{"id": "x"}', b"[" * 100_000])
def test_another_program_on_the_port_is_one_sentence(body):
    with answering(http(body)) as (url, _):
        for ask in (lambda client: client.job("x"), lambda client: client.submit(JobRequest("x"))):
            with pytest.raises(ClientError, match="no msd_blender server"):
                ask(Client(url))


@pytest.mark.parametrize("body", [b"event: job\ndata: {\n\n", b"\xff\xfe\n\n", b"id: x\nevent: log\ndata: {}\n\n"])
def test_events_that_cannot_be_read_are_one_sentence(body):
    with answering(http(body)) as (url, _), pytest.raises(ClientError, match="no stream of events"):
        list(Client(url).events("x"))


def test_a_stream_of_events_that_breaks_is_taken_up_where_it_was():
    first = b'id: 4\nevent: log\ndata: {"message": "a"}\n\nid: 5\nevent: log\ndata: {"mess'
    ended = {"id": "x", "state": "finished", "request": {"prompt": "p"}}
    second = (
        b'id: 5\nevent: log\ndata: {"message": "b"}\n\n: still here\n\n'
        + f"id: 6\nevent: job\ndata: {json.dumps(ended)}\n\n".encode()
    )
    with answering(http(first), http(second)) as (url, asked):
        *logs, job = Client(url).events("x", after=3)
    assert [log.message for log in logs] == ["a", "b"] and job.ended
    assert ["Last-Event-ID: 3" in asked[0], "Last-Event-ID: 4" in asked[1]] == [True, True]


def test_a_stream_that_never_comes_back_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "MAX_RECONNECTS", 1)
    with answering(http(b"")) as (url, asked), pytest.raises(ClientError, match="was lost"):
        list(Client(url).events("x"))
    assert len(asked) == 2


def test_snapshots_that_break_off_are_one_sentence():
    chunk = b"8\r\n\xff\x00\x00\x00\x00\x00\x00\x00\r\n"
    for body in (chunk, chunk + b"0\r\n\r\n", b"8\r\n\xff\xff\xff\xff\xff\xff\xff\xff\r\n0\r\n\r\n"):
        with answering(http(body, "Transfer-Encoding: chunked\r\n")) as (url, _):
            with pytest.raises(ClientError, match="broke"):
                list(Client(url).snapshots("x"))


@pytest.mark.parametrize("read", ["events", "snapshots"])
def test_close_ends_a_thread_that_waits(server, tiny, read):
    other = server.client()
    job = other.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 2000}))  # a snapshot every 50
    try:
        client = server.client()
        news = getattr(client, read)(job.id)
        next(news)
        thread = threading.Thread(target=lambda: list(news))
        thread.start()
        time.sleep(0.2)
        assert thread.is_alive()
        client.close()
        thread.join(30)
        assert not thread.is_alive()
        with pytest.raises(ClientError, match="closed"):
            client.job(job.id)
    finally:
        other.cancel(job.id)


def test_a_server_file_that_names_another_process_is_not_believed(server, tmp_path):
    known = json.loads((server.data / "server.json").read_text())
    (tmp_path / "server.json").write_text(json.dumps(known))
    assert find(tmp_path) is not None
    (tmp_path / "server.json").write_text(json.dumps({**known, "pid": known["pid"] + 1}))
    assert find(tmp_path) is None
    for damage in ("", "[]", "{}", '{"url": 3, "token": "", "pid": 1}'):
        (tmp_path / "server.json").write_text(damage)
        assert find(tmp_path) is None


def test_a_server_that_runs_is_taken_and_not_stopped(server):
    for found in (find_or_start(server.data), start(server.data)):  # the second loses the race for the folder
        assert (found.url, found.process) == (server.url, None)
        found.stop()
    assert server.client().health().pid == server.process.pid


@pytest.mark.process
def test_a_server_that_cannot_start_is_quoted(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(ClientError, match="did not start: The jobs in .* move that file away"):
        start(tmp_path)


@pytest.mark.process
def test_the_server_ends_with_a_parent_that_is_killed(tmp_path):
    code = (
        "import sys, time, pathlib; from msd_blender.local_server import start\n"
        "print(start(pathlib.Path(sys.argv[1])).process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    server = psutil.Process(int(parent.stdout.readline()))
    both = [server, *server.children()]
    parent.kill()  # and nobody reaps it yet
    _, alive = psutil.wait_procs(both, timeout=60)
    parent.communicate()
    assert not alive and not (tmp_path / "server.json").exists()
    assert "Traceback" not in (tmp_path / "server.log").read_text()
