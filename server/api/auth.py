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


class Guard:
    """Turns away requests that name another host (DNS rebinding), lack the token, or are too large.

    token: "" on loopback, where no token is asked for.
    """

    def __init__(self, app: ASGIApp, host: str, token: str = ""):
        self.app, self.host, self.token = app, host, token

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
        if not self.token:
            named = [urlsplit("//" + headers.get("host", "")).hostname or ""]
            if "origin" in headers:
                named.append(urlsplit(headers["origin"]).hostname or "")
            if not all(is_loopback(name) for name in named):
                return 403, "This server answers only to its own machine."
        elif not hmac.compare_digest(headers.get("authorization", "").encode(), f"Bearer {self.token}".encode()):
            return 401, "The token is missing or wrong: it is in server.json in the server's data folder."
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY or "transfer-encoding" in headers:
            return 413, f"A request's body may have at most {MAX_BODY} bytes, with its length announced."
        return 0, ""
