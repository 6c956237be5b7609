"""The controller at its topics: action chunks and joint states in, short joint trajectories out, at a fixed rate."""

from __future__ import annotations

from typing import Final

import numpy as np
from builtin_interfaces.msg import Duration
from pydantic import BaseModel, Field
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from molmoact_ros.control.chunk_player import ActionChunk as Chunk
from molmoact_ros.control.controller import Command, Controller, ControllerConfig
from molmoact_ros.control.limiter import Workspace
from molmoact_ros.control.supervisor import State
from molmoact_ros.msg import ActionChunk, SafetyStatus
from molmoact_ros.nodes import conversions, qos
from molmoact_ros.nodes.parameters import declare
from molmoact_ros.nodes.process import run
from molmoact_ros.paths import robot_model
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.robots.franka import ACCELERATION_MAX, ARM_JOINTS, FINGER_JOINTS

STATES: Final = {
    State.IDLE: SafetyStatus.IDLE,
    State.POLICY: SafetyStatus.POLICY,
    State.HOLD: SafetyStatus.HOLD,
    State.STOPPED: SafetyStatus.STOPPED,
}
STATUS_RATE: Final = 10.0
"""Hz of SafetyStatus, besides every change of state."""
FINGER_SPEED: Final = 0.075
"""m/s of one finger: the speed at which the demonstrations open and close the hand."""
AT_REST: Final = 1e-4
"""rad/s under which a joint counts as standing."""


class ControllerNodeConfig(BaseModel):
    """Parameters of the controller."""

    policy: str = Field("/policy", description="node name of the policy")
    rate: float = Field(50.0, ge=10, le=1000, description="cycles/s")
    joints_deadline: float = Field(0.1, gt=0, description="age of the joint states at which the arm holds, s")
    silence_deadline: float = Field(2.0, gt=0, description="time without motion left after which the arm holds, s")
    workspace_low: list[float] = Field(list(Workspace().low), min_length=3, max_length=3, description="corner, m")
    workspace_high: list[float] = Field(list(Workspace().high), min_length=3, max_length=3, description="corner, m")

    @property
    def control(self) -> ControllerConfig:
        """The same for the controller proper."""
        box = Workspace.model_validate({"low": self.workspace_low, "high": self.workspace_high})
        return ControllerConfig(
            rate=self.rate, joints_deadline=self.joints_deadline, silence_deadline=self.silence_deadline, workspace=box
        )


