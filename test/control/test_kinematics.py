"""Forward and inverse kinematics on the real arm model."""

from __future__ import annotations

import numpy as np

from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.control.pose import Pose
from molmoact_ros.robots.franka import HOME_Q

from .helpers import DT, ROBOT


def test_kinematics_reaches_a_target_within_a_millimetre() -> None:
    kinematics = Kinematics(ROBOT)
    rng, q = np.random.default_rng(3), HOME_Q
    down = kinematics.forward(HOME_Q).rotation
    for _ in range(5):
        target = Pose(rng.uniform([0.38, -0.25, 0.05], [0.65, 0.25, 0.35]), down)
        for _ in range(250):
            q = kinematics.solve(q, target, DT)
        reached = kinematics.forward(q)
        assert np.linalg.norm(reached.position - target.position) < 1e-3
        assert (reached.rotation * down.inv()).magnitude() < 0.02


def test_a_stretched_arm_is_near_a_singularity() -> None:
    kinematics = Kinematics(ROBOT)
    stretched = np.array([0.0, 0.5, 0.0, -0.16, 0.0, 1.8, 0.0])
    assert kinematics.dexterity(HOME_Q) > 0.15 > 0.06 > kinematics.dexterity(stretched)
