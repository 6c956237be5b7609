"""A fault injector beside the running graph: between robot and controller, or in the policy's place."""

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
from std_msgs.msg import Empty, Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.msg import ActionChunk, EngineStatus, SafetyStatus
from molmoact_ros.robots.franka import BASE_FRAME
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.background_node import BackgroundNode

JOINT_STATES: Final = "/rig/joint_states"
CAMERAS: Final = ("rig_front", "rig_wrist")
STANDING: Final = 0.01
"""rad/s under which every joint of the arm counts as standing: a position servo at rest quivers."""
UNTOLD: Final = 1e-3
"""rad or rad/s under which a command counts as the same, or as standing."""
SWAY: Final = 1.5
"""Angular frequency of the hand's sway, rad/s; its amplitude is WIDTH m."""
WIDTH: Final = 0.1
MIDDLE: Final = 0.15
"""Gain that pulls the hand back to the middle, m/s for each rad that the arm is turned away from it."""
AGAIN: Final = 0.5
"""Length of the interval that a repeating clock runs through, s."""


class ToldTime:
    """ROS time as the injector publishes it. A faulty clock stays so until `go_on`, which continues from its time."""

    def __init__(self) -> None:
        self._time_of: Callable[[float], float] = lambda real: real

    def now(self) -> float:
        """The published time, s since 1970."""
        return self._time_of(time.time())

    def jump(self, by: float) -> None:
        """Set the time ahead by `by` s."""
        ahead = self.now() - time.time() + by
        self._time_of = lambda real: real + ahead

    def stand_still(self) -> None:
        """Stop the time."""
        at = self.now()
        self._time_of = lambda real: at

    def repeat(self) -> None:
        """Repeat the last seconds again and again."""
        at, since = self.now(), time.time()
        self._time_of = lambda real: at - AGAIN + (real - since) % AGAIN

    def go_on(self) -> None:
        """Run at the normal rate."""
        self.jump(0.0)


