"""The Franka FR3 with Franka Hand: names, limits, home.

Positions, velocities and torques: frankarobotics/franka_description, robots/fr3/joint_limits.yaml. Accelerations and
jerks: Franka Control Interface documentation, "Robot and interface specifications", FR3.
"""

from __future__ import annotations

import numpy as np

ARM_JOINTS = tuple(f"fr3_joint{i}" for i in range(1, 8))
FINGER_JOINTS = ("fr3_finger_joint1", "fr3_finger_joint2")
BASE_FRAME, TCP_FRAME = "fr3_link0", "fr3_hand_tcp"

POSITION_MIN = np.array([-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159])  # rad
POSITION_MAX = np.array([2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159])  # rad
VELOCITY_MAX = np.array([2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26])  # rad/s
ACCELERATION_MAX = np.full(7, 10.0)  # rad/s^2
TORQUE_MAX = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])  # N m
HOME_Q = np.array(
    [0.0, -0.2752, 0.0, -2.5898, 0.0, 2.3145, 0.7854]
)  # rad: the hand points down, 0.25 m over the table's middle
OPENING_MAX = 0.08  # m between the finger tips (Franka Hand datasheet)
