"""A camera that stays silent is opened anew, and one whose firmware hangs is reset."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from molmoact_ros.cameras import camera_thread
from molmoact_ros.cameras.camera_thread import CameraThread
from molmoact_ros.cameras.realsense import RealSense, Settings, list_devices

from .software_camera import HEIGHT, RATE, WIDTH, SoftwareCamera

SETTINGS = Settings(width=WIDTH, height=HEIGHT, rate=RATE)


class Resettable(RealSense):
    """A software device has no reset of its own: this one counts."""

    resets = 0

    def reset(self) -> bool:
        type(self).resets += 1
        return True


class Listener:
    def __init__(self) -> None:
        self.opened, self.pictures = 0, 0
        self.troubles: list[str] = []

    def on_open(self, camera: RealSense) -> None:
        self.opened += 1

    def on_picture(self, picture: object) -> None:
        self.pictures += 1

    def on_trouble(self, reason: str) -> None:
        self.troubles.append(reason)

    def until(self, met: Callable[[], object]) -> bool:
        end = time.monotonic() + 30
        while not met() and time.monotonic() < end:
            time.sleep(0.02)
        return bool(met())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_thread, "FIRST", 0.5)
    monkeypatch.setattr(camera_thread, "SILENT", 0.4)


def running(camera: SoftwareCamera, kind: type[RealSense], listener: Listener) -> CameraThread:
    def opened() -> RealSense:
        return kind(list_devices([camera.device])[0], SETTINGS)

    thread = CameraThread("front", opened, listener)
    thread.start()
    return thread


def test_a_camera_that_never_sends_is_reset_once_in_a_while(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resettable, "resets", 0)
    camera, listener = SoftwareCamera("1"), Listener()
    thread = running(camera, Resettable, listener)
    try:
        assert listener.until(lambda: listener.opened >= 3), listener.troubles
        assert Resettable.resets == 1 and "it is reset" in listener.troubles[0]
        assert "opened anew" in listener.troubles[1], "not again before RESET_PAUSE"
        monkeypatch.setattr(camera_thread, "RESET_PAUSE", 0.0)
        assert listener.until(lambda: Resettable.resets == 2), listener.troubles
    finally:
        thread.close()


def test_a_camera_that_has_sent_is_opened_anew_first(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resettable, "resets", 0)
    camera, listener = SoftwareCamera("1"), Listener()
    thread = running(camera, Resettable, listener)
    try:
        with camera:
            assert listener.until(lambda: listener.pictures > 2), listener.troubles
        listener.troubles.clear()
        before = Resettable.resets
        assert listener.until(lambda: listener.troubles)
        assert "opened anew" in listener.troubles[0] and Resettable.resets == before
    finally:
        thread.close()


def test_a_device_without_a_reset_is_opened_anew(quick: None) -> None:
    camera, listener = SoftwareCamera("1"), Listener()
    thread = running(camera, RealSense, listener)
    try:
        assert listener.until(lambda: len(listener.troubles) >= 2)
        assert all("opened anew" in trouble for trouble in listener.troubles)
    finally:
        thread.close()
