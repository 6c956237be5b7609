"""The scripted expert that demonstrates tasks to the nano model, from the ground-truth state of the workcell.

It is memoryless: its actions depend on the observable state only, so a policy can learn them from images, and any
state can be labelled, also one after a failure. Positions are metres in `fr3_link0`; one step is `STEP` seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from molmoact_ros.sim.scene import GRASP_HEIGHT, GRASP_WIDTH, Scene, rest_height

STEP = 0.1  # s
CHUNK_STEPS = 8
OPEN = 0.08  # m: opening of the open gripper
MAX_STEP = 0.024  # m horizontally in one step: 0.24 m/s
MAX_RISE = 0.020  # m vertically in one step
FINGER_STEP = 0.015  # m of opening in one step
HOVER = 0.10  # m above the grasp while still away from the object
CARRY = 0.16  # m: height of the gripper while carrying
ALIGNED = 0.007  # m: distance from the object below which the fingers start to close
AROUND = 0.02  # m: distance below which closing fingers grasp it
RELEASE_ABOVE = 0.045  # m above the grasp height at which the object is released over a target
SET_DOWN = 0.005  # m above the object below at which one that is stacked is released
MAX_STEPS = 140


@dataclass(frozen=True)
class ExpertPhase:
    """The expert's state.

    tcp: gripper position [3] m. opening: m. object: object centre [3] m. held: whether the object is grasped.
    delivered: whether it was released at the target.
    """

    tcp: np.ndarray
    opening: float
    object: np.ndarray
    held: bool
    delivered: bool = False


@dataclass(frozen=True)
class ExpertPlan:
    """The expert's predicted motion: gripper positions [n+1, 3] m from now on, and commands [n] (1 open, 0 closed)."""

    positions: np.ndarray
    gripper: np.ndarray

    def chunk(self) -> np.ndarray:
        """The next actions float64 [8, 7]: dx, dy, dz (m), three zero rotations (rad), gripper (1 open, 0 closed)."""
        actions = np.zeros((CHUNK_STEPS, 7))
        moves = np.diff(self.positions[: CHUNK_STEPS + 1], axis=0)
        actions[: len(moves), :3] = moves
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


def _approach(state: ExpertPhase, goal: np.ndarray, low: float, high: float) -> np.ndarray:
    """Move over `goal` and down a funnel onto it: the target height falls from `high` to `low` with the alignment."""
    offset = goal[:2] - state.tcp[:2]
    away = float(np.linalg.norm(offset))
    height = low + float(np.clip((away - ALIGNED) * 2.5, 0.0, high - low))
    rise = height - state.tcp[2]
    # Too low for its lateral offset: rise first, so that nothing is knocked over.
    freedom = float(np.clip(1.0 - rise / 0.05, 0.0, 1.0))
    vertical = float(np.clip(0.5 * rise, -MAX_RISE, MAX_RISE))
    return np.array([*(_toward(offset, MAX_STEP) * freedom), vertical])


class Expert:
    """The expert policy for one task in one scene.

    Example:
        plan = Expert.from_start(scene, tcp)  # tcp: [3] m
        plan.chunk()  # float64 [8, 7]
    """

    @staticmethod
    def from_start(scene: Scene, tcp: np.ndarray) -> ExpertPlan:
        """The plan for a scene's task with an open gripper at `tcp` [3] m and the objects at their start positions."""
        return Expert(scene).plan(ExpertPhase(tcp, OPEN, scene.object(scene.task.object).point, held=False))

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
        """The action of the next step: displacement [3] m and gripper command (1 open, 0 closed)."""
        if state.delivered:
            return np.array([0, 0, np.clip(0.5 * (0.2 - state.tcp[2]), 0.0, MAX_RISE)]), 1.0
        return self._deliver(state) if state.held else self._fetch(state)

    def _fetch(self, state: ExpertPhase) -> tuple[np.ndarray, float]:
        height, closing = self._height(state), state.opening < OPEN - 0.012
        if self._around(state, AROUND if closing else ALIGNED):
            return np.zeros(3), 0.0  # once started, closing continues although the gripper has moved slightly
        if closing:  # closed on nothing: open and retry
            return np.zeros(3), 1.0
        return _approach(state, state.object, height, height + HOVER), 1.0

    def _height(self, state: ExpertPhase) -> float:
        """The height of the grasp, m: higher where the object stands on something."""
        return max(self.grasp_height, float(state.object[2]))

    def _around(self, state: ExpertPhase, near: float) -> bool:
        """Whether the object is between the fingers, to within `near` m along the table and in height."""
        along = float(np.linalg.norm(state.object[:2] - state.tcp[:2]))
        return along < near and abs(state.tcp[2] - self._height(state)) < near

    def _deliver(self, state: ExpertPhase) -> tuple[np.ndarray, float]:
        if self.target is None:
            return np.array([0, 0, np.clip(0.5 * (CARRY - state.tcp[2]), -MAX_RISE, MAX_RISE)]), 0.0
        low, near = self.release_height, self.release_near
        # What is stacked has to be over the other's centre itself; elsewhere the hand may.
        goal = self.target + (state.tcp - state.object)[:2] if self.stacks else self.target
        away = np.linalg.norm(goal - state.tcp[:2])
        if away < near and state.tcp[2] < low + near:
            return np.zeros(3), 1.0
        if state.tcp[2] < self.grasp_height + 0.05 and away > 0.10:
            return np.array([0, 0, MAX_RISE]), 0.0
        return _approach(state, goal, low, max(CARRY, low + 0.05)), 0.0

    def plan(self, state: ExpertPhase) -> ExpertPlan:
        """Roll the expert out in a simple kinematic model until the state stops changing."""
        positions, gripper = [state.tcp], []
        for _ in range(MAX_STEPS):
            move, command = self.act(state)
            after = self._advance(state, move, command)
            positions.append(after.tcp)
            gripper.append(command)
            still = np.linalg.norm(after.tcp - state.tcp) < 5e-4 and abs(after.opening - state.opening) < 1e-4
            state = after
            if still and len(gripper) >= CHUNK_STEPS:
                break
        return ExpertPlan(np.array(positions), np.array(gripper))

    def _advance(self, state: ExpertPhase, move: np.ndarray, command: float) -> ExpertPhase:
        """The model's step: displacement is exact, fingers have a finite speed, and a grasped object moves along until
        it is released."""
        tcp = state.tcp + move
        if command > 0.5:
            opening = min(OPEN, state.opening + FINGER_STEP)
            released = state.held and opening > self.grasp_width + 0.006
            return replace(
                state, tcp=tcp, opening=opening, held=state.held and not released, delivered=state.delivered or released
            )
        near = self._around(state, AROUND)
        stop = self.grasp_width if near or state.held else 0.0
        opening = max(stop, state.opening - FINGER_STEP)
        held = state.held or (near and opening <= self.grasp_width + 1e-6)
        position = state.object + move if state.held else state.object
        return replace(state, tcp=tcp, opening=opening, held=held, object=position)
