"""The real controller driven with nonsense, from anywhere, by plans, people and clocks; every cycle that comes out is
judged by the checker, and so is its cause.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import Progress

from molmoact_ros.benchmarks.reporting import write_figures
from molmoact_ros.control.action_chunk import ActionChunk, Space, join
from molmoact_ros.control.arm_controller import ArmController
from molmoact_ros.control.clock_monitor import ClockWatch
from molmoact_ros.control.collision import Surroundings, Workspace
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.limit_checker import Between, Checker
from molmoact_ros.control.supervisor import FAULTS, Event, State
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import FR3, HOME_Q, JOINTS, SINGLE, Arm
from molmoact_ros.utils.arguments import (
    add_json,
    add_seed,
)
from molmoact_ros.utils.paths import robot_model

CROWDED = (Arm("left_", base=(0.0, 0.15, 0.0, 0.0)), Arm("right_", base=(0.0, -0.15, 0.0, 0.0)))
"""Two arms so near to each other, half as far as in the workcell, that nonsense drives them together all the time."""
EVERYWHERE: Final = Surroundings(workspace=Workspace(low=(-2.0, -2.0, -2.0), high=(2.0, 2.0, 2.0)))
BRAKING: Final = 1.0
"""s after its cause has ended within which a motion must have come to rest."""
STILL: Final = 1e-9
"""rad by which two commands may differ that command no motion."""


@dataclass
class Fuzz:
    """What was sent, what was refused, and what the checker says of every cycle that came out."""

    seed: int
    actions: int = 0
    chunks: int = 0
    played: int = 0
    refused: int = 0
    words: int = 0
    jumps: int = 0
    places: int = 0
    cycles: int = 0
    moving: int = 0
    broken: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)

    def report(self) -> dict[str, object]:
        """As plain numbers."""
        return asdict(self)


def fuzz(
    robot: Path, actions: int, seed: int, tick: Callable[[Fuzz], None] = lambda _: None, arms: Sequence[Arm] = (SINGLE,)
) -> Fuzz:
    """Send at least `actions` actions of every kind of nonsense, among sound ones, and check each cycle that comes out.

    A part in the usual workspace, one without any, so that table, self-collision and the distance to another arm have
    to be kept, and two in boxes that may lie anywhere.
    """
    rng, result = np.random.default_rng(seed), Fuzz(seed)
    parts = [Surroundings(), EVERYWHERE, *(Surroundings(workspace=_box(rng)) for _ in range(2))]
    for number, surroundings in enumerate(parts, start=1):
        until = actions * number // len(parts)
        _Round(robot, ControllerConfig(surroundings=surroundings), arms, rng, result).run(until, tick)
    return result


def _box(rng: np.random.Generator) -> Workspace:
    low = rng.uniform([0.0, -0.6, 0.0], [0.5, 0.1, 0.3])
    return Workspace(low=tuple(low), high=tuple(low + rng.uniform(0.1, 0.5, 3)))


class _Round:
    """One controller in one place, until enough actions were sent."""

    def __init__(
        self, robot: Path, config: ControllerConfig, arms: Sequence[Arm], rng: np.random.Generator, result: Fuzz
    ) -> None:
        self.rng, self.result, self.controller = rng, result, Controller(robot, config, arms)
        self.mischief, self.clock, self.judge = _Mischief(rng), _Clock(rng), _Judge(robot, self.controller, arms)
        self.people = [_Person(rng, arm) for arm in self.controller.arms]
        self._broken_robot = False
        for number in range(len(arms)):
            self.controller.update_joints(HOME_Q, 0.08, self.clock.now, number, self.clock.steady)
        self.judge.rest([HOME_Q for _ in arms])

    def run(self, until: int, tick: Callable[[Fuzz], None]) -> None:
        result, rng, controller, clock = self.result, self.rng, self.controller, self.clock
        while result.actions < until:
            for chunk in self.mischief.chunks(controller, clock.now):
                shape = np.shape(chunk.actions)
                result.actions += shape[0] if shape else 1
                result.chunks += 1
                played = controller.on_chunk(chunk, clock.now, clock.steady)
                result.played += played
                if played:
                    self.judge.planned()
            self._press()
            if rng.random() < 0.03:
                self._place()
            for _ in range(int(rng.integers(0, 14))):
                self._cycle(0)
            if rng.random() < 0.02:  # the caller comes late, and the arms brake meanwhile
                missed = int(rng.integers(1, 5))
                clock.pass_by(missed * controller.arms[0]._dt)
                self._cycle(missed)
            tick(result)
        result.cycles += self.judge.cycles
        result.refused += controller.refused
        for total, counts in ((result.broken, self.judge.broken), (result.counts, controller.counts)):
            for name, count in counts.items():
                total[name] = total.get(name, 0) + count

    def _cycle(self, missed: int) -> None:
        controller, clock = self.controller, self.clock
        clock.pass_by(1.0 / controller.config.rate)
        self.result.jumps += clock.play()
        if wrong := clock.watch.look(clock.now, clock.steady):
            controller.fault(Event.CLOCK_JUMPED, wrong)
        if self.rng.random() > 0.002:
            controller.on_engine(clock.steady)
        for person in self.people:
            self.result.words += person.speak(clock.steady)
        braking = [arm.limiter.planned(False)[1:] for arm in controller.arms]
        commands = controller.step(clock.now, missed, clock.steady)
        assert commands is not None
        asked = [person.asks(clock.steady) for person in self.people]
        self.result.moving += self.judge.take(commands, missed, braking, clock.steady, asked)
        state = controller.supervisor.state.value
        self.result.states[state] = self.result.states.get(state, 0) + 1
        for number, command in enumerate(commands):
            self.mischief.measure(controller, command.position, clock, number)

    def _press(self) -> None:
        """Now and then a stop, a hold, a fault that only the caller sees; then somebody goes on."""
        draw, rng, controller, clock = self.rng.random(), self.rng, self.controller, self.clock
        if draw < 0.01:
            controller.stop()
        elif draw < 0.02:
            controller.hold()
        elif draw < 0.03:
            controller.fault(FAULTS[int(rng.integers(len(FAULTS)))])
        elif draw < 0.035:
            self._broken_robot = True
            controller.fault(Event.ROBOT_STOPPED, "reflex", lasts=True)
        elif self._broken_robot and draw < 0.3:
            self._broken_robot = False
            controller.clear(Event.ROBOT_STOPPED)
        elif controller.supervisor.state not in (State.POLICY, State.TELEOP) and draw < 0.6:
            self.judge.forget_plan()
            (controller.resume if rng.random() < 0.5 else controller.start)(clock.now, clock.steady)
            if "outside" in controller.refusal:
                self._place()

    def _place(self) -> None:
        """Somebody puts the arms elsewhere, anywhere in their ranges, while they stand and nobody moves them."""
        controller, clock = self.controller, self.clock
        if controller.supervisor.state in (State.POLICY, State.TELEOP) or self.judge.moving:
            return
        self.result.places += 1
        places = [self._somewhere(arm) for arm in controller.arms]
        for number, q in enumerate(places):
            controller.update_joints(q, 0.08, clock.now, number, clock.steady)
        self.judge.rest(places)

    def _somewhere(self, arm: ArmController) -> np.ndarray:
        """Joints [7] rad anywhere in the arm's ranges, or about home; mostly such that it can be started there."""
        rng, box = self.rng, self.controller.config.surroundings.workspace
        about_home = rng.random() < 0.4
        for _ in range(1 if rng.random() < 0.2 else 100):
            q = rng.uniform(FR3.position_min, FR3.position_max)
            if about_home:
                q = np.clip(HOME_Q + rng.normal(0, 0.3, JOINTS), FR3.position_min, FR3.position_max)
            if box.outside(arm.kinematics.forward(q).position) <= 0:
                break
        return q


