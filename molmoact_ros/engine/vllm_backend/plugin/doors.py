"""What vLLM's server answers: what a policy asks for, and nothing else that it has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]
OPEN: Final = ("/v1/chat/completions", "/v1/models", "/health")
"""Paths that are answered. vLLM asks for the key at /v1 alone: /invocations, /pause and others would do without."""


class OnlyOpenDoors:
    """ASGI middleware, as `--middleware` of vLLM takes it: other paths are not found, and websockets not accepted."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass it on, or say that there is nothing."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close", "code": 1008})
