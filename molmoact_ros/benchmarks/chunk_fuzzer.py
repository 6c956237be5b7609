"""Seeded malformed input for the controller: chunks, teleoperation, and clocks that are set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace, join
from molmoact_ros.control.arm_controller import ArmController
from molmoact_ros.control.clock_monitor import ClockMonitor
from molmoact_ros.control.controller import Controller
from molmoact_ros.robots.franka import JOINTS


class ClockGames:
    """ROS time and a steady clock, s. ROS time is set, stands still, repeats itself, and drifts."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.steady, self.now, self.watch = 0.0, 1000.0, ClockMonitor(simulated=bool(rng.integers(2)))
        self._rng, self._rate, self._until = rng, 1.0, 0.0

    def pass_by(self, seconds: float) -> None:
        """Advance the steady clock by `seconds`."""
        self.steady += seconds
        self.now += seconds * self._rate

    def play(self) -> bool:
        """Sometimes start a clock fault; whether one began."""
        rng, began = self._rng, False
        if self.steady > self._until:
            self._rate = 1.0
            if began := bool(rng.random() < 0.002):
                self._until = self.steady + float(rng.exponential(0.5))
                if rng.random() < 0.5:
                    self.now += float(rng.normal(0, 1))
                else:
                    self._rate = float(rng.choice([0.0, 0.0, 0.5, 0.97, 1.05, 3.0, -1.0]))
        return began


class Operator:
    """A simulated operator: sends messages for a while, then none. Knows its last request for motion, and its time."""

    def __init__(self, rng: np.random.Generator, arm: ArmController) -> None:
        self._rng, self._arm = rng, arm
        self._until, self._due, self._period, self._kind = 0.0, 0.0, 0.02, "twist"
        self._value = np.zeros(7)
        self._asked = -np.inf

    def speak(self, steady: float) -> int:
        """Send a message where one is due; returns how many were sent."""
        rng, teleop = self._rng, self._arm.teleop
        if steady > self._until:
            if rng.random() < 0.004:
                self._begin(steady)
            return 0
        if steady < self._due:
            return 0
        self._due = steady + self._period
        if self._kind == "joint":
            moves = teleop.joints(self._arm.limiter.motion.q + self._value, steady)
        elif self._kind == "gripper":
            teleop.gripper(float(rng.choice([np.nan, -3.0, 0.02, 9.0])), steady)
            moves = False
        elif self._kind == "home":
            teleop.home(steady)
            moves = True
        else:
            moves = teleop.twist(self._value[:6], steady, self._kind == "tool") and bool(self._value[:6].any())
        if moves:
            self._asked = steady
        elif self._kind != "gripper":
            self._asked = -np.inf
        return 1

    def _begin(self, steady: float) -> None:
        rng = self._rng
        self._kind = str(rng.choice(["twist", "twist", "tool", "joint", "home", "gripper"]))
        self._until, self._period = steady + float(rng.exponential(0.8)), float(rng.choice([0.01, 0.02, 0.1, 0.18]))
        self._value = rng.normal(0, 1, 7) * rng.choice([0.0, 1e-9, 0.1, 0.1, 1.0, 100.0, np.nan])

    def asks(self, steady: float) -> bool:
        """Whether the operator has requested motion within the timeout, and nothing else since."""
        return steady - self._asked <= self._arm.teleop._config.timeout + 1e-9


class ChunkFuzzer:
    """Generates seeded chunks, valid and malformed. Valid ones keep a direction for a while, so that they drive the arm
    against every limit."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self._drift, self._last = rng, np.zeros((2, 6)), ActionChunk(np.zeros((8, 7)), 0.1, 0.0)
        self._kinds: list[Callable[[ActionChunk, float], ActionChunk]] = [
            self._nan, self._infinite, self._jump, self._reversed, self._future, self._size, self._scaled, self._frozen,
            self._type,
        ]  # fmt: skip

    def chunks(self, controller: Controller, now: float) -> Iterator[ActionChunk]:
        """One chunk, or a burst."""
        count = 1 if self.rng.random() < 0.95 else int(self.rng.integers(2, 12))
        for _ in range(count):
            chunk = self._sound(controller, now)
            if self.rng.random() < 0.25:
                chunk = self._kinds[int(self.rng.integers(len(self._kinds)))](chunk, now)
            self._last = chunk
            yield chunk

    def _sound(self, controller: Controller, now: float) -> ActionChunk:
        rng = self.rng
        if rng.random() < 0.1:
            self._drift = rng.normal(0, 1, (2, 6)) * [0.02, 0.02, 0.02, 0.08, 0.08, 0.08]
        steps, space = int(rng.integers(1, 17)), ActionSpace(int(rng.choice([0, 0, 0, 1, 2])))
        parts = [
            self._moves(arm, drift, steps, space) for arm, drift in zip(controller.arms, self._drift, strict=False)
        ]
        stamp = now - float(rng.uniform(0, 0.4))
        return ActionChunk(join(parts, space), float(rng.choice([0.05, 0.1, 0.2])), stamp, space=space)

    def _moves(self, arm: ArmController, drift: np.ndarray, steps: int, space: ActionSpace) -> np.ndarray:
        rng = self.rng
        grip = rng.integers(0, 2, (steps, 1)).astype(float)
        moves = np.clip(drift + rng.normal(0, 0.3, (steps, 6)) * np.abs(drift), -0.028, 0.028)
        moves[:, 3:] *= 4
        if space is ActionSpace.JOINT:
            values = arm.limiter.motion.q + np.cumsum(np.tile(rng.normal(0, 0.1, 7), (steps, 1)), axis=0)
        elif space is ActionSpace.EE:
            pose = arm.kinematics.forward(arm.limiter.motion.q)
            place = np.concatenate([pose.position, pose.rotation.as_euler("xyz")])
            values = place + np.cumsum(moves, axis=0)
        else:
            values = moves
        return np.hstack([values, grip])

    def _with(self, chunk: ActionChunk, actions: np.ndarray, stamp: float | None = None) -> ActionChunk:
        return ActionChunk(actions, chunk.dt, chunk.stamp if stamp is None else stamp, chunk.plan_id, chunk.space)

    def _with_fault(self, chunk: ActionChunk, value: float) -> ActionChunk:
        actions = np.array(chunk.actions)
        actions[int(self.rng.integers(len(actions))), int(self.rng.integers(actions.shape[1]))] = value
        return self._with(chunk, actions)

    def _nan(self, chunk: ActionChunk, _: float) -> ActionChunk:
        return self._with_fault(chunk, np.nan)

    def _infinite(self, chunk: ActionChunk, _: float) -> ActionChunk:
        return self._with_fault(chunk, float(self.rng.choice([-np.inf, np.inf])))

    def _jump(self, chunk: ActionChunk, _: float) -> ActionChunk:
        return self._with_fault(chunk, float(self.rng.normal(0, 0.3)))

    def _reversed(self, chunk: ActionChunk, now: float) -> ActionChunk:
        return self._with(chunk, chunk.actions, now - float(self.rng.exponential(2.0)))

    def _future(self, chunk: ActionChunk, now: float) -> ActionChunk:
        return self._with(chunk, chunk.actions, now + float(self.rng.exponential(1.0)))

    def _size(self, chunk: ActionChunk, _: float) -> ActionChunk:
        shape = self.rng.integers(0, 17, int(self.rng.integers(0, 4)))
        return self._with(chunk, self.rng.normal(0, 0.02, shape))

    def _scaled(self, chunk: ActionChunk, _: float) -> ActionChunk:
        return self._with(chunk, np.asarray(chunk.actions) * 100.0)

    def _frozen(self, chunk: ActionChunk, _: float) -> ActionChunk:
        return self._last

    def _type(self, chunk: ActionChunk, _: float) -> ActionChunk:
        return ActionChunk(chunk.actions, float(self.rng.choice([0.0, -1.0, np.nan, 1e9])), chunk.stamp)

    def measure(self, controller: Controller, q: np.ndarray, clock: ClockGames, number: int) -> None:
        """Pass a measurement close to `q`, [7] rad; sometimes one is missing, not finite, or far off for once."""
        draw = self.rng.random()
        if draw < 0.005:
            q = np.full(7, np.nan)
        elif draw < 0.006:
            q = np.zeros(JOINTS)  # a configuration that joint 4 of an FR3 never reaches
        elif draw < 0.01:
            return
        elif controller.arms[number].limiter.motion.dq.any():
            q = q + self.rng.normal(0, 1e-3, 7)
        controller.update_joints(q, 0.08, clock.now, number, clock.steady)