class _Clock:
    """ROS time and a steady one, s. ROS time is set, stands still, runs through the same again, and drifts."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.steady, self.now, self.watch = 0.0, 1000.0, ClockWatch(simulated=bool(rng.integers(2)))
        self._rng, self._rate, self._until = rng, 1.0, 0.0

    def pass_by(self, seconds: float) -> None:
        self.steady += seconds
        self.now += seconds * self._rate

    def play(self) -> bool:
        """Now and then a game; whether one began."""
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


class _Person:
    """Somebody at a device: words for a while, then silence. Knows what they asked for last, and when."""

    def __init__(self, rng: np.random.Generator, arm: ArmController) -> None:
        self._rng, self._arm = rng, arm
        self._until, self._due, self._period, self._kind = 0.0, 0.0, 0.02, "twist"
        self._value = np.zeros(7)
        self._asked = -np.inf

    def speak(self, steady: float) -> int:
        """Say a word where it is time for one; how many were said."""
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
        else:
            moves = teleop.twist(self._value[:6], steady, self._kind == "tool") and bool(self._value[:6].any())
        if moves:
            self._asked = steady
        elif self._kind != "gripper":
            self._asked = -np.inf
        return 1

    def _begin(self, steady: float) -> None:
        rng = self._rng
        self._kind = str(rng.choice(["twist", "twist", "tool", "joint", "gripper"]))
        self._until, self._period = steady + float(rng.exponential(0.8)), float(rng.choice([0.01, 0.02, 0.1, 0.18]))
        self._value = rng.normal(0, 1, 7) * rng.choice([0.0, 1e-9, 0.1, 0.1, 1.0, 100.0, np.nan])

    def asks(self, steady: float) -> bool:
        """They have asked for motion within the time-out, and not for something else since."""
        return steady - self._asked <= self._arm.teleop._config.timeout + 1e-9


class _Judge:
    """Judges what is sent: each arm's limits, the distance between two, and whether a motion has a cause."""

    def __init__(self, robot: Path, controller: Controller, arms: Sequence[Arm]) -> None:
        self._controller, config = controller, controller.config
        self._checkers = [Checker(robot, 1.0 / config.rate, config.fractions, config.surroundings, arm) for arm in arms]
        self._between = Between(robot, arms) if len(arms) == 2 else None
        self._apart: deque[float] = deque(maxlen=round(BRAKING * config.rate / 2))  # in the last cycles, m
        self._last = [HOME_Q.copy() for _ in arms]
        self._still = [True for _ in arms]
        self._caused, self._plan = -np.inf, False
        self._speeds: deque[float] = deque(maxlen=round(BRAKING * config.rate))  # the hand's limit in the last cycles
        self._more = {"arm_distance": 0, "without_cause": 0}
        self.moving = self._sent = False

    @property
    def cycles(self) -> int:
        return self._checkers[0].cycles

    @property
    def broken(self) -> dict[str, int]:
        names = self._checkers[0].broken
        return {name: sum(c.broken[name] for c in self._checkers) for name in names} | self._more

    def planned(self) -> None:
        """A plan was taken up."""
        self._plan = True

    def forget_plan(self) -> None:
        """Somebody starts the arms: plans of before are no cause any more."""
        self._plan = False

    def rest(self, joints: Sequence[np.ndarray]) -> None:
        """The arms stand there, and nothing is sent."""
        for checker, q in zip(self._checkers, joints, strict=True):
            checker.rest(q)
        self._last, self._still = [np.array(q) for q in joints], [True for _ in joints]
        self._apart.clear()
        self._apart.append(self._distance())
        self.moving = False

    def _distance(self) -> float:
        kept = self._controller.config.surroundings.arm_distance
        return np.inf if self._between is None else self._between.distance(np.concatenate(self._last), 2 * kept)

    def take(
        self, commands: Sequence[ArmCommand], missed: int, braking: Sequence[np.ndarray], steady: float,
        asked: Sequence[bool],
    ) -> bool:  # fmt: skip
        """One cycle's commands, behind `missed` ones of each arm's `braking` [k, 7] rad; whether anything moves.

        asked: by the person at each arm, motion.
        """
        controller, config = self._controller, self._controller.config
        state, playing = controller.supervisor.state, controller.supervisor.state in (State.POLICY, State.TELEOP)
        moves = any(command.velocity.any() for command in commands)
        if not (playing or moves or self.moving):
            self._sent = False
            return False
        if not self._sent:  # what is sent first begins at the measurement
            self.rest([arm.measured if arm.measured is not None else HOME_Q for arm in controller.arms])
            self._sent = True
        for k, (n, way) in product(range(missed), enumerate(braking)):
            if len(way):
                self._last[n] = way[min(k, len(way) - 1)]
                self._checkers[n].command(self._last[n])
        cause = any(asked) if state is State.TELEOP else self._has_plan(state)
        self._caused = steady if cause else self._caused
        self._speeds.append(
            config.cartesian_speed if state is State.POLICY else config.teleop.linear if playing else 0.0
        )
        for n, command in enumerate(commands):
            moved = bool(np.abs(command.position - self._last[n]).max() > STILL)
            self._more["without_cause"] += moved and (steady - self._caused > BRAKING or (self._still[n] and not cause))
            self._still[n] = not moved
            self._last[n] = command.position
            self._checkers[n].command(command.position, max(self._speeds))
        kept, apart = config.surroundings.arm_distance, self._distance()
        self._more["arm_distance"] += bool(apart < min(kept, *self._apart) - 1e-5)
        self._apart.append(apart)
        self.moving = moves
        return moves

    def _has_plan(self, state: State) -> bool:
        """A plan is being played, or was until just now."""
        remaining = max(arm.player.remaining for arm in self._controller.arms)
        finishing = min(arm._finishing for arm in self._controller.arms)
        return state is State.POLICY and self._plan and (remaining > 0 or finishing < BRAKING)


