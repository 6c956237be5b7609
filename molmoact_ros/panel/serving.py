"""Runs a web application in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any

from aiohttp import web


class Serving:
    """Runs the event loop `loop` in a thread; other threads use `loop.call_soon_threadsafe`."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._runner: web.AppRunner | None = None

    def start(self, app: web.Application, host: str, port: int) -> int:
        """Start serving; returns the port, chosen by the system if `port` is 0. Raises OSError if it is in use."""
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._start(app, host, port), self.loop).result()

    async def _start(self, app: web.Application, host: str, port: int) -> int:
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)  # a logged URL may hold the token
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            number = error.errno or 0
            reason = os.strerror(number) if number > 0 else error.strerror or str(error)  # gaierror's are negative
            raise OSError(f"cannot serve at {host}, port {port}: {reason.lower()}; choose another") from None
        return int(self._runner.addresses[0][1])

    def close(self, first: Coroutine[Any, Any, None]) -> None:
        """Run `first` in the thread, then close all connections and end the thread."""
        asyncio.run_coroutine_threadsafe(self._close(first), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _close(self, first: Coroutine[Any, Any, None]) -> None:
        await first
        if self._runner is not None:
            await self._runner.cleanup()
