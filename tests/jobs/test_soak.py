# SPDX-License-Identifier: GPL-3.0-or-later
"""Short jobs one after another leave nothing behind in the processes: a few here, 300 with `make long`."""

import time

import psutil

from msd_blender.protocol import FINISHED, JobRequest


def held(server):
    """For the server and its worker: (file descriptors, threads, bytes of memory)."""
    processes = [psutil.Process(pid) for pid in (server.process.pid, server.worker())]
    return [(process.num_fds(), process.num_threads(), process.memory_info().rss) for process in processes]


def test_many_jobs_leave_nothing_behind(start_server, tiny, tmp_path, request, capsys):
    settled, count = (20, 300) if request.config.getoption("--long") else (10, 14)      # a few snapshots are kept
    server = start_server(tmp_path)
    client = server.client()
    before = None
    for i in range(1, count + 1):
        job = client.submit(JobRequest("a red mushroom", **tiny, seed=i))
        assert list(client.events(job.id))[-1].state == FINISHED
        if i == settled:
            before = held(server)
    deadline = time.monotonic() + 10
    while [each[:2] for each in held(server)] != [each[:2] for each in before]:
        assert time.monotonic() < deadline, (before, held(server))      # a stream's end may take a moment
        time.sleep(0.1)
    after = held(server)
    with capsys.disabled():
        print(f"\nafter {settled} and {count} jobs, (descriptors, threads, bytes) of server and worker:",
              before, after)
    assert all(now[2] <= 1.05 * then[2] for now, then in zip(after, before))