class _Mischief:
    """Seeded nonsense. Sound chunks keep a direction for a while, so that the arm is driven against every border."""

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

    def measure(self, controller: Controller, q: np.ndarray, clock: _Clock, number: int) -> None:
        """The joints follow closely; now and then a measurement is missing, not finite, or elsewhere for once."""
        draw = self.rng.random()
        if draw < 0.005:
            q = np.full(7, np.nan)
        elif draw < 0.006:
            q = np.zeros(JOINTS)  # which joint 4 of an FR3 never is
        elif draw < 0.01:
            return
        elif controller.arms[number].limiter.motion.dq.any():
            q = q + self.rng.normal(0, 1e-3, 7)
        controller.update_joints(q, 0.08, clock.now, number, clock.steady)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_json(parser)
    add_seed(parser)
    parser.add_argument("--actions", type=int, default=1_000_000, help="how many at least")
    parser.add_argument("--arms", type=int, choices=[1, 2], default=1, help="how many arms")


def run(args: argparse.Namespace) -> int:
    """Run it, print what came of it, and give the exit status."""
    figures, good = _measure(args, Console())
    write_figures(args, figures)
    return 0 if good else 1


def _measure(args: argparse.Namespace, console: Console) -> tuple[Any, bool]:

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("actions", total=args.actions)
        arms = CROWDED if args.arms == 2 else [SINGLE]
        result = fuzz(
            robot_model(), args.actions, args.seed, lambda now: progress.update(task, completed=now.actions), arms
        )
    broken = sum(result.broken.values())
    console.print(
        f"{result.actions} actions in {result.chunks} chunks, seed {result.seed}: {result.played} played, "
        f"{result.refused} refused; {result.cycles} cycles checked, {result.moving} of them in motion: "
        + ("no limit was broken" if not broken else f"[red]broken: {result.broken}[/]")
    )
    console.print("how often each limit bit: " + ", ".join(f"{name} {n}" for name, n in result.counts.items()))
    return asdict(result), not broken
