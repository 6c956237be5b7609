"""Live images: an image is encoded only when a browser waits for one, and the newest is sent; nothing queues."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from molmoact_ros.reasoning.answer import RefusedStep

NICE: Final = 10
"""Niceness of the encoding process: it yields to everything else on this machine."""


@dataclass(frozen=True)
class View:
    """An image topic that can be shown.

    kind: "color", "depth" (m) or "said" (the model's depth, 0..1). drawable: pixels are those of the front camera, so
    that a trace can be drawn on it. compressed: its messages are CompressedImage, not Image.
    """

    name: str
    label: str
    topic: str
    kind: str
    drawable: bool
    compressed: bool = False


@dataclass(frozen=True)
class Picture:
    """A JPEG, and the stamp of its source image."""

    jpeg: bytes
    sec: int
    nanosec: int


class Encoder:
    """A low-priority process that encodes at most one image of each view at a time."""

    def __init__(self, encode: Callable[[str, bytes, bool], Picture], begin: Callable[[], None]) -> None:
        """encode: from a view's kind, the serialized image, and whether it is a CompressedImage; begin: called once in
        the process. Both importable."""
        self._encode, self._begin = encode, begin
        self._pool: ProcessPoolExecutor | None = None
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def offer(self, view: View, data: bytes, done: Callable[[View, Picture | str], None]) -> bool:
        """Encode an image. False if the view's previous one is still in progress.

        `done` is called in another thread, with the JPEG or an error message.
        """
        with self._lock:
            if view.name in self._busy:
                return False
            self._busy.add(view.name)
            if self._pool is None:  # the first request
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(1, context, initializer=_lower_priority, initargs=(self._begin,))
            try:
                future = self._pool.submit(self._encode, view.kind, data, view.compressed)
            except BrokenExecutor as error:  # its process ended while it was idle
                future = Future()
                future.set_exception(error)
        future.add_done_callback(lambda made: self._made(view, made, done))
        return True

    def _made(self, view: View, made: Future[Picture], done: Callable[[View, Picture | str], None]) -> None:
        with self._lock:
            self._busy.discard(view.name)
        if made.cancelled():
            return
        error = made.exception()
        if error is None:
            done(view, made.result())
        elif isinstance(error, RefusedStep):
            done(view, str(error))
        else:
            self.close()  # its process has ended; the next image starts another
            done(view, f"no image could be made ({type(error).__name__}); it is tried again")

    def close(self) -> None:
        """Stop the process."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _lower_priority(begin: Callable[[], None]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the panel, which ends this process
    os.setsid()  # with autogroup scheduling, niceness counts only within a session
    os.nice(NICE)
    with contextlib.suppress(OSError):  # a kernel without autogroups
        Path("/proc/self/autogroup").write_text(str(NICE))
    begin()


class Viewer:
    """One browser's image socket: it receives an image, confirms that it is shown, and then receives the newest one."""

    def __init__(self, socket: web.WebSocketResponse, view: View | None) -> None:
        self.socket, self.view, self.waits = socket, view, True
        self._sending: asyncio.Task[None] | None = None

    def show(self, number: int, picture: Picture | str) -> None:
        """Send an image or a message; the next one waits until this one is shown."""
        self.waits = False
        self._sending = asyncio.ensure_future(self._send(number, picture))

    async def _send(self, number: int, picture: Picture | str) -> None:
        with contextlib.suppress(ConnectionError):
            if isinstance(picture, str):
                await self.socket.send_json({"view": number, "message": picture})
            else:
                stamp = (picture.sec % 2**32).to_bytes(4, "big") + picture.nanosec.to_bytes(4, "big")
                await self.socket.send_bytes(number.to_bytes(4, "big") + stamp + picture.jpeg)
