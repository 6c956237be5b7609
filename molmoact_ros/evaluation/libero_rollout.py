"""Episodes of LIBERO in two ways: by the released protocol, and through the controller that is deployed.

*protocol*: a chunk's inputs go to OSC_POSE one after the other, open loop, and the simulation stands while the model
thinks. *deployed*: the simulation goes on. A plan takes effect `latency` s after its image; our chunk player, limiter
and inverse kinematics turn it into joint commands, which the simulated Panda follows. The motion of a chunk is the one
that OSC_POSE would make of it (control/osc_pose.py): the hand covers about a quarter of each input's way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from molmoact_ros.control.action_chunk import ActionChunk
from molmoact_ros.control.collision import Surroundings, Workspace
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.osc_pose import STEP, hand_motion
from molmoact_ros.evaluation.libero_policy import LiberoPolicy
from molmoact_ros.evaluation.suite_report import PlanLog, SuiteEpisode
from molmoact_ros.robots.franka import OPENING_MAX, PANDA, Arm, Limits
from molmoact_ros.sim.libero_cell import LiberoCell

LATENCY: Final = 0.2
"""s from image to plan, unless another is wanted."""
FINGERS_LONGER: Final = 0.01
"""m by which the finger tips of our arm's model are farther out than those of LIBERO's, rounded up."""
SETTLED: Final = 0.3
"""s in which an arm comes to rest after a chunk, before the image of the next one, with a slow engine."""
SLOW: Final = 0.35
"""s of latency from which on a plan arrives too late to continue the last one, so that the arm moves in strides."""


class PandaArm(Arm):
    """An arm by our model, whose geometry is the Panda's too, with the Panda's limits."""

    @property
    def limits(self) -> Limits:
        """The Panda's limits."""
        return PANDA


def run_by_protocol(cell: LiberoCell, policy: LiberoPolicy, trial: int, log: PlanLog) -> SuiteEpisode:
    """One episode by the released protocol, from an official initial state."""
    cell.reset(trial)
    return play_by_protocol(cell, policy, trial, log)


def play_by_protocol(cell: LiberoCell, policy: LiberoPolicy, trial: int, log: PlanLog) -> SuiteEpisode:
    """One episode by the released protocol, from the state that `cell` is in. trial: its number in the result."""
    policy.begin(cell)
    steps = plans = 0
    queue: list[np.ndarray] = []
    while steps < cell.task.limit and not (steps and cell.success):
        if not queue:
            queue, plans = list(policy.plan(cell, steps * STEP, log)), plans + 1
        cell.step(queue.pop(0))
        steps += 1
    return _result(cell, trial, steps, plans, log)


def run_deployed(
    cell: LiberoCell, policy: LiberoPolicy, trial: int, log: PlanLog, robot: Path, latency: float = LATENCY
) -> SuiteEpisode:
    """One episode through the controller. robot: our arm's MJCF file."""
    cell.reset(trial)
    policy.begin(cell)
    strides = latency >= SLOW
    controller = deployed_controller(cell, robot, strides)
    period, plans = 1.0 / controller.config.rate, 0
    chunk: ActionChunk | None = None
    due = pictured = now = 0.0  # when the next image is taken, and when the last one was
    for cycle in range(round(cell.task.limit * STEP / period)):
        now = cycle * period
        controller.update_joints(cell.joints, cell.opening, now)
        controller.on_engine(now)
        if cycle == 0:
            controller.start(now)
        if chunk is not None and now >= pictured + latency:
            controller.on_chunk(chunk, now)
            due, chunk = (now + len(chunk.actions) * STEP + SETTLED if strides else now), None
        if chunk is None and now >= due:
            motion, pictured, plans = hand_motion(policy.plan(cell, now, log), cell.twist), now, plans + 1
            chunk = ActionChunk(motion.actions, STEP, now, plans)
        _follow(cell, controller, now, period)
        if cycle % round(STEP / period) == 0 and cell.success:
            break
    counts = controller.arms[0].limiter.counts
    return _result(cell, trial, round((now + period) / STEP), plans, log, controller.refused, list(counts.items()))


def deployed_controller(cell: LiberoCell, robot: Path, strides: bool) -> Controller:
    """A controller for the Panda of a cell, with the cell's table. strides: look, show, move, for a slow engine."""
    table = cell.surface - cell.base[2]
    config = ControllerConfig(
        surroundings=Surroundings(
            workspace=Workspace(low=(0.1, -0.6, table - 0.02), high=(0.95, 0.6, 0.8)), table=table - FINGERS_LONGER
        ),
        stop_and_go=strides,
        silence_deadline=60.0,
    )
    return Controller(robot, config, (PandaArm(),))


def _follow(cell: LiberoCell, controller: Controller, now: float, period: float) -> None:
    commands = controller.step(now)
    if commands is None:
        cell.follow(cell.joints, np.zeros(7), False, period)
    else:
        command = commands[0]
        cell.follow(command.position, command.velocity, command.opening < OPENING_MAX / 2, period)


def _result(
    cell: LiberoCell, trial: int, steps: int, plans: int, log: PlanLog, refused: int = 0,
    limited: Sequence[tuple[str, int]] = (),
) -> SuiteEpisode:  # fmt: skip
    seconds = float(np.median(log.seconds)) if log.seconds else float("nan")
    return SuiteEpisode(
        cell.task.number, trial, cell.task.instruction, cell.success, steps, plans, seconds, tuple(log.refusals),
        refused, tuple((name, count) for name, count in limited if count),
    )  # fmt: skip
