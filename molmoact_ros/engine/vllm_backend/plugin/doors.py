"""Restricts vLLM's server to the endpoints that a policy needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]
OPEN: Final = ("/v1/chat/completions", "/v1/models", "/health")
"""Allowed paths. vLLM requires the key under /v1 only: /invocations, /pause and others would work without it."""


class OnlyOpenDoors:
    """ASGI middleware for vLLM's `--middleware`: other paths return 404, and websockets are refused."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Forward the request, or refuse it."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close", "code": 1008})
