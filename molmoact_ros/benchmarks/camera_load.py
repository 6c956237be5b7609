"""A node that publishes what two cameras and an arm publish, as a recorder's load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.benchmarks.fault_rig import JOINT_STATES, FaultInjector
from molmoact_ros.bringup.processes import command, write_parameters
from molmoact_ros.bringup.profiles import environment
from molmoact_ros.robots.franka import HOME_Q, SINGLE
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.polling import PollingSubscription
from molmoact_ros.ros.spin import run
from molmoact_ros.utils import child_process

RATE: Final = 30.0  # frames/s of each camera

SIZES: Final = {"front": (480, 640), "wrist": (480, 640)}


class CamerasNode(Node):
    """Publishes four images, 30 times a second, and the joints at 100 Hz."""

    def __init__(self) -> None:
        super().__init__("cameras")
        rng = np.random.default_rng(0)
        self._out: list[tuple[Any, list[Image]]] = []
        for name, (height, width) in SIZES.items():
            small = rng.integers(0, 256, (2, height // 8, width // 8, 3), np.uint8)
            colour = [
                np.repeat(np.repeat(s, 8, 0), 8, 1) + rng.integers(0, 8, (height, width, 3), np.uint8) for s in small
            ]
            depth = [(1000 + c[:, :, 0].astype(np.uint16)) for c in colour]
            for topic, encoding, frames in (
                ("color/image_raw", "rgb8", colour), ("aligned_depth_to_color/image_raw", "16UC1", depth),
            ):  # fmt: skip
                head = conversions.header(0.0, name)
                messages = [conversions.image_message(frame, encoding, head) for frame in frames]
                self._out.append((self.create_publisher(Image, f"/{name}/{topic}", qos.SENSOR), messages))
        self._joints = self.create_publisher(JointState, JOINT_STATES, qos.RELIABLE)
        self._commanded = HOME_Q.tolist()
        self.create_subscription(
            JointTrajectory, f"/{SINGLE.robot}_arm_controller/joint_trajectory", self._follow, qos.RELIABLE
        )  # fmt: skip
        self._count = 0
        self.create_timer(1.0 / RATE, self._film)
        self.create_timer(0.01, self._publish_joints)

    def _follow(self, message: JointTrajectory) -> None:
        self._commanded = list(message.points[0].positions)

    def _film(self) -> None:
        self._count += 1
        stamp = self.get_clock().now().to_msg()
        for publisher, messages in self._out:
            message = messages[self._count % 2]
            message.header.stamp = stamp
            publisher.publish(message)

    def _publish_joints(self) -> None:
        message = JointState(name=[*SINGLE.joints, *SINGLE.fingers], position=[*self._commanded, 0.04, 0.04])
        message.velocity = [0.0] * 9
        message.header.stamp = self.get_clock().now().to_msg()
        self._joints.publish(message)


@contextmanager
def filming(folder: Path) -> Iterator[FaultInjector]:
    """Run two cameras, and a fault injector whose chunks swing an arm from side to side."""
    context = rclpy.Context()
    rclpy.init(context=context)
    rig, file = FaultInjector(context), write_parameters(folder, "cameras", {})
    with (folder / "cameras.log").open("wb") as log:
        program = command("camera_load", file, package="molmoact_ros.benchmarks")
        cameras = child_process.start(program, env=environment(), stdout=log, stderr=log, cwd=folder)
        rig.drive()
        for camera in SIZES:  # the images have a subscriber in any case, as they have with the policy
            PollingSubscription(rig, Image, f"/{camera}/color/image_raw", qos.SENSOR)
        try:
            yield rig
        finally:
            child_process.end([cameras], 15.0)
            rig.close()
            context.try_shutdown()


if __name__ == "__main__":
    run(CamerasNode)
