"""An episode of the simulated workcell as a bag, and what is true of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from molmoact_ros.bags.bag import BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.robots.franka import BASE_FRAME, HOME_Q, SINGLE
from molmoact_ros.sim.camera_renderer import D405_WRIST, D435_FRONT
from molmoact_ros.sim.scene import sample_scene
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.utils.paths import robot_model

FPS, START, TASK = 10, 50.0, "pick up the red cube"
STILL, MOVING = 3, 20
"""Frames in which the arm stands, at each end, and those in which it moves."""
FRAMES = STILL + MOVING + STILL
REACH = np.array([0.45, 0.5, 0.0, -0.1, 0.0, 0.4, 0.3])
"""rad from the home position to the end of the motion."""
FRONT, WRIST = D435_FRONT.scaled(640, 480), D405_WRIST.scaled(64, 48)
OPTICAL = "front_color_optical_frame"


@dataclass
class Truth:
    """The bag of an episode, and of each frame the gripper's pixel [2], the front image and the true depth [H, W] m."""

    bag: Path
    pixels: list[np.ndarray] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    depth: list[np.ndarray] = field(default_factory=list)


def joints_at(frame: int) -> np.ndarray:
    """A smooth motion from the home position; joints [7] rad."""
    share = np.clip((frame - STILL) / MOVING, 0.0, 1.0)
    return HOME_Q + REACH * (1 - np.cos(np.pi * share)) / 2


def opening_at(frame: int) -> float:
    """m between the fingers, which close in the middle."""
    return 0.08 if frame < STILL + MOVING // 2 else 0.04


@pytest.fixture(scope="session")
def cell() -> Iterator[Workcell]:
    made = Workcell(robot_model(), FRONT, WRIST)
    made.reset(sample_scene(3, 2, TASK))
    yield made
    made.close()


@pytest.fixture(scope="session")
def truth(cell: Workcell, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """An episode with calibration and depth in mm; nothing in it is wrong."""
    return record(cell, tmp_path_factory.mktemp("truth") / "episode_000")


def record(
    cell: Workcell, folder: Path, calibrated: bool = True, depth: Callable[[np.ndarray], np.ndarray] | None = None,
    task: Callable[[int], str] = lambda frame: TASK,
) -> Truth:  # fmt: skip
    """Render the motion and write it as a bag. depth: what the camera makes of the true depth [H, W] m."""
    out = Truth(folder)
    with BagWriter(folder) as bag:
        writer = EpisodeWriter(bag, "raw")
        if calibrated:
            calibrate(writer, cell)
        for k in range(FRAMES):
            now, q, opening = START + k / FPS, joints_at(k), opening_at(k)
            cell.pose_kinematically(q, opening)
            image, true = cell.render("front")
            out.pixels.append(cell.project(cell.arm.tcp_position[None])[0])
            out.images.append(image)
            out.depth.append(true)
            writer.engine_status(now, task(k), 1, 0.1)
            writer.image("/front/color/image_raw", image, "rgb8", now)
            writer.image("/wrist/color/image_raw", cell.render("wrist")[0], "rgb8", now)
            seen = true if depth is None else depth(true)
            writer.image("/front/aligned_depth_to_color/image_raw", np.round(1000 * seen), "16UC1", now)
            writer.joints([*SINGLE.joints, *SINGLE.fingers], np.append(q, [opening / 2] * 2), np.zeros(9), now)
    return out


def calibrate(writer: EpisodeWriter, cell: Workcell, intrinsics: CameraIntrinsics = FRONT) -> None:
    """What a calibrated camera publishes once."""
    k, (frame, pose) = intrinsics, cell.camera_mount("front")
    assert frame == BASE_FRAME
    writer.write(
        "/front/color/camera_info", "sensor_msgs/msg/CameraInfo", START, header=writer.header(START, OPTICAL),
        width=k.width, height=k.height, distortion_model=k.model, d=np.array(k.distortion),
        k=np.array([k.fx, 0, k.cx, 0, k.fy, k.cy, 0, 0, 1.0]),
    )  # fmt: skip
    transforms(writer, [(frame, "stand", np.eye(4)), ("stand", OPTICAL, pose)])


def transforms(writer: EpisodeWriter, frames: Sequence[tuple[str, str, np.ndarray]]) -> None:
    """Static frames: parent, child and the child's pose [4, 4] in it."""
    made: list[Any] = []
    for parent, child, pose in frames:
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, pose[:3, :3].ravel())
        w, x, y, z = quaternion.tolist()
        translation = writer.make("geometry_msgs/msg/Vector3", **dict(zip("xyz", pose[:3, 3].tolist(), strict=True)))
        transform = writer.make(
            "geometry_msgs/msg/Transform", translation=translation,
            rotation=writer.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w),
        )  # fmt: skip
        made.append(
            writer.make(
                "geometry_msgs/msg/TransformStamped", header=writer.header(START, parent), child_frame_id=child,
                transform=transform,
            )
        )  # fmt: skip
    writer.write("/tf_static", "tf2_msgs/msg/TFMessage", START, transforms=made)
