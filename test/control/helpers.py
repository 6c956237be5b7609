"""What tests of control share: a chunk, a player that executes what it plays, and a controller that was started."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_chunk import ActionChunk
from molmoact_ros.control.chunk_player import ChunkPlayer
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.pose import Pose
from molmoact_ros.robots.franka import HOME_Q
from molmoact_ros.utils.paths import share

ROBOT = share() / "models" / "fr3" / "fr3.xml"


DT = 0.01


START = Pose(np.array([0.4, 0.0, 0.25]), Rotation.identity())


def always(pose: Pose) -> Callable[[], Pose]:
    """What gives that pose, as the player wants it."""
    return lambda: pose


def chunk(dx: float = 0.01, stamp: float = 0.0, gripper: float = 1.0, plan_id: int = 0) -> ActionChunk:
    actions = np.zeros((8, 7))
    actions[:, 0], actions[:, 6] = dx, gripper
    return ActionChunk(actions, 0.1, stamp, plan_id)


class Playing:
    """A player whose every target is executed at once."""

    def __init__(self, mode: str = "realtime") -> None:
        self.player, self.now = ChunkPlayer(mode), 0.0  # type: ignore[arg-type]
        self.player.reset(START, HOME_Q, 0.0)

    def position(self) -> np.ndarray:
        pose = self.player.target().pose
        assert pose is not None
        return pose.position

    def run(self, seconds: float) -> np.ndarray:
        """The targets' positions [n, 3] m of the next `seconds`."""
        out = []
        for _ in range(round(seconds / DT)):
            self.now += DT
            self.player.advance(DT)
            target = self.player.target()
            assert target.pose is not None
            self.player.commanded(always(target.pose), HOME_Q, self.now)
            out.append(target.pose.position)
        return np.array(out)


def run(controller: Controller, start: float, seconds: float) -> list[np.ndarray]:
    """Commanded joints of the next `seconds`, with an arm that follows at once."""
    out: list[np.ndarray] = []
    arm = controller.arms[0]
    for k in range(round(seconds / DT)):
        now = start + k * DT
        controller.update_joints(arm.limiter.motion.q if arm.measured is not None else HOME_Q, 0.08, now)
        commands = controller.step(now)
        assert commands is not None
        out.append(commands[0].position)
    return out


def started(config: ControllerConfig | None = None) -> Controller:
    controller = Controller(ROBOT, config)
    controller.update_joints(HOME_Q, 0.08, 0.0)
    assert controller.start(0.0)
    return controller


def hand(controller: Controller, q: np.ndarray) -> np.ndarray:
    return controller.arms[0].kinematics.forward(q).position
