"""Checks that every command respects its limits, and that every motion has a cause."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np

from molmoact_ros.control.controller import Controller
from molmoact_ros.control.limit_checker import DistanceChecker, LimitChecker
from molmoact_ros.control.supervisor import State
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import HOME_Q, Arm

BRAKING: Final = 1.0
"""s after the end of its cause within which a motion must have come to rest."""

STILL: Final = 1e-9
"""rad; two commands that differ by less command no motion."""


class MotionJudge:
    """Judges commands: each arm's limits, the distance between two arms, and whether a motion has a cause."""

    def __init__(self, robot: Path, controller: Controller, arms: Sequence[Arm]) -> None:
        self._controller, config = controller, controller.config
        self._checkers = [
            LimitChecker(robot, 1.0 / config.rate, config.fractions, config.surroundings, arm) for arm in arms
        ]
        self._between = DistanceChecker(robot, arms) if len(arms) == 2 else None
        self._apart: deque[float] = deque(maxlen=round(BRAKING * config.rate / 2))  # in the last cycles, m
        self._last = [HOME_Q.copy() for _ in arms]
        self._still = [True for _ in arms]
        self._caused_at, self._plan = -np.inf, False
        self._speeds: deque[float] = deque(maxlen=round(BRAKING * config.rate))  # the hand's limit in the last cycles
        self._more = {"arm_distance": 0, "without_cause": 0}
        self.moving = self._sent = False

    @property
    def cycles(self) -> int:
        """Number of judged cycles."""
        return self._checkers[0].cycles

    @property
    def broken(self) -> dict[str, int]:
        """How often each limit was violated, by name, and how often there was motion without a cause."""
        names = self._checkers[0].broken
        return {name: sum(c.broken[name] for c in self._checkers) for name in names} | self._more

    def planned(self) -> None:
        """Record that the controller accepted a plan."""
        self._plan = True

    def forget_plan(self) -> None:
        """An operator starts the arms: earlier plans are no cause any more."""
        self._plan = False

    def rest(self, joints: Sequence[np.ndarray]) -> None:
        """Record that the arms stand at `joints`, [7] rad each, and that nothing is sent."""
        for checker, q in zip(self._checkers, joints, strict=True):
            checker.rest(q)
        self._last, self._still = [np.array(q) for q in joints], [True for _ in joints]
        self._apart.clear()
        self._apart.append(self._distance())
        self.moving = False

    def _distance(self) -> float:
        kept = self._controller.config.surroundings.arm_distance
        return np.inf if self._between is None else self._between.distance(np.concatenate(self._last), 2 * kept)

    def judge_commands(
        self, commands: Sequence[ArmCommand], missed: int, braking: Sequence[np.ndarray], steady: float,
        asked: Sequence[bool],
    ) -> bool:  # fmt: skip
        """Judge one cycle's commands, behind `missed` ones of each arm's `braking` [k, 7] rad; whether anything moves.

        asked: whether each arm's operator requests motion.
        """
        controller, config = self._controller, self._controller.config
        state, playing = controller.supervisor.state, controller.supervisor.state in (State.POLICY, State.TELEOP)
        moves = any(command.velocity.any() for command in commands)
        if not (playing or moves or self.moving):
            self._sent = False
            return False
        if not self._sent:  # the first command starts at the measurement
            self.rest([arm.measured if arm.measured is not None else HOME_Q for arm in controller.arms])
            self._sent = True
        for k, (n, way) in product(range(missed), enumerate(braking)):
            if len(way):
                self._last[n] = way[min(k, len(way) - 1)]
                self._checkers[n].command(self._last[n])
        cause = any(asked) if state is State.TELEOP else self._has_plan(state)
        self._caused_at = steady if cause else self._caused_at
        self._speeds.append(
            config.cartesian_speed if state is State.POLICY else config.teleop.linear if playing else 0.0
        )
        for n, command in enumerate(commands):
            moved = bool(np.abs(command.position - self._last[n]).max() > STILL)
            late = steady - self._caused_at > BRAKING
            self._more["without_cause"] += moved and (late or (self._still[n] and not cause))
            self._still[n] = not moved
            self._last[n] = command.position
            self._checkers[n].command(command.position, max(self._speeds))
        kept, apart = config.surroundings.arm_distance, self._distance()
        self._more["arm_distance"] += bool(apart < min(kept, *self._apart) - 1e-5)
        self._apart.append(apart)
        self.moving = moves
        return moves

    def _has_plan(self, state: State) -> bool:
        """Whether a plan is being played, or was until just now."""
        remaining = max(arm.player.remaining for arm in self._controller.arms)
        finishing = min(arm._finishing for arm in self._controller.arms)
        return state is State.POLICY and self._plan and (remaining > 0 or finishing < BRAKING)
