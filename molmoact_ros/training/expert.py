"""The scripted expert that demonstrates tasks to the nano model, from the ground-truth state of the workcell.

It is memoryless: its actions depend on the observable state only, so a policy can learn them from images, and any
state can be labelled, also one after a failure. Positions are metres in `fr3_link0`; one step is `STEP` seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from molmoact_ros.sim.scene import GRASP_HEIGHT, GRASP_WIDTH, LONG_SHAPES, Scene, Task, rest_height
from molmoact_ros.sim.table_workcell import Workcell

STEP = 0.1  # s
CHUNK_STEPS = 8
OPEN = 0.08  # m: opening of the open gripper
MAX_STEP = 0.024  # m horizontally in one step: 0.24 m/s
MAX_RISE = 0.020  # m vertically in one step
MAX_TURN = 0.12  # rad about the vertical in one step
FINGER_STEP = 0.015  # m of opening in one step
HOVER = 0.10  # m above the grasp while still away from the object
CARRY = 0.16  # m: height of the gripper while carrying
ALIGNED = 0.007  # m: distance from the object below which the fingers start to close
AROUND = 0.02  # m: distance below which closing fingers grasp it
TURNED = 0.06 / ALIGNED  # rad per m: how far the hand may be turned off, where its distance may be a given one
RELEASE_ABOVE = 0.045  # m above the grasp height at which the object is released over a target
SET_DOWN = 0.005  # m above the object below at which one that is stacked is released
MAX_STEPS = 140


@dataclass(frozen=True)
class ExpertPhase:
    """The expert's state.

    tcp: gripper position [3] m. opening: m. object: the object's grasp point [3] m. held: whether it is grasped.
    delivered: whether it was released at the target. yaw: of the hand that points down, rad about the base's z; 0: as
    at home. grasp_yaw: the yaw with which the object is grasped; half a turn more does as well.
    """

    tcp: np.ndarray
    opening: float
    object: np.ndarray
    held: bool
    delivered: bool = False
    yaw: float = 0.0
    grasp_yaw: float = 0.0

    @property
    def turn(self) -> float:
        """The nearest way of the hand to the yaw of the grasp, rad in -pi/2..pi/2."""
        return nearest_turn(self.grasp_yaw - self.yaw)


def nearest_turn(yaw: float) -> float:
    """The smallest turn, rad in -pi/2..pi/2, to `yaw` or to half a turn more: two fingers are alike."""
    return float((yaw + np.pi / 2) % np.pi - np.pi / 2)


def see(cell: Workcell, task: Task | None = None) -> ExpertPhase:
    """The expert's state in a workcell with a scene, from the ground truth, for its own task or another one.

    Only its own can have been delivered.
    """
    task = task or cell.task
    assert task is not None
    name, hand = task.object, cell.arm.tcp_rotation
    shape = name.split()[1]
    x, y = cell.data.body(name).xmat.reshape(3, 3)[:2, 0]
    point = cell.object_position(name) + [0, 0, GRASP_HEIGHT[shape] - cell.rest_height(name)]
    delivered = task == cell.task and task.target is not None and cell.progress().success
    long = shape in LONG_SHAPES
    yaw, grasp_yaw = (float(np.arctan2(hand[1, 0], hand[0, 0])), float(np.arctan2(y, x))) if long else (0.0, 0.0)
    return ExpertPhase(cell.arm.tcp_position, cell.arm.opening, point, cell.held(name), delivered, yaw, grasp_yaw)


@dataclass(frozen=True)
class ExpertPlan:
    """The expert's predicted motion from now on.

    positions: of the gripper, [n+1, 3] m. gripper: commands [n] (1 open, 0 closed). yaws: of the hand, [n+1] rad.
    """

    positions: np.ndarray
    gripper: np.ndarray
    yaws: np.ndarray

    def chunk(self) -> np.ndarray:
        """The next actions float64 [8, 7]: dx, dy, dz (m), roll and pitch 0, dyaw (rad), gripper (1 open, 0 closed)."""
        actions = np.zeros((CHUNK_STEPS, 7))
        moves = np.diff(self.positions[: CHUNK_STEPS + 1], axis=0)
        actions[: len(moves), :3] = moves
        actions[: len(moves), 5] = np.diff(self.yaws[: CHUNK_STEPS + 1])
        actions[:, 6] = self.gripper[-1]
        actions[: len(moves), 6] = self.gripper[:CHUNK_STEPS]
        return actions

    def trace(self) -> np.ndarray:
        """Gripper positions [3, 3] m: the current one, the grasp (the midpoint if no grasp is ahead), the end.

        The end is the release point, or the rest position if nothing is carried. There are no intermediate points: one
        would predict the next, and the model would not learn to locate that in the image.
        """
        closed = np.flatnonzero(self.gripper < 0.5)
        ahead = self.gripper[0] > 0.5 and len(closed) > 0
        end = int(closed[-1]) + 1 if len(closed) else len(self.positions) - 1
        corners = [0, int(closed[0]), end] if ahead else [0, end]
        legs = [_along(self.positions[a : b + 1], 2 // (len(corners) - 1) + 1) for a, b in pairwise(corners)]
        return np.concatenate([legs[0][:1], *(leg[1:] for leg in legs)])


def _along(path: np.ndarray, points: int) -> np.ndarray:
    """Resample a path [n, 3] to `points` positions evenly spaced by arc length."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    wanted = np.linspace(0.0, length[-1], points)
    return np.stack([np.interp(wanted, length, path[:, i]) for i in range(3)], axis=1)


