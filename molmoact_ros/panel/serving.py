"""A web application in a thread of its own, beside whatever its process does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from aiohttp import web


class Serving:
    """`loop` runs in the thread; what is called in it comes by `loop.call_soon_threadsafe`."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._runner: web.AppRunner | None = None

    def start(self, app: web.Application, host: str, port: int) -> int:
        """Serve from now on; the port, chosen by the system where 0 is asked for. Raises OSError where it is taken."""
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._start(app, host, port), self.loop).result()

    async def _start(self, app: web.Application, host: str, port: int) -> int:
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)  # an address may hold the token
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return int(self._runner.addresses[0][1])

    def close(self, first: Coroutine[Any, Any, None]) -> None:
        """Do `first` in the thread, then end all connections and the thread."""
        asyncio.run_coroutine_threadsafe(self._close(first), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _close(self, first: Coroutine[Any, Any, None]) -> None:
        await first
        if self._runner is not None:
            await self._runner.cleanup()
