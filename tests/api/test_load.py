# SPDX-License-Identifier: GPL-3.0-or-later
"""Readers of one job, some of them stalled, and jobs behind it: fifty and five hundred with `make long`, which alone
watches the memory too. `make bench` measures the speed.
"""

import socket
import threading
from urllib.parse import urlsplit

import psutil
import pytest

from msd_blender.protocol import CANCELLED, FINISHED, JobRequest, Progress

GROWTH = 128 << 20  # bytes that the server may have more: a frame or two for each reader


@pytest.mark.long
def test_many_readers_of_which_some_stall_and_many_jobs(start_server, tiny, tmp_path, request):
    long = request.config.getoption("--long")
    reading, stalling, jobs, iterations = (20, 10, 500, 300) if long else (2, 2, 10, 12)
    server = start_server(tmp_path)
    client = server.client()
    job = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": iterations}))
    next(message for message in client.events(job.id) if isinstance(message, Progress))
    before = psutil.Process(server.process.pid).memory_info().rss
    waiting = [client.submit(JobRequest("a blue chair", **tiny)) for _ in range(jobs)]
    parts = urlsplit(server.url)
    stalled = []
    for i in range(stalling):
        stalled.append(socket.create_connection((parts.hostname, parts.port)))
        stalled[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled[-1].sendall(
            f"GET /v1/jobs/{job.id}/{('events', 'snapshots')[i % 2]} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
        )
    ends = {}
    readers = [
        threading.Thread(target=lambda i=i: ends.update({i: list(client.events(job.id))[-1].state}))
        for i in range(reading)
    ]
    readers += [
        threading.Thread(target=lambda i=i: ends.update({i: list(client.snapshots(job.id))[-1].iteration}))
        for i in range(reading, 2 * reading)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()  # the suite's own limit ends a reader that hangs
    assert [ends[i] for i in range(2 * reading)] == [FINISHED] * reading + [iterations] * reading
    if long:
        assert psutil.Process(server.process.pid).memory_info().rss < before + GROWTH
    assert len(client.jobs()) == jobs + 1
    assert client.cancel(waiting[-1].id).state == CANCELLED
    for connection in stalled:
        connection.close()
    server.stop()  # with all the jobs that wait
