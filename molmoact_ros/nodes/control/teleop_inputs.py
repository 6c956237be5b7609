"""Teleoperation topics of the controller: each message's age is checked, then it is passed to its arm.

A stamped message is as old as its stamp says, so a replayed bag moves nothing. An unstamped one is as old as the
sender's middleware says, so a network's backlog moves nothing either. That does not detect a node that publishes a
bag's unstamped messages anew, which is why our own devices stamp all of theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Any, Final

from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from std_msgs.msg import Bool, Float64, Header
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.control.arm_controller import ArmController
from molmoact_ros.control.teleop import wrong_age
from molmoact_ros.msg import Deadman, GripperOpening
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.bounded_subscription import subscribe
from molmoact_ros.ros.clocks import STEADY

DISCOVERY: Final = 1.0
"""s after the start, and after each publisher is discovered, within which a teleoperation stream is not followed until
it has paused once: it may have been going on for long, and begun for a controller that is no more."""
LOOK: Final = 0.2
"""s between looks for new publishers."""


class TeleopInputs:
    """Subscriptions of one arm's `~/teleop/` topics. Valid messages go to the arm's Teleop, under `lock`."""

    def __init__(
        self,
        node: Node,
        arm: ArmController,
        lock: Any,
        timeout: float,
        refuse: Callable[[str], None],
        expect_silence: Callable[[float], None],
    ) -> None:
        """timeout: greatest age of a message, s; refuse: receives one line about each message that is too old;
        expect_silence: as the controller's, called under `lock`.
        """
        self._node, self._arm, self._lock, self._timeout, self._refuse = node, arm, lock, timeout, refuse
        self._expect_silence = expect_silence
        self._seen: dict[bytes, float] = {}  # when each publisher was discovered, by its id; steady clock, s
        self._number: dict[str, int] = {}  # of publishers at that look, by topic
        self._prefix = f"{node.get_fully_qualified_name()}/teleop/{arm.arm.prefix}"
        kinds = (
            (TwistStamped, "twist", self._on_twist), (JointTrajectory, "joint", self._on_joints),
            (GripperOpening, "gripper_stamped", self._on_gripper), (Float64, "gripper", self._on_old_gripper),
            (Deadman, "deadman_stamped", self._on_deadman), (Bool, "deadman", self._on_old_deadman),
            (Header, "home", self._on_home),
        )  # fmt: skip
        for kind, name, take in kinds:
            subscribe(node, kind, self._prefix + name, take, qos.RELIABLE, refuse)
        self._topics = [self._prefix + name for _, name, _ in kinds]
        node.create_timer(LOOK, self._note_publishers, clock=STEADY)

    def _note_publishers(self) -> None:
        """Note publishers that are new; one that sends before this has seen it for DISCOVERY has to pause once."""
        now, found = time.monotonic(), dict[bytes, float]()
        for topic in self._topics:
            infos = self._node.get_publishers_info_by_topic(topic)
            found |= {(gid := bytes(info.endpoint_gid)): self._seen.get(gid, now) for info in infos}
            self._number[topic] = len(infos)
        self._seen = found

    def _counts(self, name: str, stamp: Any, sent: float) -> bool:
        """Whether a message may move the arm. stamp: its own, or None; sent: source timestamp, s since 1970."""
        told = 0.0 if stamp is None else conversions.seconds(stamp)
        age = self._node.get_clock().now().nanoseconds * 1e-9 - told if told else time.time() - sent
        if why := wrong_age(age, self._timeout):
            self._refuse(f"{self._prefix}{name} is not followed: {why}")
            return False
        self._doubt_new_publishers(self._prefix + name)
        return True

    def _doubt_new_publishers(self, topic: str) -> None:
        if self._node.count_publishers(topic) != self._number.get(topic, 0):
            self._note_publishers()
        newest = max(self._seen.values(), default=-inf)
        if time.monotonic() - newest < DISCOVERY:
            with self._lock:
                self._expect_silence(newest + DISCOVERY)

    def _on_twist(self, message: TwistStamped, sent: float) -> None:
        frame, t, arm = message.header.frame_id.lstrip("/"), message.twist, self._arm.arm
        if frame not in ("", arm.base_frame, arm.tcp_frame):
            self._refuse(f"twist in {frame!r} is not followed; send {arm.base_frame} or {arm.tcp_frame}")
        elif self._counts("twist", message.header.stamp, sent):
            values = [t.linear.x, t.linear.y, t.linear.z, t.angular.x, t.angular.y, t.angular.z]
            with self._lock:
                self._arm.teleop.twist(values, time.monotonic(), in_tool=frame == arm.tcp_frame)

    def _on_joints(self, message: JointTrajectory, sent: float) -> None:
        joints = self._arm.arm.joints
        try:
            last = message.points[-1].positions
            q = [last[message.joint_names.index(joint)] for joint in joints]
        except (ValueError, IndexError):
            self._refuse(f"a joint target names {joints[0]}..7 and has a point with their positions")
            return
        if self._counts("joint", message.header.stamp, sent):
            with self._lock:
                self._arm.teleop.joints(q, time.monotonic())

    def _on_home(self, message: Header, sent: float) -> None:
        if self._counts_stamped("home", message, sent):
            with self._lock:
                self._arm.teleop.home(time.monotonic())

    def _on_gripper(self, message: GripperOpening, sent: float) -> None:
        if self._counts_stamped("gripper_stamped", message.header, sent):
            with self._lock:
                self._arm.teleop.gripper(message.opening, time.monotonic())

    def _on_old_gripper(self, message: Float64, sent: float) -> None:
        if self._counts("gripper", None, sent):
            with self._lock:
                self._arm.teleop.gripper(message.data, time.monotonic())

    def _on_deadman(self, message: Deadman, sent: float) -> None:
        # A release always counts.
        if not message.held or self._counts_stamped("deadman_stamped", message.header, sent):
            with self._lock:
                self._arm.teleop.deadman(message.held, time.monotonic())

    def _on_old_deadman(self, message: Bool, sent: float) -> None:
        if not message.data or self._counts("deadman", None, sent):
            with self._lock:
                self._arm.teleop.deadman(message.data, time.monotonic())

    def _counts_stamped(self, name: str, head: Header, sent: float) -> bool:
        if head.stamp.sec or head.stamp.nanosec:
            return self._counts(name, head.stamp, sent)
        self._refuse(f"{self._prefix}{name} is not followed: it carries no stamp")
        return False