def _toward(offset: np.ndarray, limit: float, gain: float = 0.5) -> np.ndarray:
    """A step along `offset` that slows down near the end and is never longer than `limit`."""
    distance = float(np.linalg.norm(offset))
    return offset * min(gain, limit / max(distance, 1e-9))


def _approach(state: ExpertPhase, goal: np.ndarray, low: float, high: float, turn: float = 0.0) -> np.ndarray:
    """Move over `goal` and down a funnel onto it, the hand turning by `turn` rad meanwhile: a step [4], m and rad.

    The target height falls from `high` to `low` with the alignment.
    """
    offset = goal[:2] - state.tcp[:2]
    away = float(np.linalg.norm(offset))
    height = low + float(np.clip((max(away, abs(turn) / TURNED) - ALIGNED) * 2.5, 0.0, high - low))
    rise = height - state.tcp[2]
    # Too low for its lateral offset: rise first, so that nothing is knocked over.
    freedom = float(np.clip(1.0 - rise / 0.05, 0.0, 1.0))
    vertical = float(np.clip(0.5 * rise, -MAX_RISE, MAX_RISE))
    return np.array([*(_toward(offset, MAX_STEP) * freedom), vertical, np.clip(0.5 * turn, -MAX_TURN, MAX_TURN)])


class Expert:
    """The expert policy for one task in one scene.

    Example:
        plan = Expert.from_start(scene, tcp)  # tcp: [3] m
        plan.chunk()  # float64 [8, 7]
    """

    @staticmethod
    def from_start(scene: Scene, tcp: np.ndarray) -> ExpertPlan:
        """The plan for a scene's task with an open gripper at `tcp` [3] m and the objects at their start positions."""
        placed = scene.object(scene.task.object)
        return Expert(scene).plan(ExpertPhase(tcp, OPEN, placed.point, held=False, grasp_yaw=placed.grasp_yaw))

    def __init__(self, scene: Scene) -> None:
        task = scene.task
        shape = task.object.split()[1]
        self.target = (
            None if task.target is None else np.array([scene.object(task.target).x, scene.object(task.target).y])
        )
        self.grasp_height, self.grasp_width = GRASP_HEIGHT[shape], GRASP_WIDTH[shape]
        self.stacks = task.stacks
        above = 2 * rest_height(str(task.target)) + SET_DOWN if task.stacks else RELEASE_ABOVE
        self.release_height = self.grasp_height + above
        self.release_near = ALIGNED if task.stacks else 0.012  # m along the table, from the target's centre

    def act(self, state: ExpertPhase) -> tuple[np.ndarray, float]:
        """The action of the next step: displacement [4], m and of the yaw in rad, and gripper command (1 open)."""
        if state.delivered:
            return _up(np.clip(0.5 * (0.2 - state.tcp[2]), 0.0, MAX_RISE)), 1.0
        return self._deliver(state) if state.held else self._fetch(state)

    def _fetch(self, state: ExpertPhase) -> tuple[np.ndarray, float]:
        height, closing = self._height(state), state.opening < OPEN - 0.012
        if self._around(state, AROUND if closing else ALIGNED):
            return np.zeros(4), 0.0  # once started, closing continues although the gripper has moved slightly
        if closing:  # closed on nothing: open and retry
            return np.zeros(4), 1.0
        return _approach(state, state.object, height, height + HOVER, state.turn), 1.0

    def _height(self, state: ExpertPhase) -> float:
        """The height of the grasp, m: higher where the object stands on something."""
        return max(self.grasp_height, float(state.object[2]))

    def _around(self, state: ExpertPhase, near: float) -> bool:
        """Whether the object is between the fingers: to within `near` m along the table and in height, and in yaw."""
        along = float(np.linalg.norm(state.object[:2] - state.tcp[:2]))
        return max(along, abs(state.tcp[2] - self._height(state)), abs(state.turn) / TURNED) < near

    def _deliver(self, state: ExpertPhase) -> tuple[np.ndarray, float]:
        if self.target is None:
            return _up(np.clip(0.5 * (CARRY - state.tcp[2]), -MAX_RISE, MAX_RISE)), 0.0
        low, near = self.release_height, self.release_near
        # What is stacked has to be over the other's centre itself; elsewhere the hand may.
        goal = self.target + (state.tcp - state.object)[:2] if self.stacks else self.target
        away = np.linalg.norm(goal - state.tcp[:2])
        if away < near and state.tcp[2] < low + near:
            return np.zeros(4), 1.0
        if state.tcp[2] < self.grasp_height + 0.05 and away > 0.10:
            return _up(MAX_RISE), 0.0
        return _approach(state, goal, low, max(CARRY, low + 0.05)), 0.0

    def plan(self, state: ExpertPhase) -> ExpertPlan:
        """Roll the expert out in a simple kinematic model until the state stops changing."""
        positions, yaws, gripper = [state.tcp], [state.yaw], []
        for _ in range(MAX_STEPS):
            move, command = self.act(state)
            after = self._advance(state, move, command)
            positions.append(after.tcp)
            yaws.append(after.yaw)
            gripper.append(command)
            still = np.linalg.norm(after.tcp - state.tcp) < 5e-4 and abs(after.opening - state.opening) < 1e-4
            still = still and abs(after.yaw - state.yaw) < 5e-3
            state = after
            if still and len(gripper) >= CHUNK_STEPS:
                break
        return ExpertPlan(np.array(positions), np.array(gripper), np.array(yaws))

    def _advance(self, state: ExpertPhase, move: np.ndarray, command: float) -> ExpertPhase:
        """The model's step: displacement is exact, fingers have a finite speed, and a grasped object moves along until
        it is released."""
        tcp, yaw = state.tcp + move[:3], state.yaw + float(move[3])
        if command > 0.5:
            opening = min(OPEN, state.opening + FINGER_STEP)
            released = state.held and opening > self.grasp_width + 0.006
            return replace(
                state, tcp=tcp, yaw=yaw, opening=opening, held=state.held and not released,
                delivered=state.delivered or released,
            )  # fmt: skip
        near = self._around(state, AROUND)
        stop = self.grasp_width if near or state.held else 0.0
        opening = max(stop, state.opening - FINGER_STEP)
        held = state.held or (near and opening <= self.grasp_width + 1e-6)
        position = state.object + move[:3] if state.held else state.object
        return replace(state, tcp=tcp, yaw=yaw, opening=opening, held=held, object=position)


def _up(rise: float) -> np.ndarray:
    return np.array([0.0, 0.0, rise, 0.0])
