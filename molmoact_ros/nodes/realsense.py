"""RealSense cameras at realsense-ros' topics, through Intel's library alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from pydantic import BaseModel, BeforeValidator, Field
from rclpy.node import Node

from molmoact_ros.cameras.camera_thread import CameraThread
from molmoact_ros.cameras.clock_sync import CameraClock, HostTime, stamped
from molmoact_ros.cameras.presets import preset_of
from molmoact_ros.cameras.realsense import (
    FARTHEST,
    CameraFrame,
    FoundCamera,
    RealSense,
    Settings,
    import_pyrealsense2,
    list_devices,
    recorded,
    select_device,
)  # fmt: skip
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.camera_publisher import CameraPublisher
from molmoact_ros.ros.clocks import STEADY
from molmoact_ros.ros.diagnostics import status
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.spin import run

try:
    from realsense2_camera_msgs.msg import Metadata
except ImportError:  # not on PyPI; without it there is no topic for metadata
    Metadata = None


class RealSenseConfig(BaseModel):
    """Parameters of the node; those of each camera are prefixed with its name."""

    cameras: list[str] = Field(["front", "wrist"], min_length=1, description="names of the cameras")


def _quoted(serial: object) -> object:
    if isinstance(serial, int):  # YAML reads a serial as a number, which loses its leading zeros
        raise ValueError('write the serial number in quotes, such as "031422250347"')
    return serial


class CameraConfig(BaseModel):
    """Parameters of one camera; an empty one, or 0, comes from the preset of its model."""

    serial: Annotated[str, BeforeValidator(_quoted)] = Field("", description="serial number; empty: the only one")
    model: str = Field("", description="D405, D415, D435 or D455; empty: as the camera calls itself")
    file: str = Field("", description="play this recording, .bag or .db3, again and again instead")
    width: int = Field(0, ge=0, le=1920, description="of colour and depth, pixels")
    height: int = Field(0, ge=0, le=1080, description="of colour and depth, pixels")
    rate: int = Field(0, ge=0, le=90, description="frames/s")
    nearest: float = Field(0.0, ge=0, le=20, description="depth nearer than this is left out, m")
    farthest: float = Field(0.0, ge=0, le=FARTHEST, description="depth farther than this is left out, m")
    visual_preset: str = Field("", description="depth preset, as librealsense names it, such as high_accuracy")
    emitter: int = Field(-1, ge=-1, le=1, description="pattern: 1 on, 0 off, -1 as the camera has it")
    exposure: int = Field(0, ge=0, le=200_000, description="of colour, us; 0: automatic")
    white_balance: int = Field(0, ge=0, le=10_000, description="K; 0: automatic")

    def settings(self, camera: FoundCamera) -> Settings:
        """The settings of `camera`. Raises ValueError when its model has no preset."""
        preset = preset_of(self.model or camera.model)
        return Settings(
            width=self.width or preset.width, height=self.height or preset.height, rate=self.rate or preset.rate,
            nearest=self.nearest or preset.nearest, farthest=self.farthest or preset.farthest,
            visual_preset=self.visual_preset or preset.visual_preset, exposure=self.exposure,
            white_balance=self.white_balance, emitter=None if self.emitter < 0 else bool(self.emitter),
        )  # fmt: skip


class RealSenseNode(Node):
    """Runs each camera in a thread of its own, which waits for a missing camera."""

    def __init__(self, plugged_in: Callable[[], Iterable[Any]] | None = None) -> None:
        """plugged_in: returns librealsense's connected devices; by default those on USB."""
        super().__init__("realsense")
        names = declare(self, RealSenseConfig).cameras
        configs = {name: declare(self, CameraConfig, f"{name}.") for name in names}
        serials = [config.serial for config in configs.values() if config.serial]
        if len(set(serials)) < len(serials):
            raise ValueError("two cameras have the same serial number; give each its own (molmoact-ros cameras)")
        context = import_pyrealsense2().context()
        finder = _Finder(context, plugged_in or context.query_devices)
        self._cameras = [_Camera(self, name, config, finder) for name, config in configs.items()]
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RELIABLE)
        self.create_timer(1.0, self._report, clock=STEADY)
        for camera in self._cameras:
            camera.keeper.start()
        self.get_logger().info(f"ready: cameras {', '.join(names)}")

    def destroy_node(self) -> None:
        """Close the cameras, then destroy the node."""
        for camera in self._cameras:
            camera.keeper.close()
        super().destroy_node()

    def _report(self) -> None:
        report = DiagnosticArray(status=[camera.status() for camera in self._cameras])
        report.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(report)


