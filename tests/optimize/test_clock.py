# SPDX-License-Identifier: GPL-3.0-or-later
"""Time is booked where the device spends it, though the host is ahead of it."""

import time

import pytest
import torch

from server.optimize.clock import Clock


class Stream:
    """A device that works through what it is given, while the host goes on at once."""

    def __init__(self):
        self.host = self.free = self.now = 0.0

    def work(self, seconds):
        self.free = max(self.free, self.host) + seconds

    def wait(self):
        self.host = self.now = max(self.host, self.free)

    def mark(self):
        return StreamMark(self, max(self.free, self.host))


class StreamMark:
    def __init__(self, stream, time):
        self.stream, self.time = stream, time

    def query(self):
        return self.stream.now >= self.time

    def synchronize(self):
        self.stream.now = max(self.stream.now, self.time)

    def elapsed_time(self, end):
        return 1000 * (end.time - self.time)


def test_a_networks_work_is_not_booked_under_what_waits_for_it():
    stream = Stream()
    clock = Clock(stream.mark)
    for i in range(3):
        with clock("denoiser"):
            stream.work(2.0)
        # The newest work has not been waited for, and asking does not wait.
        assert clock.seconds == pytest.approx({"denoiser": 2.0 * i, "snapshot": 0.6 * i} if i else {})
        with clock("snapshot"):
            stream.work(0.1)
            stream.wait()
            stream.host += 0.5  # of the host alone: the stream stands still
            stream.now = stream.host
    assert clock.seconds == pytest.approx({"denoiser": 6.0, "snapshot": 1.8})


def test_what_is_pending_counts_once_it_has_settled():
    stream = Stream()
    clock = Clock(stream.mark)
    with clock("encode"):
        stream.work(3.0)
    assert clock.seconds["encode"] == 0
    clock.synchronize()
    assert clock.seconds["encode"] == pytest.approx(3.0)
    assert clock.seconds["encode"] == pytest.approx(3.0)


def test_the_hosts_own_work_counts_at_once_and_what_was_spent_before_too():
    clock = Clock.of(torch.device("cpu"))
    clock.resume({"load": 5.0}, 7.0)
    with clock("load"):
        time.sleep(0.01)
    assert 5.01 <= clock.seconds["load"] < 6 and clock.elapsed >= 7.01 and clock.seconds["other"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_cards_work_is_booked_where_it_was_asked():
    clock = Clock.of(torch.device("cuda"))
    x = torch.randn(4096, 4096, device="cuda")
    with clock("work"):
        for _ in range(50):
            x = x @ x / 64
    with clock("read"):
        float(x.sum())
    clock.synchronize()
    assert clock.seconds["work"] > 10 * clock.seconds["read"]
