"""Fuzzing of the real controller, from any configuration, by plans, teleoperation and clocks: a checker judges every
cycle's commands, and their cause.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import Progress

from molmoact_ros.benchmarks.chunk_fuzzer import ChunkFuzzer, ClockGames, Operator
from molmoact_ros.benchmarks.motion_judge import MotionJudge
from molmoact_ros.benchmarks.reporting import write_figures
from molmoact_ros.control.arm_controller import ArmController
from molmoact_ros.control.collision import Surroundings, Workspace
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.supervisor import FAULTS, Event, State
from molmoact_ros.robots.franka import FR3, HOME_Q, JOINTS, SINGLE, Arm
from molmoact_ros.utils.arguments import above_zero, add_json, add_seed
from molmoact_ros.utils.paths import robot_model

CROWDED = (Arm("left_", base=(0.0, 0.15, 0.0, 0.0)), Arm("right_", base=(0.0, -0.15, 0.0, 0.0)))
"""Two arms so close to each other, half as far as in the workcell, that malformed input drives them together often."""
EVERYWHERE: Final = Surroundings(workspace=Workspace(low=(-2.0, -2.0, -2.0), high=(2.0, 2.0, 2.0)))


@dataclass
class Fuzz:
    """What was sent, what was refused, and the checker's verdict on every cycle's commands."""

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
        """The results as plain numbers."""
        return asdict(self)


def fuzz(
    robot: Path, actions: int, seed: int, tick: Callable[[Fuzz], None] = lambda _: None, arms: Sequence[Arm] = (SINGLE,)
) -> Fuzz:
    """Send at least `actions` actions of every malformed kind, among valid ones, and check every cycle's commands.

    One part runs in the usual workspace, one without any, so that table, self-collision and the distance to another arm
    become active limits, and two in boxes at random places.
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
    """One controller in one workspace, until enough actions were sent."""

    def __init__(
        self, robot: Path, config: ControllerConfig, arms: Sequence[Arm], rng: np.random.Generator, result: Fuzz
    ) -> None:
        self.rng, self.result, self.controller = rng, result, Controller(robot, config, arms)
        self.chunk_fuzzer, self.clock = ChunkFuzzer(rng), ClockGames(rng)
        self.judge = MotionJudge(robot, self.controller, arms)
        self.people = [Operator(rng, arm) for arm in self.controller.arms]
        self._broken_robot = False
        for number in range(len(arms)):
            self.controller.update_joints(HOME_Q, 0.08, self.clock.now, number, self.clock.steady)
        self.judge.rest([HOME_Q for _ in arms])

    def run(self, until: int, tick: Callable[[Fuzz], None]) -> None:
        result, rng, controller, clock = self.result, self.rng, self.controller, self.clock
        while result.actions < until:
            for chunk in self.chunk_fuzzer.chunks(controller, clock.now):
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
            if rng.random() < 0.02:  # the caller is late, and the arms brake meanwhile
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
        if wrong := clock.watch.check_clocks(clock.now, clock.steady):
            controller.fault(Event.CLOCK_JUMPED, wrong)
        if self.rng.random() > 0.002:
            controller.on_engine(clock.steady)
        for person in self.people:
            self.result.words += person.speak(clock.steady)
        braking = [arm.limiter.planned(False)[1:] for arm in controller.arms]
        commands = controller.step(clock.now, missed, clock.steady)
        assert commands is not None
        asked = [person.asks(clock.steady) for person in self.people]
        self.result.moving += self.judge.judge_commands(commands, missed, braking, clock.steady, asked)
        state = controller.supervisor.state.value
        self.result.states[state] = self.result.states.get(state, 0) + 1
        for number, command in enumerate(commands):
            self.chunk_fuzzer.measure(controller, command.position, clock, number)

    def _press(self) -> None:
        """Sometimes trigger a stop, a hold, or a fault that only the caller detects; then resume."""
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
        """Place the arms anywhere in their ranges, while they stand and nothing moves them."""
        controller, clock = self.controller, self.clock
        if controller.supervisor.state in (State.POLICY, State.TELEOP) or self.judge.moving:
            return
        self.result.places += 1
        places = [self._somewhere(arm) for arm in controller.arms]
        for number, q in enumerate(places):
            controller.update_joints(q, 0.08, clock.now, number, clock.steady)
        self.judge.rest(places)

    def _somewhere(self, arm: ArmController) -> np.ndarray:
        """Joints [7] rad anywhere in the arm's ranges, or near home; mostly where the controller can be started."""
        rng, box = self.rng, self.controller.config.surroundings.workspace
        about_home = rng.random() < 0.4
        for _ in range(1 if rng.random() < 0.2 else 100):
            q = rng.uniform(FR3.position_min, FR3.position_max)
            if about_home:
                q = np.clip(HOME_Q + rng.normal(0, 0.3, JOINTS), FR3.position_min, FR3.position_max)
            if box.outside(arm.kinematics.forward(q).position) <= 0:
                break
        return q


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_seed(parser)
    parser.add_argument("--actions", type=above_zero(int), default=1_000_000, help="how many at least")
    parser.add_argument("--arms", type=int, choices=[1, 2], default=1, help="how many arms")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""
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
