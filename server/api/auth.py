# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may speak to the server."""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY = 1 << 16                          # bytes


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


class Guard:
    """Turns away requests that name another host (DNS rebinding), lack the token, or are too large.

    host: what the server is bound to; its own name, or on every address any name, is accepted.
    token: "" on loopback, where no token is asked for.
    """

    def __init__(self, app: ASGIApp, host: str, token: str = ""):
        self.app, self.host, self.token = app, host.strip("[]"), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        status, detail = self._refusal(headers)
        if status:
            await JSONResponse({"detail": detail}, status)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, headers: dict[str, str]) -> tuple[int, str]:
        given = headers.get("authorization", "").encode()
        if self.token and not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            return 401, "The token is missing or wrong: it is in server.json in the server's data folder."
        named = [headers[name] for name in ("host", "origin") if name in headers] or [""]
        if not all(self._is_ours(hostname(name)) for name in named):
            return 403, f"This server answers only to the name {self.host}: use it, or serve with another --host."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY or "transfer-encoding" in headers:
            return 413, f"A request's body may have at most {MAX_BODY} bytes, with its length announced."
        return 0, ""

    def _is_ours(self, name: str) -> bool:
        if is_loopback(self.host):
            return is_loopback(name)
        return self.host in ("", "0.0.0.0", "::") or name == self.host.lower() or is_loopback(name)
