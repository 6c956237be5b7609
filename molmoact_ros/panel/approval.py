"""A proxy for a websocket server without access control: it admits only pages of known origins, with the token."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

import aiohttp
from aiohttp import WSMsgType, web

from molmoact_ros.panel.auth import GUESS_DELAY
from molmoact_ros.panel.serving import Serving
from molmoact_ros.utils.secret import same_secret

LARGEST_REQUEST: Final = 1024 * 1024
"""Bytes of one message from a viewer at most: a list of subscriptions."""
HEARTBEAT: Final = 10.0
"""s between pings; a viewer that does not answer is disconnected."""


class ApprovalView:
    """Forwards websocket connections to the server behind it, at the rate of the slower side."""

    def __init__(self, inner: str, origins: Collection[str], token: str) -> None:
        """inner: address of the server behind; origins: of pages that may connect; token: empty: none required."""
        self._inner, self._origins, self._token = inner, frozenset(origins), token
        self._sockets: set[web.WebSocketResponse] = set()
        self._serving = Serving("gate")

    def start(self, host: str, port: int) -> int:
        """Start serving; returns the port. Raises OSError if it is in use."""
        app = web.Application()
        app.router.add_get("/", self._connect)
        return self._serving.start(app, host, port)

    def close(self) -> None:
        """Close all connections."""
        self._serving.close(self._close())

    async def _close(self) -> None:
        for socket in list(self._sockets):
            await socket.close()

    async def _check(self, request: web.Request) -> None:
        """Raise an HTTP error if the request must not be forwarded. Programs send no Origin, every browser does."""
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._origins:
            raise web.HTTPForbidden(text=f"pages of {origin!r:.100} may not look; see the parameter `origins`\n")
        if self._token and not same_secret(request.query.get("token", ""), self._token):
            await asyncio.sleep(GUESS_DELAY)
            raise web.HTTPUnauthorized(text="end the address with ?token= and the token\n")

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        await self._check(request)
        wanted = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        async with aiohttp.ClientSession() as session:
            try:
                inner = await session.ws_connect(self._inner, protocols=wanted, max_msg_size=0)
            except aiohttp.ClientError as error:
                raise web.HTTPBadRequest(text=f"the server does not speak that protocol ({error})\n") from None
            outer = web.WebSocketResponse(
                protocols=[inner.protocol] if inner.protocol else [], heartbeat=HEARTBEAT, compress=False,
                max_msg_size=LARGEST_REQUEST,
            )  # fmt: skip
            await outer.prepare(request)
            self._sockets.add(outer)
            try:
                ways = {asyncio.ensure_future(_pass(inner, outer)), asyncio.ensure_future(_pass(outer, inner))}
                _, other = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in other:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
            finally:
                self._sockets.discard(outer)
                await outer.close()
        return outer


Socket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse


async def _pass(one: Socket, other: Socket) -> None:
    async for message in one:
        if message.type is WSMsgType.TEXT:
            await other.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await other.send_bytes(message.data)
