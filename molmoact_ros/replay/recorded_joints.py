"""The joint states of a recording as the controller's inputs, each message as it came and from its own topic.

The controller puts them together itself (control/arm_state.py); nothing here does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from molmoact_ros.bags.recording import Recording
from molmoact_ros.control.arm_state import ArmState
from molmoact_ros.control.controller import Controller
from molmoact_ros.robots.franka import Arm
from molmoact_ros.robots.hands import FIRST
from molmoact_ros.robots.joint_state import JointStateMonitor


@dataclass(frozen=True, eq=False)
class RecordedJoints:
    """A recorded message of joint states. received, stamp: s. positions: rad, or as the driver has them.

    of_arms: it was on the arms' topic. hands: numbers of the arms whose hand has this topic for itself.
    """

    received: float
    stamp: float
    names: Sequence[str]
    positions: Sequence[float]
    of_arms: bool
    hands: tuple[int, ...]

    def pass_to(self, controller: Controller) -> None:
        """Pass the message on to a controller, as its node does."""
        message = self.names, self.positions, self.stamp, self.received
        if self.of_arms:
            controller.update_joint_state(*message)
        for number in self.hands:
            controller.arms[number].update_hand(*message)


def read_joints(recording: Recording, arms: Sequence[Arm]) -> tuple[list[RecordedJoints], list[Arm]]:
    """The joint states of the arms, and of hands with a topic of their own, in time order; and the arms.

    An arm is without its hand there if the bag has no positions of it: a controller waits for those before it starts.
    Raises ValueError, in one line, where a bag has no joint states or lacks a joint of an arm.
    """
    of_arms = recording.names.joint_states
    of_hands = [f"/{arm.hand.topic.lstrip('/')}" if arm.hand and arm.hand.topic else "" for arm in arms]
    joints = []
    for message, decoded in recording.readable(recording.messages([*{of_arms, *of_hands}])):
        if (stamp := recording.time_of(message)) is not None:
            hands = tuple(number for number, topic in enumerate(of_hands) if topic == message.topic)
            received, is_of_arms = recording.received(message), message.topic == of_arms
            positions = decoded.position.tolist()
            names = decoded.name[: len(positions)]
            joints.append(RecordedJoints(received, stamp, names, positions, is_of_arms, hands))
    named = {name for message in joints if message.of_arms for name in message.names}
    if not any(message.of_arms for message in joints):
        raise ValueError(f"the bag has no joint states on {of_arms}; say where they are with --remap")
    if lacking := [joint for arm in arms for joint in arm.joints if joint not in named]:
        raise ValueError(f"the joint states lack the position of {lacking[0]!r}; is it this robot's bag?")
    if lost := sum(not np.isfinite(message.positions).all() for message in joints):
        recording.add_note(f"{lost} joint states have positions that are not finite numbers: those alone are left out")
    return joints, [_with_recorded_hand(recording, joints, number, arm) for number, arm in enumerate(arms)]


def _with_recorded_hand(recording: Recording, joints: Iterable[RecordedJoints], number: int, arm: Arm) -> Arm:
    """The arm with this number, without its hand where that has a joint of which no message has the position."""
    own = [message for message in joints if number in message.hands]
    named = {name for message in joints if message.of_arms or number in message.hands for name in message.names}
    lacking = [joint for joint in arm.hand_joints if joint not in named and not (joint == FIRST and own)]
    if arm.hand is None or not lacking:
        return arm
    where = f" on {arm.hand.topic}" if arm.hand.topic else ""
    recording.add_note(f"no position of {lacking[0] or 'the hand'} was recorded{where}: replayed without a hand")
    return replace(arm, hand=None)


def first_known(joints: Sequence[RecordedJoints], arms: Sequence[Arm], agreeing: int) -> float:
    """When a controller first knows and believes the joints of all arms, s on the clock of receipt; the end if never.

    agreeing: samples that must agree, as in ControllerConfig.
    """
    states = [ArmState(arm, agreeing) for arm in arms]
    for message in joints:
        for number, state in enumerate(states):
            if message.of_arms:
                state.take_message(message.names, message.positions, message.stamp, message.received)
            if number in message.hands:
                state.take_hand_message(message.names, message.positions, message.stamp, message.received)
        if not any(state.wrong(message.stamp, message.received, math.inf) for state in states):
            return message.received
    return joints[-1].received


def measured_joints(joints: Iterable[RecordedJoints], arm: Arm) -> tuple[np.ndarray, np.ndarray]:
    """The joints of an arm at each message that has some of them: times [t] s and positions [t, 7] rad."""
    monitor, times, rows = JointStateMonitor(arm.joints), list[float](), list[np.ndarray]()
    for message in joints:
        if message.of_arms:
            updated = monitor.take_message(message.names, message.positions, message.stamp, message.received)
            if updated.any() and (sample := monitor.sample()) is not None:
                times.append(float(sample.stamps.min()))
                rows.append(sample.positions)
    return np.array(times), np.array(rows).reshape(-1, len(arm.joints))
