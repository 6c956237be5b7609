"""Replay into the controller: recorded chunks and joint states through the present control code, without ROS.

The controller receives the recorded inputs at their recorded times. What it detected by itself, such as a silent
camera, it has to detect again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.ndimage import minimum_filter1d

from molmoact_ros.bags.message_arrays import chunk_actions, seconds
from molmoact_ros.bags.recording import SAME, Recording
from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.limit_checker import LimitChecker
from molmoact_ros.control.supervisor import Event, State
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.replay.recorded_joints import RecordedJoints, first_known, measured_joints, read_joints
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import JOINTS, SINGLE, Arm

STATES: Final = {0: State.IDLE, 1: State.POLICY, 2: State.HOLD, 3: State.STOPPED, 4: State.TELEOP}
"""States by their number in SafetyStatus.msg."""
STILL: Final = 0.25
"""s without commands after which a new sequence of cycles starts."""
NEAR: Final = 25
"""Cycles before and after a command, among which one was received without delay."""
FAULT, RUNNING, WAITING = 3, 1, 2  # of EngineStatus.msg


@dataclass
class ReplayedMotion:
    """The commands of one arm over the recording: times [t] s, joints [t, 7] rad, and the controller's status.

    states: start time, state and reason of each. limits: how often each limit was active. refused: chunks that were not
    played, with the reason.
    """

    times: np.ndarray
    joints: np.ndarray
    states: list[tuple[float, State, str]] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


@dataclass
class ControlReplay:
    """Recorded and new commands of each arm; measured: times [t] s and joints [t, 7] rad.

    broken: how often the new commands violated each limit, by a checker that shares no code with the limiter.
    """

    arms: Sequence[Arm]
    recorded: list[ReplayedMotion]
    again: list[ReplayedMotion]
    measured: list[tuple[np.ndarray, np.ndarray]]
    broken: dict[str, int]


class _Arm:
    """Collects and checks one arm's commands."""

    def __init__(self, robot: Path, arm: Arm, config: ControllerConfig) -> None:
        self.times: list[float] = []
        self.joints: list[np.ndarray] = []
        self.checker = LimitChecker(robot, 1.0 / config.rate, config.fractions, config.surroundings, arm)
        self._moving = False

    def add_command(self, now: float, command: ArmCommand, playing: bool) -> None:
        """Add the command of a cycle. While the arm stands and nothing is played, it is not sent, and not checked."""
        moving = bool(command.velocity.any())
        self.times.append(now)
        self.joints.append(command.position)
        if playing or moving or self._moving:
            self.checker.command(command.position)
        else:
            self.checker.rest()
        self._moving = moving


def replay_control(
    recording: Recording, robot: Path, config: ControllerConfig | None = None, arms: Sequence[Arm] = (SINGLE,)
) -> ControlReplay:
    """Run the controller on the inputs of a recording.

    Args:
        recording: the bag. Raises ValueError, in one line, if it lacks joint states or chunks, or is another robot's.
        robot: an arm's MJCF file.
        config: settings of the controller; None: the defaults.
        arms: the recorded arms.
    """
    config, names = config or ControllerConfig(), recording.names
    joints, arms = read_joints(recording, arms)
    controller = Controller(robot, config, arms)
    plans = f"{names.policy}/action_chunk"
    chunks = recording.decoded(plans)
    if not chunks:
        raise ValueError(f"the bag has no chunks on {plans}; say where they are with --remap")
    recorded = _recorded(recording, arms, 1.0 / config.rate)
    again = [_Arm(robot, arm, config) for arm in arms]
    states: list[tuple[float, State, str]] = []
    refused: list[str] = []
    events = _events(recording, joints, chunks, recorded[0].states, first_known(joints, arms, config.agreeing))
    begin, end = joints[0].received, joints[-1].received
    ticks = _ticks(recorded[0].times, begin, end, 1.0 / config.rate)
    place = 0
    for now in ticks:
        while place < len(events) and events[place][0] <= now + SAME:
            at, kind, message = events[place]
            _pass_on(controller, kind, message, at, refused)
            place += 1
        commands = controller.step(now)
        supervisor = controller.supervisor
        if not states or states[-1][1] is not supervisor.state:
            states.append((now, supervisor.state, supervisor.reason))
        playing = supervisor.state in (State.POLICY, State.TELEOP)
        for arm, command in zip(again, commands or (), strict=False):
            arm.add_command(now, command, playing)
    broken = {name: sum(arm.checker.broken[name] for arm in again) for name in again[0].checker.broken}
    motions = [
        ReplayedMotion(
            np.array(arm.times), np.array(arm.joints).reshape(-1, JOINTS), states, dict(controller.counts), refused
        )
        for arm in again
    ]
    return ControlReplay(arms, recorded, motions, [measured_joints(joints, arm) for arm in arms], broken)


def _events(
    recording: Recording, joints: Sequence[RecordedJoints], chunks: list[tuple[float, Any]],
    states: list[tuple[float, State, str]], known: float,
) -> list[tuple[float, str, Any]]:  # fmt: skip
    """The inputs of the controller, in time order. known: when it can be started first, s."""
    names, controller = recording.names, recording.names.controller
    out: list[tuple[float, str, Any]] = [(state.received, "joints", state) for state in joints]
    out += [(at, "chunk", m) for at, m in chunks]
    out += [(at, "engine", m) for at, m in recording.decoded(f"{names.policy}/engine_status")]
    for topic in recording.topics:
        if topic.startswith(f"{controller}/teleop/"):
            out += [(at, topic.rpartition("/")[2], m) for at, m in recording.decoded(topic)]
    before = State.IDLE
    for told, state, reason in states:
        at = max(told, known)  # a late recorder receives the latched status at once
        if before is State.STOPPED and state is not State.STOPPED:
            out.append((at, "resume", None))  # the reset
        if state is State.POLICY and before is not State.POLICY:
            out.append((at, "resume" if before in (State.STOPPED, State.TELEOP) else "start", None))
        elif state is State.HOLD and reason.startswith(Event.HOLD.value):
            out.append((at, "hold", None))
        elif state is State.STOPPED:
            out.append((at, "stop", None))
        before = state
    return sorted(out, key=lambda event: event[0])  # a stable sort: joints stay before other inputs of the same time