class _Finder:
    """Opens cameras one at a time, so that two threads never open the same one."""

    def __init__(self, context: Any, plugged_in: Callable[[], Iterable[Any]]) -> None:
        self._context, self._query_devices, self._lock = context, plugged_in, threading.Lock()

    def open(self, config: CameraConfig) -> RealSense:
        with self._lock:
            if config.file:
                camera = recorded(self._context, Path(config.file))
            else:
                camera = select_device(list_devices(self._query_devices()), config.serial, config.model)
            return RealSense(camera, config.settings(camera))


class _Camera:
    """The topics of one camera. `on_...` run in the camera thread, `status` on the executor's."""

    def __init__(self, node: Node, name: str, config: CameraConfig, finder: _Finder) -> None:
        self._node, self._name, self._topics = node, name, CameraPublisher(node, name, depth_info=True)
        self._metadata = node.create_publisher(Metadata, f"{name}/color/metadata", qos.RELIABLE) if Metadata else None
        self._camera: RealSense | None = None
        self._clock = CameraClock()
        self._stamp = 0.0  # of the last colour image, ROS time, s
        self._number = -1  # the camera's own frame counter, of colour
        self._fault = "not looked for yet"
        self._frames = self._lost = self._opened = 0
        self._reported = (monotonic(), 0)
        self.keeper = CameraThread(name, lambda: finder.open(config), self)

    def on_open(self, camera: RealSense) -> None:
        self._camera, self._clock, self._number, self._fault = camera, CameraClock(), -1, ""
        self._opened += 1
        k = camera.intrinsics
        self._node.get_logger().info(f"{self._name}: {camera.camera} runs, {k.width}x{k.height}")
        if camera.camera.is_slow:
            self._node.get_logger().warning(f"{self._name}: it hangs on USB 2; plug it into USB 3 for its full rate")

    def on_trouble(self, reason: str) -> None:
        if reason != self._fault:
            self._node.get_logger().error(f"{self._name}: {reason}")
        self._camera, self._fault = None, reason

    def on_picture(self, picture: CameraFrame) -> None:
        if picture.is_new:
            arrived = HostTime.now(lambda: float(self._node.get_clock().now().nanoseconds * 1e-9))
            self._clock, self._stamp = stamped(self._clock, picture.taken, picture.is_global, arrived)
            self._frames += 1
            if 0 <= self._number < picture.number:
                self._lost += picture.number - self._number - 1
            self._number = picture.number
            self._publish_color(picture)
        if picture.has_depth and self._topics.wants_depth:
            self._topics.publish_depth(picture.aligned_depth(), self._stamp)

    def _publish_color(self, picture: CameraFrame) -> None:
        assert self._camera is not None
        self._topics.publish_color(picture.color, self._camera.intrinsics, self._stamp)
        if self._metadata is not None and self._metadata.get_subscription_count():
            self._metadata.publish(
                Metadata(
                    header=conversions.header(self._stamp, conversions.optical_frame(self._name)),
                    json_data=json.dumps(picture.metadata()),
                )
            )

    def status(self) -> DiagnosticStatus:
        """Diagnostics since the last call."""
        (before, frames), now = self._reported, (monotonic(), self._frames)
        self._reported = now
        rate = (now[1] - frames) / max(now[0] - before, 1e-9)
        camera, trouble = self._camera, self._fault
        values: dict[str, Any] = {"rate_hz": rate, "frames": now[1], "lost": self._lost, "opened": self._opened}
        if camera is not None:
            values |= {"serial": camera.camera.serial, "model": camera.camera.model, "usb": camera.camera.usb}
        text = trouble or f"{rate:.1f} frames/s"
        hardware = camera.camera.serial if camera else ""
        return status(f"{self._node.get_name()}: {self._name}", bool(trouble) or not rate, text, values, hardware)


def main() -> None:
    """Start the node."""
    run(RealSenseNode)


if __name__ == "__main__":
    main()
