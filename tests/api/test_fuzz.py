# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole OpenAPI document, and bytes that are no HTTP at all, thrown at a real server.

A few of each here, many with `make long`; damaged frames are in test_protocol.
"""

import random
import socket
from urllib.parse import urlsplit

import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from msd_blender.protocol import FILES, FINISHED, JobRequest
from server.api.app import create_app

pytestmark = pytest.mark.long

OPERATIONS = [found.ok() for found in schemathesis.openapi.from_dict(create_app(None).openapi()).get_all_operations()]
GROWTH = 64 << 20  # bytes that the server may have more at the end


@pytest.fixture(scope="module")
def fuzzed(start_lasting_server, tiny, tmp_path_factory):
    """(a server of its own, the id of a finished job there, its memory before)."""
    server = start_lasting_server(tmp_path_factory.mktemp("fuzzed"))
    client = server.client()
    job = client.submit(JobRequest("a red mushroom", **tiny))
    assert list(client.events(job.id))[-1].state == FINISHED
    yield server, job.id, psutil.Process(server.process.pid).memory_info().rss
    server.stop()  # with all the jobs that it was given


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_every_operation_answers_as_documented(fuzzed, operation, request):
    server, job, _ = fuzzed
    there = {"id": job, "name": FILES[0]}
    rng = random.Random(0)

    @settings(
        max_examples=2000 if request.config.getoption("--long") else 50,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy())
    def check(case):
        if rng.random() < 0.5:  # a job and a file that are there
            case.path_parameters |= {name: there[name] for name in case.path_parameters}
        # A schema cannot say what a frame or a picture is.
        excluded = [positive_data_acceptance] if operation.path in ("/v1/meshes", "/v1/pictures") else None
        case.call_and_validate(base_url=server.url, timeout=20, excluded_checks=excluded)

    check()


def test_bytes_that_are_no_http_do_no_harm(fuzzed, request):
    server, job, _ = fuzzed
    parts = urlsplit(server.url)
    rng = random.Random(0)
    whole = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        'Connection: close\r\nContent-Length: 22\r\n\r\n{"prompt": "", "seed": 1}'
    ).encode()
    for _ in range(20_000 if request.config.getoption("--long") else 200):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(damaged))
            damaged[at : at + rng.randint(0, 8)] = rng.randbytes(rng.randint(0, 8))
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
            connection.sendall(damaged)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while part := connection.recv(1 << 16):
                    answer += part
            except ConnectionResetError:
                pass  # it closed before it had read all
        assert not answer.startswith(b"HTTP/1.1 5"), (bytes(damaged), answer)


def test_the_server_is_well_afterwards(fuzzed):
    server, job, before = fuzzed
    assert server.client().job(job).state == FINISHED
    assert psutil.Process(server.process.pid).memory_info().rss < before + GROWTH
    said = server.said()  # a refused job's traceback is within its line
    assert "level=error" not in said and "\nTraceback" not in said, said
