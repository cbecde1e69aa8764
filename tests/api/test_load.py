# SPDX-License-Identifier: GPL-3.0-or-later
"""Fifty readers of one job, ten of them stalled, and five hundred jobs behind it; `make bench` measures the speed."""

import socket
import threading
from urllib.parse import urlsplit

import psutil

from msd_blender.protocol import CANCELLED, FINISHED, JobRequest, Progress

GROWTH = 128 << 20                          # bytes that the server may have more: a frame or two for each reader


def test_many_readers_of_which_some_stall_and_many_jobs(start_server, tiny, tmp_path):
    server = start_server(tmp_path)
    client = server.client()
    job = client.submit(JobRequest("a red mushroom", **{**tiny, "iterations": 300}))
    next(message for message in client.events(job.id) if isinstance(message, Progress))
    before = psutil.Process(server.process.pid).memory_info().rss
    waiting = [client.submit(JobRequest("a blue chair", **tiny)) for _ in range(500)]
    parts = urlsplit(server.url)
    stalled = []
    for i in range(10):
        stalled.append(socket.create_connection((parts.hostname, parts.port)))
        stalled[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled[-1].sendall(f"GET /v1/jobs/{job.id}/{('events', 'snapshots')[i % 2]} HTTP/1.1\r\n"
                            f"Host: {parts.netloc}\r\n\r\n".encode())
    ends = {}
    readers = [threading.Thread(target=lambda i=i: ends.update({i: list(client.events(job.id))[-1].state}))
               for i in range(20)]
    readers += [threading.Thread(target=lambda i=i: ends.update({i: list(client.snapshots(job.id))[-1].iteration}))
                for i in range(20, 40)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(120)
    assert [ends[i] for i in range(40)] == [FINISHED] * 20 + [300] * 20
    assert psutil.Process(server.process.pid).memory_info().rss < before + GROWTH
    assert len(client.jobs()) == 501
    assert client.cancel(waiting[-1].id).state == CANCELLED
    for connection in stalled:
        connection.close()
    server.stop()                           # with all the jobs that wait
