"""A thread that keeps one camera running: it opens the camera, and reopens it after an unplug or a timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final, Protocol

from molmoact_ros.cameras.realsense import CameraFrame, RealSense

FIRST: Final = 5.0
"""Timeout for the first frame after opening, s; the camera is then reopened. It is librealsense's own default."""
SILENT: Final = 2.0
"""Timeout for each frame after the first, s; the camera is then reopened."""
RETRY: Final = 1.0
"""Time between two attempts to open a camera, s."""
RESET_PAUSE: Final = 30.0
"""Time between two hardware resets of a camera, s, which takes up to ten seconds to come back from one."""
GLANCE: Final = 0.2
"""Timeout of one read, s; between reads the thread checks whether it should end."""


class FrameListener(Protocol):
    """Callbacks for one camera. They run in the camera thread."""

    def on_open(self, camera: RealSense) -> None:
        """The camera is running."""

    def on_picture(self, picture: CameraFrame) -> None:
        """The camera delivered a frame."""

    def on_trouble(self, reason: str) -> None:
        """The camera is not running; `reason` is one line. Called for each failed attempt and when frames stop."""


class CameraThread(threading.Thread):
    """Runs one camera and passes its frames to a listener.

    Example:
        thread = CameraThread("front", open_camera, listener)
        thread.start()
        thread.close()  # ends the thread and closes the camera
    """

    def __init__(self, name: str, open_camera: Callable[[], RealSense], listener: FrameListener) -> None:
        """open_camera: finds and starts the camera. It raises LookupError, ValueError, RuntimeError or OSError on
        failure. listener: receives frames and errors.
        """
        super().__init__(name=f"camera {name}", daemon=True)
        self._open_camera, self._listener = open_camera, listener
        self._ended = threading.Event()
        self._was_reset = -inf  # when, on the monotonic clock, s

    def run(self) -> None:
        """Open the camera and read frames until `close`."""
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
        """Pass on frames while they arrive; return the reason why they stopped.

        A camera that sends nothing at all after it was opened is reset: its firmware hangs, as some do after a process
        that used it was killed.
        """
        heard, patience, never = monotonic(), FIRST, True
        try:
            while not self._ended.is_set():
                picture = camera.read(GLANCE)
                if picture is not None:
                    self._listener.on_picture(picture)
                    heard, patience, never = monotonic(), SILENT, False
                elif monotonic() - heard > patience:
                    if never and monotonic() - self._was_reset > RESET_PAUSE and camera.reset():
                        self._was_reset = monotonic()
                        return f"no image for {patience:g} s since it was opened; it is reset, which takes seconds"
                    return f"no image for {patience:g} s; it is opened anew"
        except (RuntimeError, ValueError) as error:  # raised by librealsense when the camera is unplugged
            return f"{' '.join(str(error).split())}; it is opened anew as soon as it is there"
        return "closed"

    def close(self) -> None:
        """End the thread, after the read in progress."""
        self._ended.set()
        self.join()
