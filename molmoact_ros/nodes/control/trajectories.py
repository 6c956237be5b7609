"""JointTrajectory messages for arms and fingers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from builtin_interfaces.msg import Duration
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import FR3

FINGER_SPEED: Final = 0.075
"""Speed of one finger, m/s: that at which the demonstrations open and close the hand."""


def rolling_trajectory(joints: Sequence[str], command: ArmCommand) -> JointTrajectory:
    """The command after one period, and braking to standstill behind it.

    The next message replaces it. If this process ends, the arm has already been commanded to come to rest. A stamp of
    zero: now.
    """
    q, dq, after = command.position, command.velocity, command.period
    braking = float(np.max(np.abs(dq) / FR3.acceleration_max))
    points = [_point(after, q, dq)]
    if braking > 1e-3:
        points.append(_point(after + braking, q + dq * braking / 2, np.zeros(7)))
    else:
        points[0].velocities = [0.0] * 7
    return JointTrajectory(joint_names=list(joints), points=points)


def gripper_trajectory(joint: str, position: float, seconds: float) -> JointTrajectory:
    """A trajectory of one joint to `position`, in the driver's unit, in that time, s."""
    return JointTrajectory(joint_names=[joint], points=[_point(seconds, np.array([position]), None)])


def gripper_seconds(opening: float, measured: float) -> float:
    """Duration of a motion from `measured` to `opening`, m between the fingers, at FINGER_SPEED, s."""
    return max(0.05, abs(opening - measured) / 2 / FINGER_SPEED)


def _point(after: float, positions: np.ndarray, velocities: np.ndarray | None) -> JointTrajectoryPoint:
    nanoseconds = round(after * 1e9)
    return JointTrajectoryPoint(
        time_from_start=Duration(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9),
        positions=positions.tolist(),
        velocities=[] if velocities is None else velocities.tolist(),
    )
