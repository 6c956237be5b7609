"""What a calibration listens to: one camera, the arm's joints, and the frames that stand still."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sensor_msgs.msg import CameraInfo, JointState
from tf2_msgs.msg import TFMessage

from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.cameras.static_frames import StaticFrames
from molmoact_ros.robots.franka import Arm
from molmoact_ros.robots.view_collector import ViewCollector
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.background_node import BackgroundNode
from molmoact_ros.ros.image_transport import CameraImage, ImageTransport, other_transport, transported

FLAGS: Final = {"image": "--image-topic", "camera_info": "--info-topic", "joint states": "--joint-states"}
"""The option that names each topic."""


@dataclass(frozen=True)
class CalibrationTopics:
    """Names of the topics that a calibration listens to; transport: of the images on the base topic `image`."""

    image: str
    camera_info: str
    joint_states: str
    transport: ImageTransport = "raw"


class CalibrationClient(BackgroundNode):
    """Keeps the newest image, intrinsics and joints. Thread-safe.

    Args of `__init__`:
        topics: what to listen to.
        arm: whose joints.

    Example:
        topics = CalibrationTopics("front/color/image_raw", "front/color/camera_info", "joint_states")
        client = CalibrationClient(topics, SINGLE)
        intrinsics = client.wait(10.0)  # RuntimeError, in one line, where something is not published
        image, joints = client.shot()
        client.close()
    """

    def __init__(self, topics: CalibrationTopics, arm: Arm) -> None:
        super().__init__("calibrate")
        self.collector, self.frames = ViewCollector(arm.joints), StaticFrames()
        self._lock, self._image, self._info = threading.Lock(), None, None
        self._joints_heard = False
        kind, image = transported(topics.image, topics.transport)
        self._types = {"image": kind, "camera_info": CameraInfo, "joint states": JointState}
        self._topics = {"image": image, "camera_info": topics.camera_info, "joint states": topics.joint_states}
        self._other = other_transport(topics.transport)
        self._other_image = transported(topics.image, self._other)[1]
        self.create_subscription(kind, image, self._on_image, qos.SENSOR)
        self.create_subscription(CameraInfo, topics.camera_info, self._on_info, qos.SENSOR)
        self.create_subscription(JointState, topics.joint_states, self._on_joints, qos.sensor(10))
        self.create_subscription(TFMessage, "/tf_static", self._on_frames, qos.TF_STATIC)
        self.begin()

    def _on_image(self, message: CameraImage) -> None:
        with self._lock:
            self._image = message

    def _on_info(self, message: CameraInfo) -> None:
        with self._lock:
            self._info = message

    def _on_joints(self, message: JointState) -> None:
        with self._lock:
            self._joints_heard = True
            self.collector.add_joints(time.monotonic(), message.name, message.position)

    def _on_frames(self, message: TFMessage) -> None:
        with self._lock:
            self.frames.add_transforms(message)

    def wait(self, patience: float) -> CameraIntrinsics:
        """Wait for all that is needed, and return the camera's intrinsics.

        Raises RuntimeError, in one line, after `patience` s.
        """
        deadline = time.monotonic() + patience
        while lacking := self._lacking():
            if time.monotonic() > deadline:
                raise RuntimeError(self._advice(lacking))
            time.sleep(0.1)
        with self._lock:
            return intrinsics_of(self._info)

    def _lacking(self) -> list[str]:
        with self._lock:
            there = {"image": self._image, "camera_info": self._info, "joint states": self._joints_heard}
            lacking = [name for name, value in there.items() if not value]
            return lacking or (["joints"] if self.collector.lacking else [])

    def _advice(self, lacking: list[str]) -> str:
        if lacking == ["joints"]:
            missing = self.collector.lacking
            return f"{self._topics['joint states']} lacks the position of {missing[0]}; is it this robot's? See --arm"
        name = lacking[0]
        if name == "image" and self.count_publishers(self._other_image):
            return f"no image comes on {self._topics[name]}; give --image-transport {self._other}, which is published"
        kind, topics = f"sensor_msgs/msg/{self._types[name].__name__}", self.get_topic_names_and_types()
        found = sorted(topic for topic, types in topics if kind in types and self.count_publishers(topic))
        where = (
            f"; there is {', '.join(found)}: name one by {FLAGS[name]}" if found else "; start the camera and the arm"
        )
        return f"no {name} comes on {self._topics[name]}{where}"

    def state(self) -> tuple[bool, bool]:
        """Whether the arm stands still, and whether it does so at a pose of which there is no view yet."""
        with self._lock:
            now = time.monotonic()
            return self.collector.stands(now), self.collector.is_due(now)

    def shot(self) -> tuple[np.ndarray, dict[str, float]]:
        """The newest image, uint8 [H, W, 3] RGB, and the joints. Raises RefusedStep for an image that is not read."""
        with self._lock:
            message, positions = self._image, self.collector.positions
        return conversions.rgb_pixels(message), positions

    def note_view(self, taken: dict[str, float] | None) -> None:
        """Record that a view was tried now; taken: the joints of the view, None where the board was not found."""
        with self._lock:
            self.collector.note_view(time.monotonic(), taken)


def intrinsics_of(message: Any) -> CameraIntrinsics:
    """The intrinsics of a CameraInfo, of rclpy or from a bag. Raises ValueError, in one line, for one without."""
    k = np.asarray(message.k, np.float64)
    if not np.isfinite(k).all() or k[0] <= 0 or k[4] <= 0:
        raise ValueError("camera_info holds no calibration (its k is zero): calibrate the lens first")
    return CameraIntrinsics(
        int(message.width), int(message.height), float(k[0]), float(k[4]), float(k[2]), float(k[5]), 0.0, 10.0,
        str(message.distortion_model), tuple(float(value) for value in message.d),
    )  # fmt: skip
