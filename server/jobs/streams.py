# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams of events and snapshots: any number of readers of a job, each at its own pace."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator

from msd_blender.protocol import FINAL_STATES, Job, Message, Snapshot, encode_event, encode_snapshot

from .store import Store

log = logging.getLogger(__name__)

KEPT_SNAPSHOTS = 8  # ended jobs whose last snapshot stays in memory
KEEP_ALIVE_SECONDS = 15.0  # between comments on a silent event stream


class Channel:
    """The newest snapshot of one job, and the readers that wait for news of it."""

    def __init__(self, number: int) -> None:
        self.number = number  # of its newest event
        self.snapshot: Snapshot | None = None
        self.ended = False
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()

    def notify(self) -> None:
        with self._lock:
            for loop, event in self._waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    def subscribe(self) -> asyncio.Event:
        event = asyncio.Event()
        with self._lock:
            self._waiting.add((asyncio.get_running_loop(), event))
        return event

    def unsubscribe(self, event: asyncio.Event) -> None:
        with self._lock:
            self._waiting = {pair for pair in self._waiting if pair[1] is not event}

    @property
    def readers(self) -> int:
        return len(self._waiting)


class Streams:
    """The channels of a store's jobs. Threads publish, asyncio tasks read."""

    def __init__(self, store: Store):
        self._store = store
        self._channels: OrderedDict[str, Channel] = OrderedDict()
        self._lock = threading.RLock()
        self._closed = False
        self.events_sent = self.snapshots_sent = 0  # since the server started

    @property
    def readers(self) -> int:
        """The number of open streams."""
        with self._lock:
            return sum(channel.readers for channel in self._channels.values())

    def publish(self, job: str, message: Message) -> None:
        """Add an event to a job's journal. The `Job` of a final state ends its streams."""
        with self._lock:
            channel = self._channel(job)
            self.events_sent += 1
            try:
                self._store.add_event(job, channel.number + 1, encode_event(channel.number + 1, message))
                channel.number += 1
            except sqlite3.OperationalError as error:  # a full disk must not end the job that may free some of it
                log.error("An event of job %s was lost: %s", job, error)
            if isinstance(message, Job) and message.ended:
                channel.ended = True
        channel.notify()

    def show(self, job: str, snapshot: Snapshot) -> None:
        """Make this the newest snapshot of a job."""
        channel = self._channel(job)
        channel.snapshot = snapshot
        self.snapshots_sent += 1
        channel.notify()

    def newest_snapshot(self, job: str) -> Snapshot | None:
        return self._channel(job).snapshot

    def reopen(self, job: str) -> None:
        """Let the streams of an ended job go on."""
        self._channel(job).ended = False

    def close(self) -> None:
        """End every stream once its reader has all that was published."""
        self._closed = True
        with self._lock:
            channels = list(self._channels.values())
        for channel in channels:
            channel.notify()

    async def events(self, job: str, after: int) -> AsyncIterator[bytes]:
        """The journal's events after a number, then new ones as they come, to the end of the job."""
        channel = self._channel(job)
        news = channel.subscribe()
        try:
            while True:
                news.clear()
                # Read in this order: an event that is published before `ended` is then never missed.
                ended = channel.ended or self._closed
                while page := self._store.events(job, after):
                    for number, data in page:
                        after = number
                        yield data
                if ended:
                    return
                try:
                    await asyncio.wait_for(news.wait(), KEEP_ALIVE_SECONDS)
                except TimeoutError:
                    yield b": still here\n\n"
        finally:
            channel.unsubscribe(news)

    async def snapshots(self, job: str) -> AsyncIterator[bytes]:
        """Frames: first the whole newest snapshot, then the changes. A slow reader skips to the newest."""
        channel = self._channel(job)
        news = channel.subscribe()
        sent: Snapshot | None = None
        try:
            while True:
                news.clear()
                ended, newest = channel.ended or self._closed, channel.snapshot
                if newest is not None and newest is not sent:
                    yield encode_snapshot(newest.since(sent))
                    sent = newest
                elif ended:
                    return
                else:
                    await news.wait()
        finally:
            channel.unsubscribe(news)

    def _channel(self, job: str) -> Channel:
        with self._lock:
            channel = self._channels.get(job)
            if channel is None:
                channel = self._channels[job] = Channel(self._store.last_event(job))
                known = self._store.get(job)
                channel.ended = known is None or known.state in FINAL_STATES
                if channel.ended:
                    channel.snapshot = self._store.last_snapshot(job)
                for old in [name for name, each in self._channels.items() if each.ended][:-KEPT_SNAPSHOTS]:
                    del self._channels[old]
            return channel
