"""The controller at its topics: chunks, a person's hand and joint states in, limited commands out, at a fixed rate."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from pydantic import BaseModel, Field, model_validator
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.control.arm import ArmController
from molmoact_ros.control.chunk_player import ActionChunk as Chunk
from molmoact_ros.control.chunk_player import Mode
from molmoact_ros.control.collision import Surroundings, Workspace
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.limiter import Fractions
from molmoact_ros.control.path import Space
from molmoact_ros.control.supervisor import Event, State
from molmoact_ros.control.teleop import TeleopConfig
from molmoact_ros.msg import ActionChunk, EngineStatus, SafetyStatus
from molmoact_ros.nodes import conversions, qos
from molmoact_ros.nodes.diagnostics import report
from molmoact_ros.nodes.loop import Loop, Timing, own_threads, real_time
from molmoact_ros.nodes.managed import ManagedNode
from molmoact_ros.nodes.parameters import declare
from molmoact_ros.nodes.polled import Polled
from molmoact_ros.nodes.process import run
from molmoact_ros.nodes.sinks import Sink, make_gripper, make_sink
from molmoact_ros.paths import robot_model
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import Arm, arms_at

STATES: Final = {
    State.IDLE: SafetyStatus.IDLE,
    State.POLICY: SafetyStatus.POLICY,
    State.TELEOP: SafetyStatus.TELEOP,
    State.HOLD: SafetyStatus.HOLD,
    State.STOPPED: SafetyStatus.STOPPED,
}
STATUS_RATE: Final = 10.0
"""Hz of SafetyStatus, besides every change of state."""
AT_REST: Final = 1e-4
"""rad/s under which a joint counts as standing."""
CLOCK_JUMP: Final = 0.2
"""s by which the ROS clock may differ in one cycle from the machine's own."""
TURN: Final = 0.00005
"""s for which the loop waits at most while a message is handled in Python."""
LATE: Final = 0.5
"""s by which a cycle may be late before the arm holds."""


class ControllerNodeConfig(BaseModel):
    """Parameters of the controller."""

    autostart: bool = Field(True, description="configure and activate by itself; false: a life-cycle manager does")
    policy: str = Field("/policy", description="node name of the policy")
    arms: list[str] = Field([""], min_length=1, max_length=2, description="prefix of each arm's names, left first")
    bases: list[float] = Field(
        [0.0] * 4, description="each arm's base in the workcell: x, y, z in m and yaw in rad, one arm after the other"
    )
    sink: str = Field("joint_trajectory", description="where the arms' commands go")
    gripper: str = Field("joint_trajectory", description="where the grippers' commands go")
    joint_states: str = Field("/joint_states", description="topic of the joint states")
    rate: float = Field(100.0, ge=10, le=1000, description="cycles/s")
    priority: int = Field(20, ge=0, le=90, description="real-time priority where the system allows it; 0: none")
    mode: Mode = Field("realtime", description="how chunks are joined: realtime, naive or ensemble")
    joints_deadline: float = Field(0.1, gt=0, description="age of the joint states at which the arm holds, s")
    silence_deadline: float = Field(2.0, gt=0, description="time without motion left after which the arm holds, s")
    engine_deadline: float = Field(1.0, gt=0, description="time without the engine's heartbeat, s")
    camera_deadline: float = Field(1.0, gt=0, description="age of the newest camera frame with news, s")
    following: float = Field(0.25, gt=0, description="greatest gap between command and measurement, rad")
    speed: float = Field(0.5, gt=0, le=1, description="fraction of the joints' velocity limits")
    acceleration: float = Field(0.8, gt=0, le=1, description="fraction of the joints' acceleration limits")
    jerk: float = Field(0.2, gt=0, le=1, description="fraction of the joints' jerk limits")
    workspace_low: list[float] = Field(list(Workspace().low), min_length=3, max_length=3, description="corner, m")
    workspace_high: list[float] = Field(list(Workspace().high), min_length=3, max_length=3, description="corner, m")
    table: float = Field(0.0, description="height of the table in the base frame, m; nan: there is none")
    table_distance: float = Field(0.002, ge=0, description="kept between arm and table, m")
    self_distance: float = Field(0.02, ge=0, description="kept between hand and shoulder side of the arm, m")
    arm_distance: float = Field(0.04, ge=0, description="kept between two arms, m")
    teleop_timeout: float = Field(0.2, gt=0, description="silence after which a person has let go, s")
    teleop_deadman: bool = Field(False, description="a person's hand counts only while teleop/deadman is true")
    teleop_hand_back: bool = Field(False, description="the policy goes on by itself when a person lets go")

    @model_validator(mode="after")
    def _bases_of_all(self) -> ControllerNodeConfig:
        arms_at(self.arms, self.bases)
        return self

    @property
    def robots(self) -> list[Arm]:
        """The arms."""
        return arms_at(self.arms, self.bases)

    @property
    def control(self) -> ControllerConfig:
        """The same for the controller proper."""
        box = Workspace.model_validate({"low": self.workspace_low, "high": self.workspace_high})
        return ControllerConfig(
            rate=self.rate, mode=self.mode, following=self.following,
            joints_deadline=self.joints_deadline, silence_deadline=self.silence_deadline,
            engine_deadline=self.engine_deadline, camera_deadline=self.camera_deadline,
            fractions=Fractions(speed=self.speed, acceleration=self.acceleration, jerk=self.jerk),
            surroundings=Surroundings(
                workspace=box, table=None if math.isnan(self.table) else self.table,
                table_distance=self.table_distance, self_distance=self.self_distance, arm_distance=self.arm_distance,
            ),
            teleop=TeleopConfig(
                timeout=self.teleop_timeout, deadman=self.teleop_deadman, hand_back=self.teleop_hand_back
            ),
        )  # fmt: skip


