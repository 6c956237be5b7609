"""The scripted expert for two arms and a tray, from the ground-truth state of grippers and tray.

Like the expert for one arm it is memoryless. Positions are metres in the workcell's frame, in which both arms' bases
have the same orientation, so that displacements are those of each base frame; one step is `STEP` seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_chunk import ActionSpace, join
from molmoact_ros.sim.tray_workcell import GRASP_HEIGHT, HANDLE, HANDLE_AT
from molmoact_ros.training.expert import CHUNK_STEPS, FINGER_STEP, OPEN

HOVER = 0.09  # m above the grasp while still away from the handle
MAX_STEP, MAX_DROP, MAX_TURN = 0.020, 0.016, 0.08  # m, m and rad in one step
LIFT_STEP = 0.010  # m
GOAL = 0.17  # m above the grasp: final height of the grippers
ALIGNED, TURNED, AROUND = 0.008, 0.04, 0.02  # m, rad: tolerance for closing the fingers; m: for holding a handle
GRASP_WIDTH = float(2 * HANDLE[1])
DOWN = Rotation.from_matrix(np.diag([1.0, -1.0, -1.0]))  # a gripper that points down, its fingers left and right


@dataclass(frozen=True)
class TrayPhase:
    """The expert's state, left arm first.

    tcp: gripper positions [2, 3] m. turn: rotation vectors [2, 3] rad that align each gripper with its handle. opening:
    [2] m. grasp: grasp points [2, 3] m of the handles.
    """

    tcp: np.ndarray
    turn: np.ndarray
    opening: np.ndarray
    grasp: np.ndarray

    @property
    def held(self) -> bool:
        """Whether both handles are grasped."""
        near = np.linalg.norm(self.tcp - self.grasp, axis=1) < AROUND
        return bool((near & (self.opening < GRASP_WIDTH + 0.006) & (self.opening > GRASP_WIDTH - 0.006)).all())


def see(tcp: np.ndarray, hands: Rotation, opening: np.ndarray, tray: np.ndarray, yaw: float) -> TrayPhase:
    """The state for both grippers (`tcp` [2, 3] m, `hands`, `opening` [2] m) and the `tray` [3] m with `yaw`, rad."""
    wanted = Rotation.from_euler("z", yaw) * DOWN
    turn = (wanted * hands.inv()).as_rotvec()
    at = np.array([[HANDLE_AT[0], side * HANDLE_AT[1], GRASP_HEIGHT] for side in (1.0, -1.0)])
    return TrayPhase(np.asarray(tcp), turn, np.asarray(opening), tray + Rotation.from_euler("z", yaw).apply(at))


def act(state: TrayPhase) -> tuple[np.ndarray, np.ndarray]:
    """The next action of both arms: displacement and rotation [2, 6] m and rad, and grippers [2] (1 open, 0 closed)."""
    moves = np.zeros((2, 6))
    if state.held:
        height = state.tcp[:, 2]
        rise = np.clip(0.3 * (GRASP_HEIGHT + GOAL - height.mean()), -LIFT_STEP, LIFT_STEP)
        moves[:, 2] = rise + np.clip(0.3 * (height.mean() - height), -0.003, 0.003)  # the lower gripper catches up
        return moves, np.zeros(2)
    offset = state.grasp - state.tcp
    along, turned = np.linalg.norm(offset[:, :2], axis=1), np.linalg.norm(state.turn, axis=1)
    ready = (along < ALIGNED) & (np.abs(offset[:, 2]) < ALIGNED) & (turned < TURNED)
    closing = (state.opening < OPEN - 0.012) & (np.linalg.norm(offset, axis=1) < AROUND)
    if (ready | closing).all():
        return moves, np.zeros(2)
    for hand in range(2):
        moves[hand] = _approach(offset[hand], state.turn[hand])
    return moves, np.ones(2)


def _approach(offset: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """One step [6] of an arm: first over the handle and aligned with it, then down."""
    along = float(np.linalg.norm(offset[:2]))
    settled = along < 2 * ALIGNED and np.linalg.norm(turn) < 2 * TURNED
    down = offset[2] if settled else offset[2] + HOVER
    move = np.zeros(6)
    move[:2] = offset[:2] * min(0.5, MAX_STEP / max(along, 1e-9))
    move[2] = np.clip(0.5 * down, -MAX_DROP, MAX_STEP)
    move[3:] = turn * min(0.5, MAX_TURN / max(float(np.linalg.norm(turn)), 1e-9))
    return move


def chunk(state: TrayPhase) -> np.ndarray:
    """The next actions float64 [8, 14], in the order of msg/ActionChunk.msg, from a rollout of the expert."""
    actions = np.zeros((2, CHUNK_STEPS, 7))
    for step in range(CHUNK_STEPS):
        moves, grip = act(state)
        actions[:, step, :6], actions[:, step, 6] = moves, grip
        state = _advance(state, moves, grip)
    return join(list(actions), ActionSpace.DELTA_EE)


def _advance(state: TrayPhase, moves: np.ndarray, grip: np.ndarray) -> TrayPhase:
    """The model's step: displacements are exact, fingers have a finite speed and stop at a handle, a held tray moves
    along."""
    near = np.linalg.norm(state.tcp - state.grasp, axis=1) < AROUND
    closed = np.maximum(np.where(near, GRASP_WIDTH, 0.0), state.opening - FINGER_STEP)
    opening = np.where(grip > 0.5, np.minimum(OPEN, state.opening + FINGER_STEP), closed)
    grasp = state.grasp + moves[:, :3] if state.held else state.grasp
    return replace(state, tcp=state.tcp + moves[:, :3], turn=state.turn - moves[:, 3:], opening=opening, grasp=grasp)
