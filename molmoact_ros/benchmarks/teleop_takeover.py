"""Teleoperation takes over in mid-motion and hands back, in a running graph: how soon, and how smoothly."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import Progress
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.benchmarks.fault_graph import Graph, graph
from molmoact_ros.benchmarks.reporting import new_table, write_figures
from molmoact_ros.bringup.profiles import use_environment
from molmoact_ros.control.limiter import LimitScaling
from molmoact_ros.msg import SafetyStatus
from molmoact_ros.robots.franka import FR3
from molmoact_ros.ros import qos
from molmoact_ros.utils.arguments import (
    add_json,
    add_times,
)

DEADLINE: Final = 0.05
"""s from the operator's first message to the state TELEOP, as received by another process."""
TAKE: Final = 0.6
"""s for which the operator moves the arm."""
AFTER: Final = 1.0
"""s after either hand-over in which its commands are judged; less than the time until the next one."""
WORD: Final = 0.02
"""s between the operator's messages."""
PERIOD: Final = 0.01
"""s between commands."""


@dataclass
class Jump:
    """Greatest step from command to command, as a fraction of each limit, and for how many all three were judged."""

    speed: float = 0.0
    acceleration: float = 0.0
    jerk: float = 0.0
    commands: int = 0

    @property
    def kept(self) -> bool:
        """Whether all steps are within the limits, and some were judged."""
        return self.commands > 0 and max(self.speed, self.acceleration, self.jerk) < 1.0 + 1e-3

    def add_command(self, other: Jump) -> None:
        """Take the maximum of both."""
        for name in ("speed", "acceleration", "jerk"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        self.commands += other.commands


@dataclass
class Takes:
    """Results. seconds: of each take-over; over, back: jumps at take-overs, and when the policy resumes."""

    seconds: list[float] = field(default_factory=list)
    over: Jump = field(default_factory=Jump)
    back: Jump = field(default_factory=Jump)
    lost: int = 0  # take-overs without TELEOP, or without a hand-back

    @property
    def good(self) -> bool:
        """Whether every take-over is in time, and every jump within the limits."""
        return not self.lost and max(self.seconds) < DEADLINE and self.over.kept and self.back.kept


@dataclass(frozen=True)
class Told:
    """A received command: `at`, s of the monotonic clock; `q` [7] rad."""

    at: float
    q: np.ndarray


def jump(commands: list[Told], fractions: LimitScaling) -> Jump:
    """The greatest steps along `commands`, from their positions alone.

    Where a command arrived a cycle or more late, one may have been missed; the step across is judged for its speed
    only.
    """
    if len(commands) < 4:
        return Jump()
    at, q = np.array([c.at for c in commands]), np.array([c.q for c in commands])
    cycles = np.maximum(1.0, np.round(np.diff(at) / PERIOD))
    speed = np.diff(q, axis=0) / (cycles * PERIOD)[:, None]
    out, whole = Jump(float(np.abs(speed / (fractions.speed * FR3.velocity_max)).max())), cycles == 1
    push, even = np.diff(speed, axis=0) / PERIOD, whole[1:] & whole[:-1]
    out.acceleration = float(np.abs(push[even] / (fractions.acceleration * FR3.acceleration_max)).max(initial=0.0))
    rate, even = np.diff(push, axis=0) / PERIOD, even[1:] & even[:-1]
    out.jerk, out.commands = (
        float(np.abs(rate[even] / (fractions.jerk * FR3.jerk_max)).max(initial=0.0)),
        int(even.sum()),
    )
    return out


def bench_teleop(times: int, tell: Callable[[float], None], logs: Path | None = None) -> Takes:
    """Take over `times` times; `tell` receives how long each took, s."""
    use_environment()
    takes = Takes()
    with graph(policy=False, clock=False, logs=logs, more={"controller": {"teleop_hand_back": True}}) as running:
        ear = Ear(running)
        for number in range(times):
            running.begin()
            time.sleep(0.037 * (number % 10))  # not always at the same point of the motion
            seconds = _take(running, ear, takes)
            takes.seconds.append(seconds)
            tell(seconds)
    return takes


class Ear:
    """Receives commands and states, with their time of arrival."""

    def __init__(self, running: Graph) -> None:
        self.commands: list[Told] = []
        self.states: list[tuple[float, int]] = []
        topic = "/fr3_arm_controller/joint_trajectory"
        running.rig.create_subscription(JointTrajectory, topic, self._on_command, qos.RELIABLE)
        running.rig.create_subscription(SafetyStatus, "/controller/safety_status", self._on_state, qos.STATE)

    def _on_command(self, message: JointTrajectory) -> None:
        self.commands.append(Told(time.monotonic(), np.array(message.points[0].positions)))

    def _on_state(self, message: SafetyStatus) -> None:
        self.states.append((time.monotonic(), message.state))

    def since(self, began: float, state: int) -> float | None:
        """When `state` was first received after `began`, s."""
        return next((at for at, heard in self.states if at >= began and heard == state), None)


def _take(running: Graph, ear: Ear, takes: Takes) -> float:
    """One take-over; s until the state is TELEOP, inf: never."""
    rig, fractions = running.rig, LimitScaling()
    began = time.monotonic()
    while time.monotonic() < began + TAKE:
        rig.say_twist(0.0, 0.05)
        time.sleep(WORD)
    released = time.monotonic()
    taken = ear.since(began, SafetyStatus.TELEOP)
    rig.until(lambda: ear.since(released, SafetyStatus.POLICY) is not None, 2.0)
    back = ear.since(released, SafetyStatus.POLICY)
    if taken is None or back is None:
        takes.lost += 1
        return float("inf")
    rig.until(lambda: False, AFTER)
    for kept, start, end in ((takes.over, began - 0.1, released), (takes.back, released, back + AFTER)):
        kept.add_command(jump([c for c in list(ear.commands) if start <= c.at < end], fractions))
    ear.commands.clear()
    ear.states.clear()
    return taken - began


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_times(parser, 10)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""
    figures, good = _measure(args, Console())
    write_figures(args, figures)
    return 0 if good else 1


def _measure(args: argparse.Namespace, console: Console) -> tuple[Any, bool]:

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("takes", total=args.times)
        takes = bench_teleop(args.times, lambda _: progress.advance(task))
    title = f"an operator takes over in mid-motion, and hands back, {args.times} times"
    table = new_table(title, "what", "median", "worst", "limit")
    late = max(takes.seconds) >= DEADLINE
    worst = f"{max(takes.seconds) * 1e3:.1f} ms"
    median = f"{np.median(takes.seconds) * 1e3:.1f} ms"
    table.add_row("takes over within", median, f"[red]{worst}[/]" if late else worst, f"{DEADLINE * 1e3:.0f} ms")
    for name, jump in (("taking over", takes.over), ("handing back", takes.back)):
        for kind in ("speed", "acceleration", "jerk"):
            used = getattr(jump, kind)
            table.add_row(f"{name}: {kind}", "", f"{used:.0%}" if used < 1.001 else f"[red]{used:.0%}[/]", "100%")
    console.print(table)
    console.print(f"{takes.over.commands} and {takes.back.commands} commands judged, {takes.lost} takes lost")
    return asdict(takes), takes.good
