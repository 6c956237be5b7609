"""A leader arm and a SpaceMouse, as their drivers publish them, before a controller's own process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import Twist
from sensor_msgs.msg import JointState, Joy

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.msg import GripperOpening, SafetyStatus
from molmoact_ros.robots.franka import HOME_Q
from molmoact_ros.ros import conversions, qos

from .cell import Cell

NAMES = [*(f"leader_joint{n}" for n in range(1, 8)), "leader_grip"]


@pytest.fixture
def cell(domain: int, tmp_path: Path) -> Iterator[Cell]:
    controller = {"joints_deadline": 0.5, "keep_stop": False, "priority": 0}
    nodes = {"controller": controller, "leader": {"gripper": "leader_grip"}, "spacemouse": {}}
    with Bringup(Profile(nodes=nodes), tmp_path) as bringup:
        made = Cell(bringup)
        yield made
        made.close()


def test_a_leader_that_is_moved_is_followed_and_one_that_rests_lets_go(cell: Cell) -> None:
    leader, speed = HOME_Q.copy(), 0.0
    publisher = cell.node.create_publisher(JointState, "/leader/joint_states", qos.RELIABLE)

    def publish() -> None:
        leader[0] += speed * 0.02
        head = conversions.header(cell.now(), "")
        publisher.publish(JointState(header=head, name=NAMES, position=[*leader.tolist(), 0.5]))

    cell.node.create_timer(0.02, publish)
    assert cell.until(publisher.get_subscription_count)
    cell.spin(2.5)
    assert not cell.robot.commands and cell.status.state == SafetyStatus.IDLE, "it rests"
    grips = cell.listen(GripperOpening, "/controller/teleop/gripper_stamped", qos.RELIABLE)
    for _ in range(5):  # a leader that streams when it is discovered has to rest once
        speed = 0.3
        cell.spin(1.0)
        speed = 0.0
        if cell.until(lambda: abs(float(cell.robot.q[0] - leader[0])) < 0.05 and cell.robot.commands, 5.0):
            break
        cell.spin(1.5)
    assert float(cell.robot.q[0] - HOME_Q[0]) > 0.2, cell.status
    assert cell.is_in("HOLD"), "it rests, and the arm has arrived"
    assert grips and grips[-1].opening == pytest.approx(0.04)


def test_a_spacemouse_moves_the_arm_while_its_cap_is_deflected(cell: Cell) -> None:
    twists = cell.node.create_publisher(Twist, "/spacenav/twist", qos.RELIABLE)
    buttons = cell.node.create_publisher(Joy, "/spacenav/joy", qos.RELIABLE)
    grips = cell.listen(GripperOpening, "/controller/teleop/gripper_stamped", qos.RELIABLE)
    deflection = Twist()
    cell.node.create_timer(0.02, lambda: twists.publish(deflection))
    assert cell.until(lambda: twists.get_subscription_count() and buttons.get_subscription_count())
    cell.spin(1.5)
    assert not cell.robot.commands, "its centre is no command"
    deflection.linear.z = 0.68
    assert cell.until(lambda: float(np.abs(cell.robot.q - HOME_Q).max()) > 0.03), cell.status
    assert cell.status.reason == "an operator moves the arm: twist"
    deflection.linear.z = 0.0
    assert cell.is_in("HOLD")
    for pressed in (0, 1):
        buttons.publish(Joy(buttons=[pressed, 0]))
        cell.spin(0.2)
    assert cell.until(lambda: grips) and grips[-1].opening == 0.0
