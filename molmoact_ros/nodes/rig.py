"""A test rig beside the running graph: it stands between robot and controller, or in the policy's place."""

from __future__ import annotations

import array
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import rclpy
from geometry_msgs.msg import TwistStamped
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.msg import ActionChunk, EngineStatus, SafetyStatus
from molmoact_ros.nodes import conversions, qos
from molmoact_ros.nodes.background import BackgroundNode
from molmoact_ros.robots.franka import BASE_FRAME

JOINT_STATES: Final = "/rig/joint_states"
CAMERAS: Final = ("rig_front", "rig_wrist")
STANDING: Final = 0.01
"""rad/s under which every joint of the real arm counts as standing: a position servo at rest quivers."""
UNTOLD: Final = 1e-3
"""rad or rad/s under which a command counts as the same, or as standing."""


class Rig(BackgroundNode):
    """Relays joints, and images after `relay_cameras`; after `drive` it plans in the policy's place."""

    def __init__(self, context: rclpy.Context | None = None) -> None:
        super().__init__("rig", context)
        self.safety, self.heard_safety = SafetyStatus(), 0.0
        self.q, self.speed, self.joints_heard = np.zeros(7), np.inf, 0.0
        self.relay_joints, self.relay_images, self.freeze_images = True, True, False
        self.offset = 0.0  # s by which /clock and the stamps here are ahead
        self.spoil: Callable[[ActionChunk], None] = lambda chunk: None
        self._frozen: dict[str, Any] = {}
        self._drive, self._plan = False, 0
        self.command, self.command_speed = np.zeros(7), 0.0  # where the last trajectory ends, and how fast it begins
        self._joints = self.create_publisher(JointState, JOINT_STATES, qos.RELIABLE)
        self.create_subscription(JointState, "/joint_states", self._on_joints, qos.SENSOR)
        topic = "/fr3_arm_controller/joint_trajectory"
        self.create_subscription(JointTrajectory, topic, self._on_command, qos.RELIABLE)
        self.create_subscription(SafetyStatus, "/controller/safety_status", self._on_safety, qos.STATE)
        self._twist = self.create_publisher(TwistStamped, "/controller/teleop/twist", qos.RELIABLE)
        self._chunks: Any = None
        self._engine: Any = None
        self._time_source: Any = None
        self.begin()

    def now(self) -> float:
        """ROS time as the rig tells it, s."""
        return time.time() + self.offset

    # Relays

    def relay_cameras(self) -> None:
        """Stand between the cameras, too, and whoever looks at CAMERAS."""
        for camera, mine in zip(("front", "wrist"), CAMERAS, strict=True):
            out = self.create_publisher(Image, f"/{mine}/color/image_raw", qos.SENSOR)
            topic = f"/{camera}/color/image_raw"
            self.create_subscription(Image, topic, lambda m, o=out, t=topic: self._on_image(m, o, t), qos.SENSOR)

    def _on_joints(self, message: JointState) -> None:
        self.q, self.speed = np.array(message.position[:7]), float(np.abs(message.velocity[:7]).max())
        self.joints_heard = time.monotonic()
        if self.relay_joints:
            stamp = conversions.seconds(message.header.stamp) + self.offset
            message.header.stamp = conversions.time_message(stamp)
            self._joints.publish(message)

    def _on_command(self, message: JointTrajectory) -> None:
        self.command = np.array(message.points[-1].positions)
        self.command_speed = float(np.abs(message.points[0].velocities).max())

    def _on_image(self, message: Image, out: Any, topic: str) -> None:
        if self.freeze_images:
            message.data = self._frozen.setdefault(topic, message.data)
        else:
            self._frozen.pop(topic, None)
        if self.relay_images:
            out.publish(message)

    def _on_safety(self, message: SafetyStatus) -> None:
        self.safety, self.heard_safety = message, time.monotonic()

    # In the policy's place

    def drive(self, clock: bool = False) -> None:
        """Be the policy: a heartbeat, and plans that swing the hand from side to side. clock: be /clock, too."""
        self._chunks = self.create_publisher(ActionChunk, "/policy/action_chunk", qos.RELIABLE)
        self._engine = self.create_publisher(EngineStatus, "/policy/engine_status", qos.STATE)
        self.create_timer(0.1, self._beat)
        self.create_timer(0.4, self._send_chunk)
        if clock:
            self._time_source = self.create_publisher(Clock, "/clock", qos.RELIABLE)
            self.create_timer(0.005, self._tell_time)

    def _tell_time(self) -> None:
        self._time_source.publish(Clock(clock=conversions.time_message(self.now())))

    def _beat(self) -> None:
        status = EngineStatus(state=EngineStatus.RUNNING)
        status.header.stamp = conversions.time_message(self.now())
        self._engine.publish(status)

    def _send_chunk(self) -> None:
        self._plan += 1
        now = self.now() - 0.1  # as if the engine had needed this long
        times = now + 0.1 * np.arange(9)
        actions = np.zeros((8, 7))
        actions[:, 1], actions[:, 6] = np.diff(0.10 * np.sin(1.5 * times)), 1.0
        chunk = conversions.chunk_message(actions, 0.1, "", self._plan, conversions.header(now, BASE_FRAME))
        self.spoil(chunk)
        self._chunks.publish(chunk)

    def say_twist(self, y: float, z: float = 0.0) -> None:
        """Move the hand sideways and up, m/s."""
        message = TwistStamped()
        message.header = conversions.header(self.now(), BASE_FRAME)
        message.twist.linear.y, message.twist.linear.z = y, z
        self._twist.publish(message)

    # For whoever uses it

    def until(self, happened: Callable[[], Any], patience: float) -> bool:
        """Wait until `happened()`; False when it did not within `patience` s."""
        deadline = time.monotonic() + patience
        while not happened():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def call(self, kind: Any, name: str, patience: float = 15.0, **request: Any) -> Any:
        """A service's answer. Raises RuntimeError when there is none."""
        client = self.create_client(kind, name)
        try:
            if not self.until(client.service_is_ready, patience):
                raise RuntimeError(f"no service {name}; see the nodes' logs")
            future = client.call_async(kind.Request(**request))
            if not self.until(future.done, patience):
                raise RuntimeError(f"{name} did not answer in {patience:g} s; see the nodes' logs")
            return future.result()
        finally:
            self.destroy_client(client)

    def go(self) -> None:
        """Say resume, until the controller does. Raises RuntimeError, with its reason, when it will not."""
        deadline = time.monotonic() + 10.0
        while not (answer := self.call(Trigger, "/controller/resume")).success:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the controller does not resume: {answer.message}")
            time.sleep(0.1)

    def moving(self) -> bool:
        """The arm moves as it is told by the policy."""
        return bool(self.safety.state == SafetyStatus.POLICY and self.speed > 10 * STANDING)

    def standing(self) -> bool:
        """The arm stands, by its own measurement."""
        return self.speed < STANDING

    def halted(self) -> bool:
        """The controller says that it holds or is stopped, and the arm is told to stand where it is."""
        return self.safety.state in (SafetyStatus.HOLD, SafetyStatus.STOPPED) and self.command_speed < UNTOLD

    def stays(self, seconds: float) -> bool:
        """Watch for a while: the arm is told to stay where it is. (What it leaned on may still give way.)"""
        began = self.command
        return not self.until(lambda: np.abs(self.command - began).max() > UNTOLD, seconds)


def with_nan(chunk: ActionChunk) -> None:
    """Spoil one value."""
    actions = np.array(chunk.actions)
    actions[10] = np.nan
    chunk.actions = array.array("d", actions.tobytes())


def from_the_past(chunk: ActionChunk) -> None:
    """Stamp it five seconds earlier."""
    chunk.header.stamp = conversions.time_message(conversions.seconds(chunk.header.stamp) - 5.0)
