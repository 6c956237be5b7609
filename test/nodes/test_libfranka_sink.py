"""The libfranka sink in a node, against a simulated robot that enforces limits and counts lost packets."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import numpy as np
import pytest
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from molmoact_ros.nodes.control.arm_sinks import make_sink
from molmoact_ros.robots.franka import Arm
from molmoact_ros.robots.libfranka.client import ArmSettings, RobotMode, own_priority
from molmoact_ros.robots.libfranka.process import set_up
from molmoact_ros.ros import qos
from molmoact_ros.sim.franka_sim import FrankaSim
from molmoact_ros.utils.paths import robot_model

from ..robots.conftest import LOST, attempts
from ..robots.libfranka.motion import policy_motion
from .conftest import Peer
from .driven import LEFT, command


def test_libfranka(peer: Peer, node: Callable[..., Node], tmp_path: Path) -> None:
    states = peer.listen(JointState, "/joint_states", qos.RELIABLE)
    fingers = peer.node.create_publisher(JointState, "/franka_gripper/joint_states", qos.RELIABLE)
    with FrankaSim(robot_model(), tmp_path / "franka_sim.log") as robot:
        sink = make_sink("libfranka", node(robot_address=robot.address), Arm())
        try:
            assert peer.until(lambda: states and states[-1].name == list(Arm().joints))
            fingers.publish(JointState(name=[*Arm().fingers], position=[0.01, 0.01]))
            assert peer.until(lambda: len(states[-1].name) == 9 and states[-1].position[7:].tolist() == [0.01, 0.01])
            q = np.array(states[-1].position[:7])
            goal = q + np.eye(7)[6] * 0.05
            sink.send(command(position=q, velocity=np.zeros(7)))  # begin where the arm stands

            def there() -> bool:
                sink.send(command(position=goal, velocity=np.zeros(7)))
                return bool(np.abs(np.array(states[-1].position[:7]) - goal).max() < 0.005)

            assert peer.until(there)
            sink.send(command(position=goal * np.nan))  # is logged, and no more
            assert peer.call(Trigger, "/controller0/recover").success
            assert abs(states[-1].header.stamp.sec - peer.now()) < 2
        finally:
            sink.close()
        assert not robot.refusals()


@attempts(3)
def test_c3_libfranka_a_reflex_is_a_fault_and_recover_moves_nothing(
    peer: Peer, node: Callable[..., Node], tmp_path: Path
) -> None:
    with FrankaSim(robot_model(), tmp_path / "franka_sim.log") as robot:
        controller = node(robot_address=robot.address)
        sink: Any = make_sink("libfranka", controller, Arm())
        try:
            assert peer.until(lambda: sink._arm.state().mode is RobotMode.IDLE)
            motion = policy_motion(3, sink._arm.state().q_d, 0.01)

            def drive(seconds: float) -> None:
                end = time.monotonic() + seconds
                for step in motion:
                    sink.send(step)
                    time.sleep(0.01)
                    if time.monotonic() > end:
                        return

            drive(0.6)
            assert sink.fault() == "", sink.fault()
            os.kill(sink._arm.pid, signal.SIGSTOP)
            assert peer.until(lambda: robot.refusals())
            os.kill(sink._arm.pid, signal.SIGCONT)
            began = time.monotonic()
            assert peer.until(lambda: sink.fault() != "", 0.1), "seen at once, without a timer"
            assert LOST in sink.fault() and "\n" not in sink.fault(), f"after {time.monotonic() - began:.3f} s"
            drive(0.5)  # a controller that has not noticed yet
            stands = sink._arm.state()
            assert peer.call(Trigger, f"{controller.get_fully_qualified_name()}/recover").success
            drive(0.1)  # which does not end by itself
            assert peer.until(lambda: sink.fault() == "")
            drive(0.3)
            state = sink._arm.state()
            assert state.mode is RobotMode.IDLE and np.array_equal(state.q_d, stands.q_d), "nobody is in control"
            assert np.abs(state.q - stands.q).max() < 0.02, "the simulator's servo does not hold quite still"
            assert "begins where the arm stands" in state.message and state.refused > 10
            goal = state.q + np.eye(7)[6] * 0.02
            sink.send(command(position=state.q, velocity=np.zeros(7)))

            def there() -> bool:
                sink.send(command(position=goal, velocity=np.zeros(7)))
                return bool(abs(sink._arm.state().q[6] - goal[6]) < 0.005)

            assert peer.until(there), sink._arm.state()  # from a stand it goes on
        finally:
            sink.close()


SETTINGS: dict[str, Any] = {
    "load_mass": 0.5,
    "load_centre": [0.0, 0.01, 0.05],
    "load_inertia": [0.001, 0.0, 0.0, 0.0, 0.002, 0.0, 0.0, 0.0, 0.003],
    "collision_torque": [20.0] * 7,
    "collision_force": [25.0] * 6,
    "tool_frame": [0.0, 1.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.1034, 1.0],
}


def test_m10_the_robot_knows_load_and_tool_before_it_is_driven(
    peer: Peer, node: Callable[..., Node], tmp_path: Path
) -> None:
    """franka-sim takes thresholds without heeding them, and forgets everything with its client."""
    import pylibfranka

    with FrankaSim(robot_model(), tmp_path / "franka_sim.log") as robot:
        sink: Any = make_sink("libfranka", node(robot_address=robot.address, **SETTINGS), Arm())
        try:
            assert peer.until(lambda: sink._arm.state().mode is RobotMode.IDLE), sink.fault()
            told = Path(f"/proc/{sink._arm.pid}/cmdline").read_bytes().split(b"\0")[6].decode()
        finally:
            sink.close()
        with own_priority():
            client = pylibfranka.Robot(robot.address, pylibfranka.RealtimeConfig.kIgnore)
        set_up(client, ArmSettings.from_json(told))
        for _ in range(1000):  # states from before are still on their way
            state = client.read_once()
            if state.NE_T_EE[12] or state.NE_T_EE[14]:
                break
    assert state.m_load == pytest.approx(0.5) and np.allclose(state.F_x_Cload, SETTINGS["load_centre"])
    assert np.allclose(state.I_load, SETTINGS["load_inertia"]) and np.allclose(state.NE_T_EE, SETTINGS["tool_frame"])


def test_m10_what_is_not_given_stays_as_the_robot_has_it() -> None:
    """A recording stand-in for the robot: the simulated one does not say which thresholds it was given."""
    robot = Mock()
    set_up(robot, ArmSettings())
    assert robot.mock_calls == []
    set_up(robot, ArmSettings(collision_torque=(20.0,) * 7, collision_force=(25.0,) * 6))
    torque, force = (20.0,) * 7, (25.0,) * 6
    assert robot.mock_calls == [call.set_collision_behavior(torque, torque, force, force)]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("load_mass", -0.1, "greater than or equal to 0"),
        ("load_mass", 30.0, "less than or equal to 3"),
        ("load_mass", float("nan"), "finite"),
        ("load_centre", [0.0, 0.1], "at least 3"),
        ("load_centre", [0.0, 0.1, float("inf")], "finite"),
        ("load_inertia", [0.0, 1.0, *[0.0] * 7], "symmetric"),
        ("load_inertia", [-0.1, *[0.0] * 8], "no negative moments"),
        ("collision_torque", [20.0] * 6, "7 values"),
        ("collision_torque", [20.0] * 6 + [0.0], "greater than 0"),
        ("collision_force", [float("nan")] * 6, "finite"),
        ("collision_force", [20.0] * 6, "set together"),
        ("tool_frame", [1.0] * 16, "no rotation"),
        ("tool_frame", [1.0], "16 values"),
    ],
)
def test_m10_what_no_robot_should_be_told(node: Callable[..., Node], name: str, value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_sink("libfranka", node(left_robot_address="127.0.0.9", **{f"left_{name}": value}), LEFT)
