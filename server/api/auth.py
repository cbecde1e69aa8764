# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard before all routes: which requests the server answers, by host, token, size and pace."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from msd_blender.protocol import MAX_PICTURE, MAX_UPLOAD

from ..priors.files.places import locate

MAX_BODY = 1 << 16  # bytes of any request but
UPLOADS = {("POST", "/v1/meshes"): MAX_UPLOAD, ("POST", "/v1/pictures"): MAX_PICTURE}
BODY_SECONDS = 10.0  # for a request's body to arrive
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' "
        b"data: blob:; connect-src 'self'; form-action 'none'; base-uri 'none'",
    ),
]
PUBLIC = ("/", "/page.js", "/page.css")  # the page itself is no secret: it asks for the token


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def hostname(authority: str) -> str:
    """The host of ``host:port`` or of an origin; "" where there is none."""
    try:
        return urlsplit(authority if "//" in authority else f"//{authority}").hostname or ""
    except ValueError:
        return ""


class RateLimit:
    """At most `count` events in `seconds` for each of the addresses seen lately."""

    def __init__(self, count: int, seconds: float = 60.0):
        self.count, self.seconds = count, seconds
        self._times: dict[str, deque[float]] = {}

    def allows(self, address: str) -> bool:
        """Whether one more is allowed now, which then counts."""
        now = time.monotonic()
        for known in [name for name, times in self._times.items() if times[-1] < now - self.seconds]:
            del self._times[known]
        times = self._times.setdefault(address, deque(maxlen=self.count))
        if len(times) == self.count and times[0] > now - self.seconds:
            return False
        times.append(now)
        return True


def allowed_model(model: str, roots: list[Path] | None) -> bool:
    """Whether a request may name this model or LoRA: any where `roots` is None, else one below one of them.

    Links are followed first, so that none leads out.
    """
    if not model or roots is None:
        return True
    try:
        place = locate(model).resolve()
        if any(each.is_symlink() for each in (place, *place.parents)):  # a circle, which Python 3.13 leaves as it is
            return False
        return any(place.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError, ValueError):
        return False


class Guard:
    """Turns away requests that name another host (DNS rebinding), lack the token, or are too large or too slow.

    Args:
        host: the address that the server is bound to. A request must name it, or any host if that is every address.
        token: "" on loopback, where none is needed.
    """

    def __init__(self, app: ASGIApp, host: str, token: str = ""):
        self.app, self.host, self.token = app, host.strip("[]"), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        upload = UPLOADS.get((scope["method"], scope["path"]))
        status, detail = self._refusal(headers, scope["path"], upload or MAX_BODY)
        if not (status or upload):  # an upload goes to the disk as it comes, with a deadline of its own
            try:
                receive = await asyncio.wait_for(_buffered(receive), BODY_SECONDS)
            except TimeoutError:
                status, detail = 408, f"The request's body did not arrive within {BODY_SECONDS:g} seconds."
        if status:
            await JSONResponse({"detail": detail}, status)(scope, receive, answer)
        else:
            await self.app(scope, receive, answer)

    def _refusal(self, headers: dict[str, str], path: str = "", limit: int = MAX_BODY) -> tuple[int, str]:
        given = headers.get("authorization", "").encode()
        if self.token and path not in PUBLIC and not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            return 401, "The token is missing or wrong: it is in server.json in the server's data folder."
        named = [headers[name] for name in ("host", "origin") if name in headers] or [""]
        if not all(self._is_ours(hostname(name)) for name in named):
            return 403, f"This server answers only to the name {self.host}: use it, or serve with another --host."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit or "transfer-encoding" in headers:
            return 413, f"A request's body may have at most {limit} bytes, with its length announced."
        return 0, ""

    def _is_ours(self, name: str) -> bool:
        if is_loopback(self.host):
            return is_loopback(name)
        return self.host in ("", "0.0.0.0", "::") or name == self.host.lower() or is_loopback(name)


async def _buffered(receive: Receive) -> Receive:
    """A `receive` whose first message has the whole body; later messages, such as a disconnect, are passed on."""
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    first: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay
