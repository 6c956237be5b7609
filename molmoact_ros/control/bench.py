"""Seams between chunks measured in three ways of playing them, and the real controller driven with nonsense."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np

from molmoact_ros.control.arm import ArmController
from molmoact_ros.control.checker import Between, Checker
from molmoact_ros.control.chunk_player import ActionChunk, Mode, join
from molmoact_ros.control.collision import Surroundings, Workspace
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.path import Space
from molmoact_ros.control.supervisor import State
from molmoact_ros.robots.franka import HOME_Q, SINGLE, Arm

STEP, STEPS = 0.1, 8  # MolmoAct's chunk
PERIOD = 0.3  # s from plan to plan, where the engine is that fast
STRAYS = 0.001  # m, a step: standard deviation by which each plan differs from the true path
SEAM = 0.3  # s after a chunk's arrival that count as its seam
CROWDED = (Arm("left_", base=(0.0, 0.15, 0.0, 0.0)), Arm("right_", base=(0.0, -0.15, 0.0, 0.0)))
"""Two arms so near to each other, half as far as in the workcell, that nonsense drives them together all the time."""
WARM_UP = 3.0  # s left out at the start, until the first plans have brought the hand onto the path


@dataclass(frozen=True)
class Seams:
    """At the seams. jerk: peak of the hand, m/s^3, and of a joint as part of its limit; error: of the hand, mm."""

    mode: str
    latency: float
    jerk: float
    joint_jerk: float
    error: float
    mean_error: float
    within_limits: bool


def true_path(time: float) -> np.ndarray:
    """Where the hand should be at `time`, s: [3] m; from its home on, at 0.05 to 0.2 m/s, in the shape of a bow."""
    return np.array([0.48 - 0.06 * np.cos(2.2 * time), 0.12 * np.sin(1.1 * time), 0.25 + 0.03 * np.sin(1.7 * time)])


def seams(robot: Path, latencies: tuple[float, ...], seconds: float = 20.0, seed: int = 0) -> list[Seams]:
    """Every mode at every engine latency, s: an engine that plans the true path with small errors; perfect tracking."""
    return [_seams(robot, mode, latency, seconds, seed) for latency in latencies for mode in get_args(Mode)]


def _seams(robot: Path, mode: Mode, latency: float, seconds: float, seed: int) -> Seams:
    config = ControllerConfig(mode=mode)
    dt, rng = 1.0 / config.rate, np.random.default_rng(seed)
    controller, (checker,) = _started(robot, config)
    hand = controller.arms[0].kinematics.forward
    due, flying, arrived = 0.0, list[ActionChunk](), -np.inf
    path, at_seam = [hand(HOME_Q).position], list[bool]()
    for k in range(round(seconds / dt)):
        now = k * dt
        if now >= due - 1e-9:
            flying.append(plan_along(path[-1], now, rng))
            due = now + max(PERIOD, latency)
        if flying and now >= flying[0].stamp + latency - 1e-9:
            assert controller.on_chunk(flying.pop(0), now), controller.last_refusal
            arrived = now
        (q,) = _cycle(controller, now)
        checker.command(q)
        path.append(hand(q).position)
        at_seam.append(now - arrived < SEAM and now > WARM_UP)
    where, seam = np.array(path[1:]), np.array(at_seam)
    jerk = np.linalg.norm(np.diff(where, 3, axis=0), axis=1) / dt**3
    wanted = np.array([true_path((k + 1) * dt) for k in range(len(where))])
    error = np.linalg.norm(where - wanted, axis=1)[seam] * 1e3
    peak = float(jerk[seam[3:]].max())
    kept = not any(checker.broken.values())
    return Seams(mode, latency, peak, checker.peaks["jerk"], float(error.max()), float(error.mean()), kept)


def plan_along(hand: np.ndarray, now: float, rng: np.random.Generator) -> ActionChunk:
    """A chunk of an engine that errs a little: at `now`, s, from `hand` [3] m back onto the true path and along it."""
    strays = np.cumsum(rng.normal(0, STRAYS, (STEPS, 3)), axis=0)
    points = np.array([true_path(now + (k + 1) * STEP) for k in range(STEPS)]) + strays
    actions = np.zeros((STEPS, 7))
    actions[:, :3], actions[:, 6] = np.diff(points, axis=0, prepend=hand[None]), 1.0
    actions[:, :3] *= np.minimum(1.0, 0.04 / np.maximum(np.linalg.norm(actions[:, :3], axis=1), 1e-9))[:, None]
    return ActionChunk(actions, STEP, now, round(now * 1e3))


def cycle_cost(
    robot: Path, cycles: int = 2000, seed: int = 0, arms: Sequence[Arm] = (SINGLE,)
) -> dict[str, float]:  # fmt: skip
    """What a cycle costs in motion: us of processor time (median, p99), and blocks of memory that it keeps."""
    controller, _ = _started(robot, ControllerConfig(), arms)
    rng, dt = np.random.default_rng(seed), 1.0 / controller.config.rate
    told, took, blocks = [HOME_Q for _ in arms], np.zeros(cycles), 0
    for k in range(cycles):
        now = k * dt
        if k % 30 == 0:
            hands = [arm.kinematics.forward(q).position for arm, q in zip(controller.arms, told, strict=True)]
            plans = [plan_along(hand, now, rng) for hand in hands]
            controller.on_chunk(replace(plans[0], actions=join([p.actions for p in plans], plans[0].space)), now)
        if k == cycles // 2:
            blocks = sys.getallocatedblocks()
        began = time.thread_time()
        told = _cycle(controller, now)
        took[k] = time.thread_time() - began
    kept = (sys.getallocatedblocks() - blocks) / (cycles - cycles // 2)
    return {"median": float(np.median(took) * 1e6), "p99": float(np.percentile(took, 99) * 1e6), "kept": kept}


def _started(
    robot: Path, config: ControllerConfig, arms: Sequence[Arm] = (SINGLE,)
) -> tuple[Controller, list[Checker]]:  # fmt: skip
    controller = Controller(robot, config, arms)
    for number in range(len(arms)):
        controller.update_joints(HOME_Q, 0.08, 0.0, number)
    assert controller.start(0.0)
    return controller, [Checker(robot, 1.0 / config.rate, config.fractions, config.surroundings, arm) for arm in arms]


def _cycle(controller: Controller, now: float) -> list[np.ndarray]:
    """One cycle of arms that follow at once, beside an engine that is alive; the joints [7] rad of each."""
    controller.on_engine(now)
    commands = controller.step(now)
    assert commands is not None
    for number, command in enumerate(commands):
        controller.update_joints(command.position, 0.08, now, number)
    return [command.position for command in commands]


@dataclass
class Fuzz:
    """What was sent, what was refused, and what the checker says of every cycle that came out."""

    seed: int
    actions: int = 0
    chunks: int = 0
    played: int = 0
    refused: int = 0
    cycles: int = 0
    moving: int = 0
    broken: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def report(self) -> dict[str, object]:
        """As plain numbers."""
        return asdict(self)


def fuzz(
    robot: Path, actions: int, seed: int, tick: Callable[[Fuzz], None] = lambda _: None, arms: Sequence[Arm] = (SINGLE,)
) -> Fuzz:
    """Send at least `actions` actions of every kind of nonsense, among sound ones, and check each cycle that comes out.

    The first half in the usual workspace, the second without one, so that table, self-collision and the distance to
    another arm have to be kept.
    """
    rng, result = np.random.default_rng(seed), Fuzz(seed)
    everywhere = Surroundings(workspace=Workspace(low=(-2.0, -2.0, -2.0), high=(2.0, 2.0, 2.0)))
    for part, surroundings in ((actions // 2, Surroundings()), (actions, everywhere)):
        _fuzz(robot, ControllerConfig(surroundings=surroundings), arms, part, rng, result, tick)
    return result


def _fuzz(
    robot: Path, config: ControllerConfig, arms: Sequence[Arm], actions: int, rng: np.random.Generator, result: Fuzz,
    tick: Callable[[Fuzz], None],
) -> None:  # fmt: skip
    controller, checkers = _started(robot, config, arms)
    mischief, between = _Mischief(rng), Between(robot, arms) if len(arms) == 2 else None
    kept, now, dt, last = config.surroundings.arm_distance, 0.0, 1.0 / config.rate, np.tile(HOME_Q, len(arms))
    touched = 0

    def judge(joints: list[np.ndarray]) -> np.ndarray:
        nonlocal touched
        for checker, q in zip(checkers, joints, strict=True):
            checker.command(q)
        told = np.concatenate(joints)
        touched += between is not None and between.distance(told, 2 * kept) < kept - 1e-5
        return told

    while result.actions < actions:
        for chunk in mischief.chunks(controller, now):
            shape = np.shape(chunk.actions)
            result.actions += shape[0] if shape else 1
            result.chunks += 1
            result.played += controller.on_chunk(chunk, now)
        mischief.people(controller, now)
        if rng.random() < 0.02:  # the caller comes late, and the arms brake meanwhile
            now += dt
            judge([arm.limiter.step(None).q for arm in controller.arms])
        for _ in range(int(rng.integers(0, 14))):
            now += dt
            controller.on_engine(now)
            commands = controller.step(now)
            assert commands is not None
            told = judge([command.position for command in commands])
            result.moving += bool(np.abs(told - last).max() > 1e-9)
            last = told
            for number, command in enumerate(commands):
                mischief.measure(controller, command.position, now, number)
        tick(result)
    result.cycles += checkers[0].cycles
    result.refused += controller.refused
    broken = [*(checker.broken for checker in checkers), {"arm_distance": touched}]
    for total, more in ((result.broken, broken), (result.counts, [controller.counts])):
        for counts in more:
            for name, count in counts.items():
                total[name] = total.get(name, 0) + count


class _Mischief:
    """Seeded nonsense. Sound chunks keep a direction for a while, so that the arm is driven against every border."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self._drift, self._last = rng, np.zeros((2, 6)), ActionChunk(np.zeros((8, 7)), 0.1, 0.0)
        self._kinds: list[Callable[[ActionChunk, float], ActionChunk]] = [
            self._nan, self._infinite, self._jump, self._reversed, self._future, self._size, self._scaled, self._frozen,
            self._type,
        ]  # fmt: skip

    def chunks(self, controller: Controller, now: float) -> list[ActionChunk]:
        """One chunk, or a burst."""
        count = 1 if self.rng.random() < 0.95 else int(self.rng.integers(2, 12))
        out = []
        for _ in range(count):
            chunk = self._sound(controller, now)
            if self.rng.random() < 0.25:
                chunk = self._kinds[int(self.rng.integers(len(self._kinds)))](chunk, now)
            self._last = chunk
            out.append(chunk)
        return out

    def _sound(self, controller: Controller, now: float) -> ActionChunk:
        rng = self.rng
        if rng.random() < 0.1:
            self._drift = rng.normal(0, 1, (2, 6)) * [0.02, 0.02, 0.02, 0.08, 0.08, 0.08]
        steps, space = int(rng.integers(1, 17)), Space(int(rng.choice([0, 0, 0, 1, 2])))
        parts = [
            self._moves(arm, drift, steps, space) for arm, drift in zip(controller.arms, self._drift, strict=False)
        ]
        stamp = now - float(rng.uniform(0, 0.4))
        return ActionChunk(join(parts, space), float(rng.choice([0.05, 0.1, 0.2])), stamp, space=space)

    def _moves(self, arm: ArmController, drift: np.ndarray, steps: int, space: Space) -> np.ndarray:
        rng = self.rng
        grip = rng.integers(0, 2, (steps, 1)).astype(float)
        moves = np.clip(drift + rng.normal(0, 0.3, (steps, 6)) * np.abs(drift), -0.028, 0.028)
        moves[:, 3:] *= 4
        if space is Space.JOINT:
            values = arm.limiter.motion.q + np.cumsum(np.tile(rng.normal(0, 0.1, 7), (steps, 1)), axis=0)
        elif space is Space.EE:
            pose = arm.kinematics.forward(arm.limiter.motion.q)
            place = np.concatenate([pose.position, pose.rotation.as_euler("xyz")])
            values = place + np.cumsum(moves, axis=0)
        else:
            values = moves
        return np.hstack([values, grip])

    def _with(self, chunk: ActionChunk, actions: np.ndarray, stamp: float | None = None) -> ActionChunk:
        return ActionChunk(actions, chunk.dt, chunk.stamp if stamp is None else stamp, chunk.plan_id, chunk.space)

    def _spoilt(self, chunk: ActionChunk, value: float) -> ActionChunk:
        actions = np.array(chunk.actions)
        actions[int(self.rng.integers(len(actions))), int(self.rng.integers(actions.shape[1]))] = value
        return self._with(chunk, actions)

    def _nan(self, chunk: ActionChunk, _: float) -> ActionChunk:
        return self._spoilt(chunk, np.nan)

    def _infinite(self, chunk: ActionChunk, _: float) -> ActionChunk:
        return self._spoilt(chunk, float(self.rng.choice([-np.inf, np.inf])))

    def _jump(self, chunk: ActionChunk, _: float) -> ActionChunk:
        return self._spoilt(chunk, float(self.rng.normal(0, 0.3)))

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

    def people(self, controller: Controller, now: float) -> None:
        """Now and then a stop, a hold, a hand at the joystick with nonsense in it; then somebody goes on."""
        draw, rng = self.rng.random(), self.rng
        arm = controller.arms[int(rng.integers(len(controller.arms)))]
        person = arm.teleop
        if draw < 0.01:
            controller.stop()
        elif draw < 0.02:
            controller.hold()
        elif draw < 0.05:
            person.twist(rng.normal(0, 1, 6) * rng.choice([0.1, 1.0, 100.0, np.nan]), now, bool(rng.integers(2)))
        elif draw < 0.07:
            person.joints(arm.limiter.motion.q + rng.normal(0, 1, 7) * rng.choice([0.1, 1, np.inf]), now)
        elif draw < 0.08:
            person.gripper(float(rng.choice([np.nan, -3.0, 0.02, 9.0])), now)
        elif controller.supervisor.state not in (State.POLICY, State.TELEOP) and draw < 0.95:
            controller.resume(now)

    def measure(self, controller: Controller, q: np.ndarray, now: float, number: int) -> None:
        """The joints follow closely; now and then a measurement is missing or not finite."""
        draw = self.rng.random()
        if draw < 0.005:
            controller.update_joints(np.full(7, np.nan), 0.08, now, number)
        elif draw > 0.01:
            controller.update_joints(q + self.rng.normal(0, 1e-3, 7), 0.08, now, number)