class ControllerNode(Node):
    """Everything happens on the executor's thread; nothing waits for anybody."""

    def __init__(self) -> None:
        super().__init__("controller")
        config = declare(self, ControllerNodeConfig)
        self._controller = Controller(robot_model(), config.control)
        self._period = 1.0 / config.rate
        self._joints_stamp: float | None = None
        self._chunk: Chunk | None = None
        self._measured_opening = 0.0
        self._gripper_goal: float | None = None  # the last one sent; None: send the next chunk's in any case
        self._moving, self._told = False, (State.IDLE, "")
        self._arm = self.create_publisher(JointTrajectory, "/fr3_arm_controller/joint_trajectory", qos.RELIABLE)
        self._gripper = self.create_publisher(JointTrajectory, "/fr3_gripper_controller/joint_trajectory", qos.RELIABLE)
        self._safety_status = self.create_publisher(SafetyStatus, "~/safety_status", qos.STATE)
        self.create_subscription(JointState, "/joint_states", self._on_joints, qos.SENSOR)
        self.create_subscription(ActionChunk, f"{config.policy}/action_chunk", self._on_chunk, qos.RELIABLE)
        self.create_service(Trigger, "~/start", self._on_start)
        self.create_service(Trigger, "~/resume", self._on_resume)
        self.create_service(Trigger, "~/hold", self._on_hold)
        self.create_service(Trigger, "~/stop", self._on_stop)
        self.create_timer(self._period, self._cycle)
        self.create_timer(1.0 / STATUS_RATE, self._publish_status)
        self.get_logger().info("ready: the arm stays where it is until it is told to start")

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds * 1e-9)

    # In

    def _on_joints(self, message: JointState) -> None:
        try:
            q = [message.position[message.name.index(joint)] for joint in ARM_JOINTS]
            fingers = [message.position[message.name.index(joint)] for joint in FINGER_JOINTS]
        except (ValueError, IndexError):
            self.get_logger().error(
                f"/joint_states lacks positions of {ARM_JOINTS[0]}..7 or the fingers; is it this robot's?",
                throttle_duration_sec=5.0,
            )
            return
        self._joints_stamp = conversions.seconds(message.header.stamp)
        self._measured_opening = sum(fingers)
        self._controller.update_joints(q, self._measured_opening, self._joints_stamp)

    def _on_chunk(self, message: ActionChunk) -> None:
        stamp = conversions.seconds(message.header.stamp)
        try:
            chunk = Chunk(conversions.chunk_actions(message), message.dt, stamp, message.plan_id)
        except RefusedStep as refusal:
            self._controller.refused += 1
            self.get_logger().error(f"chunk refused: {refusal}", throttle_duration_sec=1.0)
            return
        if self._controller.on_chunk(chunk, self._now()):
            self._chunk = chunk
        else:
            reason = self._controller.last_refusal
            self.get_logger().warning(f"chunk not played: {reason}", throttle_duration_sec=1.0)

    # People

    def _on_start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The policy begins a task. A stop is not lifted by this."""
        return self._answer(self._controller.start(self._now()), response)

    def _on_resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """A person lifts a hold or a stop."""
        return self._answer(self._controller.resume(self._now()), response)

    def _on_hold(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._controller.hold()
        return self._answer(True, response)

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._controller.stop()
        return self._answer(True, response)

    def _answer(self, success: bool, response: Trigger.Response) -> Trigger.Response:
        supervisor = self._controller.supervisor
        self._gripper_goal = None
        response.success = success
        if not success and supervisor.state is State.STOPPED:
            response.message = f"the arm is stopped; call {self.get_fully_qualified_name()}/resume when it is safe"
        elif not success:
            response.message = supervisor.reason
        self._publish_status()
        return response

    # Out

    def _cycle(self) -> None:
        command = self._controller.step(self._now())
        if command is None:
            return
        playing = self._controller.supervisor.state is State.POLICY
        moving = bool(np.abs(command.dq).max() > AT_REST)
        # At rest and not playing, nothing is sent: the arm's own controller holds, and others may move the arm.
        if playing or moving or self._moving:
            self._arm.publish(rolling_trajectory(command, self._period))
        self._moving = moving
        planned = self._controller.player.remaining(self._now()) > -np.inf
        if playing and planned and command.opening != self._gripper_goal:
            self._gripper_goal = command.opening
            self._gripper.publish(gripper_trajectory(command.opening, self._measured_opening))
        supervisor = self._controller.supervisor
        if (supervisor.state, supervisor.reason) != self._told:
            self._publish_status()

    def _publish_status(self) -> None:
        now, supervisor, status = self._now(), self._controller.supervisor, SafetyStatus()
        if supervisor.state is not self._told[0]:
            self.get_logger().info(f"{supervisor.state.value}: {supervisor.reason}")
        self._told = (supervisor.state, supervisor.reason)
        status.header.stamp = self.get_clock().now().to_msg()
        status.state = STATES[supervisor.state]
        status.reason = "" if supervisor.state is State.POLICY else supervisor.reason
        status.chunk_age = status.joints_age = -1.0
        if self._chunk is not None:
            length = self._chunk.dt * len(self._chunk.actions)
            status.plan_id, status.chunk_age = self._chunk.plan_id, now - self._chunk.stamp
            status.progress = float(np.clip(status.chunk_age / length, 0.0, 1.0))
        if self._joints_stamp is not None:
            status.joints_age = now - self._joints_stamp
        status.clipped = self._controller.clamped + sum(self._controller.limiter.counts.values())
        status.refused = self._controller.refused
        self._safety_status.publish(status)


def rolling_trajectory(command: Command, period: float) -> JointTrajectory:
    """The command in `period` s, and braking to a stand behind it.

    The next one replaces it; should this process end, the arm has been told to come to rest. A stamp of zero: now.
    """
    braking = float(np.max(np.abs(command.dq) / ACCELERATION_MAX))
    points = [_point(period, command.q, command.dq)]
    if braking > 1e-3:
        points.append(_point(period + braking, command.q + command.dq * braking / 2, np.zeros(7)))
    else:
        points[0].velocities = [0.0] * 7
    return JointTrajectory(joint_names=list(ARM_JOINTS), points=points)


def gripper_trajectory(opening: float, measured: float) -> JointTrajectory:
    """Bring the fingers from `measured` to `opening` m between them, at FINGER_SPEED; joint 1 leads, 2 mirrors it."""
    duration = max(0.05, abs(opening - measured) / 2 / FINGER_SPEED)
    return JointTrajectory(joint_names=[FINGER_JOINTS[0]], points=[_point(duration, np.array([opening / 2]), None)])


def _point(after: float, positions: np.ndarray, velocities: np.ndarray | None) -> JointTrajectoryPoint:
    nanoseconds = round(after * 1e9)
    return JointTrajectoryPoint(
        time_from_start=Duration(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9),
        positions=positions.tolist(),
        velocities=[] if velocities is None else velocities.tolist(),
    )


def main() -> None:
    """Start the node."""
    run(ControllerNode)


if __name__ == "__main__":
    main()
