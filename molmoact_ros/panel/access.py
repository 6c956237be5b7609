"""Who may use the panel: anybody on this machine, or those who know the token; never another site's page."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

COOKIE: Final = "molmoact_panel"
SHORTEST: Final = 16
"""Characters of a token."""
THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token(host: str, file: str) -> tuple[str, Path | None]:
    """The token that is asked for at `host`, and the file that it lies in; empty: none is needed.

    file: of a token to use; empty: none on this machine's own address, elsewhere one in the home folder, made when it
    is missing. Raises ValueError for a file that others may read, or a token that can be guessed.
    """
    if not file and is_loopback(host):
        return "", None
    path = Path(file).expanduser() if file else Path.home() / ".config" / "molmoact_ros" / "panel_token"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24) + "\n")
    if path.stat().st_mode & 0o077:
        raise ValueError(f"others may read the token in {path}; run: chmod 600 {path}")
    found = path.read_text().strip()
    if len(found) < SHORTEST:
        raise ValueError(f"the token in {path} has fewer than {SHORTEST} characters; delete the file to get a new one")
    return found, path


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
        return not self._token or _equal(request.cookies.get(COOKIE, ""), self._pass)

    def is_token(self, offered: str) -> bool:
        """Whether it is the token; takes as long for any answer."""
        return bool(self._token) and _equal(offered.strip(), self._token)

    def let_in(self, response: web.StreamResponse) -> None:
        """Give the cookie."""
        response.set_cookie(COOKIE, self._pass, httponly=True, samesite="Strict", max_age=30 * 24 * 3600)


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
