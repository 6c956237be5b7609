"""Access control of the panel: any user of this machine, or those with the token; never another site's page."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from molmoact_ros.utils.secret import is_loopback, made_secret, same_secret

COOKIE: Final = "molmoact_panel"
GUESS_DELAY: Final = 0.5
"""s of delay after a wrong token."""
THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")


def token(host: str, file: str) -> tuple[str, Path | None]:
    """The token required at `host`, and the file that holds it; empty: none required.

    file: file with the token; empty: no token on the loopback address, otherwise a file in the home folder, which is
    created if it is missing. Raises like `read_secret`.
    """
    if not file and is_loopback(host):
        return "", None
    path = Path(file).expanduser() if file else Path.home() / ".config" / "molmoact_ros" / "panel_token"
    return made_secret(path), path


class Access:
    """Authorizes requests. The cookie is derived from the token, so no browser stores the token itself."""

    def __init__(self, token: str) -> None:
        """token: empty: none required, and only requests to this machine's own names are answered."""
        self._token = token
        self._pass = hmac.new(token.encode(), COOKIE.encode(), "sha256").hexdigest() if token else ""

    def check_site(self, request: web.BaseRequest) -> None:
        """Raise HTTPForbidden for a page of another origin, and, without a token, for a host name that is not our own.

        A browser lets any page open a websocket to this machine, and a page's own host name may resolve to it (DNS
        rebinding), so both headers are checked.
        """
        host = urlsplit(f"//{request.host}")
        if not self._token and host.hostname not in THIS_MACHINE:
            raise web.HTTPForbidden(text="ask for this panel as localhost, or start it with a token\n")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="another site's page may not use this panel\n")

    def is_known(self, request: web.BaseRequest) -> bool:
        """Whether the request has the cookie, or none is required."""
        return not self._token or same_secret(request.cookies.get(COOKIE, ""), self._pass)

    def is_token(self, offered: str) -> bool:
        """Whether `offered` is the token; in constant time."""
        return bool(self._token) and same_secret(offered.strip(), self._token)

    def let_in(self, response: web.StreamResponse) -> None:
        """Set the cookie."""
        response.set_cookie(COOKIE, self._pass, httponly=True, samesite="Strict", max_age=30 * 24 * 3600)