class FaultInjector(BackgroundNode):
    """Relays joint states, and images after `relay_cameras`; after `drive` it plans in the policy's place.

    freeze_joints: the relayed joints stay constant, as if the arm were blocked. streaming: an operator sways the hand.
    present: an operator's presence is published.
    """

    def __init__(self, context: rclpy.Context | None = None) -> None:
        super().__init__("rig", context)
        self.safety, self.heard_safety = SafetyStatus(), 0.0
        self.q, self.speed, self.joints_heard = np.zeros(7), np.inf, 0.0
        self.relay_joints, self.freeze_joints, self.relay_images, self.freeze_images = True, False, True, False
        self.streaming, self.present, self._push = False, True, 1.0
        self.time = ToldTime()  # of /clock and the stamps here
        self.heard_idle = 0.0  # when a status of a controller in IDLE was last received
        self.hands = 0  # statuses in TELEOP
        self.spoil: Callable[[ActionChunk], None] = lambda chunk: None
        self._frozen: dict[str, Any] = {}
        self._service_clients: dict[str, Any] = {}
        self._drive, self._plan = False, 0
        self.command, self.command_speed = np.zeros(7), 0.0  # end of the last trajectory, and its initial speed
        self.commanded = np.zeros(7)  # start of the last trajectory
        self.relayed = np.zeros(7)  # the joints that were relayed last
        self._joints = self.create_publisher(JointState, JOINT_STATES, qos.RELIABLE)
        self.create_subscription(JointState, "/joint_states", self._on_joints, qos.SENSOR)
        topic = "/fr3_arm_controller/joint_trajectory"
        self.create_subscription(JointTrajectory, topic, self._on_command, qos.RELIABLE)
        self.create_subscription(SafetyStatus, "/controller/safety_status", self._on_safety, qos.STATE)
        self._twist = self.create_publisher(TwistStamped, "/controller/teleop/twist", qos.RELIABLE)
        self.say_stop = self.create_publisher(Empty, "/controller/stop", qos.RELIABLE)
        self._presence = self.create_publisher(Header, "/controller/presence", qos.RELIABLE)
        self.create_timer(0.1, self._publish_presence)
        self.create_timer(0.02, self._stream)
        self._chunks: Any = None
        self._engine: Any = None
        self._time_source: Any = None
        self.begin()

    def now(self) -> float:
        """ROS time as the injector publishes it, s."""
        return self.time.now()

    # Relays

    def relay_cameras(self) -> None:
        """Relay images between the cameras and the subscribers of CAMERAS."""
        for camera, mine in zip(("front", "wrist"), CAMERAS, strict=True):
            out = self.create_publisher(Image, f"/{mine}/color/image_raw", qos.SENSOR)
            topic = f"/{camera}/color/image_raw"
            self.create_subscription(Image, topic, lambda m, o=out, t=topic: self._on_image(m, o, t), qos.SENSOR)

    def _on_joints(self, message: JointState) -> None:
        self.q, self.speed = np.array(message.position[:7]), float(np.abs(message.velocity[:7]).max())
        self.joints_heard = time.monotonic()
        if self.freeze_joints:
            message.position = self._frozen.setdefault(JOINT_STATES, message.position)
        else:
            self._frozen.pop(JOINT_STATES, None)
        if self.relay_joints:
            stamp = conversions.seconds(message.header.stamp) + self.now() - time.time()
            message.header.stamp = conversions.time_message(stamp)
            self.relayed = np.array(message.position[:7])
            self._joints.publish(message)

    def _on_command(self, message: JointTrajectory) -> None:
        self.commanded, self.command = (np.array(message.points[end].positions) for end in (0, -1))
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
        self.hands += message.state == SafetyStatus.TELEOP
        if message.state == SafetyStatus.IDLE:
            self.heard_idle = self.heard_safety

    # As the policy

    def drive(self, clock: bool = False) -> None:
        """Act as the policy: a heartbeat, and plans that swing the hand from side to side. clock: publish /clock."""
        self._chunks = self.create_publisher(ActionChunk, "/policy/action_chunk", qos.RELIABLE)
        self._engine = self.create_publisher(EngineStatus, "/policy/engine_status", qos.STATE)
        self.create_timer(0.1, self._publish_heartbeat)
        self.create_timer(0.4, self._send_chunk)
        if clock:
            self._time_source = self.create_publisher(Clock, "/clock", qos.RELIABLE)
            self.create_timer(0.005, self._publish_time)

    def _publish_time(self) -> None:
        self._time_source.publish(Clock(clock=conversions.time_message(self.now())))

    def _publish_heartbeat(self) -> None:
        status = EngineStatus(state=EngineStatus.RUNNING)
        status.header.stamp = conversions.time_message(self.now())
        self._engine.publish(status)

    def _send_chunk(self) -> None:
        self._plan += 1
        now = self.now() - 0.1  # as if the engine had needed this long
        times = now + 0.1 * np.arange(9)
        actions = np.zeros((8, 7))
        actions[:, 1], actions[:, 6] = np.diff(WIDTH * np.sin(SWAY * times)) - 0.1 * self._centring_speed(), 1.0
        chunk = conversions.chunk_message(actions, 0.1, "", self._plan, conversions.header(now, BASE_FRAME))
        self.spoil(chunk)
        self._chunks.publish(chunk)

    def _centring_speed(self) -> float:
        """Speed by which the hand returns to the middle, m/s, so that drift does not accumulate over many trials."""
        return MIDDLE * float(self.q[0])

    # As the operator

    def _stream(self) -> None:
        if not self.freeze_joints:
            self._push = -float(np.sign(self.q[0]) or 1.0)
        if self.streaming and self.freeze_joints:
            # Push a blocked arm on across the middle: swaying, it might never lag far enough behind.
            self.say_twist(self._push * WIDTH * SWAY)
        elif self.streaming:
            self.say_twist(WIDTH * SWAY * float(np.cos(SWAY * time.monotonic())) - self._centring_speed())

    def _publish_presence(self) -> None:
        if self.present:
            self._presence.publish(conversions.header(self.now(), ""))

    def say_twist(self, y: float, z: float = 0.0, ago: float = 0.0) -> None:
        """Move the hand sideways and up, m/s; the message is stamped `ago` s in the past."""
        message = TwistStamped()
        message.header = conversions.header(self.now() - ago, BASE_FRAME)
        message.twist.linear.y, message.twist.linear.z = y, z
        self._twist.publish(message)

    # For callers

    def until(self, happened: Callable[[], Any], patience: float) -> bool:
        """Wait until `happened()`; False when it did not within `patience` s."""
        deadline = time.monotonic() + patience
        while not happened():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def forget_services(self) -> None:
        """Discover services anew at the next call: who answered may have ended."""
        clients, self._service_clients = self._service_clients, {}
        self.between_callbacks(lambda: [self.destroy_client(client) for client in clients.values()])

    def call(self, kind: Any, name: str, patience: float = 15.0, **request: Any) -> Any:
        """Call a service and return its response. Raises RuntimeError when there is none."""
        if name not in self._service_clients:  # kept: a new one is not discovered at once
            self._service_clients[name] = self.create_client(kind, name)
        client = self._service_clients[name]
        if not self.until(client.service_is_ready, patience):
            raise RuntimeError(f"no service {name}; see the nodes' logs")
        future = client.call_async(kind.Request(**request))
        if not self.until(future.done, patience):
            raise RuntimeError(f"{name} did not answer in {patience:g} s; see the nodes' logs")
        return future.result()

    def go(self) -> None:
        """Call resume until the policy moves the arm; with a stop latched, the first call resets it.

        Raises RuntimeError, with the controller's reason, when the arm does not move.
        """
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            answer = self.call(Trigger, "/controller/resume")
            if answer.success and self.until(lambda: self.safety.state == SafetyStatus.POLICY, 0.3):
                return
            time.sleep(0.1)
        raise RuntimeError(f"the controller does not resume: {answer.message or self.safety.reason}")

    def moving(self, state: int = SafetyStatus.POLICY) -> bool:
        """Whether the arm moves as commanded in that state, by the policy or by teleoperation."""
        return bool(self.safety.state == state and self.speed > 10 * STANDING)

    def standing(self) -> bool:
        """Whether the arm stands, by its joint states."""
        return self.speed < STANDING

    def halted(self) -> bool:
        """Whether the controller reports HOLD or STOPPED, and its commands stand still."""
        return self.safety.state in (SafetyStatus.HOLD, SafetyStatus.STOPPED) and self.command_speed < UNTOLD

    def stays(self, seconds: float) -> bool:
        """Whether the commands stand still for `seconds`. (An object that the arm leans on may still give way.)"""
        began = self.command
        return not self.until(lambda: np.abs(self.command - began).max() > UNTOLD, seconds)


def with_nan(chunk: ActionChunk) -> None:
    """Replace one value by nan."""
    actions = np.array(chunk.actions)
    actions[10] = np.nan
    chunk.actions = array.array("d", actions.tobytes())


def from_the_past(chunk: ActionChunk) -> None:
    """Shift the stamp five seconds back."""
    chunk.header.stamp = conversions.time_message(conversions.seconds(chunk.header.stamp) - 5.0)
