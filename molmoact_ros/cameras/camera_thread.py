"""Keeps one camera running: opens it when it is there, and again after it was unplugged or fell silent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from molmoact_ros.cameras.realsense import CameraFrame, RealSense

FIRST: Final = 5.0
"""A camera that gives no picture for so long after it was opened is opened anew, s: librealsense's own patience."""
SILENT: Final = 2.0
"""The same for one that has given pictures, s."""
RETRY: Final = 1.0
"""Time between two looks for a camera that is not there, s."""
GLANCE: Final = 0.2
"""Time after which a camera that gives no picture is asked again, and whether it is to go on at all, s."""


class FrameListener(Protocol):
    """Hears of one camera, in the keeper's thread."""

    def on_open(self, camera: RealSense) -> None:
        """It runs from now on."""

    def on_picture(self, picture: CameraFrame) -> None:
        """It has taken a picture."""

    def on_trouble(self, reason: str) -> None:
        """It does not run; `reason` says why in one line. Told at each attempt."""


class CameraThread(threading.Thread):
    """`close` ends it, and closes the camera."""

    def __init__(self, name: str, open_camera: Callable[[], RealSense], listener: FrameListener) -> None:
        """open_camera: finds and starts the camera; LookupError, ValueError, RuntimeError or OSError if it cannot."""
        super().__init__(name=f"camera {name}", daemon=True)
        self._open_camera, self._listener = open_camera, listener
        self._ended = threading.Event()

    def run(self) -> None:
        """The thread's work."""
        while not self._ended.is_set():
            try:
                camera = self._open_camera()
            except (LookupError, ValueError, RuntimeError, OSError) as error:
                self._listener.on_trouble(" ".join(str(error).split()))
                self._ended.wait(RETRY)
                continue
            try:
                self._listener.on_open(camera)
                reason = self._read(camera)
                if not self._ended.is_set():
                    self._listener.on_trouble(reason)
            finally:
                camera.close()

    def _read(self, camera: RealSense) -> str:
        """Hand on pictures as long as they come; why they no longer do."""
        heard, patience = monotonic(), FIRST
        try:
            while not self._ended.is_set():
                picture = camera.read(GLANCE)
                if picture is not None:
                    self._listener.on_picture(picture)
                    heard, patience = monotonic(), SILENT
                elif monotonic() - heard > patience:
                    return f"no picture for {patience:g} s; it is opened anew"
        except (RuntimeError, ValueError) as error:  # librealsense's, when the camera is unplugged
            return f"{' '.join(str(error).split())}; it is opened anew as soon as it is there"
        return "closed"

    def close(self) -> None:
        """End the thread; waits for the picture in progress."""
        self._ended.set()
        self.join()
