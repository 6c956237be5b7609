"""Who may use the panel: anybody on this machine, or those who know the token; never another site's page."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from molmoact_ros.utils.secret import is_loopback, made_secret

COOKIE: Final = "molmoact_panel"
GUESS_DELAY: Final = 0.5
"""s that a wrong token costs."""
THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")


def token(host: str, file: str) -> tuple[str, Path | None]:
    """The token that is asked for at `host`, and the file that it lies in; empty: none is needed.

    file: of a token to use; empty: none on this machine's own address, elsewhere one in the home folder, made when it
    is missing. Raises as `read_secret`.
    """
    if not file and is_loopback(host):
        return "", None
    path = Path(file).expanduser() if file else Path.home() / ".config" / "molmoact_ros" / "panel_token"
    return made_secret(path), path


class Access:
    """Judges requests. The cookie is made from the token, so the token itself stays in no browser."""

    def __init__(self, token: str) -> None:
        """token: empty: none is asked for, and only names of this machine are answered."""
        self._token = token
        self._pass = hmac.new(token.encode(), COOKIE.encode(), "sha256").hexdigest() if token else ""

    def check_site(self, request: web.BaseRequest) -> None:
        """Raise HTTPForbidden where another site's page asks, or, without a token, by a name that may be anybody's.

        A browser lets any page open a socket to this machine, and a name of the page's own may lead here: so both are
        looked at.
        """
        host = urlsplit(f"//{request.host}")
        if not self._token and host.hostname not in THIS_MACHINE:
            raise web.HTTPForbidden(text="ask for this panel as localhost, or start it with a token\n")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="another site's page may not use this panel\n")

    def is_known(self, request: web.BaseRequest) -> bool:
        """Whether the request brings the cookie, or none is needed."""
        return not self._token or same_secret(request.cookies.get(COOKIE, ""), self._pass)

    def is_token(self, offered: str) -> bool:
        """Whether it is the token; takes as long for any answer."""
        return bool(self._token) and same_secret(offered.strip(), self._token)

    def let_in(self, response: web.StreamResponse) -> None:
        """Give the cookie."""
        response.set_cookie(COOKIE, self._pass, httponly=True, samesite="Strict", max_age=30 * 24 * 3600)


def same_secret(one: str, other: str) -> bool:
    """Whether they are equal; takes as long for any two of one length."""
    return hmac.compare_digest(one.encode(), other.encode())
