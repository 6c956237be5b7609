"""A RealSense made of pyrealsense2's own software_device: known lenses, known places, a scene that can be computed.

Before a wall at 1.2 m stands a box at 0.6 m. Images run through the library's real sensors and pipeline.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import cv2
import numpy as np
import pyrealsense2 as rs

WIDTH, HEIGHT, RATE = 320, 240, 15
COLOR_K = np.array([[305.0, 0, 158.5], [0, 304.0, 121.25], [0, 0, 1]])
DEPTH_K = np.array([[190.0, 0, 160.75], [0, 190.0, 119.5], [0, 0, 1]])
DISTORTION = (-0.05176, 0.05644, -0.00081, 0.00137, -0.01871)  # of a real D405: librealsense issue 13721
BASELINE = np.array([0.015, 0.002, 0.0])  # from the depth camera's coordinates to the colour camera's, m
WALL, BOX = 1.2, 0.6  # m before both cameras
CORNERS = np.array([[-0.10, -0.08, BOX], [0.14, 0.06, BOX]])  # of the box, in the colour camera's coordinates, m


def depth_picture() -> np.ndarray:
    """What the depth camera sees, uint16 [H, W] in 0.1 mm, as a D405 counts."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    x = (u - DEPTH_K[0, 2]) / DEPTH_K[0, 0] * BOX
    y = (v - DEPTH_K[1, 2]) / DEPTH_K[1, 1] * BOX
    (left, top, _), (right, bottom, _) = CORNERS - BASELINE
    box = (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
    return np.where(box, BOX * 1e4, WALL * 1e4).round().astype(np.uint16)


def color_picture(number: int) -> np.ndarray:
    """Colour, uint8 [H, W, 3], that tells its own number, columns and rows."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([u % 256, v, np.full_like(u, number % 256)], axis=2).astype(np.uint8)


def project(points: np.ndarray) -> np.ndarray:
    """Pixels [n, 2] of points [n, 3] m in the colour image."""
    pixels = cv2.projectPoints(points[:, None], np.zeros(3), np.zeros(3), COLOR_K, np.array(DISTORTION))[0]
    return pixels.reshape(-1, 2)


class SoftwareCamera:
    """A camera that is not there. Its clock begins at `clock` s; without one it has librealsense's global time."""

    def __init__(
        self, serial: str, name: str = "Intel RealSense D435", usb: str = "3.2", clock: float | None = 100.0
    ) -> None:
        self.device = rs.software_device()
        for info, text in (
            (rs.camera_info.serial_number, serial), (rs.camera_info.name, name),
            (rs.camera_info.usb_type_descriptor, usb),
        ):  # fmt: skip
            self.device.register_info(info, text)
        self.depth = self.device.add_sensor("Stereo Module")
        self.color = self.device.add_sensor("RGB Camera")
        self.depth.add_read_only_option(rs.option.depth_units, 1e-4)
        limits = rs.option_range()
        limits.min, limits.max, limits.step, limits.default = 1.0, 10_000.0, 1.0, 156.0
        self.color.add_option(rs.option.exposure, limits, True)
        limits.min, limits.max, limits.step, limits.default = 0.0, 1.0, 1.0, 1.0
        self.color.add_option(rs.option.enable_auto_exposure, limits, True)
        limits.max = 6.0
        self.depth.add_option(rs.option.visual_preset, limits, True)
        self._depth_stream = self.depth.add_video_stream(
            _stream(rs.stream.depth, rs.format.z16, 2, 1, DEPTH_K, rs.distortion.brown_conrady, (0.0,) * 5)
        ).as_video_stream_profile()
        self._color_stream = self.color.add_video_stream(
            _stream(rs.stream.color, rs.format.rgb8, 3, 2, COLOR_K, rs.distortion.inverse_brown_conrady, DISTORTION)
        ).as_video_stream_profile()
        between = rs.extrinsics()
        between.rotation, between.translation = np.eye(3).ravel().tolist(), BASELINE.tolist()
        self._depth_stream.register_extrinsics_to(self._color_stream, between)
        self.device.create_matcher(rs.matchers.default)
        # Steady time at which the camera's clock was 0.
        self.zero = time.monotonic() - (time.time() if clock is None else clock)
        self._domain = rs.timestamp_domain.global_time if clock is None else rs.timestamp_domain.hardware_clock
        self._depth_pixels, self.number = depth_picture(), 0
        self.taken: dict[int, float] = {}  # steady time at which each picture was taken, by its number
        self._running = threading.Event()

    def shoot(self, delay: float = 0.0, depth: bool = True) -> None:
        """Take an image now; it arrives after `delay` s."""
        taken, self.number = time.monotonic(), self.number + 1
        self.taken[self.number] = taken
        time.sleep(delay)
        if depth:
            self.depth.on_video_frame(self._frame(self._depth_stream, self._depth_pixels, 2, taken))
        self.color.on_video_frame(self._frame(self._color_stream, color_picture(self.number), 3, taken))

    def _frame(self, profile: Any, pixels: np.ndarray, size: int, taken: float) -> Any:
        frame = rs.software_video_frame()
        frame.pixels, frame.stride, frame.bpp, frame.profile = pixels, WIDTH * size, size, profile
        frame.timestamp, frame.domain = (taken - self.zero) * 1e3, self._domain
        frame.frame_number = self.number
        if size == 2:
            frame.depth_units = 1e-4
        return frame

    def __enter__(self) -> SoftwareCamera:
        """Plugged in: images at RATE, each a little late by a time of its own, until the block is left."""
        self._running.set()
        self._thread = threading.Thread(target=self._film)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.clear()
        self._thread.join()

    def _film(self) -> None:
        delays = np.random.default_rng(0)
        while self._running.is_set():
            due = time.monotonic() + 1 / RATE
            self.shoot(float(delays.uniform(0.0, 0.02)))
            time.sleep(max(0.0, due - time.monotonic()))


def _stream(
    kind: Any, pixels: Any, size: int, uid: int, k: np.ndarray, model: Any, coefficients: tuple[float, ...]
) -> Any:
    stream, lens = rs.video_stream(), rs.intrinsics()
    lens.width, lens.height, lens.fx, lens.fy = WIDTH, HEIGHT, k[0, 0], k[1, 1]
    lens.ppx, lens.ppy, lens.model, lens.coeffs = k[0, 2], k[1, 2], model, list(coefficients)
    stream.type, stream.index, stream.uid, stream.width, stream.height = kind, 0, uid, WIDTH, HEIGHT
    stream.fps, stream.bpp, stream.fmt, stream.intrinsics = RATE, size, pixels, lens
    return stream
