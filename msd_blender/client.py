# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP client: submit a job, read its events and snapshots, download its files. Needs no bpy.

`Client.events` reconnects a stream that breaks, with backoff. All other requests are made once: `job_session` decides
whether to retry them.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_origin
from urllib.parse import quote, urlsplit

import numpy as np

from .errors import ClientError
from .protocol import (
    PROTOCOL_VERSION,
    Edit,
    Forecast,
    Health,
    Job,
    JobRequest,
    Message,
    Model,
    Picture,
    ProtocolError,
    Snapshot,
    Upload,
    decode_event,
    encode_snapshot,
    from_dict,
    read_snapshot,
    to_dict,
)

MAX_RECONNECTS = 5  # of an event stream without any event between them
UPLOAD_TIMEOUT = 120.0  # seconds
MODELS_TIMEOUT = 60.0  # seconds
EVENT_TIMEOUT = 60.0  # seconds; the server sends keep-alive comments more often


class Client:
    """Requests to one server. Methods may be called from several threads; they raise `ClientError`.

    Args:
        url: such as http://127.0.0.1:8732.
        token: the server's token; a server on this machine may need none.
        timeout: seconds to wait for a connection and for an answer.
    """

    def __init__(self, url: str, token: str = "", timeout: float = 10):
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError(f"{url!r} is not a server's address: write it like http://127.0.0.1:8732.")
        self.url = url
        try:
            self._host, self._port = parts.hostname, parts.port
        except ValueError:
            raise ClientError(f"{url!r} has no valid port: write it like http://127.0.0.1:8732.") from None
        self._secure, self._token, self._timeout = parts.scheme == "https", token, timeout
        self._connections: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Abort all requests, also those that other threads wait for."""
        with self._lock:
            self._closed.set()
            connections = list(self._connections)
        for connection in connections:
            if connection.sock is not None:
                try:
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def health(self) -> Health:
        """The server's state. Raises `ClientError` also where its protocol has another version."""
        health = self._call(Health, "GET", "/v1/health")
        if health.protocol != PROTOCOL_VERSION:
            older = "server" if health.protocol < PROTOCOL_VERSION else "extension"
            raise ClientError(
                f"The server at {self.url} speaks protocol {health.protocol} and this extension "
                f"{PROTOCOL_VERSION}: update the {older}."
            )
        return health

    def models(self) -> list[Model]:
        """What the server's machine has, models first. The first call after new files came may take seconds."""
        return self._call(list[Model], "GET", "/v1/models", timeout=MODELS_TIMEOUT)

    def forecast(self, request: JobRequest) -> Forecast:
        """What is known of a job before it is submitted. The first call may take seconds."""
        return self._call(Forecast, "POST", "/v1/forecast", to_dict(request), timeout=MODELS_TIMEOUT)

    def submit(self, request: JobRequest) -> Job:
        return self._call(Job, "POST", "/v1/jobs", to_dict(request))

    def upload(self, arrays: dict[str, np.ndarray]) -> Upload:
        """Upload a mesh, `protocol.UPLOADED` arrays by name. Its id goes into `JobRequest.mesh` or `Edit.mesh`."""
        return self._call(Upload, "POST", "/v1/meshes", encode_snapshot(Snapshot(0, 0, arrays)), UPLOAD_TIMEOUT)

    def upload_picture(self, data: bytes) -> Picture:
        """Upload a PNG, JPEG or WebP file. Its id goes into `JobRequest.image_prompt`."""
        return self._call(Picture, "POST", "/v1/pictures", data, UPLOAD_TIMEOUT)

    def job(self, id: str) -> Job:
        return self._call(Job, "GET", f"/v1/jobs/{quote(id, '')}")

    def jobs(self, active: bool = False) -> list[Job]:
        """All jobs, newest first, or those that wait, run or are paused."""
        return self._call(list[Job], "GET", "/v1/jobs" + ("?active=true" if active else ""))

    def cancel(self, id: str) -> Job:
        return self._call(Job, "POST", f"/v1/jobs/{quote(id, '')}/cancel")

    def pause(self, id: str) -> Job:
        return self._call(Job, "POST", f"/v1/jobs/{quote(id, '')}/pause")

    def resume(self, id: str) -> Job:
        """Resume a job that is paused, or that failed and has a checkpoint."""
        return self._call(Job, "POST", f"/v1/jobs/{quote(id, '')}/resume")

    def finish(self, id: str) -> Job:
        """Let a job grow no more, and make its result of what is there."""
        return self._call(Job, "POST", f"/v1/jobs/{quote(id, '')}/finish")

    def edit(self, id: str, edit: Edit) -> Job:
        """Continue a queued, running or paused job from an artist's edit."""
        return self._call(Job, "POST", f"/v1/jobs/{quote(id, '')}/edit", to_dict(edit))

    def events(self, id: str, after: int = 0) -> Iterator[Message]:
        """A job's events after number `after`, to its end. A broken stream is reconnected at the last event, up to
        `MAX_RECONNECTS` times in a row, with backoff."""
        failures, ended = 0, False
        while True:
            try:
                for number, message in self._events(id, after):
                    failures, after = 0, number
                    if isinstance(message, Job):
                        ended = message.ended  # False again where a failed job was resumed
                    yield message
                problem = "the stream of events ended early"
            except (OSError, http.client.HTTPException) as error:
                problem = str(error) or type(error).__name__
            except ValueError as error:  # after a reconnection the same bytes would come again
                raise ClientError(f"What {self.url} sends is no stream of events: {error}") from None
            if ended:
                return
            failures += 1
            if failures > MAX_RECONNECTS:
                raise ClientError(f"The server at {self.url} was lost: {problem}.")
            if self._closed.wait(min(0.1 * 2**failures, 1.0)):
                return

    def _events(self, id: str, after: int) -> Iterator[tuple[int, Message]]:
        with self._request(
            "GET", f"/v1/jobs/{quote(id, '')}/events", headers={"Last-Event-ID": str(after)}, timeout=EVENT_TIMEOUT
        ) as answer:
            lines: list[str] = []
            for raw in answer:
                line = raw.decode().rstrip("\r\n")
                if line:
                    lines.append(line)
                    continue
                event = decode_event(lines)
                lines = []
                if event is not None:
                    yield event

    def snapshots(self, id: str) -> Iterator[Snapshot]:
        """A job's snapshots to its end, each with all arrays. A slow reader misses some and gets the newest."""
        snapshot: Snapshot | None = None
        try:
            # No timeout, because a queued job may wait long. The event stream notices a lost server.
            with self._request("GET", f"/v1/jobs/{quote(id, '')}/snapshots", timeout=None) as answer:
                while (changes := read_snapshot(answer.read1)) is not None:
                    snapshot = changes.over(snapshot)
                    yield snapshot
        except (OSError, http.client.HTTPException, ProtocolError) as error:
            if not self._closed.is_set():
                raise ClientError(f"The stream of snapshots from {self.url} broke: {error}.") from None

    def download(self, id: str, name: str, path: str | os.PathLike[str]) -> None:
        """Download a job's file to `path`, which is replaced only once all bytes have arrived."""
        path = Path(path)
        part = path.with_name(f".{os.getpid()}-{threading.get_ident()}-{path.name}.part")
        try:
            with self._request("GET", f"/v1/jobs/{quote(id, '')}/files/{quote(name, '')}") as answer:
                missing = answer.length
                with open(part, "wb") as file:
                    while block := answer.read(1 << 20):
                        file.write(block)
                        missing = None if missing is None else missing - len(block)
            if missing:  # http.client reports a connection that broke as the end of the file
                raise OSError(f"{missing} bytes are missing")
            part.replace(path)
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(
                f"{name} could not be fetched from {self.url} to {path} ({str(error) or type(error).__name__})."
            ) from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def _call(self, kind: Any, method: str, path: str, body: Any = None, timeout: float = -1) -> Any:
        """The answer as a message of this kind, or as a list of messages."""
        try:
            with self._request(method, path, body, timeout=timeout) as answer:
                values = json.loads(answer.read())
            if get_origin(kind) is list:
                return [from_dict(get_args(kind)[0], each) for each in values]
            return from_dict(kind, values)
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(
                f"No server answers at {self.url} ({str(error) or type(error).__name__}): "
                "start it, or correct the address."
            ) from None
        except (ValueError, TypeError, RecursionError):
            raise ClientError(f"What answers at {self.url} is no msd_blender server.") from None

    def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float | None = -1,
    ) -> _Response:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout)
        raw = isinstance(body, bytes)
        sent = {"Content-Type": "application/octet-stream" if raw else "application/json", **(headers or {})}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        answer = _Response(connection, self._release)
        try:
            connection.connect()
            with self._lock:  # after connecting: `close` can only shut down a socket that is there
                if self._closed.is_set():
                    raise ClientError("The connection was closed.")
                self._connections.add(connection)
            if timeout is None or timeout > 0:
                connection.sock.settimeout(timeout)
            connection.request(method, path, body if raw or body is None else json.dumps(body), sent)
            response = connection.getresponse()
            if response.status >= 400:
                raise ClientError(_error_detail(response))
        except BaseException:
            answer.close()
            raise
        answer.response = response
        return answer

    def _release(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._connections.discard(connection)


class _Response:
    """A context for a response that closes its connection at the end."""

    response: http.client.HTTPResponse

    def __init__(self, connection: http.client.HTTPConnection, done: Any):
        self._connection, self._done = connection, done

    def __enter__(self) -> http.client.HTTPResponse:
        return self.response

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()
        self._done(self._connection)


def _error_detail(response: http.client.HTTPResponse) -> str:
    try:
        detail = json.loads(response.read())["detail"]
    except (ValueError, KeyError, TypeError):
        detail = None
    return detail if isinstance(detail, str) else f"The server refused ({response.status} {response.reason})."
