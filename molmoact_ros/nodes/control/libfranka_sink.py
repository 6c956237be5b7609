"""A sink that drives an arm by pylibfranka."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import BaseModel, Field, ValidationInfo, field_validator
from rclpy.logging import LoggingSeverity
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from molmoact_ros.nodes.control.measured_joints import Measured
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import Arm
from molmoact_ros.robots.libfranka.client import ArmSettings, LibfrankaArm, LibfrankaState, RobotMode
from molmoact_ros.robots.libfranka.interpolator import RefusedCommand
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.arm_topics import joint_states, of_arm
from molmoact_ros.ros.clocks import STEADY
from molmoact_ros.ros.logging import ThreadedLog
from molmoact_ros.ros.parameters import declare

RATE: Final = 100.0
"""Rate of the joint states, Hz."""
FINGERS_FRESH: Final = 1.0
"""s; franka_gripper publishes its fingers at 15 Hz."""
Threshold = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Length = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Inertia = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


class LibfrankaConfig(BaseModel):
    """Parameters of the libfranka sink. An empty one keeps the robot's value, from Desk or from its last client.

    Payload of at most 3 kg: FR3 datasheet. The other bounds are ours: beyond them a number is in the wrong unit.
    """

    robot_address: str = Field("", description="the robot's host name or IP address")
    finger_states: str = Field("", min_length=1, description="topic of the gripper driver's joint states")
    record: str = Field("", description="file (.npz) to write every cycle at 1 kHz to, at the end; empty: none")
    load_mass: float = Field(
        0.0, ge=0, le=3, allow_inf_nan=False, description="kg of what is fixed to the flange beside the hand; 0: as is"
    )
    load_centre: list[Length] = Field([0.0] * 3, min_length=3, max_length=3, description="its centre in the flange, m")
    load_inertia: list[Inertia] = Field(
        [0.0] * 9, min_length=9, max_length=9, description="its inertia about that centre, kg m^2, column by column"
    )
    collision_torque: list[Threshold] = Field(
        [], max_length=7, description="N m at each joint from which on it is a collision, and the robot stops"
    )
    collision_force: list[Threshold] = Field(
        [], max_length=6, description="the same for the hand: N along x, y, z and N m about them"
    )
    tool_frame: list[Length] = Field(
        [], max_length=16, description="tool in the nominal end effector's frame: 4x4, column by column, m"
    )

    @field_validator("load_inertia")
    @classmethod
    def _inertia(cls, values: list[float]) -> list[float]:
        tensor = np.reshape(values, (3, 3))
        if not np.allclose(tensor, tensor.T) or np.linalg.eigvalsh(tensor).min() < -1e-9:
            raise ValueError("an inertia is symmetric and has no negative moments")
        return values

    @field_validator("collision_torque", "collision_force")
    @classmethod
    def _all_or_none(cls, values: list[float], info: ValidationInfo) -> list[float]:
        size = 7 if info.field_name == "collision_torque" else 6
        if len(values) not in (0, size):
            raise ValueError(f"give {size} values, or none")
        return values

    @field_validator("tool_frame")
    @classmethod
    def _frame(cls, values: list[float]) -> list[float]:
        if not values:
            return values
        if len(values) != 16:
            raise ValueError("give 16 values, or none")
        frame = np.reshape(values, (4, 4)).T
        rotation = frame[:3, :3]
        proper = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-5) and np.linalg.det(rotation) > 0
        if not proper or not np.array_equal(frame[3], [0, 0, 0, 1]):
            raise ValueError("it is no rotation and translation; the columns come one after the other")
        return values

    @property
    def settings(self) -> ArmSettings:
        """The settings for the robot before it first moves. Raises ValueError where only one threshold is given."""
        if bool(self.collision_torque) != bool(self.collision_force):
            raise ValueError("collision_torque and collision_force are set together: libfranka takes both at once")
        return ArmSettings(
            load_mass=self.load_mass,
            load_centre=tuple(self.load_centre),
            load_inertia=tuple(self.load_inertia),
            collision_torque=tuple(self.collision_torque),
            collision_force=tuple(self.collision_force),
            tool_frame=tuple(self.tool_frame),
        )


class LibfrankaSink:
    """Drives the arm by pylibfranka, without ros2_control. Publishes the joint states, with the fingers' once received.

    Its 1 kHz process brakes on its own when commands stop.
    """

    holds_last, topic = False, ""

    def __init__(self, node: Node, arm: Arm) -> None:
        topic = of_arm(arm, "franka_gripper/joint_states")
        config = declare(node, LibfrankaConfig, arm.prefix, finger_states=topic)
        if not config.robot_address:
            raise ValueError(f"the sink libfranka needs the parameter {arm.prefix}robot_address")
        self._node, self._description, self._notes = node, arm, ThreadedLog(node)
        self._mode, self._refused = RobotMode.CONNECTING, 0
        self._fingers = Measured(node, arm.fingers, config.finger_states)
        self._publisher = node.create_publisher(JointState, joint_states(node), qos.RELIABLE)
        record = Path(config.record) if config.record else None
        self._arm = LibfrankaArm(config.robot_address, record, config.settings)
        node.create_service(Trigger, f"~/{arm.prefix}recover", self._on_recover)
        self._timer = node.create_timer(1.0 / RATE, self._report_state, clock=STEADY)

    def send(self, command: ArmCommand) -> None:
        """Pass a command to the 1 kHz process, which interpolates, and brakes when commands stop."""
        try:
            self._arm.send(command)
        except (RefusedCommand, ConnectionError) as error:
            self._notes.note(str(error))

    def fault(self) -> str:
        """Why the robot or the 1 kHz process has stopped, by the newest state."""
        state = self._arm.state()
        if state.mode not in (RobotMode.FAULT, RobotMode.ENDED):
            return ""
        return " ".join(state.message.split()) or "it does not say why"

    def close(self) -> None:
        """Bring the arm to rest, and return then."""
        self._timer.cancel()
        self._arm.close()

    def _report_state(self) -> None:
        state = self._arm.state()
        if state.refused > self._refused:
            self._notes.note(state.message, LoggingSeverity.WARN)
        self._refused = state.refused
        if state.mode is not self._mode:
            self._mode = state.mode
            self._report_mode(state)
        if state.mode not in (RobotMode.CONNECTING, RobotMode.ENDED):
            self._publish(state)

    def _report_mode(self, state: LibfrankaState) -> None:
        if state.mode not in (RobotMode.FAULT, RobotMode.ENDED):
            self._notes.note(f"the robot is {state.mode.name.lower()}", LoggingSeverity.INFO)
            return
        service = f"{self._node.get_fully_qualified_name()}/{self._description.prefix}recover"
        how = f"; call {service} when it is safe" if state.mode is RobotMode.FAULT else ""
        self._notes.note(f"the robot has stopped: {state.message}{how}")

    def _publish(self, state: LibfrankaState) -> None:
        stamp = self._node.get_clock().now().nanoseconds * 1e-9 - (time.monotonic() - state.stamp)
        message = JointState(header=conversions.header(stamp, self._description.base_frame))
        message.name, message.position, message.velocity = self._description.joints, state.q.tolist(), state.dq.tolist()
        fingers = self._fingers.positions(within=FINGERS_FRESH)
        if fingers is not None:
            message.name = [*self._description.joints, *self._description.fingers]
            message.position, message.velocity = [*state.q, *fingers], [*state.dq, 0.0, 0.0]
        self._publisher.publish(message)

    def _on_recover(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Service `recover`: an operator clears the error after the robot stopped by itself."""
        try:
            self._arm.recover()
            response.success, response.message = True, "asked for; the arm stays where it is until it is told to go on"
        except ConnectionError as error:
            response.success, response.message = False, str(error)
        return response
