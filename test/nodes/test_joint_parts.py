"""Joint states in parts, at the nodes that show them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState
from tf2_msgs.msg import TFMessage

from molmoact_ros.nodes.view import KEPT, _Recent
from molmoact_ros.nodes.visualization.robot_state import RobotFrames
from molmoact_ros.robots.forward_kinematics import Links
from molmoact_ros.robots.franka import HOME_Q, SINGLE
from molmoact_ros.ros import conversions, qos
from molmoact_ros.utils.paths import robot_model

from .conftest import Peer


def test_frames_come_from_arm_and_hand_apart_and_from_joints_without_a_stamp(
    peer: Peer, node: Callable[..., Node]
) -> None:
    """Without a stamp the time of receipt is harmless here: nothing is moved by it."""
    shown = peer.listen(TFMessage, "/tf", qos.TF)
    RobotFrames(node(), [SINGLE], "parts", 50.0)
    publisher = peer.node.create_publisher(JointState, "/parts", qos.RELIABLE)
    links = Links(robot_model())
    links.update(dict(zip(SINGLE.joints, HOME_Q.tolist(), strict=True)) | dict.fromkeys(SINGLE.fingers, 0.03))
    stamp = 0.0

    def pose(frame: str) -> np.ndarray | None:
        """Its place in its parent in the newest frames, [3] m."""
        found = [t for m in shown for t in m.transforms if t.child_frame_id == frame and abs(age(m)) < 5.0]
        t = found[-1].transform.translation if found else None
        return None if t is None else np.array([t.x, t.y, t.z])

    def age(message: TFMessage) -> float:
        return peer.now() - conversions.seconds(message.transforms[0].header.stamp)

    def told() -> bool:
        for names, positions in ((SINGLE.joints, HOME_Q.tolist()), (SINGLE.fingers, [0.03, 0.03])):
            head = conversions.header(stamp, "")
            publisher.publish(JointState(header=head, name=names, position=positions))
        frames = [name for name in links.parents if not links.is_fixed(name)]
        return all((at := pose(name)) is not None and np.allclose(at, links.in_parent(name)[:3, 3]) for name in frames)

    assert peer.until(told), "stamped 0"
    shown.clear()
    stamp = peer.now()
    assert peer.until(told)


def test_what_was_kept_is_dropped_when_the_clock_is_set_back() -> None:
    recent = _Recent()
    for k in range(20):
        recent.add(100.0 + k / 10, b"%d" % k)
    assert recent.at(101.0) == b"10" and set(recent.around(101.0)[:3]) == {b"9", b"10", b"11"}
    recent.add(3.0, b"new")
    assert recent.around(101.0) == [b"new"], "and is of no moment any more"
    recent.add(3.0 + 2 * KEPT, b"newer")
    assert recent.around(3.0) == [b"newer"]
