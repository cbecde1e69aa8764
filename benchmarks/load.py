# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed of a running job with and without 50 readers (10 of them stalled) and 500 queued jobs, on a new server.

Turns alone and under load alternate, so that the ratios hold on any machine. The job uses OMP_NUM_THREADS cores; set it
to one fewer than the machine has, so that one is left for GET /v1/jobs.
"""

from __future__ import annotations

import http.client
import multiprocessing
import selectors
import socket
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

from msd_blender.client import Client
from msd_blender.local_server import LocalServer, start
from msd_blender.protocol import JobRequest, Progress

READERS, STALLED, QUEUED = 50, 10, 500
SECONDS = 30.0  # of each turn
TURNS = 3
ASKED = 200  # requests GET /v1/jobs in each measurement


def read(address: str, job: str, count: int, stalled: int, stop: object) -> None:
    """Open `count` streams, half for events and half for snapshots; never read from the first `stalled`."""
    parts = urlsplit(address)
    selector = selectors.DefaultSelector()
    streams = []
    for i in range(count):
        stream = socket.create_connection((parts.hostname, parts.port))
        kind = "snapshots" if i % 2 else "events"
        stream.sendall(f"GET /v1/jobs/{job}/{kind} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        streams.append(stream)
        if i >= stalled:
            selector.register(stream, selectors.EVENT_READ)
    while not stop.is_set():  # type: ignore[attr-defined]
        for key, _ in selector.select(0.2):
            if not key.fileobj.recv(1 << 20):  # type: ignore[union-attr]
                selector.unregister(key.fileobj)


class Speed(threading.Thread):
    """Follows a job's events; `over` measures its iterations per second by the job's own clock."""

    def __init__(self, client: Client, job: str):
        super().__init__(daemon=True)
        self.latest = Progress("", 0, 0, 0.0)
        self._events = client.events(job)
        self.start()

    def run(self) -> None:
        for message in self._events:
            if isinstance(message, Progress):
                self.latest = message

    def over(self, seconds: float) -> float:
        first = self.latest
        time.sleep(seconds)
        return (self.latest.iteration - first.iteration) / (self.latest.elapsed - first.elapsed)


def listing(address: str) -> float:
    """The 99th percentile of GET /v1/jobs, milliseconds."""
    taken = []
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    for _ in range(ASKED):
        begin = time.perf_counter()
        connection.request("GET", "/v1/jobs")
        connection.getresponse().read()
        taken.append(1000 * (time.perf_counter() - begin))
        time.sleep(0.02)
    return float(np.percentile(taken, 99))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = start(Path(folder))
        try:
            measure(server)
        finally:
            server.stop()


def measure(server: LocalServer) -> None:
    client = Client(server.url, server.token)
    process = psutil.Process(server.pid)
    job = client.submit(JobRequest("a red mushroom", iterations=100_000)).id
    speed = Speed(client, job)
    while speed.latest.iteration < 50:
        time.sleep(0.1)
    before, queued = process.memory_info().rss, []
    alone, loaded, listed = [], [], []
    for _ in range(TURNS):
        alone.append(speed.over(SECONDS))
        if not queued:
            queued = [client.submit(JobRequest("a blue chair", seed=i)).id for i in range(QUEUED)]
        stop = multiprocessing.Event()
        readers = multiprocessing.Process(target=read, args=(server.url, job, READERS, STALLED, stop))
        readers.start()
        time.sleep(2)  # until every reader has received the past events
        loaded.append(speed.over(SECONDS))
        listed.append(listing(server.url))
        stop.set()
        readers.join()
    after = process.memory_info().rss
    for waiting in [*queued, job]:
        client.cancel(waiting)
    while client.health().worker == "busy":
        time.sleep(0.1)
    idle = listing(server.url)
    print(
        f"{psutil.cpu_count()} cores; {READERS} readers ({STALLED} stalled), {QUEUED} queued jobs, "
        f"{TURNS} turns of {SECONDS:g} s\n"
    )
    print("| | alone or idle | under load | ratio |\n|---|---|---|---|")
    for name, one, other in [
        ("iterations a second", np.mean(alone), np.mean(loaded)),
        (f"p99 of GET /v1/jobs with {QUEUED + 1} jobs, ms", idle, max(listed)),
        ("server's memory, MB", before / 1e6, after / 1e6),
    ]:
        print(f"| {name} | {one:.1f} | {other:.1f} | {other / one:.2f} |")
    print(f"\nturns, iterations a second: alone {np.round(alone, 2)}, under load {np.round(loaded, 2)}")


if __name__ == "__main__":
    main()
