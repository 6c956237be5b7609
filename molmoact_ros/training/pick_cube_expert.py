"""A scripted expert for ManiSkill's PickCube, from the state that the environment tells. It is memoryless."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from scipy.spatial.transform import Rotation

NEEDED: Final = ("tcp_pose", "obj_pose", "goal_pos", "is_grasped")
"""Names in the state: poses [7] are m and a quaternion w, x, y, z."""
ABOVE: Final = 0.08  # m over the cube from which the hand comes down
FUNNEL: Final = 6.0  # slope of its way down
NEAR: Final = 0.008  # m from the cube's middle at which the fingers close
FARTHEST: Final = 0.08  # m of one displacement: the controller takes 0.1 at most
MOST_TURN: Final = 0.1  # rad, as above


def pick_cube_action(state: Mapping[str, np.ndarray]) -> np.ndarray:
    """The next action float64 [7] in the meaning of msg/ActionChunk.msg. Raises ValueError for another task's state."""
    if missing := [name for name in NEEDED if name not in state]:
        raise ValueError(f"the scripted expert knows PickCube only; this environment's state has no {missing[0]}")
    tcp, cube = state["tcp_pose"], state["obj_pose"]
    if state["is_grasped"][0]:
        return _action(state["goal_pos"] - cube[:3], 0.0, opens=False)
    offset, turn = cube[:3] - tcp[:3], quarter_turn(_yaw(cube, 0) - _yaw(tcp, 1))
    away = float(np.hypot(*offset[:2])) + 0.05 * abs(turn)
    if np.linalg.norm(offset) < NEAR and abs(turn) < 0.1:
        return _action(offset, 0.0, opens=False)
    height = np.clip((away - NEAR / 2) * FUNNEL, 0.0, ABOVE)
    return _action(offset + [0.0, 0.0, height], turn, opens=True)


def quarter_turn(angle: float) -> float:
    """The turn in -pi/4..pi/4 that is as good for a cube as `angle`, rad."""
    return float((angle + np.pi / 4) % (np.pi / 2) - np.pi / 4)


def _yaw(pose: np.ndarray, axis: int) -> float:
    """Direction in the table's plane of an axis of a pose [7], rad. Fingers close along y."""
    along = Rotation.from_quat(pose[[4, 5, 6, 3]]).as_matrix()[:, axis]
    return float(np.arctan2(along[1], along[0]))


def _action(move: np.ndarray, turn: float, opens: bool) -> np.ndarray:
    move = move * min(1.0, FARTHEST / max(float(np.linalg.norm(move)), 1e-9))
    return np.array([*move, 0.0, 0.0, np.clip(turn, -MOST_TURN, MOST_TURN), float(opens)])