def _pass_on(controller: Controller, kind: str, message: Any, at: float, refused: list[str]) -> None:
    """Pass one recorded input on to the controller, as its node does."""
    if kind == "joints":
        message.pass_to(controller)
    elif kind == "chunk":
        playing = controller.supervisor.state is State.POLICY  # otherwise every chunk is ignored, as in the recording
        if not controller.on_chunk(_chunk(message), at) and playing:
            refused.append(f"{at:.2f} s: {controller.last_refusal}")
    elif kind == "engine":
        fault = (message.message or "no reason given") if message.state == FAULT else ""
        controller.on_engine(at, fault, message.camera_age if message.state in (RUNNING, WAITING) else 0.0)
    elif kind in ("start", "resume"):
        getattr(controller, kind)(at)
    elif kind in ("hold", "stop"):
        getattr(controller, kind)()
    else:
        _pass_teleop_on(controller, kind, message, at)


def _pass_teleop_on(controller: Controller, kind: str, message: Any, at: float) -> None:
    """Pass a teleoperation message on; the last part of its topic is the arm's prefix and the kind of command."""
    arm = max(
        (arm for arm in controller.arms if kind.startswith(arm.arm.prefix)), key=lambda arm: len(arm.arm.prefix)
    )  # fmt: skip
    device = kind.removeprefix(arm.arm.prefix)
    if device == "twist":
        t = message.twist
        values = [t.linear.x, t.linear.y, t.linear.z, t.angular.x, t.angular.y, t.angular.z]
        arm.teleop.twist(values, at, in_tool=message.header.frame_id == arm.arm.tcp_frame)
    elif device == "joint" and message.points:
        names, last = list(message.joint_names), message.points[-1].positions
        if set(arm.arm.joints) <= set(names):
            arm.teleop.joints([last[names.index(joint)] for joint in arm.arm.joints], at)
    elif device == "home":
        arm.teleop.home(at)
    elif device == "gripper":
        arm.teleop.gripper(message.data, at)
    elif device == "gripper_stamped":
        arm.teleop.gripper(message.opening, at)
    elif device == "deadman":
        arm.teleop.deadman(message.data, at)
    elif device == "deadman_stamped":
        arm.teleop.deadman(message.held, at)


def _chunk(message: Any) -> ActionChunk:
    try:
        actions = chunk_actions(message)
    except RefusedStep:
        actions = np.zeros((0, 0))  # the controller refuses it
    space = ActionSpace(message.action_space) if message.action_space in set(ActionSpace) else ActionSpace.DELTA_EE
    return ActionChunk(actions, message.dt, seconds(message.header.stamp), message.plan_id, space)


def _ticks(commanded: np.ndarray, begin: float, end: float, period: float) -> list[float]:
    """Times of the control cycles: those of the recorded commands, with even steps across gaps."""
    out = [begin]
    for at in [*commanded.tolist(), end]:
        while at - out[-1] > 1.5 * period:
            out.append(out[-1] + period)
        if at - out[-1] > 0.5 * period:
            out.append(at)
    return out


def _recorded(recording: Recording, arms: Sequence[Arm], period: float) -> list[ReplayedMotion]:
    """The recorded commands: the first point of each rolling trajectory is the command of its cycle."""
    status = recording.decoded(f"{recording.names.controller}/safety_status")
    states: list[tuple[float, State, str]] = []
    for _, message in status:
        state = STATES.get(message.state, State.HOLD)
        if not states or states[-1][1] is not state:
            states.append((seconds(message.header.stamp), state, message.reason))
    limits: dict[str, int] = {}
    if status:
        (_, first), (_, last) = status[0], status[-1]
        then = dict(zip(first.limits, first.limit_counts, strict=False))
        limits = {n: int(c) - int(then.get(n, 0)) for n, c in zip(last.limits, last.limit_counts, strict=False)}
    out = []
    for arm in arms:
        commands = recording.decoded(f"/{arm.prefix}{arm.robot}_arm_controller/joint_trajectory")
        rows = [
            (at, [m.points[0].positions[list(m.joint_names).index(joint)] for joint in arm.joints])
            for at, m in commands if m.points and set(arm.joints) <= set(m.joint_names)
        ]  # fmt: skip
        joints = np.array([q for _, q in rows]).reshape(-1, JOINTS)
        out.append(ReplayedMotion(cycle_times(np.array([at for at, _ in rows]), period), joints, states, limits))
    return out


def cycle_times(heard: np.ndarray, period: float) -> np.ndarray:
    """Reconstruct when commands were sent, [t] s, from when they were received: one per control cycle.

    Messages arrive late, never early, so the least delayed one within NEAR cycles gives the phase of the cycles.
    """
    out = heard.copy()
    gaps = np.flatnonzero(np.diff(heard) > STILL) + 1
    for part in np.split(np.arange(len(heard)), gaps):
        if len(part):
            late = heard[part] - np.arange(len(part)) * period
            least = minimum_filter1d(late, 2 * NEAR + 1, mode="nearest")
            times = np.maximum.accumulate(np.arange(len(part)) * period + least)
            out[part] = np.where(np.abs(times - heard[part]) < SAME, heard[part], times)
    return out