class ControllerNode(ManagedNode):
    """Messages come in on the executor's thread, commands go out on the control loop's; a lock keeps them apart."""

    def __init__(self) -> None:
        super().__init__("controller")
        self.config = declare(self, ControllerNodeConfig)
        self._lock = threading.Lock()
        self._period = 1.0 / self.config.rate
        self.timing = Timing(self._period)
        self._loop: Loop | None = None
        self._sinks: list[Sink] = []  # of each arm
        self._grippers: list[Sink] = []

    # Life cycle

    def configure(self) -> None:
        """Load the robot and create the topics."""
        config = self.config
        arms = config.robots
        self._controller = Controller(robot_model(), config.control, arms)
        self._sinks = [make_sink(config.sink, self, arm) for arm in arms]
        self._grippers = [make_gripper(config.gripper, self, arm) for arm in arms]
        self._gripper_goals: list[float | None] = [None for _ in arms]  # the last sent; None: send the next in any case
        self._chunk: Chunk | None = None
        self._moving, self._told = False, (State.IDLE, "")
        self._clocks: float | None = None  # ROS clock less the machine's own
        self._safety_status = self.create_publisher(SafetyStatus, "~/safety_status", qos.STATE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RELIABLE)
        # What comes often is asked for by the loop: being woken for each message costs more than the cycle itself.
        self._joints = Polled(self, JointState, config.joint_states, qos.SENSOR)
        self._engine = Polled(self, EngineStatus, f"{config.policy}/engine_status", qos.STATE)
        self.create_subscription(ActionChunk, f"{config.policy}/action_chunk", self._on_chunk, qos.RELIABLE)
        for name, answer in (
            ("start", self._on_start), ("resume", self._on_resume), ("hold", self._on_hold), ("stop", self._on_stop),
        ):  # fmt: skip
            self.create_service(Trigger, f"~/{name}", answer)
        for arm in self._controller.arms:
            self._listen_to_people(arm)
        self.create_timer(1.0 / STATUS_RATE, self._publish_status)
        self.create_timer(1.0, self._publish_diagnostics)

    def _listen_to_people(self, arm: ArmController) -> None:
        for kind, name, take in (
            (TwistStamped, "twist", self._on_twist), (JointTrajectory, "joint", self._on_teleop_joints),
            (Float64, "gripper", self._on_teleop_gripper), (Bool, "deadman", self._on_deadman),
        ):  # fmt: skip
            self.create_subscription(kind, f"~/teleop/{arm.arm.prefix}{name}", partial(take, arm), qos.RELIABLE)

    def activate(self) -> None:
        """Begin the control loop. The arm stays where it is until somebody says start."""
        self._begin_loop()
        self.get_logger().info("ready: the arm stays where it is until it is told to start")

    def _begin_loop(self) -> None:
        # All threads: whoever holds Python's lock keeps the loop waiting, and the middleware brings the joints.
        real_time(self.config.priority // 2, own_threads())
        self._loop = Loop(self._cycle, self._period, self.config.priority)
        self._loop.start()

    def deactivate(self) -> None:
        """Brake, then end the control loop."""
        if self._loop is None:
            return
        with self._lock:
            self._controller.hold()
        deadline = time.monotonic() + 1.0
        while self._moving and time.monotonic() < deadline:
            time.sleep(self._period)
        self._loop.stop()
        self._loop = None

    def forget(self) -> None:
        """No more commands, and nothing is left of what `configure` created."""
        self._close_sinks()
        super().forget()

    def destroy_node(self) -> None:
        """Brake, then the node."""
        self.deactivate()
        self._close_sinks()
        super().destroy_node()

    def _close_sinks(self) -> None:
        for sink in [*self._sinks, *self._grippers]:
            sink.close()
        self._sinks, self._grippers = [], []

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds * 1e-9)

    # In

    def _on_joints(self, message: JointState) -> None:
        stamp = conversions.seconds(message.header.stamp)
        positions = dict(zip(message.name, message.position, strict=False))
        for number, arm in enumerate(self._controller.arms):
            try:
                q = [positions[joint] for joint in arm.arm.joints]
                opening = sum(positions[finger] for finger in arm.arm.fingers)
            except KeyError as lacking:
                self.get_logger().error(
                    f"{self.config.joint_states} lacks the position of {lacking}; is it this robot's?",
                    throttle_duration_sec=5.0,
                )
                return
            self._controller.update_joints(q, opening, stamp, number)

    def _on_chunk(self, message: ActionChunk) -> None:
        stamp = conversions.seconds(message.header.stamp)
        try:
            actions = conversions.chunk_actions(message)
        except RefusedStep as refusal:
            actions = np.zeros((0, 0))  # which the controller refuses as it should
            self.get_logger().error(f"chunk refused: {refusal}", throttle_duration_sec=1.0)
        space = Space(message.action_space) if message.action_space in set(Space) else Space.DELTA_EE
        chunk = Chunk(actions, message.dt, stamp, message.plan_id, space)
        with self._lock:
            played, reason = self._controller.on_chunk(chunk, self._now()), self._controller.last_refusal
        if played:
            self._chunk = chunk
        else:
            self.get_logger().warning(f"chunk not played: {reason}", throttle_duration_sec=1.0)

    def _on_engine(self, message: EngineStatus) -> None:
        fault = message.message or "no reason given" if message.state == EngineStatus.FAULT else ""
        looks = message.state in (EngineStatus.RUNNING, EngineStatus.WAITING, EngineStatus.PENDING)
        age = message.camera_age if looks else 0.0
        self._controller.on_engine(self._now(), fault, age, message.state == EngineStatus.PENDING)

    # People

    def _on_twist(self, arm: ArmController, message: TwistStamped) -> None:
        frame, t = message.header.frame_id, message.twist
        if frame not in ("", arm.arm.base_frame, arm.arm.tcp_frame):
            self.get_logger().error(f"twist in {frame!r}; send {arm.arm.base_frame} or {arm.arm.tcp_frame}")
            return
        values = [t.linear.x, t.linear.y, t.linear.z, t.angular.x, t.angular.y, t.angular.z]
        with self._lock:
            arm.teleop.twist(values, self._now(), in_tool=frame == arm.arm.tcp_frame)

    def _on_teleop_joints(self, arm: ArmController, message: JointTrajectory) -> None:
        try:
            last = message.points[-1].positions
            q = [last[message.joint_names.index(joint)] for joint in arm.arm.joints]
        except (ValueError, IndexError):
            self.get_logger().error(f"a joint target names {arm.arm.joints[0]}..7 and has a point with their positions")
            return
        with self._lock:
            arm.teleop.joints(q, self._now())

    def _on_teleop_gripper(self, arm: ArmController, message: Float64) -> None:
        with self._lock:
            arm.teleop.gripper(message.data, self._now())

    def _on_deadman(self, arm: ArmController, message: Bool) -> None:
        with self._lock:
            arm.teleop.deadman(message.data, self._now())

    def _on_start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The policy begins a task. A stop is not lifted by this."""
        return self._answer(lambda: self._controller.start(self._now()), response)

    def _on_resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """A person lifts a hold or a stop."""
        return self._answer(lambda: self._controller.resume(self._now()), response)

    def _on_hold(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(self._controller.hold, response)

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(self._controller.stop, response)

    def _answer(self, act: Callable[[], bool | None], response: Trigger.Response) -> Trigger.Response:
        supervisor = self._controller.supervisor
        with self._lock:
            response.success = act() is not False  # holding and stopping always succeed
            self._gripper_goals = [None for _ in self._gripper_goals]
        if not response.success and supervisor.state is State.STOPPED:
            response.message = f"the arm is stopped; call {self.get_fully_qualified_name()}/resume when it is safe"
        elif not response.success and supervisor.state is State.TELEOP:
            response.message = "a person moves the arm; wait until they have let go"
        elif not response.success:
            response.message = supervisor.reason
        self._publish_status()
        return response

    # Out

    def _cycle(self, late: float) -> None:
        """One cycle, on the control loop's thread. Whatever fails in it stops the arm."""
        self.timing.tick()
        with self._lock:
            try:
                self._watch_clocks(late)
                if (engine := self._engine.newest()) is not None:
                    self._on_engine(engine)
                if (joints := self._joints.newest()) is not None:
                    self._on_joints(joints)
                missed = int(late / self._period) if self._moving else 0
                commands = self._controller.step(self._now(), missed)
                if commands is not None:
                    self._send(commands)
            except Exception as error:
                self._controller.stop(f"internal error: {error}")
                self.get_logger().error(f"stopped: {error!r}", throttle_duration_sec=1.0)

    def _watch_clocks(self, late: float) -> None:
        clocks = self._now() - time.monotonic()
        if self._clocks is not None and abs(clocks - self._clocks) > CLOCK_JUMP:
            self._controller.fault(Event.CLOCK_JUMPED, f"by {clocks - self._clocks:.2f} s")
        self._clocks = clocks
        if late > LATE:
            self._controller.fault(Event.LATE, f"by {late:.2f} s")

    def _send(self, commands: tuple[ArmCommand, ...]) -> None:
        supervisor, arms = self._controller.supervisor, self._controller.arms
        playing = supervisor.state in (State.POLICY, State.TELEOP)
        moving = max(float(np.abs(command.velocity).max()) for command in commands) > AT_REST
        for number, (command, arm) in enumerate(zip(commands, arms, strict=True)):
            # At rest and not playing, nothing is sent: the arm's own controller holds, and others may move the arm.
            if playing or moving or self._moving:
                self._sinks[number].send(command)
            if playing and arm.opening is not None and arm.opening != self._gripper_goals[number]:
                self._gripper_goals[number] = arm.opening
                self._grippers[number].send(command)
        self._moving = moving
        if (supervisor.state, supervisor.reason) != self._told:
            self._publish_status()

    def _publish_status(self) -> None:
        now, controller, status = self._now(), self._controller, SafetyStatus()
        supervisor, player = controller.supervisor, controller.arms[0].player
        if supervisor.state is not self._told[0]:
            self.get_logger().info(f"{supervisor.state.value}: {supervisor.reason}")
        self._told = (supervisor.state, supervisor.reason)
        status.header.stamp = self.get_clock().now().to_msg()
        status.state = STATES[supervisor.state]
        status.reason = "" if supervisor.state is State.POLICY else supervisor.reason
        status.chunk_age = status.joints_age = -1.0
        if (chunk := self._chunk) is not None:
            length = chunk.dt * len(chunk.actions)
            status.plan_id, status.chunk_age = chunk.plan_id, now - chunk.stamp
            status.progress = float(np.clip(1.0 - player.remaining / length, 0.0, 1.0)) if player.loaded else 1.0
        if all(arm.measured is not None for arm in controller.arms):
            status.joints_age = now - min(arm.measured_at for arm in controller.arms)
        status.latency = player.latency.seconds
        counts = controller.counts
        status.limits, status.limit_counts = list(counts), list(counts.values())
        status.refused = counts.pop("refused")
        status.clipped = sum(counts.values())
        self._safety_status.publish(status)

    def _publish_diagnostics(self) -> None:
        real = self._loop is not None and self._loop.real_time
        with self._lock:
            statuses = report(self._controller, self.get_name(), self._now(), self.timing.jitter_ms(), real)
        stamp: Any = self.get_clock().now().to_msg()
        message = DiagnosticArray(status=statuses)
        message.header.stamp = stamp
        self._diagnostics.publish(message)


def main() -> None:
    """Start the node."""
    run(ControllerNode, TURN)


if __name__ == "__main__":
    main()
