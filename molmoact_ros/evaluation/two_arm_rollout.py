"""TwoArmLift of robosuite by the scripted expert for two arms, through the controller that is deployed.

The expert is the tray's (training/tray_expert.py): a pot is lifted as a tray is. Its chunks of 14 values take effect
`latency` s after their state was seen; our chunk player, limiter and inverse kinematics of two arms turn them into
joint commands, which the simulated Pandas follow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace, join, split
from molmoact_ros.control.collision import Surroundings, Workspace
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.evaluation.libero_rollout import FINGERS_LONGER, LATENCY, PandaArm
from molmoact_ros.evaluation.suite_report import SuiteEpisode
from molmoact_ros.robots.franka import OPENING_MAX
from molmoact_ros.sim.tray_workcell import GRASP_HEIGHT
from molmoact_ros.sim.two_arm_cell import ARMS, INSTRUCTION, TwoArmCell
from molmoact_ros.training import tray_expert
from molmoact_ros.training.tray_expert import TrayPhase

STEP: Final = 0.1
"""s of one action of the tray's expert."""
LIMIT: Final = 30.0
"""s in which the pot has to be lifted."""


def run_two_arm_lift(cell: TwoArmCell, trial: int, robot: Path, latency: float = LATENCY) -> SuiteEpisode:
    """One episode. robot: our arm's MJCF file. The steps of the outcome are of STEP."""
    cell.reset(trial)
    controller, period = _controller(cell, robot), 0.01
    lowest = float(cell.handles[:, 2].mean())
    chunk: ActionChunk | None = None
    plans, now, seen_at = 0, 0.0, 0.0
    for cycle in range(round(LIMIT / period)):
        now = cycle * period
        for arm in range(ARMS):
            controller.update_joints(cell.joints[arm], float(cell.openings[arm]), now, arm)
        controller.on_engine(now)
        if cycle == 0:
            controller.start(now)
        if chunk is not None and now >= seen_at + latency:
            controller.on_chunk(chunk, now)
            chunk = None
        if chunk is None:
            seen_at, plans = now, plans + 1
            actions = tray_expert.chunk(see_pot(cell, lowest))
            chunk = ActionChunk(in_bases(actions, [base[3] for base in cell.bases]), STEP, now, plans)
        _follow(cell, controller, now, period)
        if cell.success:
            break
    limited = tuple((name, count) for name, count in _counts(controller).items() if count)
    return SuiteEpisode(
        0, trial, INSTRUCTION, cell.success, round((now + period) / STEP), plans, float("nan"), (), controller.refused,
        limited,
    )  # fmt: skip


def see_pot(cell: TwoArmCell, lowest: float) -> TrayPhase:
    """What the expert acts on, with a height of 0 so far under the handles as the tray's bottom is under its grasp.

    lowest: height of the handles on the table, m.
    """
    (tcp, hands), down = cell.tcp, np.array([0.0, 0.0, lowest - GRASP_HEIGHT])
    wanted = Rotation.from_matrix([grasping(turn, cell.pot.as_matrix()[:, 1]) for turn in hands.as_matrix()])
    return TrayPhase(tcp - down, (wanted * hands.inv()).as_rotvec(), cell.openings, cell.handles - down)


def grasping(hand: np.ndarray, across: np.ndarray) -> np.ndarray:
    """The rotation [3, 3] of a hand that points down and closes along `across` [3] or against it.

    Whichever is nearer to its rotation `hand` [3, 3] now.
    """
    axis = np.array([across[0], across[1], 0.0]) / np.hypot(across[0], across[1])
    axis = axis if axis @ hand[:, 0] >= 0 else -axis
    down = np.array([0.0, 0.0, -1.0])
    return np.column_stack([axis, np.cross(down, axis), down])


def in_bases(actions: np.ndarray, yaws: list[float]) -> np.ndarray:
    """Displacements of both hands [N, 14] in the world's directions, as float64 [N, 14] in those of the arms' bases.

    yaws: of the bases, rad. Rotations go in as rotation vectors and come out as roll, pitch, yaw.
    """
    parts = []
    for part, yaw in zip(split(ActionChunk(actions, STEP, 0.0, 0), ARMS), yaws, strict=True):
        base = Rotation.from_euler("z", -yaw)
        turns = Rotation.from_rotvec(base.apply(part.actions[:, 3:6])).as_euler("xyz")
        parts.append(np.column_stack([base.apply(part.actions[:, :3]), turns, part.actions[:, 6]]))
    joined: np.ndarray = join(parts, ActionSpace.DELTA_EE)
    return joined


def _controller(cell: TwoArmCell, robot: Path) -> Controller:
    table = cell.table - cell.bases[0][2]
    workspace = Workspace(low=(0.1, -0.6, table - 0.02), high=(0.95, 0.6, 0.8))
    surroundings = Surroundings(workspace=workspace, table=table - FINGERS_LONGER)
    config = ControllerConfig(surroundings=surroundings, silence_deadline=60.0)
    arms = [PandaArm(side, base=base) for side, base in zip(("left_", "right_"), cell.bases, strict=True)]
    return Controller(robot, config, arms)


def _follow(cell: TwoArmCell, controller: Controller, now: float, period: float) -> None:
    commands = controller.step(now)
    if commands is None:
        cell.follow(cell.joints, np.zeros((ARMS, 7)), [False] * ARMS, period)
        return
    q, dq = (np.array([getattr(command, name) for command in commands]) for name in ("position", "velocity"))
    cell.follow(q, dq, [command.opening < OPENING_MAX / 2 for command in commands], period)


def _counts(controller: Controller) -> dict[str, int]:
    total: dict[str, int] = {}
    for arm in controller.arms:
        for name, count in arm.limiter.counts.items():
            total[name] = total.get(name, 0) + count
    return total
